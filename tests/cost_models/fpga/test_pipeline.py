"""The latency recurrences: against every window followed one by one, on branches, and on many candidates at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_models.fpga.equations import PIPELINE_DEPTH
from cost_models.fpga.pipeline import HANDOVER, Stage, latency, needed_rows


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[Stage], list[float]]:
    """A source and up to four window layers on square maps, and the cycles of each."""
    size = draw(st.integers(4, 16))
    stages = [Stage((), np.zeros(size, dtype=int), size)]
    cycles = [float(draw(st.integers(1, 40)) * size * size)]
    for i in range(draw(st.integers(1, 4))):
        kernel, stride = draw(st.sampled_from([1, 3, 5])), draw(st.integers(1, 2))
        before, size = size, (size - 1) // stride + 1
        pixels = draw(st.sampled_from([v for v in (1, 2, 4) if v <= size]))
        need = needed_rows(size, before, kernel, stride, kernel // 2)
        stages.append(Stage((i,), need, size, pixels=pixels))
        cycles.append(float(draw(st.integers(1, 40)) * size * -(-size // pixels)))
    return stages, cycles


def every_window(stages: list[Stage], cycles: list[float]) -> float:
    """The same pipeline window by window: each waits for the block and for its last pixel."""
    pixel_times = np.zeros((0, 0))
    for stage, total in zip(stages, cycles, strict=True):
        windows = -(-stage.columns // stage.pixels)
        pace, done = total / (stage.rows * windows), 0.0
        times = np.zeros((stage.rows, stage.columns))
        for r, row in enumerate(stage.need):
            for w in range(windows):
                last = min((w + 1) * stage.pixels, stage.columns) - 1
                if stage.inputs:
                    stride = max(int(np.diff(stage.need).max()), 1) if stage.rows > 1 else 1
                    column = min(int(stage.need[0]) + last * stride, pixel_times.shape[1] - 1)
                    done = max(done, pixel_times[row, column] + PIPELINE_DEPTH + HANDOVER)
                done += pace
                times[r, w * stage.pixels : last + 1] = done
        pixel_times = times
    return float(pixel_times[-1, -1])


@settings(max_examples=300, deadline=None)
@given(chains())
def test_the_bracket_holds_what_every_window_followed_one_by_one_takes(chain: tuple[list[Stage], list[float]]) -> None:
    stages, cycles = chain
    bracket, exact = latency(stages, cycles), every_window(stages, cycles)
    assert bracket.optimistic <= exact + 1e-6
    # Within a row the pixels of a block that waits twice can come a little later than evenly.
    assert bracket.pessimistic >= 0.99 * exact


@settings(max_examples=60, deadline=None)
@given(chains(), st.integers(1, 5), st.floats(1.1, 3))
def test_candidates_at_once_are_each_one_alone(
    chain: tuple[list[Stage], list[float]], groups: int, factor: float
) -> None:
    stages, cycles = chain
    slow = [count * factor for count in cycles]
    both = [np.array(pair) for pair in zip(cycles, slow, strict=True)]
    yielding = [
        Stage(s.inputs, s.need, s.columns, pixels=np.full(2, s.pixels), groups=np.full(2, groups), yields=True)
        for s in stages
    ]
    alone = [Stage(s.inputs, s.need, s.columns, pixels=s.pixels, groups=groups, yields=True) for s in stages]
    together = latency(yielding, both)
    for i, one in enumerate((cycles, slow)):
        assert together.optimistic[i] == pytest.approx(latency(alone, one).optimistic)
        assert together.pessimistic[i] == pytest.approx(latency(alone, one).pessimistic)


@settings(max_examples=60, deadline=None)
@given(chains())
def test_beats_into_rows_that_are_read_never_make_it_faster(chain: tuple[list[Stage], list[float]]) -> None:
    stages, cycles = chain
    held = [Stage(s.inputs, s.need, s.columns, pixels=s.pixels, groups=1, yields=True) for s in stages]
    free, taken = latency(stages, cycles), latency(held, cycles)
    assert taken.optimistic <= taken.pessimistic
    assert taken.pessimistic >= free.pessimistic - 1e-6


def test_a_join_waits_for_its_slower_branch_and_only_outputs_count() -> None:
    rows = np.arange(8)
    source = Stage((), np.zeros(8, dtype=int), 8)
    window = needed_rows(8, 8, 3, 1, 1)
    stages = [
        source,
        Stage((0,), window, 8),
        Stage((0,), window, 8),
        Stage((1, 2), rows, 8, passes=True),
        Stage((3,), rows[::4], 2),
    ]
    slow = latency(stages, [64.0, 640.0, 6400.0, 64.0, 4.0])
    fast = latency(stages, [64.0, 640.0, 640.0, 64.0, 4.0])
    assert slow.mean > 5 * fast.mean
    # Row 4 is the last that the final stage needs: the branch's rows after it are not waited for.
    assert slow.pessimistic < 6400
