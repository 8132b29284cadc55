"""Paused candidates on disk: weights, masks and momenta as safetensors, so that any process can train them on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path

import safetensors
import safetensors.torch

from strategies import Compressed, part_of, tensors_of
from workloads import TrainingCost, TrainingState, cache_folder, read_tensors, write_whole


def checkpoint_path(study: str, strategy: str, trial: int, plan: str, dense: str, epochs: float) -> Path:
    """Where a candidate is paused; the user's cache folder is shared by the processes of a machine.

    Named by all that its training depends on: the digests of its plan and of the dense network, and the epochs of the
    whole training, for another study may have had this name.
    """
    content = hashlib.sha256(f"{plan} {dense} {epochs}".encode()).hexdigest()
    return paused_folder(study, strategy) / f"{trial}-{content[:24]}.safetensors"


def paused_folder(study: str, strategy: str = "") -> Path:
    """Where the candidates of a study are paused, or those of one of its strategies."""
    names = (re.sub(r"[^\w.@+-]+", "-", name) for name in (study, strategy))
    return cache_folder().joinpath("paused", *names)


def pause(path: Path, compressed: Compressed, state: TrainingState) -> None:
    """Writes the candidate down."""
    tensors = tensors_of(compressed) | {f"momentum/{name}": tensor for name, tensor in state.optimizer.items()}
    about = {"epochs": json.dumps(state.epochs_done), "cost": json.dumps(asdict(state.cost))}
    content = safetensors.torch.save({name: t.detach().contiguous().clone() for name, t in tensors.items()}, about)
    put(path, content)


def put(path: Path, content: bytes) -> None:
    """Writes down a candidate that another machine has paused."""
    with contextlib.suppress(OSError):  # on a full disk it is trained again instead
        write_whole(path, content)


def fetch(path: Path) -> bytes | None:
    """A paused candidate as another machine can put it down; None where there is none."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def resume(path: Path, compressed: Compressed, until: float) -> TrainingState | None:
    """Fills the freshly compressed network with the paused one's weights and masks.

    None where there is no whole file, or one of a network that was trained for more than `until` epochs already. Who
    gets None trains from the start: the result is the same, for training in parts equals training at once.
    """
    try:
        tensors, about = read_tensors(path)
        state = TrainingState(
            float(json.loads(about["epochs"])), TrainingCost(**json.loads(about["cost"])), part_of(tensors, "momentum")
        )
        if state.epochs_done > until + 1e-9:
            return None
        compressed.module.load_state_dict(part_of(tensors, "weight"))
    except (OSError, safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError):
        return None
    compressed.masks = part_of(tensors, "mask")
    return state


def forget(path: Path) -> None:
    """Removes the candidate; one that is not there is no fault."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
