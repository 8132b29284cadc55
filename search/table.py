"""A recorded study as a table: what became known of every plan, stop by stop, and what each step took."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import median

from leaderboard import Entry

from .log import Record
from .objectives import Known, Objective

START, FULL = -1.0, math.inf
"""Stops of a candidate beside the shares of its training at which rungs end: nothing was done yet, and all. 0 is
costed, and judged untrained. Shares, for with some strategies the length of the training depends on the plan."""
Part = tuple[float, float]
"""The stop where a step began, and the one where it ended."""


@dataclass(frozen=True)
class Row:
    """What was recorded of one plan."""

    digest: str
    knobs: Mapping[str, int]
    known: Mapping[float, Known] = field(default_factory=dict)
    """By stop."""
    judged: frozenset[float] = frozenset()
    """Stops at which its accuracy was asked for."""
    seconds: Mapping[Part, float] = field(default_factory=dict)
    entry: Entry | None = None
    ended: str = "full"
    """As in its record."""
    failed: bool = False
    """True where the job after the last stop came to nothing."""

    @property
    def reached(self) -> float:
        """The last stop that it came to."""
        return max((*self.known, *(end for _, end in self.seconds)), default=START)

    @property
    def let_go(self) -> bool:
        """Whether it was rejected, or was still waiting for more training when the study ended."""
        return self.entry is None and not self.failed

    def between(self, begun: float, until: float) -> float | None:
        """Seconds from one stop to another; None where it did not stop there."""
        stops = {START, *(end for _, end in self.seconds)}
        if begun not in stops or until not in stops:
            return None
        return sum(seconds for (_, end), seconds in self.seconds.items() if begun < end <= until)


class Table:
    """The rows of one strategy's study, by number of the candidate."""

    def __init__(
        self,
        records: Iterable[Record],
        entries: Iterable[Entry],
        objectives: Sequence[Objective],
        rungs: Sequence[float] = (),
    ) -> None:
        """`entries` are the candidates of this study and strategy that are on the board.

        `objectives` are those of the study, whose values the steps of the records hold; `rungs` are the shares of the
        training at which it compared candidates.
        """
        by_trial = {entry.trial: entry for entry in entries}
        rows = {record.number: _row(record, by_trial.get(record.number), objectives, rungs) for record in records}
        for number, entry in by_trial.items():
            # Added to the board without the log: by another machine, or before a crash.
            rows.setdefault(number, Row(entry.plan_digest, entry.knobs, {FULL: Known.of(entry)}, entry=entry))
        self.rows = [rows[number] for number in sorted(rows)]
        self.by_digest = {row.digest: row for row in self.rows}
        self.full = [row for row in self.rows if row.entry is not None]

    @cached_property
    def parts(self) -> dict[Part, list[Row]]:
        """Part → the rows that took it as one step."""
        found: dict[Part, list[Row]] = {}
        for row in self.rows:
            for part in row.seconds:
                found.setdefault(part, []).append(row)
        return dict(sorted(found.items()))

    @cached_property
    def judged(self) -> dict[float, list[Row]]:
        """Stop → the rows whose accuracy was asked for there, in the order of the training."""
        found: dict[float, list[Row]] = {FULL: self.full}
        for row in self.rows:
            for stop in row.judged - {FULL}:
                found.setdefault(stop, []).append(row)
        return dict(sorted(found.items()))

    @property
    def median_training(self) -> float:
        """Seconds of training in a full evaluation; 0 where there is none."""
        return median([row.entry.training.seconds for row in self.full if row.entry] or [0.0])

    def path(self, begun: float, until: float) -> list[Part]:
        """The recorded steps that lead from one stop to another; empty where none do."""
        if (begun, until) in self.parts:
            return [(begun, until)]
        ways = [[part, *self.path(part[1], until)] for part in self.parts if part[0] == begun and part[1] < until]
        # The way with the most stops is the one that most candidates took.
        return max((way for way in ways if way[-1][1] == until), key=len, default=[])

    def median_seconds(self, begun: float, until: float) -> float | None:
        """Of the way from one stop to another, step by step; None where nobody went it."""
        path = self.path(begun, until)
        return sum(median(row.seconds[part] for row in self.parts[part]) for part in path) if path else None


def stop_of(until: float | None, epochs: float) -> float:
    """The stop of a job that trains until so many epochs of all `epochs`; None is all."""
    return FULL if until is None else round(until / epochs, 6) if until else 0.0


def _row(record: Record, entry: Entry | None, objectives: Sequence[Objective], rungs: Sequence[float]) -> Row:
    known, judged, seconds = dict[float, Known](), set[float](), dict[Part, float]()
    last = None if not record.notes else Known.from_plain(record.notes)
    whole = Known.of(entry) if entry else None
    stop, ends = START, iter(rungs)
    for step in record.steps:
        begun, stop = stop, FULL if step.stage == "full" else 0.0
        if step.stage == "rung":
            share = next(ends, None)
            if share is None:  # of an earlier run with other rungs; nobody can say where it stood
                break
            stop = stop_of(share, 1.0)
        seconds[begun, stop] = step.seconds
        if step.values:
            judged.add(stop)
            known[stop] = _at_step(step.values, last or whole, objectives)
        elif last is not None:
            known[stop] = last
    if whole is not None:
        known[FULL] = whole
    ended = "full" if entry else record.ended
    return Row(record.digest, record.params, known, frozenset(judged), seconds, entry, ended, record.failed)


def _at_step(values: Sequence[float], about: Known | None, objectives: Sequence[Objective]) -> Known:
    """What was known at the end of a step: its own values, and of the other figures what was known later."""
    known = Known(values[0], {}, 0.0) if about is None else replace(about, accuracy=values[0], training=None)
    figures = {target: dict(told) for target, told in known.figures.items()}
    size = known.bytes
    for objective, value in zip(objectives, values[1:], strict=False):
        if objective.target is not None:
            figures.setdefault(objective.target, {})[objective.figure] = value
        elif objective.figure == "bytes":
            size = value
    return Known(known.accuracy, figures, size)
