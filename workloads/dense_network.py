"""The dense network of a workload and seed: loaded from a checkpoint, from the cache, or trained once and cached."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from .cache import VARIABLE, cache_folder
from .contract import Accuracy, Dense, Split, TrainingCost, Workload
from .errors import InputError
from .evaluation import evaluate
from .training import Progress, train
from .whole_files import read_tensors, write_whole

_VERSION = 1
"""Of what training computes from equal inputs; raise it when `train` changes, and the cache starts anew."""


def dense(
    workload: Workload, seed: int, *, cache_dir: Path | str | None = None, progress: Progress | None = None
) -> Dense:
    """The trained network that strategies start from; equal workloads, data and seeds share one training.

    With a checkpoint its weights are taken and the cost is zero; otherwise the recipe is run and the weights are kept
    below `cache_dir` (None: `SHRINKBOARD_CACHE`, else the user's cache folder), together with what their training
    cost. Processes may share a cache; of the threads of a process one may call this at a time. Raises `InputError` for
    a missing or unfitting checkpoint, missing data, and a cache that cannot be written.
    """
    splits = workload.load(workload.data_dir)
    module = initial(workload, seed)
    if workload.checkpoint is not None:
        _load_checkpoint(module, workload, workload.checkpoint)
        module.eval()
        cost, validation = TrainingCost(0.0, 0.0, 0), evaluate(module, splits.validation, workload)
        return Dense(workload, seed, module, splits, validation, cost, digest(module.state_dict()))
    path = _cache_file(workload, seed, module, splits.train, cache_dir)
    kept = _read_cache(module, path)
    if kept is None:
        _make_folder(path.parent)
        cost = train(module, workload, splits.train, seed=seed, epochs=workload.recipe.epochs, progress=progress).cost
        kept = cost, evaluate(module, splits.validation, workload)
        _write_cache(module, path, *kept)
    module.eval()
    cost, validation = kept
    return Dense(workload, seed, module, splits, validation, cost, digest(module.state_dict()))


def initial(workload: Workload, seed: int) -> nn.Module:
    """The untrained network that `dense` starts from, in eval mode: equal seeds, equal weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return workload.build().eval()


def untrained(workload: Workload, seed: int) -> Dense:
    """The initial network in the place of a trained one, its accuracy unknown: to see what runs, and how fast."""
    splits, module = workload.load(workload.data_dir), initial(workload, seed)
    return Dense(workload, seed, module, splits, Accuracy(), TrainingCost(0.0, 0.0, 0), digest(module.state_dict()))


def dense_is_cached(workload: Workload, seed: int, *, cache_dir: Path | None = None) -> bool:
    """Whether `dense` would find the network trained already, or takes it from a checkpoint."""
    if workload.checkpoint is not None:
        return True
    module = initial(workload, seed)
    split = workload.load(workload.data_dir).train
    return _read_cache(module, _cache_file(workload, seed, module, split, cache_dir)) is not None


def digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values, whatever the order and the memory layout."""
    whole = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def _load_checkpoint(module: nn.Module, workload: Workload, path: Path) -> None:
    if not path.is_file():
        raise InputError(f"checkpoint {path} does not exist; give a safetensors file with weights of {workload.name}")
    try:
        found = workload.translate(safetensors.torch.load_file(path))
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"checkpoint {path} is no readable safetensors file: {error}") from error
    own = module.state_dict()
    for name, tensor in own.items():
        # The count of batches seen matters to training with a cumulative average only; published files lack it.
        if name not in found and not name.endswith("num_batches_tracked"):
            raise InputError(f"checkpoint {path} does not fit {workload.name}: it has no {name} {tuple(tensor.shape)}")
        if name in found and found[name].shape != tensor.shape:
            raise InputError(
                f"checkpoint {path} does not fit {workload.name}: {name} has shape {tuple(found[name].shape)}, "
                f"the network's has {tuple(tensor.shape)}"
            )
    surplus = sorted(found.keys() - own.keys())
    if surplus:
        raise InputError(f"checkpoint {path} does not fit {workload.name}: the network has no {surplus[0]}")
    module.load_state_dict(found, strict=False)


def _cache_file(workload: Workload, seed: int, module: nn.Module, split: Split, cache_dir: Path | str | None) -> Path:
    """Named by everything that the trained weights depend on; the fresh weights stand for the network's definition."""
    content = {
        "version": _VERSION,
        "torch": torch.__version__,
        "workload": workload.name,
        "seed": seed,
        "recipe": {name: value for name, value in asdict(workload.recipe).items() if not name.startswith("tune_")},
        "normalisation": [workload.mean, workload.std],
        "structure": repr(module),
        "weights": digest(module.state_dict()),
        "data": _data_digest(split),
    }
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    name = re.sub(r"[^\w.-]+", "-", workload.name)
    return Path(cache_dir or cache_folder()).expanduser() / "dense" / f"{name}-{seed}-{key[:24]}.safetensors"


def _data_digest(split: Split) -> str:
    """Of 64 pictures spread over the split, and their number: enough to tell one user's folder from another's."""
    images, targets = split.batch(np.linspace(0, len(split) - 1, min(64, len(split))).astype(np.int64))
    return f"{len(split)} {digest({'images': images, 'targets': targets})}"


def _read_cache(module: nn.Module, path: Path) -> tuple[TrainingCost, Accuracy] | None:
    """Fill the module from the cache; None where there is no whole file of ours."""
    try:
        weights, about = read_tensors(path)
        kept = TrainingCost(**json.loads(about["cost"])), Accuracy(**json.loads(about["validation"]))
        module.load_state_dict(weights)
    except (OSError, safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError):
        return None
    return kept


def _write_cache(module: nn.Module, path: Path, cost: TrainingCost, validation: Accuracy) -> None:
    # Cloned, because safetensors refuses tensors that share memory, as tied weights do.
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}
    about = {"cost": json.dumps(asdict(cost)), "validation": json.dumps(asdict(validation))}
    write_whole(path, safetensors.torch.save(weights, about))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cache folder {folder} cannot be made: {error.strerror}; set {VARIABLE} to a folder that can be written"
        ) from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"cache folder {folder} cannot be written; set {VARIABLE} to one that can")
