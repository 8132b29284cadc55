"""One network on one device: a design, given or allocated, and all its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from workloads import InputError, Network

from .allocation import Table, allocate, build_table, refine, shortage
from .block import Block, Order, blocks, stages
from .device import RESOURCES, FpgaDevice, fpga_names, named_fpga
from .folding import AnyFolding, LayerFolding, check_folding
from .layout import Costs, cost, folded
from .pipeline import Bracket, Stage, latency

Limit = Literal["compute", "memory", "bandwidth", "layer"]


class DoesNotFit(InputError):
    """A network that no folding brings onto the device."""


@dataclass(frozen=True)
class Design:
    """A pipeline of blocks on a device, and what it does with one image."""

    device: FpgaDevice
    clock: float
    """Hz."""
    order: Order
    blocks: tuple[Block, ...]
    foldings: tuple[AnyFolding, ...]
    allocated: bool
    """False where the folding was given."""
    costs: tuple[Costs, ...]
    """Of every block, arrays of length 1."""
    fastest: np.ndarray
    """The fewest cycles of every block that any folding on this device gives, shape (L,)."""
    latency: Bracket
    """Cycles of one image through the idle pipeline."""

    @property
    def cycles(self) -> np.ndarray:
        """Of every block for one image, shape (L,)."""
        return np.array([int(found.cycles[0]) for found in self.costs])

    @property
    def resources(self) -> np.ndarray:
        """Of every block, shape (L, 5) in the order of `RESOURCES`."""
        return np.stack([found.resources[0] for found in self.costs])

    @property
    def frame_bytes(self) -> float:
        """To and from external memory for one image: image, result, and what is kept or streamed outside."""
        return float(sum(found.bytes[0] for found in self.costs))

    @property
    def traffic_cycles(self) -> int:
        """Cycles that external memory needs for one image."""
        return int(np.ceil(self.frame_bytes / _at(self.device, self.clock).bytes_per_cycle))

    @property
    def interval(self) -> int:
        """Initiation interval: cycles from one image to the next."""
        return max(int(self.cycles.max()), self.traffic_cycles)

    @property
    def throughput(self) -> float:
        """Images a second."""
        return self.clock / self.interval

    @property
    def utilisation(self) -> np.ndarray:
        """Share of the interval in which each block's lanes step, shape (L,)."""
        return np.array([float(found.work[0]) for found in self.costs]) / self.interval

    @property
    def weight_bytes(self) -> float:
        """Bytes that hold the weights, indices and padding included."""
        # A module that is called twice has a second block, NAME#2, whose weights count once.
        stored = (
            found.stored_bits[0] for block, found in zip(self.blocks, self.costs, strict=True) if "#" not in block.name
        )
        return float(sum(stored)) / 8

    @property
    def limit(self) -> tuple[Limit, str]:
        """What keeps the design from being faster: the kind, and one line that says it."""
        if self.traffic_cycles > self.cycles.max():
            moved = f"{self.frame_bytes:,.0f} bytes an image take {self.traffic_cycles:,} cycles"
            return "bandwidth", f"external memory: {moved}"
        slowest = np.flatnonzero(self.cycles == self.cycles.max())
        if not self.allocated:
            # Blocks without weights only pass on what others make.
            at = next((i for i in slowest if self.blocks[i].computes), slowest[0])
            waits = self.costs[at].work[0] < self.costs[at].cycles[0]
            why = ", for its words to come and go" if waits else ""
            return (
                "layer",
                f"layer {self.blocks[at].name!r} is the slowest with {self.cycles[at]:,} cycles an image{why}",
            )
        floor = [i for i in slowest if self.fastest[i] >= self.cycles[i]]
        if floor:
            at = next((i for i in floor if self.blocks[i].computes), floor[0])
            return (
                "layer",
                f"layer {self.blocks[at].name!r} takes {self.cycles[at]:,} cycles however many lanes it gets",
            )
        shares = self.resources.sum(0) / np.maximum(self.device.budget, 0.5)
        order = np.argsort(-shares)
        kind: Limit = "memory" if RESOURCES[order[0]] in ("bram18", "uram") else "compute"
        taken = ", ".join(f"{RESOURCES[r]} {shares[r]:.0%}" for r in order[:2])
        return kind, f"no faster design fits; this one takes of the budget {taken}"


def estimate(
    network: Network,
    device: FpgaDevice,
    folding: Mapping[str, AnyFolding] | None = None,
    order: Order = "sorted",
    clock: float | None = None,
) -> Design:
    """The design of `network` on `device` under a given folding, or the fastest that fits.

    `folding` names layers; layers without weights that it leaves out pass as many channels as keep up with the slowest
    layer that it names. `clock` in Hz replaces the device's. Raises `DoesNotFit` where no folding fits, `InputError`
    for a network or a folding that contradicts itself.
    """
    work = blocks(network, order)
    rate = clock or device.clock.value
    if folding is not None:
        chosen = _given(work, folding)
        found = tuple(cost(block, one) for block, one in zip(work, chosen, strict=True))
        return _design(device, rate, order, work, chosen, found, None)
    table = build_table([[block] for block in work], _at(device, rate))
    candidate = [0] * len(work)
    result = refine(table, candidate, allocate(table, np.array([candidate])))
    if not result.fits[0]:
        raise DoesNotFit(_unfit(table, work, device))
    picked = [
        variants[0].foldings.folding(int(option))
        for variants, option in zip(table.layers, result.chosen[0], strict=True)
    ]
    found = tuple(cost(block, one) for block, one in zip(work, picked, strict=True))
    fastest = np.array([int(variants[0].costs.cycles[0]) for variants in table.layers])
    return _design(device, rate, order, work, picked, found, fastest)


def _at(device: FpgaDevice, clock: float) -> FpgaDevice:
    return device.model_copy(update={"clock": device.clock.model_copy(update={"value": clock})})


def _design(
    device: FpgaDevice,
    clock: float,
    order: Order,
    work: Sequence[Block],
    chosen: Sequence[AnyFolding],
    found: Sequence[Costs],
    fastest: np.ndarray | None,
) -> Design:
    cycles = np.array([int(one.cycles[0]) for one in found])
    pipeline = [folded(*parts) for parts in zip(stages(work), work, chosen, strict=True)]
    bracket = _latency(pipeline, cycles, np.array([one.bytes[0] for one in found]) / _at(device, clock).bytes_per_cycle)
    return Design(
        device,
        clock,
        order,
        tuple(work),
        tuple(chosen),
        fastest is not None,
        tuple(found),
        cycles if fastest is None else fastest,
        bracket,
    )


def _latency(pipeline: Sequence[Stage], cycles: np.ndarray, traffic: np.ndarray) -> Bracket:
    """The bracket where external memory takes `traffic` cycles for every block, shape (L,), as `cycles`.

    At best a block that moves bytes has external memory to itself, at worst it waits for all the others.
    """
    total = traffic.sum()
    best, worst = np.maximum(cycles, traffic), np.where(traffic > 0, np.maximum(cycles, total), cycles)
    return Bracket(
        np.maximum(latency(pipeline, list(best)).optimistic, total),
        np.maximum(latency(pipeline, list(worst)).pessimistic, total),
    )


def _given(work: Sequence[Block], folding: Mapping[str, AnyFolding]) -> list[AnyFolding]:
    names = [block.name for block in work]
    unknown = sorted(set(folding) - set(names))
    if unknown:
        raise InputError(f"the folding names layer {unknown[0]!r}; the network has {', '.join(names)}")
    slowest = 1
    for block in work:
        if block.computes and block.name not in folding:
            raise InputError(f"the folding says nothing of layer {block.name!r}; every layer with weights needs one")
        if block.name in folding:
            check_folding(block, folding[block.name])
            slowest = max(slowest, int(cost(block, folding[block.name]).cycles[0]))
    return [folding.get(block.name) or _keeping_up(block, slowest) for block in work]


def _keeping_up(block: Block, interval: int) -> LayerFolding:
    """Fewest channels in a cycle with which a layer without weights keeps up."""
    channels = max(block.layer.in_channels, block.layer.out_channels)
    for filters in range(1, channels):
        one = LayerFolding(filters=filters)
        if cost(block, one).cycles[0] <= interval:
            return one
    return LayerFolding(filters=channels)


def _unfit(table: Table, work: Sequence[Block], device: FpgaDevice) -> str:
    """One line: what is short, by how much, and the smallest device that holds the network."""
    least = np.sum([variants[0].costs.resources.min(0) for variants in table.layers], axis=0)
    if (least > device.budget).any():
        needed, told = least, "it needs at least"
    else:
        needed, told = shortage(table, [0] * len(work)) * np.maximum(device.budget, 0.5), "its smallest design takes"
    short = [
        f"{name} {need:,.0f} of {have:,.0f} usable" + (f" ({need / have:.2f} times)" if have else "")
        for name, need, have in zip(RESOURCES, needed, device.budget, strict=True)
        if need > have
    ]
    told = f"the network does not fit {device.name}: {told} {', '.join(short)}"
    for other in sorted(map(named_fpga, fpga_names()), key=lambda part: float(part.capacity[0])):
        if other.name != device.name and _holds(work, other):
            return f"{told}; fpga-{other.name} is the smallest device that holds it"
    return f"{told}; no device of the catalogue holds it"


def _holds(work: Sequence[Block], device: FpgaDevice) -> bool:
    table = build_table([[block] for block in work], device)
    return bool((shortage(table, [0] * len(work)) <= 1).all())
