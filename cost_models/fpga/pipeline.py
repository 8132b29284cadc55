"""When the rows of an image leave the blocks of a pipeline: the latency of one image through the graph.

Every block starts a row of its output as soon as the pixels of its first window are there, so all blocks work at once
on parts of the same image. A recurrence over rows follows the first and the last window of every row: a row is done
when its block has worked on it since the later of its own last row and the first window's pixels, or when the windows
are done that had to wait for later pixels. Two versions of it bracket the time; they differ in what happens in a row:

- optimistic: pixels come at the pace of the block that makes them from its first window on, a block passes its sums on
  as soon as they are added up, and a beat more or less takes nothing;
- pessimistic: pixels come evenly until the last windows, which follow each other at the block's pace; every block is
  followed by a FIFO; every beat that may fall into a row that is being read takes its cycle from the reader, whose line
  buffer has no port left for it (`rtl/line_buffer.v`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .equations import PIPELINE_DEPTH, Ints

HANDOVER = 1
"""Cycles of the FIFO between two blocks."""


@dataclass(frozen=True)
class Stage:
    """One block as the recurrence sees it; the stages of a pipeline stand in topological order.

    `pixels` and `groups` are numbers, or arrays of the shape of the cycles, one number a candidate.
    """

    inputs: tuple[int, ...]
    """Positions of the stages that feed it; empty for the source of the image."""
    need: np.ndarray
    """Output row → last input row that it needs, shape (rows,), never falling; of an input with fewer rows, its last.

    Windows are taken to be square, so the first one needs as many columns as rows."""
    columns: int
    """Pixels of an output row."""
    passes: bool = False
    """True where words only pass through (add, concat, up-sampling…): a row leaves as its last word arrives."""
    pixels: Ints = 1
    """V: pixels of a window; they leave together."""
    groups: Ints = 1
    """Beats in which a window leaves: ⌈F/P⌉."""
    yields: bool = False
    """True where a write into a row that is being read takes a cycle from the block."""

    @property
    def rows(self) -> int:
        return len(self.need)

    @property
    def windows(self) -> np.ndarray:
        """Windows of a row."""
        return np.asarray(-(-self.columns // np.asarray(self.pixels)), dtype=np.float64)


@dataclass(frozen=True)
class Bracket:
    """Cycles from the first word of an image into the pipeline until its last word out of it."""

    optimistic: np.ndarray
    pessimistic: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        return (self.optimistic + self.pessimistic) / 2


def needed_rows(rows: int, in_rows: int, kernel: int, stride: int, padding: int) -> np.ndarray:
    """The last input row that each output row of a window layer needs: min(Hi − 1, r·s + K − 1 − p), shape (rows,)."""
    return np.clip(np.arange(rows) * stride + kernel - 1 - padding, 0, in_rows - 1)


def latency(stages: Sequence[Stage], cycles: Sequence[np.ndarray | float]) -> Bracket:
    """The latency of an image through `stages`, of which stage i needs `cycles[i]` for all rows of one image.

    Every `cycles[i]` is a number or an array of one shape, one number a candidate; the bracket has that shape too.
    """
    optimistic, pessimistic = (row_times(stages, cycles, pessimistic=mode) for mode in (False, True))
    inner = {i for stage in stages for i in stage.inputs}
    ends = [i for i in range(len(stages)) if i not in inner]
    return Bracket(*(np.max([times[i][-1] for i in ends], axis=0) for times in (optimistic, pessimistic)))


def row_times(stages: Sequence[Stage], cycles: Sequence[np.ndarray | float], pessimistic: bool) -> list[np.ndarray]:
    """The time at which every row leaves every stage, a list of arrays of shape (rows, *shape of the cycles)."""
    made: list[_Rows] = []
    for stage, work in zip(stages, cycles, strict=True):
        total = np.asarray(work, dtype=np.float64)
        made.append(_rows(stage, total, [made[i] for i in stage.inputs], pessimistic))
    return [rows.last for rows in made]


@dataclass(frozen=True)
class _Rows:
    """What leaves a stage; times have the shape (rows, *shape of the cycles)."""

    stage: Stage
    first: np.ndarray
    """The first window of every row."""
    last: np.ndarray
    pace: np.ndarray
    """Cycles of a window where nothing holds the stage up."""
    burst: np.ndarray
    """Last windows of a row, worked on at full pace: those left when the input's row is complete."""

    def window(self, k: np.ndarray, rows: np.ndarray, pessimistic: bool) -> np.ndarray:
        """When window k leaves: at the earliest at the block's own pace from the first one on, at the latest evenly."""
        first, last, burst, count = self.first[rows], self.last[rows], self.burst[rows], self.stage.windows
        if not pessimistic:
            return np.minimum(first + k * self.pace, last)
        full = last - (count - 1 - k) * self.pace
        knee = last - burst * self.pace
        even = first + (knee - first) * k / np.maximum(count - 1 - burst, 1e-9) + (k > 0) * self.pace
        return np.where(k >= count - 1 - burst, full, np.clip(even, first, full))


@dataclass(frozen=True)
class _Arrival:
    """What one input means for every row of a stage; times have the shape (rows, *shape of the cycles)."""

    start: np.ndarray
    """When the pixels of the first window are there."""
    late: np.ndarray
    """When a row is done at the earliest, because of the pixels of its later windows."""
    whole: np.ndarray
    """When the last row that is needed is complete."""
    beats: np.ndarray
    """Beats a cycle that take a cycle from the stage until then."""
    burst: np.ndarray
    """Windows that are still to be worked on then; the same for every row."""


def _arrival(stage: Stage, source: _Rows, pace: np.ndarray, pessimistic: bool) -> _Arrival:
    before = source.stage
    rows = np.minimum(stage.need, before.rows - 1)
    stride = max(int(np.diff(stage.need).max()), 1) if stage.rows > 1 else 1
    reach = 0 if stage.passes else int(stage.need[0])
    pixels, count, final = np.minimum(stage.pixels, stage.columns), stage.windows, before.windows - 1

    def needs(window: Ints) -> np.ndarray:
        """The window of the source that a window needs."""
        pixel = np.minimum((window + 1) * pixels, stage.columns) - 1
        return np.minimum(reach + pixel * stride, before.columns - 1) // np.asarray(before.pixels)

    def needing(window: np.ndarray) -> np.ndarray:
        """The first window that needs a window of the source."""
        pixel = np.ceil(np.maximum(window * before.pixels - reach, 0) / stride)
        return np.minimum(np.ceil((pixel + 1) / pixels) - 1, count - 1)

    whole = source.last[rows]
    beats = np.zeros_like(whole)
    if stage.yields:
        beats = np.minimum(before.groups * np.maximum(final, 1) / np.maximum(whole - source.first[rows], 1), 1)

    def done(own: np.ndarray) -> np.ndarray:
        """When the row is done if the stage waits for its input at window `own`."""
        there = source.window(needs(own), rows, pessimistic)
        return there + (count - own) * pace + _taken(beats, whole, there, pessimistic)

    # Between the corners of the arrival both sides go on evenly but for whole windows, a pattern that comes again after
    # `period` windows: the last to be done waits near a corner.
    last = needs(count - 1)
    knee = np.clip(np.ceil(final - source.burst[rows]), 0, last)
    period = int(np.max(np.asarray(before.pixels) // np.gcd(before.pixels, pixels * stride)))
    near = [np.full(pace.shape, float(step)) for step in range(1, period + 1)]
    near += [needing(knee) + step for step in range(-period, period + 1)]
    near += [needing(last) + step for step in range(-period, 1)]
    late = np.max([done(np.clip(own, np.minimum(1, count - 1), count - 1)) for own in near], axis=0)
    start = source.window(needs(0), rows, pessimistic)
    return _Arrival(start, late, whole, beats, count - needing(last) + np.zeros(pace.shape))


def _taken(rate: np.ndarray, until: np.ndarray, since: np.ndarray, pessimistic: bool) -> np.ndarray:
    """Cycles that the beats from `since` to `until` take, one more or less at the ends."""
    beats = rate * np.maximum(until - since, 0)
    return np.ceil(beats) + (beats > 0) if pessimistic else np.maximum(np.floor(beats) - 1, 0)


def _rows(stage: Stage, total: np.ndarray, sources: Sequence[_Rows], pessimistic: bool) -> _Rows:
    row = total / stage.rows
    pace = row / stage.windows
    arrivals = [_arrival(stage, source, pace, pessimistic) for source in sources]
    first = np.zeros((stage.rows, *total.shape))
    last = np.zeros_like(first)
    depth = 0 if stage.passes else PIPELINE_DEPTH + HANDOVER * pessimistic
    before = np.zeros(total.shape)
    for r in range(stage.rows):
        window, end = before + pace, before + row
        for arrival in arrivals:
            if stage.passes:
                window, end = np.maximum(window, arrival.start[r]), np.maximum(end, arrival.whole[r])
                continue
            start = np.maximum(before, arrival.start[r] + depth)
            window, end = start + pace, start + row
            if stage.yields:
                beats = arrival.beats[r]
                taken = _taken(beats, arrival.whole[r] + depth, start, pessimistic)
                window = np.minimum(window + taken, start + pace / np.maximum(1 - beats, 1e-9))
                end = end + taken
            end = np.maximum(end, arrival.late[r] + depth)
        first[r], last[r] = window, end
        before = end
    burst = np.zeros_like(last) + stage.windows
    if arrivals and not stage.passes:
        ready = np.max([arrival.whole for arrival in arrivals], axis=0) + depth
        least = np.max([arrival.burst for arrival in arrivals], axis=0)
        burst = np.clip((last - ready) / np.maximum(pace, 1e-9), least, stage.windows)
    return _Rows(stage, first, last, pace, burst)
