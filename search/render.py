"""Replays and explanations of a study as text for a terminal, and as plain data for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from rich.table import Table as Grid

from strategies import Space

from .explain import Importance, Losses, Saved, Stage, by_weight
from .objectives import Objective, values
from .replay import Mean, Run, Summary
from .surrogate import Fit, levels
from .table import FULL, Row

T = TypeVar("T", int, float)
SHOWN_LEVELS = 20
"""Of the levels and knobs at most, those that decide most."""
MAIN_LEVELS = 4
"""The same beside every network of the front."""
SHOWN_COLUMNS = 5
"""Of a curve in a table, for 80 characters a line; JSON has them all."""


def fit_grid(fits: Sequence[Fit]) -> Grid:
    """How far each prediction can be trusted."""
    grid = _grid("predicted value", "rows", "rank correlation")
    for fit in fits:
        grid.add_row(fit.value, str(fit.rows), "all equal" if fit.spearman is None else f"{fit.spearman:.2f}")
    return grid


def evaluations_grid(summaries: Sequence[Summary]) -> Grid:
    """Hypervolume after so many full evaluations."""
    counts = _spread(list(summaries[0].after))
    grid = _grid("setup", *(f"{count:,}" for count in counts))
    for one in summaries:
        grid.add_row(_setup(one), *(interval(one.after[count]) for count in counts))
    return grid


def times_grid(summaries: Sequence[Summary]) -> Grid:
    """Hypervolume at simulated times."""
    times = _spread(list(summaries[0].at))
    grid = _grid("setup", *(f"{seconds:,g} s" for seconds in times))
    for one in summaries:
        grid.add_row(_setup(one), *(interval(one.at[seconds]) for seconds in times))
    return grid


def cost_grid(summaries: Sequence[Summary]) -> Grid:
    """What each setup takes."""
    grid = _grid("setup", "simulated time", "candidates", "writes/s", "replayed/s")
    for one in summaries:
        cells = f"{one.candidates.mean:.0f}", f"{one.writes.mean:.3g}", f"{one.speed:.0f}"
        grid.add_row(_setup(one), duration(one.makespan.mean), *cells)
    return grid


def importance_grid(found: Sequence[Importance]) -> Grid:
    """The levels that decide most, with share and rank correlation for every value."""
    grid = _grid("level", *(text for one in found for text in (one.value, "ρ")))
    by_value = [{matters.level: matters for matters in one.levels} for one in found]
    for level in by_weight(found)[:SHOWN_LEVELS]:
        cells = [told[level] for told in by_value]
        grid.add_row(level, *(text for m in cells for text in (f"{100 * m.share:.0f} %", _signed(m.spearman))))
    return grid


def fanova_grid(found: Mapping[str, Mapping[str, float]]) -> Grid:
    """The sampler's knobs by Optuna's importance."""
    grid = _grid("knob of the sampler", *found)
    totals = {knob: sum(told[knob] for told in found.values()) for knob in next(iter(found.values()))}
    for knob in sorted(totals, key=lambda knob: -totals[knob])[:SHOWN_LEVELS]:
        grid.add_row(knob, *(f"{100 * told[knob]:.0f} %" for told in found.values()))
    return grid


def front_grid(rows: Sequence[Row], objectives: Sequence[Objective], space: Space, main: Sequence[str]) -> Grid:
    """The networks that no other beats."""
    grid = _grid("trial", "accuracy", *map(str, objectives), *main)
    for row in rows:
        accuracy, *found = values(row.known[FULL], objectives)
        told = chosen(space, row, main)
        grid.add_row(
            _trial(row),
            f"{100 * accuracy:.2f} %",
            *(quantity(value, objective.unit) for value, objective in zip(found, objectives, strict=True)),
            *(str(told[level]) for level in main),
        )
    return grid


def stage_grid(stages: Sequence[Stage]) -> Grid:
    """How many candidates came to every stage, and what became of them there."""
    grid = _grid("stage", "candidates", "let go", "why", "seconds", "median")
    for stage in stages:
        reasons = [f"{count} {reason}" for reason, count in stage.let_go.items()]
        reasons += [f"{stage.failed} failed after it"] if stage.failed else []
        gone = str(sum(stage.let_go.values()))
        why = "\n".join(reasons) or "–"
        grid.add_row(stage.name, str(stage.candidates), gone, why, f"{stage.seconds:.1f}", f"{stage.median:.2f}")
    return grid


def sensitivity_lines(found: Mapping[str, Losses]) -> list[str]:
    """Which members of every family lose most and least where they alone are at its lowest level."""
    lines = []
    for name, one in found.items():
        order = np.argsort(-one.losses[:, 0], kind="stable")
        told = [f"{one.members[place]} +{one.losses[place, 0]:.2g}" for place in order]
        shown = told if len(told) <= 2 * MAIN_LEVELS else [*told[:MAIN_LEVELS], "…", *told[-MAIN_LEVELS:]]
        lines.append(f"{name} {one.levels[0]:g}: {', '.join(shown)}")
    return lines


def saved_line(saved: Saved) -> str:
    """What letting go has saved, in one sentence."""
    if not saved.let_go:
        return "nothing was let go before its full evaluation"
    net = f"{saved.net:.1f} s saved" if saved.net >= 0 else f"{-saved.net:.1f} s lost"
    return (
        f"{saved.let_go} let go: {saved.avoided:.1f} s of evaluations avoided for {saved.spent_on_let_go:.1f} s spent "
        f"on them, {net}; all screens and rungs took {saved.spent:.1f} s"
    )


def chosen(space: Space, row: Row, names: Sequence[str]) -> dict[str, Any]:
    """Level → its value in a plan, such as a keep ratio or bits."""
    indices = levels(space, row.knobs)
    known = {choice.name: choice.levels for choice in space.choices}
    for family in space.families:
        known |= {f"{family.name}.{member}": family.levels for member in family.members}
    return {name: known[name][indices[name]] for name in names}


def replay_json(
    fits: Sequence[Fit], runs: Sequence[Run], summaries: Sequence[Summary], about: Mapping[str, Any]
) -> dict[str, Any]:
    """All curves, and what was made of them."""
    return {
        **about,
        "surrogate": [vars(fit) for fit in fits],
        "summary": [
            {
                **vars(one.setup),
                "after": [{"evaluations": count, **vars(mean)} for count, mean in one.after.items()],
                "at": [{"seconds": seconds, **vars(mean)} for seconds, mean in one.at.items()],
                "makespan": vars(one.makespan),
                "candidates": vars(one.candidates),
                "writes_per_second": vars(one.writes),
                "simulated_per_second": one.speed,
            }
            for one in summaries
        ],
        "runs": [run.to_json() for run in runs],
    }


def explain_json(
    found: Sequence[Importance],
    fanova: Mapping[str, Mapping[str, float]],
    front: Sequence[Row],
    objectives: Sequence[Objective],
    space: Space,
    stages: Sequence[Stage],
    saved: Saved,
    lost: Mapping[str, Losses],
) -> dict[str, Any]:
    """What `explain` prints, with all levels of the front's networks."""
    names = [matters.level for matters in found[0].levels] if found else []
    return {
        "importance": [{**vars(one), "levels": [vars(matters) for matters in one.levels]} for one in found],
        "fanova": {value: dict(told) for value, told in fanova.items()},
        "front": [
            {
                "trial": row.entry.trial if row.entry else None,
                "entry": row.entry.id if row.entry else None,
                **dict(zip(["accuracy", *map(str, objectives)], values(row.known[FULL], objectives), strict=True)),
                "levels": chosen(space, row, names),
            }
            for row in front
        ],
        "stages": [{**vars(stage), "stop": None if stage.stop == FULL else stage.stop} for stage in stages],
        "saved": {**vars(saved), "net": saved.net},
        "sensitivity": {
            name: {
                "levels": one.levels.tolist(),
                "loss": dict(zip(one.members, one.losses.tolist(), strict=True)),
            }
            for name, one in lost.items()
        },
    }


def interval(told: Mean) -> str:
    """A mean with its interval, such as 0.957±.014."""
    return f"{told.mean:.3f}" + ("" if told.half_width is None else f"±{told.half_width:.3f}".replace("±0", "±"))


def duration(seconds: float) -> str:
    """In the unit that suits."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def quantity(value: float, unit: str) -> str:
    """A figure with the prefix that suits, such as 1.20 ms or 34.5 kB."""
    prefixes = {"G": 1e9, "M": 1e6, "k": 1e3, "": 1.0, "m": 1e-3, "µ": 1e-6, "n": 1e-9}
    prefix = next((name for name, size in prefixes.items() if abs(value) >= size), "") if value else ""
    number = np.format_float_positional(value / prefixes[prefix], precision=3, fractional=False, trim="-")
    return f"{number} {prefix}{'' if unit == '1' else unit}".strip()


def _grid(*columns: str) -> Grid:
    grid = Grid()
    for column in columns:
        text = column in ("level", "setup", "stage", "why", "predicted value", "knob of the sampler")
        grid.add_column(column, justify="left" if text else "right", overflow="fold")
    return grid


def _signed(rank: float | None) -> str:
    return "–" if rank is None else f"{rank:+.2f}"


def _setup(one: Summary) -> str:
    return f"{one.setup.sampler} × {one.setup.workers}"


def _spread(columns: list[T]) -> list[T]:
    """At most `SHOWN_COLUMNS` of them, evenly, the last among them."""
    places = np.linspace(len(columns) - 1, 0, min(SHOWN_COLUMNS, len(columns)))
    return [columns[place] for place in sorted({round(place) for place in places})]


def _trial(row: Row) -> str:
    return "–" if row.entry is None else f"#{row.entry.trial}"
