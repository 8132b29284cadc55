"""The contract of a cost model: what it is given (`Deployable`), answers (`Cost`) and promises (`CostModel`)."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import Tensor, nn

from workloads import Format, Network

Kind = Literal["measured", "modelled"]

UNITS: Mapping[str, str] = {
    "latency": "s",
    "throughput": "1/s",
    "energy": "J",
    "net_energy": "J",
    "power": "W",
    "memory": "B",
    "parameters": "1",
    "macs": "1",
    "bit_operations": "1",
    "lut": "1",
    "ff": "1",
    "dsp": "1",
    "bram18": "1",
    "uram": "1",
}
"""Figures and their SI units. Latency and energy are of one inference at batch 1, `net_energy` without what the
device draws when idle; memory is that of the weights; the last five are what a design takes of an FPGA."""


@dataclass(frozen=True)
class Figure:
    """One number of a cost, or the reason why there is none.

    `value`, `low` and `high` are in the unit that `UNITS` gives for the figure's name; `low`…`high` is a 95 % interval
    of what is measured or fitted, and the bracket of what is modelled with two bounds.
    """

    value: float | None
    kind: Kind
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        numbers = [x for x in (self.value, self.low, self.high) if x is not None]
        if any(not math.isfinite(x) or x < 0 for x in numbers):
            raise ValueError(f"a figure must be finite and not negative, got {self}")
        if (self.value is None) == (self.reason is None):
            raise ValueError(f"a figure has either a value or the reason why it has none, got {self}")


@dataclass(frozen=True)
class Cost:
    """What one network costs on one target."""

    target: str
    """`CostModel.key` of the target, the fingerprint of machine and runtime included where it is measured."""
    figures: Mapping[str, Figure]
    speedup: Figure | None = None
    """Latency of the frozen reference ÷ latency of this network; larger is faster."""
    executed: Mapping[str, tuple[Format, Format]] = field(default_factory=dict)
    """Layer → (weight format, activation format) that the target really runs, beside those that were asked for."""
    unstable: bool = False
    """True where the machine was too noisy for the figures to be trusted, even after a retry."""
    telemetry: Mapping[str, float | None] = field(default_factory=dict)
    """Noise seen while measuring (steal, involuntary context switches, pressure, clock) and how it was measured."""
    samples: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    """Raw samples by name, one list a block, from which the figures can be derived again."""
    runtime: Mapping[str, str] = field(default_factory=dict)
    """Versions and settings of the runtime that measured, which the fingerprint in `target` covers."""


@dataclass(frozen=True)
class Deployable:
    """All that a cost model may look at: plain fields, nothing of how the network was shrunk."""

    module: nn.Module
    """In eval mode on the CPU; weights already lie on the grid of their format."""
    example: Tensor
    """One normalised input image, shape (1, C, H, W)."""
    calibration: Sequence[Tensor]
    """Batches of normalised training images, shape (N, C, H, W)."""
    network: Network


@dataclass(frozen=True)
class Frozen:
    """What a study fixes of its dense network on one target."""

    latency: float | None
    """Seconds of one inference at batch 1; None on a target that answers no latency."""
    throughput: float | None = None
    """Inferences a second in batches; None on a target that does not relate throughput to its reference."""


@dataclass(frozen=True)
class Reference:
    """The dense fp32 network that candidates are compared with on one target, and its frozen figures."""

    deployable: Deployable
    latency: float | None
    throughput: float | None = None
    """Both as in `Frozen`."""

    @property
    def frozen(self) -> Frozen:
        return Frozen(self.latency, self.throughput)


class CostModel(abc.ABC):
    """One target.

    Obligations of an implementation:

    - Units are those of `UNITS`; a figure that cannot be had is `Figure(None, kind, reason=…)`, never 0 and never a
      guess.
    - A modelled target is deterministic: the same `Network` gives the same figures in every process, and more
      multiply–accumulates in the same formats never cost less time, energy or memory.
    - `executed` is idempotent: what the target runs when asked for a pair of formats, it runs as that pair. fp32
      runs as fp32, unless the target is one of another floating-point format as a whole (its name says so); a modelled
      target without floating point names the integers that it runs in its place.
    - A target that answers `latency` answers `speedup` too; one that does not leaves `Reference.latency` and `speedup`
      None.
    - A measured target puts a fingerprint of machine and runtime into `key`, so that results of different machines are
      never ranked together, times a candidate interleaved with the reference, and lets one measurement run at a time
      per device, between processes too.
    - Methods may be called from any process that imports the class; an instance is used by one thread at a time.
    - Input that the target cannot take raises `InputError` with one clear line; nothing is left behind on disk.
    """

    name: str
    """The name that the command takes, such as `cpu-onnxruntime`."""
    kind: Kind
    summary: str
    """One line for `shrinkboard targets`."""
    figures: tuple[str, ...]
    """Names in `UNITS` that `cost` answers."""
    objective: str = "latency"
    """The one of `figures` that a search minimises beside the loss of accuracy; it always has a value."""

    @property
    def key(self) -> str:
        """What results are filed under: the name, followed by `@` and a fingerprint where it is measured."""
        return self.name

    def missing(self) -> str | None:
        """What this machine lacks, in one line, so that nothing can be costed; None where nothing is known to."""
        return None

    def executed(self, weight: Format, activation: Format) -> tuple[Format, Format]:
        """The formats that this target really runs when asked for these; by default just these."""
        return weight, activation

    def freeze(self, dense: Deployable) -> Reference:
        """Takes the dense fp32 network as the reference of a study and fixes its latency."""
        return Reference(dense, self._latency(dense))

    def cost(self, candidate: Deployable, reference: Reference) -> Cost:
        """The cost of `candidate` beside `reference`; every name in `figures` is answered."""
        cost = self._cost(candidate, reference)
        missing = set(self.figures) - set(cost.figures)
        unknown = set(cost.figures) - set(UNITS)
        if missing or unknown:
            raise ValueError(
                f"cost model {self.name} answers {sorted(cost.figures)}: missing {missing}, unknown {unknown}"
            )
        return cost

    def predict(self, candidate: Deployable, images: Tensor) -> np.ndarray | None:
        """Outputs of the network as the target runs it, for normalised images (N, C, H, W); None if it runs nothing."""
        return None

    @abc.abstractmethod
    def _latency(self, deployable: Deployable) -> float | None:
        """Seconds of one inference at batch 1, alone (the frozen figure of a reference); None if none is answered."""

    @abc.abstractmethod
    def _cost(self, candidate: Deployable, reference: Reference) -> Cost:
        """As `cost`; what it returns is checked there."""
