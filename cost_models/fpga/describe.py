"""A design as plain data: what `shrinkboard estimate --format json` prints; `docs/fpga.md` tells the keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workloads import Network

from ..base import Figure
from .block import ORDERS, Block, Order, blocks
from .design import Design, DoesNotFit, estimate
from .device import RESOURCES, FpgaDevice, as_mapping
from .folding import AnyFolding
from .power import design_power

SCHEMA = 1
"""Raised when a key changes its meaning or goes."""


def describe(design: Design) -> dict[str, Any]:
    """The figures of a design: dicts, lists, strings and finite numbers in SI units, None where there is none.

    Keys are only added within one schema. The intervals of the filter orders that `design` is not in are estimated
    anew, which takes as long as the design itself did.
    """
    power = design_power(design)
    cycles = {
        name: round(float(getattr(design.latency, name).item()), 3) for name in ("optimistic", "pessimistic", "mean")
    }
    used = design.resources.sum(0)
    kind, why = design.limit
    return {
        "schema": SCHEMA,
        "device": {
            "name": design.device.name,
            "version": design.device.version,
            "summary": design.device.summary,
        },
        "clock_hz": design.clock,
        "order": design.order,
        "folding": "allocated" if design.allocated else "given",
        "fits": bool((used <= design.device.capacity).all()),
        "within_budget": bool((used <= design.device.budget).all()),
        "interval_cycles": design.interval,
        "intervals_cycles": _intervals(design),
        "throughput": design.throughput,
        "latency_cycles": cycles,
        "latency_s": {name: value / design.clock for name, value in cycles.items()},
        "limit": {"kind": kind, "why": why},
        "resources": _resources(used, design.device),
        "weight_bytes": design.weight_bytes,
        "frame_bytes": design.frame_bytes,
        "traffic_cycles": design.traffic_cycles,
        "power_w": _figure(power.power),
        "energy_j": _figure(power.energy),
        "layers": [_layer(design, position) for position in range(len(design.blocks))],
    }


def _intervals(design: Design) -> dict[Order, int | None]:
    """II in cycles of the same network in every filter order: under the same folding, or each allocated for itself.

    None where an order does not fit the device.
    """
    network = Network(tuple(block.layer for block in design.blocks), parameters=0)
    folding: Mapping[str, AnyFolding] | None = None
    if not design.allocated:
        folding = {block.name: one for block, one in zip(design.blocks, design.foldings, strict=True)}
    found: dict[Order, int | None] = {}
    # Orders that come to the same filters, as they all do in a dense network, are not allocated again.
    known: list[tuple[Sequence[Block], int | None]] = [(design.blocks, design.interval)]
    for order in ORDERS:
        work = blocks(network, order)
        same = [interval for others, interval in known if _same_filters(work, others)]
        found[order] = same[0] if same else _interval(network, design, folding, order)
        known.append((work, found[order]))
    return found


def _interval(network: Network, design: Design, folding: Mapping[str, AnyFolding] | None, order: Order) -> int | None:
    try:
        return estimate(network, design.device, folding, order, design.clock).interval
    except DoesNotFit:
        return None


def _same_filters(work: Sequence[Block], others: Sequence[Block]) -> bool:
    return all(np.array_equal(one.nonzeros, other.nonzeros) for one, other in zip(work, others, strict=True))


def _resources(used: np.ndarray, device: FpgaDevice) -> dict[str, dict[str, float | None]]:
    return {
        name: {
            "used": float(used[r]),
            "budget": float(device.budget[r]),
            "capacity": float(device.capacity[r]),
            "share": float(used[r] / device.budget[r]) if device.budget[r] else None,
        }
        for r, name in enumerate(RESOURCES)
    }


def _layer(design: Design, position: int) -> dict[str, Any]:
    block, cost = design.blocks[position], design.costs[position]
    return {
        "name": block.name,
        "kind": block.layer.kind,
        "inputs": list(block.layer.inputs),
        "output": [block.layer.out_channels, block.layer.out_height, block.layer.out_width],
        "weight_format": str(block.weight) if block.computes else None,
        "activation_format": str(block.activation),
        "folding": design.foldings[position].model_dump(exclude_none=True),
        "steps": int(cost.steps[0]),
        "cycles": int(cost.cycles[0]),
        "utilisation": float(design.utilisation[position]),
        "lanes": int(cost.lanes[0]),
        "resources": as_mapping(cost.resources[0]),
        "bytes": float(cost.bytes[0]),
        "fifo_words": [waiting.words for waiting in block.waiting],
    }


def _figure(figure: Figure) -> dict[str, float | str | None]:
    if figure.value is None:
        return {"value": None, "reason": figure.reason}
    return {"value": figure.value, "low": figure.low, "high": figure.high}
