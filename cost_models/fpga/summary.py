"""A design as text for a terminal, made from what `describe` gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.bar import Bar
from rich.box import SIMPLE
from rich.table import Table

Described = Mapping[str, Any]

_NAMES = {"lut": "LUT", "ff": "FF", "dsp": "DSP", "bram18": "BRAM18", "uram": "URAM"}


def headlines(design: Described, title: str) -> Table:
    """What the design reaches, a line each."""
    device, clock = design["device"], design["clock_hz"]
    cycles, seconds = design["latency_cycles"], design["latency_s"]
    lines = [
        ("network", f"{title}, {len(design['layers'])} blocks, filters in {design['order']} order"),
        (
            "device",
            f"{device['name']} (version {device['version']}) at {clock / 1e6:g} MHz, folding {design['folding']}",
        ),
        ("initiation interval", f"{design['interval_cycles']:,} cycles ({', '.join(_orders(design))})"),
        ("throughput", f"{design['throughput']:,.1f} images/s"),
        (
            "latency",
            f"{_time(seconds['optimistic'])} to {_time(seconds['pessimistic'])}, mean {_time(seconds['mean'])} "
            f"({cycles['optimistic']:,.0f} to {cycles['pessimistic']:,.0f} cycles)",
        ),
        ("limit", f"{design['limit']['kind']}: {design['limit']['why']}"),
        (
            "memory",
            f"{design['weight_bytes']:,.0f} bytes of weights; {design['frame_bytes']:,.0f} bytes an image outside",
        ),
        ("power", _figure(design["power_w"], "W")),
        ("energy", _figure(design["energy_j"], "J an image")),
    ]
    if not design["fits"]:
        lines.append(("fits", f"no: more than the part has of {', '.join(_exceeded(design, 'capacity'))}"))
    elif not design["within_budget"]:
        lines.append(("fits", f"tightly: more than the usable share of {', '.join(_exceeded(design, 'budget'))}"))
    table = Table.grid(padding=(0, 2))
    for name, value in lines:
        table.add_row(name, value)
    return table


def resource_table(design: Described) -> Table:
    """What the design takes of the device's budget."""
    table = Table("resource", "", "of the budget", "used", "budget", "whole part")
    for name, row in design["resources"].items():
        share = row["share"]
        bar = Bar(1.0, 0.0, min(share or 0.0, 1.0), width=24, color="red" if (share or 0.0) > 1 else "blue")
        told = "none there" if share is None else f"{100 * share:.1f} %"
        table.add_row(_NAMES[name], bar, told, *(f"{row[key]:,.0f}" for key in ("used", "budget", "capacity")))
    for column in table.columns[2:]:
        column.justify = "right"
    return table


def layer_table(design: Described) -> Table:
    """The blocks, a line each: how they are folded, the share of the II in which they work, what they take.

    The folding is P×M×V, or channels in, out, groups and taps with dots between them, or the channels a cycle of a
    layer without weights.
    """
    names = (
        "layer",
        "kind",
        "formats",
        "folding",
        "memories",
        "lanes",
        "steps",
        "cycles",
        "busy",
        *_NAMES.values(),
        "bytes",
    )
    table = Table(*names, box=SIMPLE, padding=(0, 1, 0, 0))
    for column in table.columns[5:]:
        column.justify = "right"
    for layer in design["layers"]:
        weighted = layer["weight_format"] is not None
        table.add_row(
            layer["name"],
            layer["kind"],
            f"{layer['weight_format']} {layer['activation_format']}" if weighted else "",
            _folding(layer["folding"], weighted),
            _memories(layer["folding"]),
            f"{layer['lanes']:,}" if weighted else "",
            f"{layer['steps']:,}" if weighted else "",
            f"{layer['cycles']:,}",
            f"{100 * layer['utilisation']:.0f} %",
            *(f"{layer['resources'][name]:,.0f}" for name in _NAMES),
            f"{layer['bytes']:,.0f}",
            style="bold red" if layer["cycles"] == design["interval_cycles"] else None,
        )
    return table


def _folding(folding: Mapping[str, Any], weighted: bool) -> str:
    """P×M×V, which block and what multiplies; of a layer without weights the channels a cycle."""
    if folding["kind"] == "conv":
        coarse = f"{folding['coarse_in']}·{folding['coarse_out']}·{folding['coarse_group']}·{folding['fine']}"
        return f"{coarse} {folding['multiplier']}"
    if not weighted:
        return f"{folding['filters']}"
    parts = (
        f"{folding['filters']}×{folding['nonzeros']}×{folding['pixels']}",
        folding.get("block"),
        folding["multiplier"],
    )
    return " ".join(part for part in parts if part)


def _memories(folding: Mapping[str, Any]) -> str:
    """What does not lie in block RAM."""
    found = ((what, folding.get(what, "bram")) for what in ("weights", "buffer"))
    return ", ".join(f"{what} {memory}" for what, memory in found if memory != "bram")


def _orders(design: Described) -> Iterator[str]:
    for order, cycles in design["intervals_cycles"].items():
        yield f"{order} {cycles:,}" if cycles else f"{order} does not fit"


def _exceeded(design: Described, limit: str) -> Iterator[str]:
    for name, row in design["resources"].items():
        if row["used"] > row[limit]:
            yield f"{_NAMES[name]} ({row['used']:,.0f} of {row[limit]:,.0f})"


def _figure(figure: Mapping[str, Any], unit: str) -> str:
    if figure["value"] is None:
        return f"unknown: {figure['reason']}"
    interval = "" if figure["low"] is None else f" ({figure['low']:.4g} to {figure['high']:.4g})"
    return f"{figure['value']:.4g} {unit}{interval}"


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.4g} {unit}"
    return f"{seconds * 1e9:.4g} ns"
