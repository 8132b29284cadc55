"""An explanation as pictures: the front with what was let go on the way, and what the levels decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workloads import InputError

from .explain import Importance, front, stage_name
from .objectives import Objective
from .render import quantity
from .table import FULL, START, Row, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN_LEVELS = 20
"""In the picture of importances: the most important ones."""
_INK, _FAINT = "#1d2733", "#9aa5b1"
_FULL, _FRONT, _DENSE = "#4c78a8", "#d1495b", "#1d2733"
_STAGES = ("#b8792c", "#8f6bb3", "#3a8f6d", "#2f8fa3")
_MARKS = ("x", "v", "s", "D")


def check_folder(folder: Path) -> None:
    """Makes the folder where it is not there; raises `InputError` where it cannot be, before the work is done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"folder {folder} cannot be made: {error.strerror}") from error


def draw_front(table: Table, objectives: Sequence[Objective], dense: Sequence[float] | None, path: Path) -> None:
    """Accuracy against every objective: full evaluations, their front, and where candidates were let go.

    `dense` is the accuracy and the objectives of the dense network. What was let go stands at the accuracy that it had
    then, untrained or trained for a part, below the break of the axis where that is far below the others.
    """
    shown = [objective for objective in objectives if any(objective.value(row.known[FULL]) for row in table.full)]
    with _figure(5.6 * len(shown), 4.8, path) as figure:
        upper, lower = figure.subplots(2, len(shown), squeeze=False, sharex="col", height_ratios=(3, 2))
        for column, objective in enumerate(shown):
            whole = None if dense is None else (dense[1 + list(objectives).index(objective)], dense[0])
            _front(upper[column], lower[column], table, objectives, objective, whole)
        lower[-1].legend(loc="lower right", fontsize=7.5, framealpha=0.9)


def draw_importances(found: Sequence[Importance], path: Path) -> None:
    """Bars of every value's shares; the rank correlation of each level says in which direction it works."""
    names = [matters.level for matters in found[0].levels][:SHOWN_LEVELS]
    with _figure(2.2 + 3.2 * len(found), 1.2 + 0.26 * len(names), path) as figure:
        for axes, one in zip(figure.subplots(1, len(found), squeeze=False, sharey=True)[0], found, strict=True):
            told = {matters.level: matters for matters in one.levels}
            shares = [100 * told[name].share for name in names]
            axes.barh(names, shares, color=_FULL, height=0.7)
            for name, share in zip(names, shares, strict=True):
                rank = told[name].spearman or 0.0
                axes.text(share + 1, name, f"ρ {rank:+.2f}", va="center", fontsize=7, color=_INK)
            axes.invert_yaxis()
            axes.set_xlim(0, max(shares) * 1.25 + 1)
            axes.set_xlabel("share of importance, %")
            trust = "–" if one.trust is None else f"{one.trust:.2f}"
            axes.set_title(f"{one.value}\n{one.rows} networks, surrogate's rank correlation {trust}", fontsize=9)
            axes.grid(axis="x", alpha=0.3)
        figure.axes[0].invert_yaxis() if len(found) % 2 == 0 else None


@contextmanager
def _figure(width: float, height: float, path: Path) -> Iterator[Figure]:
    """A figure that is written to `path` at the end; its suffix says the format."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.hashsalt": "shrinkboard",
    }
    with rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        try:
            figure.savefig(path, dpi=150)
        except OSError as error:
            raise InputError(f"picture {path} cannot be written: {error.strerror}") from error


def _front(
    upper: Axes,
    lower: Axes,
    table: Table,
    objectives: Sequence[Objective],
    objective: Objective,
    dense: tuple[float, float] | None,
) -> None:
    x = np.array([objective.value(row.known[FULL]) for row in table.full], dtype=float)
    y = 100 * np.array([row.known[FULL].accuracy for row in table.full])
    best = front(table, objectives)
    line = sorted((objective.value(row.known[FULL]) or 0.0, 100 * row.known[FULL].accuracy) for row in best)
    gone = [row for row in table.rows if row.let_go]
    stops = sorted({row.reached for row in gone} - {START})
    for axes in (upper, lower):
        axes.scatter(x, y, s=22, color=_FULL, alpha=0.8, linewidths=0, label="evaluated in full", zorder=3)
        axes.plot(*zip(*line, strict=True), "o-", color=_FRONT, ms=4.5, lw=1.3, label="front", zorder=4)
        if dense is not None:
            axes.scatter(dense[0], 100 * dense[1], s=90, marker="*", color=_DENSE, label="dense network", zorder=5)
        for i, stop in enumerate(stops):
            _gone(axes, [row for row in gone if row.reached == stop], objective, stop, i)
        axes.grid(alpha=0.25)
        axes.set_ylabel("validation accuracy, %")
    low, high = np.percentile(y, 20), max(y.max(), 100 * dense[1] if dense else 0.0)
    upper.set_ylim(low - 0.15 * (high - low + 0.1), high + 0.1 * (high - low + 0.1))
    upper.set_title("the accurate ones, enlarged", fontsize=8, color=_FAINT, loc="left")
    lower.set_xlabel(f"{objective}{'' if objective.unit == '1' else f', {objective.unit}'}")
    if x.min() > 0 and x.max() > 5 * x.min():
        lower.set_xscale("log")
    lower.xaxis.set_major_formatter(lambda value, _: quantity(value, "1"))


def _gone(axes: Axes, rows: Sequence[Row], objective: Objective, stop: float, place: int) -> None:
    """Candidates that went no further than a stop; those without an accuracy stand on the axis."""
    told = [(objective.value(row.known[stop]), row, stop in row.judged) for row in rows if stop in row.known]
    judged = [(cost, 100 * row.known[stop].accuracy) for cost, row, asked in told if asked and cost is not None]
    colour, mark = _STAGES[place % len(_STAGES)], _MARKS[place % len(_MARKS)]
    if judged:
        label = f"let go at {stage_name(stop)}"
        x, y = np.transpose(judged)
        axes.scatter(x, y, s=18, marker=mark, color=colour, label=label, zorder=2)
    costs = [cost for cost, _, asked in told if not asked and cost is not None]
    if costs:
        label, across = "beyond a limit, never trained", axes.get_xaxis_transform()
        axes.plot(costs, [0.0] * len(costs), "|", ms=12, color=_FAINT, transform=across, label=label)
