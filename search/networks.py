"""Trained networks that entries name: one safetensors file each in the user's cache folder, named by its content."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from strategies import Compressed, Plan, rebuilt, tensors_of
from strategies import strategy as by_name
from workloads import Dense, InputError, Workload, cache_folder, digest, eval_mode, read_tensors, write_whole

PROBE = "probe"
"""The tensor that holds what the network made of a picture of noise: who rebuilds it can prove it."""
_PROBED = 1024
"""Values of the output, evenly spread, that are kept."""
_CLOSE = 1e-3
"""Difference to the probe, of its largest value, that other processors and versions may make."""


@dataclass(frozen=True)
class KeptNetwork:
    """What a file holds."""

    tensors: Mapping[str, Tensor]
    """As `strategies.tensors_of` names them."""
    probe: Tensor | None
    about: Mapping[str, str]
    """`plan` (JSON), `strategy`, `workload`, `seed`, `dense` (digest), `study`, and `layout` of weights in memory."""

    @property
    def digest(self) -> str:
        """Of the tensors alone, whatever their order and whatever is told about them."""
        return digest(self.tensors)


def networks_folder() -> Path:
    """Where this user's networks lie; shared by the processes of a machine."""
    return cache_folder() / "networks"


def network_file(weights: str) -> Path:
    """Where the network of that digest lies, if it does."""
    return networks_folder() / f"{weights}.safetensors"


def digest_of(compressed: Compressed) -> str:
    """What `keep_network` would keep a network under."""
    return digest(tensors_of(compressed))


def keep_network(compressed: Compressed, dense: Dense, study: str) -> str | None:
    """Keeps a trained network; its digest, or None where it cannot be written: a full disk fails no evaluation."""
    found = digest_of(compressed)
    with contextlib.suppress(OSError):
        # One that is there already is written again: its age says that it is needed. Plans that come to the same
        # tensors share the file, which tells the last of them.
        write_whole(network_file(found), file_of(compressed, dense.workload, dense.digest, study))
        return found
    return None


def file_of(compressed: Compressed, workload: Workload, dense: str, study: str) -> bytes:
    """The content of a file that `read_network` reads; `dense` is the digest of the dense network."""
    about = {
        "plan": json.dumps(compressed.plan.to_json()),
        "strategy": compressed.plan.strategy,
        "workload": workload.name,
        "seed": str(compressed.seed),
        "dense": dense,
        "study": study,
        "layout": _layout(compressed.module),
    }
    # Cloned, because safetensors refuses tensors that share memory, as tied weights do.
    tensors = {name: tensor.contiguous().clone() for name, tensor in tensors_of(compressed).items()}
    return safetensors.torch.save({**tensors, PROBE: _probe(compressed.module, workload.example)}, about)


def read_network(path: Path) -> KeptNetwork:
    """Reads a file that `keep_network` wrote; raises `InputError` where it is none."""
    try:
        tensors, about = read_tensors(path)
    except (OSError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"weights {path} are no readable safetensors file: {reason}") from error
    if not {"plan", "strategy", "workload", "seed", "dense"} <= about.keys():
        raise InputError(
            f"weights {path} do not say what they are of: give a file that an evaluation kept, or that "
            "`shrinkboard export --format trained` wrote"
        )
    probe = tensors.pop(PROBE, None)
    return KeptNetwork(tensors, probe, about)


def restored(kept: KeptNetwork, dense: Dense, plan: Plan) -> Compressed:
    """The network as it was kept, in eval mode; `dense` need not be trained.

    Raises `InputError` where it cannot be rebuilt from its tensors, or computes something else than it did.
    """
    compressed = rebuilt(by_name(plan.strategy), dense, plan, kept.tensors)
    if kept.about.get("layout") == "channels_last":  # sums are taken in another order so
        compressed.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in stubs
    if kept.probe is not None:
        now = _probe(compressed.module, dense.workload.example)
        largest = float(kept.probe.abs().max())
        if now.shape != kept.probe.shape or not torch.allclose(now, kept.probe, rtol=0, atol=_CLOSE * largest):
            raise InputError(
                "the network that is rebuilt from the tensors computes something else than when it was kept"
            )
    return compressed


def _probe(module: nn.Module, example: Tensor) -> Tensor:
    noise = torch.randn(example.shape, generator=torch.Generator().manual_seed(0))
    with eval_mode(module), torch.no_grad():
        outputs: Tensor = module(noise)
    values = outputs.flatten()
    return values[:: -(-len(values) // _PROBED)].clone()


def _layout(module: nn.Module) -> str:
    weights = [weight for weight in module.parameters() if weight.ndim == 4]
    last = any(w.is_contiguous(memory_format=torch.channels_last) and not w.is_contiguous() for w in weights)
    return "channels_last" if last else "contiguous"
