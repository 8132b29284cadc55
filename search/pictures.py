"""An explanation as pictures: the front with what was let go on the way, and what the levels decide."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from leaderboard import picture
from workloads import InputError

from .explain import Importance, Losses, by_weight, front, stage_name
from .objectives import Objective
from .render import SHOWN_LEVELS, quantity
from .table import FULL, START, Row, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _FAINT = "#1d2733", "#9aa5b1"
_FULL, _FRONT, _DENSE = "#4c78a8", "#d1495b", "#1d2733"
_STAGES = ("#b8792c", "#8f6bb3", "#3a8f6d", "#2f8fa3")
FAINTEST = 1e-3
"""Increase of the loss in nats from which a map of sensitivity shows it."""
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
    then, untrained or trained for a part.
    """
    with picture(path, 6.4 * len(objectives), 5.4) as figure:
        panels = figure.subplots(2, len(objectives), squeeze=False, sharex="col", height_ratios=(3, 2))
        for i, (objective, upper, lower) in enumerate(zip(objectives, *panels, strict=True)):
            whole = None if dense is None else (dense[1 + i], 100 * dense[0])
            for axes in (upper, lower):
                _scatter(axes, table, objectives, objective, whole)
            accuracies = [100 * row.known[FULL].accuracy for row in table.full]
            low, high = np.percentile(accuracies, 20), max(*accuracies, whole[1] if whole else 0.0)
            upper.set_ylim(low - 0.15 * (high - low + 0.1), high + 0.1 * (high - low + 0.1))
            upper.set_title("the accurate ones, enlarged", fontsize=8, color=_INK, loc="left")
            _label(lower, table, objective)
        handles, labels = panels[1, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)


def draw_importances(found: Sequence[Importance], path: Path) -> None:
    """Bars of every value's shares; the rank correlation of each level says in which direction it works."""
    names = by_weight(found)[:SHOWN_LEVELS][::-1]
    with picture(path, 1.6 + 3.4 * len(found), 1.2 + 0.26 * len(names)) as figure:
        for axes, one in zip(figure.subplots(1, len(found), squeeze=False, sharey=True)[0], found, strict=True):
            told = {matters.level: matters for matters in one.levels}
            shares = [100 * told[name].share for name in names]
            axes.barh(names, shares, color=_FULL, height=0.7, zorder=2)
            for name, share in zip(names, shares, strict=True):
                axes.text(share + 1, name, f"ρ {told[name].spearman or 0.0:+.2f}", va="center", fontsize=7, color=_INK)
            axes.set_xlim(0, max(shares) * 1.25 + 1)
            axes.set_xlabel("share of importance, %")
            trust = "–" if one.trust is None else f"{one.trust:.2f}"
            axes.set_title(f"{one.value}\n{one.rows} networks, surrogate's rank correlation {trust}", fontsize=8.5)
            axes.grid(axis="x", alpha=0.3)


def draw_sensitivity(found: Mapping[str, Losses], path: Path) -> None:
    """A map for every family, members downwards in network order and levels across; darker loses more."""
    from matplotlib.colors import LogNorm

    tallest = max(len(one.members) for one in found.values())
    most = max(float(one.losses.max()) for one in found.values())
    with picture(path, 2.0 + 3.6 * len(found), 1.4 + 0.22 * tallest) as figure:
        panels = figure.subplots(1, len(found), squeeze=False)[0]
        for axes, (name, one) in zip(panels, found.items(), strict=True):
            scale = LogNorm(FAINTEST, max(most, 10 * FAINTEST), clip=True)
            shown = axes.imshow(one.losses, cmap="YlOrRd", aspect="auto", norm=scale)
            axes.set_yticks(range(len(one.members)), one.members, fontsize=7)
            every = max(1, len(one.levels) // 8)
            axes.set_xticks(range(0, len(one.levels), every), [f"{level:g}" for level in one.levels[::every]])
            axes.set_xlabel(name)
        bar = figure.colorbar(shown, ax=list(panels), shrink=0.9)
        bar.set_label("increase of the loss, untrained", fontsize=7)


def _scatter(
    axes: Axes,
    table: Table,
    objectives: Sequence[Objective],
    objective: Objective,
    dense: tuple[float, float] | None,
) -> None:
    x, y = np.transpose([_point(row, objective) for row in table.full])
    axes.scatter(x, y, s=20, color=_FULL, alpha=0.8, linewidths=0, label="evaluated in full", zorder=3)
    best = sorted(_point(row, objective) for row in front(table, objectives))
    # Of several objectives each picture is a projection, in which the front is no line.
    step = "steps-pre" if objective.larger_is_better else "steps-post"
    line = {"drawstyle": step, "lw": 1.3} if len(objectives) == 1 else {"lw": 0}
    axes.plot(*np.transpose(best), marker="o", color=_FRONT, ms=4.5, label="front", zorder=4, **line)
    if dense is not None:
        axes.scatter(*dense, s=90, marker="*", color=_DENSE, label="dense network", zorder=5)
    gone = [row for row in table.rows if row.let_go]
    for place, stop in enumerate(sorted({row.reached for row in gone} - {START})):
        colour, mark = _STAGES[place % len(_STAGES)], _MARKS[place % len(_MARKS)]
        points = [_point(row, objective, stop) for row in gone if row.reached == stop and stop in row.judged]
        points = [point for point in points if not np.isnan(point[0])]
        if points:
            x, y = np.transpose(points)
            label = f"let go at {stage_name(stop)}"
            axes.scatter(x, y, s=18, marker=mark, color=colour, label=label, zorder=2)
    unseen = [_point(row, objective, 0.0)[0] for row in gone if not row.judged and 0.0 in row.known]
    costs = [cost for cost in unseen if not np.isnan(cost)]
    if costs:
        across, label = axes.get_xaxis_transform(), "beyond a limit, never trained"
        axes.plot(costs, [0.0] * len(costs), "|", ms=12, color=_FAINT, transform=across, label=label)
    axes.grid(alpha=0.25)
    axes.set_ylabel("validation accuracy, %")


def _label(axes: Axes, table: Table, objective: Objective) -> None:
    """The axis of an objective, and how many candidates it cannot show."""
    values = [_point(row, objective)[0] for row in table.full]
    if min(values) > 0 and max(values) > 5 * min(values):
        axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: quantity(value, objective.unit))
    hidden = sum(row.let_go and not any(objective.value(known) for known in row.known.values()) for row in table.rows)
    told = f"\n{hidden} candidates were let go before it was known" if hidden else ""
    axes.set_xlabel(f"{objective}{told}")


def _point(row: Row, objective: Objective, stop: float = FULL) -> tuple[float, float]:
    """Objective, NaN where it was not known, and accuracy in per cent."""
    value = objective.value(row.known[stop])
    return math.nan if value is None else value, 100 * row.known[stop].accuracy
