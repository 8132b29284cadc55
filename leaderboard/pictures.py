"""Pictures for papers, as SVG, PDF or PNG: the front, the layers of a network, attainment and convergence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .entry import Entry, LayerShape
from .errors import LeaderboardError, quoted
from .query import Row, Track

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .ranking import Ranking
    from .standing import Ranked

SUFFIXES = (".svg", ".pdf", ".png")
INK, FAINT = "#1d2733", "#9aa5b1"
# Okabe and Ito's colours, which the colour-blind tell apart too, without yellow, which is lost on white.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7a4fa3", "#5b6470")
_MARKS = ("o", "s", "^", "D", "v", "P", "p", "*", "X")
NAMED = 8
"""Strategies with a colour and a name in one picture; the others are grey."""
SHOWN_DROP = 0.11
"""Below the most accurate network, in fractions: collapsed ones would squeeze what matters."""
_BITS = ((3, "#d55e00"), (5, "#e69f00"), (8, "#0072b2"), (16, "#56b4e9"), (math.inf, "#9aa5b1"))
_BIT_NAMES = ("2–3 bits", "4–5 bits", "6–8 bits", "16 bits", "32 bits")


@contextmanager
def picture(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure, in inches, that is written to `path` at the end; equal content gives equal bytes.

    Raises `LeaderboardError` for a suffix that is not of `SUFFIXES`, and where the file cannot be written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise LeaderboardError(f"picture {quoted(str(path))}: its name must end in one of {', '.join(SUFFIXES)}")
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "font.size": 9,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": FAINT,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.hashsalt": "shrinkboard",
        "pdf.fonttype": 42,  # text stays text, as publishers ask
        "svg.fonttype": "none",
    }
    with rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        dated = {".svg": "Date", ".pdf": "CreationDate"}.get(path.suffix.lower())
        try:
            figure.savefig(path, dpi=150, metadata={dated: None} if dated else None)
        except OSError as error:
            raise LeaderboardError(f"picture {quoted(str(path))} cannot be written: {error.strerror}") from None


def draw_front(track: Track, path: Path) -> None:
    """Accuracy against speed-up with 95 % intervals, and the front as a step line.

    Colours are for the strategies on the front, the others are grey; networks far below the best are left out. Raises
    `LeaderboardError` where no entry has a speed-up.
    """
    rows = [row for row in track.rows if row.speedup is not None]
    if not rows:
        raise LeaderboardError(f"{track.workload} on {track.key}: no entry has a speed-up to draw")
    best_of_all = max(row.accuracy for row in rows)
    rows = [row for row in rows if row.accuracy >= best_of_all - SHOWN_DROP]
    best = sorted((row for row in rows if row.front), key=lambda row: row.speedup or 0.0)
    named = list(dict.fromkeys(row.strategy for row in reversed(best)))[:NAMED]
    with picture(path, 6.4, 4.4) as figure:
        axes = figure.subplots()
        _ratio_axis(axes, [row.speedup or 1.0 for row in rows])
        others = [row for row in rows if row.strategy not in named]
        if others:
            axes.scatter(*_xy(others), s=10, color=FAINT, alpha=0.6, linewidths=0, label="others", zorder=2)
        for place, name in enumerate(named):
            own = [row for row in rows if row.strategy == name]
            style: dict[str, Any] = {"color": _COLOURS[place], "marker": _MARKS[place], "linewidths": 0}
            beaten, standing = [row for row in own if not row.front], [row for row in own if row.front]
            if beaten:
                axes.scatter(*_xy(beaten), s=16, alpha=0.45, zorder=3, **style)
            axes.scatter(*_xy(standing), s=34, label=name, zorder=5, **style)
            for row in standing:
                if row.low is not None and row.high is not None:
                    axes.plot([row.low, row.high], [100 * row.accuracy] * 2, color=_COLOURS[place], lw=1.2, zorder=4)
        x, y = _xy(best)
        axes.plot(x, y, drawstyle="steps-pre", color=INK, lw=0.9, zorder=1)
        dense = track.reference_accuracy
        if dense is not None:
            axes.axhline(100 * dense, color=FAINT, lw=0.8, ls=(0, (3, 3)), zorder=0)
            at: dict[str, Any] = {"xy": (1, 100 * dense), "xycoords": ("axes fraction", "data"), "xytext": (0, 3)}
            axes.annotate("dense", textcoords="offset points", ha="right", fontsize=8, **at)
        axes.set_xlabel("speed-up over the dense network")
        axes.set_ylabel(f"{'test' if rows[0].final else 'validation'} accuracy, %")
        axes.set_title(f"{track.workload} on {track.key}, {track.kind}", loc="left", fontsize=9.5)
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)


def draw_layers(entries: Sequence[Entry], path: Path) -> None:
    """What is left of every layer along the network, a row of bars for every entry.

    Bars are as high as the share of channels times that of weights that are not masked; a line stands at the channels
    where some are, numbers above are channels, those of a factored layer's parts with an asterisk. Colours tell the
    bits of the weights. Raises `LeaderboardError` for an entry of before layers were recorded.
    """
    for entry in entries:
        if not entry.layers:
            raise LeaderboardError(f"entry {entry.id} does not tell its layers: it is older than schema 4")
    longest = max(len(entry.layers) for entry in entries)
    with picture(path, min(3.0 + 0.34 * longest, 16), 0.9 + 1.9 * len(entries)) as figure:
        from matplotlib.patches import Patch

        panels = figure.subplots(len(entries), 1, squeeze=False)[:, 0]
        seen = set[int]()
        for axes, entry in zip(panels, entries, strict=True):
            for place, layer in enumerate(entry.layers):
                seen.add(_bar(axes, place, layer, len(entry.layers)))
            axes.set_xlim(-0.6, len(entry.layers) - 0.4)
            axes.set_ylim(0, 100)
            axes.set_xticks(range(len(entry.layers)), [layer.name for layer in entry.layers], rotation=90, fontsize=7)
            axes.set_ylabel("left, %")
            axes.grid(axis="y", alpha=0.25)
            axes.set_axisbelow(True)
            axes.set_title(_caption(entry), loc="left", fontsize=9, pad=13)
        patches = [Patch(color=_BITS[i][1], label=_BIT_NAMES[i]) for i in sorted(seen - {-1})]
        patches.append(Patch(facecolor="#eceff2", edgecolor=FAINT, label="cut or masked"))
        figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), fontsize=8, frameon=False)


def draw_attainment(ranking: Ranking, path: Path) -> None:
    """What half of a strategy's runs attain, between what 10 % and 90 % do: a panel for each of those that rank first.

    The others are grey there. Raises `LeaderboardError` where no strategy has runs.
    """
    shown = [one for one in ranking.strategies if any(surface.points for surface in one.attainment)][:NAMED]
    if not shown:
        raise LeaderboardError("the ranking has no finalists whose attainment could be drawn")
    corners = [point for one in shown for surface in one.attainment for point in surface.points]
    left, most = min(1.0, min(gain for gain, _ in corners)), max(accuracy for _, accuracy in corners)
    lines = []
    for one in shown:
        by_share = {round(surface.share, 3): _steps(surface.points, left) for surface in one.attainment}
        lines.append([by_share[share] for share in sorted(by_share)])
    columns = min(4, len(shown))
    rows = math.ceil(len(shown) / columns)
    with picture(path, 0.8 + 2.2 * columns, 0.8 + 1.9 * rows) as figure:
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
        for place, (axes, one) in enumerate(zip(panels, shown, strict=False)):
            _ratio_axis(axes, [left, *(gain for gain, _ in corners)], most=5)
            for other in lines:
                axes.plot(*other[1], drawstyle="steps-pre", color=FAINT, alpha=0.5, lw=0.7)
            low, middle, high = lines[place]
            axes.fill_between(*_between(low, high), color=_COLOURS[0], alpha=0.2, linewidth=0, step="pre")
            axes.plot(*middle, drawstyle="steps-pre", color=_COLOURS[0], lw=1.8)
            _dense_line(axes, ranking)
            axes.tick_params(labelsize=7)
            axes.set_title(_ranked(one), loc="left", fontsize=8)
        for axes in panels[len(shown) :]:
            axes.set_visible(False)
        margin = 0.03 * SHOWN_DROP
        panels[0].set_ylim(100 * (most - SHOWN_DROP), 100 * (most + margin))
        figure.supxlabel(_gain_of(ranking), fontsize=9)
        figure.supylabel("test accuracy, %", fontsize=9)
        told = "blue: attained by half of the runs; band: by 90 % to 10 % of them; grey: the other strategies' halves"
        figure.suptitle(told, fontsize=8, color=INK)


def draw_convergence(ranking: Ranking, path: Path) -> None:
    """Hypervolume on validation against trials and against seconds of evaluation, means over searches.

    A bar at the end of each curve is its 95 % interval over searches. Raises `LeaderboardError` where the searches are
    not on the board.
    """
    shown = [one for one in ranking.strategies if one.progress][:NAMED]
    if not shown:
        raise LeaderboardError("the ranking has no searches whose convergence could be drawn")
    from matplotlib.ticker import MaxNLocator, NullFormatter

    names = [name for name in _AXES if all(any(p.against == name for p in one.progress) for one in shown)]
    with picture(path, 1.6 + 3.6 * len(names), 3.6) as figure:
        panels = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
        for axes, against in zip(panels, names, strict=True):
            for place, one in enumerate(shown):
                progress = next(p for p in one.progress if p.against == against)
                style: dict[str, Any] = {"color": _COLOURS[place], "lw": 1.5}
                axes.plot(progress.at, progress.mean, drawstyle="steps-post", label=_ranked(one), **style)
                low, high = progress.low[-1], progress.high[-1]
                if low is not None and high is not None:
                    # Beside each other where curves end at the same trial.
                    end = progress.at[-1] * (1.02 + 0.015 * place)
                    axes.plot([end, end], [low, high], solid_capstyle="butt", **style)
                    axes.plot(end, progress.mean[-1], marker="o", ms=3, color=_COLOURS[place])
            if against == "trials":
                axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            else:
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
                axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel(_AXES[against])
            axes.grid(alpha=0.25)
        panels[0].set_ylabel("hypervolume, validation")
        panels[0].set_ylim(bottom=0)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)


_AXES: Mapping[str, str] = {
    "trials": "trials",
    "evaluation_seconds": "seconds of evaluation",
    "training_seconds": "seconds of training",
}


def _bar(axes: Axes, place: int, layer: LayerShape, count: int) -> int:
    """Draws one layer of `count`; which of `_BITS` it has, −1 where it is gone."""
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((place - 0.4, 0), 0.8, 100, facecolor="#eceff2", edgecolor=FAINT, linewidth=0.5))
    if layer.channels == 0:
        axes.plot([place - 0.4, place + 0.4], [0, 100], color=FAINT, lw=0.8)
        return -1
    kept = 1.0 if layer.dense_channels is None else min(1.0, layer.channels / layer.dense_channels)
    bits = int("".join(filter(str.isdigit, layer.weights)) or 32)
    kind = next(i for i, (most, _) in enumerate(_BITS) if bits <= most)
    axes.add_patch(Rectangle((place - 0.4, 0), 0.8, 100 * kept * layer.density, facecolor=_BITS[kind][1], linewidth=0))
    if layer.density < 1:
        axes.plot([place - 0.4, place + 0.4], [100 * kept] * 2, color=INK, lw=0.9)
    if count <= 30:
        told = f"{layer.channels}{'*' if layer.part_of else ''}"
        axes.annotate(told, (place, 100), (0, 2), textcoords="offset points", ha="center", fontsize=6.5, color=INK)
        axes.annotate(
            layer.weights, (place, 3), ha="center", fontsize=6, color="#ffffff" if kept * layer.density > 0.12 else INK
        )
    return kind


def _caption(entry: Entry) -> str:
    told = (
        [f"{entry.strategy}, entry {entry.id[:8]}", f"{100 * entry.ranking_accuracy(entry.costs[0]):.2f} %"]
        if entry.costs
        else [entry.strategy]
    )
    speedups = [c for c in entry.costs if c.speedup is not None and c.speedup.value is not None]
    told += [f"{c.speedup.value:.2f}× on {c.target}" for c in speedups if c.speedup and c.speedup.value]
    return ", ".join(told)


def _ratio_axis(axes: Axes, ratios: Sequence[float], most: int = 9) -> None:
    """A logarithmic axis with at most about so many ticks."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_xscale("log", base=2)
    low, high = min(ratios), max(ratios)
    found = [m * 2.0**k for k in range(-4, 12) for m in (1.0, 1.5)]
    inside = [x for x in found if low / 1.1 <= x <= high * 1.1]
    if len(inside) < 4:
        inside = [i / 10 for i in range(math.ceil(10 * low), math.floor(10 * high) + 1)]
    if len(inside) > most:
        inside = [x for x in inside if math.log2(x).is_integer()]
    axes.xaxis.set_major_locator(FixedLocator(inside))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axes.grid(alpha=0.25)


def _dense_line(axes: Axes, ranking: Ranking) -> None:
    dense = 100 * ranking.benchmark.dense_accuracy
    axes.axhline(dense, color=FAINT, lw=0.8, ls=(0, (3, 3)), zorder=0)


def _gain_of(ranking: Ranking) -> str:
    if ranking.benchmark.track == "parameters":
        return "times fewer parameters than the dense network"
    return f"{ranking.benchmark.track} speed-up over the dense network"


def _ranked(one: Ranked) -> str:
    return one.strategy if one.rank is None else f"{one.rank}. {one.strategy}"


def _xy(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    return [row.speedup or 0.0 for row in rows], [100 * row.accuracy for row in rows]


def _steps(points: Sequence[tuple[float, float]], left: float) -> tuple[list[float], list[float]]:
    """Corners from the slow end to the fast one: up to each gain its accuracy is attained."""
    ordered = sorted(points)
    if not ordered:
        return [left], [0.0]
    return [left, *(gain for gain, _ in ordered)], [100 * ordered[0][1], *(100 * accuracy for _, accuracy in ordered)]


def _between(
    one: tuple[list[float], list[float]], other: tuple[list[float], list[float]]
) -> tuple[list[float], list[float], list[float]]:
    """Two step lines at the same gains; beyond its last corner a line attains nothing."""
    at = sorted({*one[0], *other[0]})

    def height(line: tuple[list[float], list[float]], gain: float) -> float:
        return max((a for g, a in zip(*line, strict=True) if g >= gain), default=0.0)

    return at, [height(one, gain) for gain in at], [height(other, gain) for gain in at]
