"""A design as a picture: its blocks from left to right, how busy each is, and how words flow between them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads import InputError

from .design import Design
from .device import RESOURCES
from .folding import AnyFolding, ConvFolding

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".svg", ".png", ".pdf")

_WIDTH, _HEIGHT = 1.9, 1.22
"""Of a box, in inches."""
_GAP, _LANE = 0.42, 1.0
"""Between boxes of a row, and between rows: there edges run that do not lead to the next box."""
_HEAD = 1.0
_INK, _FAINT, _WIRE = "#1d2733", "#6b7785", "#8793a1"
_BUSY, _SLOWEST = "#4c78a8", "#d1495b"
_SKIPS = ("#8f6bb3", "#3a8f6d", "#b8792c", "#2f8fa3", "#a8476f")


def check_picture_path(path: Path) -> None:
    """Raises `InputError` where `draw` could not write to `path`: before the work is done, not after."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"picture {path}: a picture ends in {', '.join(SUFFIXES)}")
    if not path.resolve().parent.is_dir():
        raise InputError(f"picture {path} cannot be written: there is no folder {path.resolve().parent}")
    try:
        there = path.exists()
    except OSError as error:  # a name that no file can have
        raise InputError(f"picture {path} cannot be written: {error.strerror}") from error
    if path.is_dir():
        raise InputError(f"picture {path} cannot be written: it is a folder")
    if not os.access(path if there else path.resolve().parent, os.W_OK):
        raise InputError(f"picture {path} cannot be written: permission denied")


def draw(design: Design, path: Path, title: str) -> None:
    """Writes the pipeline of `design` as a picture; the suffix of `path` says the format, `title` names the network.

    Every box is a block: its name, its folding P×M×V, its cycles with a bar that is full at the initiation interval,
    and what it takes of the device. Bars of the slowest blocks are red; where one block alone is the limit, its frame
    is too. Arcs are inputs that come from further back; a join, such as an addition, says how many words of its
    earlier inputs wait in FIFOs for its latest one.
    """
    check_picture_path(path)
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(design.blocks)
    columns = min(count, 8 if count <= 48 else 12)
    rows = -(-count // columns)
    width = columns * (_WIDTH + _GAP) + _GAP
    height = _HEAD + rows * (_HEIGHT + _LANE)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "shrinkboard", "font.size": 7.5}):
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        axes.axis("off")
        picture = _Picture(axes, design, columns)
        picture.head(title)
        for position in range(count):
            picture.box(position)
        picture.edges()
        try:
            figure.savefig(path, dpi=130, metadata={"Date": None} if path.suffix == ".svg" else None)
        except OSError as error:
            raise InputError(f"picture {path} cannot be written: {error.strerror}") from error


def _folding(folding: AnyFolding, computes: bool) -> str:
    """P×M×V, or channels in, out, groups and taps; channels a cycle of a layer without weights."""
    if isinstance(folding, ConvFolding):
        return f"{folding.coarse_in}·{folding.coarse_out}·{folding.coarse_group}·{folding.fine}"
    return f"{folding.filters}×{folding.nonzeros}×{folding.pixels}" if computes else f"{folding.filters} ch"


class _Picture:
    """The drawing in the making; x and y in inches from the upper left corner."""

    def __init__(self, axes: Axes, design: Design, columns: int) -> None:
        self.axes, self.design, self.columns = axes, design, columns
        self.position = {block.name: i for i, block in enumerate(design.blocks)}
        kind, _ = design.limit
        self.limiting = int(design.cycles.argmax()) if kind == "layer" else None

    def corner(self, position: int) -> tuple[float, float]:
        row, column = divmod(position, self.columns)
        return _GAP + column * (_WIDTH + _GAP), _HEAD + row * (_HEIGHT + _LANE) + _LANE * 0.55

    def text(self, x: float, y: float, text: str, **options: Any) -> None:
        self.axes.text(x, y, text, **{"color": _INK, "va": "center", "parse_math": False, **options})

    def head(self, title: str) -> None:
        design = self.design
        share = design.resources.sum(0)
        parts = [
            f"{name.upper()} {100 * used / budget:.0f} %"
            for name, used, budget in zip(RESOURCES, share, design.device.budget, strict=True)
            if budget
        ]
        self.text(
            _GAP, 0.3, f"{title} on {design.device.name} at {design.clock / 1e6:g} MHz", fontsize=13, weight="bold"
        )
        self.text(
            _GAP,
            0.58,
            f"an image every {design.interval:,} cycles ({design.throughput:,.0f}/s), latency "
            f"{float(design.latency.optimistic):,.0f} to {float(design.latency.pessimistic):,.0f} cycles, "
            f"filters in {design.order} order",
            fontsize=9,
        )
        self.text(_GAP, 0.8, f"of the budget: {', '.join(parts)}; {design.limit[1]}", fontsize=9, color=_FAINT)

    def box(self, position: int) -> None:
        from matplotlib.patches import FancyBboxPatch, Rectangle

        design, block = self.design, self.design.blocks[position]
        x, y = self.corner(position)
        cycles = int(design.costs[position].cycles[0])
        slowest, limiting = cycles == design.interval, position == self.limiting
        self.axes.add_patch(
            FancyBboxPatch(
                (x, y),
                _WIDTH,
                _HEIGHT,
                boxstyle="round,pad=0,rounding_size=0.07",
                facecolor="#ffffff" if block.computes else "#eef1f4",
                edgecolor=_SLOWEST if limiting else _INK,
                linewidth=2.4 if limiting else 0.8,
                zorder=3,
            )
        )
        layer, inner = block.layer, _WIDTH - 0.16
        left, right = x + 0.08, x + _WIDTH - 0.08
        self.text(left, y + 0.15, _short(block.name, 25), weight="bold", fontsize=8, zorder=4)
        shape = f"{layer.out_channels}×{layer.out_height}×{layer.out_width}"
        kind = layer.kind if not block.computes or layer.kind == "linear" else f"{layer.kind} {_kernel(layer.kernel)}"
        self.text(left, y + 0.33, f"{kind} → {shape}", color=_FAINT, zorder=4)
        label = _folding(design.foldings[position], block.computes)
        self.text(left, y + 0.52, label, zorder=4)
        if block.computes:
            formats = f"W{_bits(str(block.weight))} A{_bits(str(block.activation))}"
            self.text(right, y + 0.52, formats, ha="right", color=_FAINT, zorder=4)
        elif block.waiting:
            words = sum(waiting.words for waiting in block.waiting)
            self.text(right, y + 0.52, f"FIFO {words:,} words", ha="right", color=_SKIPS[0], zorder=4)
        self.axes.add_patch(Rectangle((left, y + 0.64), inner, 0.1, facecolor="#dde3e9", edgecolor="none", zorder=4))
        share = min(1.0, cycles / design.interval)
        colour = _SLOWEST if slowest else _BUSY
        self.axes.add_patch(
            Rectangle((left, y + 0.64), inner * share, 0.1, facecolor=colour, edgecolor="none", zorder=5)
        )
        self.text(left, y + 0.86, f"{cycles:,} cycles", zorder=4, color=_SLOWEST if slowest else _INK)
        self.text(right, y + 0.86, f"{100 * cycles / design.interval:.0f} %", ha="right", zorder=4)
        used = [
            f"{amount:,.0f} {name}"
            for name, amount in zip(("LUT", "FF", "DSP", "BR", "UR"), design.resources[position], strict=True)
            if amount and name != "FF"
        ]
        self.text(left, y + 1.06, " · ".join(used), fontsize=6.4, color=_FAINT, zorder=4)

    def edges(self) -> None:
        """Wires to the next box, arcs above a row, and between rows ends that name each other."""
        lanes: dict[int, list[list[tuple[float, float]]]] = {}
        leaving: dict[int, list[int]] = {}
        coming: dict[int, list[int]] = {}
        for position, block in enumerate(self.design.blocks):
            for name in block.layer.inputs:
                before = self.position[name]
                row = position // self.columns
                if before // self.columns != row and before != position - 1:
                    leaving.setdefault(before, []).append(position)
                    coming.setdefault(position, []).append(before)
                elif before // self.columns != row:
                    self.wrap(before, position)
                elif before == position - 1:
                    self.straight(before)
                else:
                    self.arc(before, position, lanes.setdefault(row, []))
        for before, others in leaving.items():
            self.end(before, others, leaves=True)
        for after, others in coming.items():
            self.end(after, others, leaves=False)

    def straight(self, before: int) -> None:
        x, y = self.corner(before)
        self.wire([(x + _WIDTH, y + _HEIGHT / 2), (x + _WIDTH + _GAP, y + _HEIGHT / 2)], _WIRE)

    def wrap(self, before: int, after: int) -> None:
        (x, y), (to_x, to_y) = self.corner(before), self.corner(after)
        side, between, start = x + _WIDTH + _GAP / 2, y + _HEIGHT + 0.14, to_x - _GAP / 2
        middle, to_middle = y + _HEIGHT / 2, to_y + _HEIGHT / 2
        path = [(x + _WIDTH, middle), (side, middle), (side, between), (start, between), (start, to_middle)]
        self.wire([*path, (to_x, to_middle)], _WIRE)

    def arc(self, before: int, after: int, lanes: list[list[tuple[float, float]]]) -> None:
        (x, y), (to_x, _) = self.corner(before), self.corner(after)
        start, end = x + 0.75 * _WIDTH, to_x + 0.25 * _WIDTH
        lane = _free_lane(lanes, start, end)
        above = y - 0.3 - 0.11 * min(lane, 4)
        self.wire([(start, y), (start, above), (end, above), (end, y)], _SKIPS[lane % len(_SKIPS)])

    def end(self, position: int, others: Sequence[int], leaves: bool) -> None:
        x, y = self.corner(position)
        at = x + (0.9 if leaves else 0.1) * _WIDTH
        wire = [(at, y), (at, y - 0.13)]
        self.wire(wire if leaves else wire[::-1], _SKIPS[0])
        names = ", ".join(_short(self.design.blocks[other].name, 18) for other in others)
        side = x + _WIDTH if leaves else x
        label = f"to {names}" if leaves else f"from {names}"
        self.text(side, y - 0.19, label, color=_SKIPS[0], fontsize=6.4, ha="right" if leaves else "left")

    def wire(self, points: Sequence[tuple[float, float]], colour: str) -> None:
        """A line through `points` that ends in an arrow."""
        xs, ys = zip(*points[:-1], strict=True)
        self.axes.plot(xs, ys, color=colour, linewidth=1.1, solid_joinstyle="round", zorder=2)
        self.axes.annotate(
            "",
            xy=points[-1],
            xytext=points[-2],
            arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.1, "shrinkA": 0, "shrinkB": 0},
            zorder=2,
        )


def _free_lane(lanes: list[list[tuple[float, float]]], start: float, end: float) -> int:
    """The lowest lane above a row in which nothing is in the way of start…end, which it then takes."""
    for lane, taken in enumerate(lanes):
        if all(end < other_start or other_end < start for other_start, other_end in taken):
            taken.append((start, end))
            return lane
    lanes.append([(start, end)])
    return len(lanes) - 1


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _kernel(kernel: tuple[int, int]) -> str:
    return f"{kernel[0]}×{kernel[1]}"


def _bits(form: str) -> str:
    return form.removeprefix("int")
