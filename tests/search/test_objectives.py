"""Objectives and limits: what is read from the command, what is refused, and how violations are counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models import target
from search import Known
from search.objectives import Limit, Objective, default_objectives, parse_limit, parse_objective, values
from workloads import InputError

MODELS = [target("cpu-onnxruntime"), target("fpga-zcu104"), target("counts")]
CPU, FPGA, COUNTS = (model.name for model in MODELS)


def known(**figures: float) -> Known:
    return Known(0.9, {CPU: figures}, bytes=1000.0, training=60.0)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("latency", [f"latency@{CPU}", f"latency@{FPGA}"]),
        (f"latency@{FPGA}", [f"latency@{FPGA}"]),
        ("fps", [f"throughput@{CPU}", f"throughput@{FPGA}"]),
        ("energy", [f"energy@{CPU}", f"energy@{FPGA}"]),
        ("macs", [f"macs@{COUNTS}"]),
        ("bytes", ["bytes"]),
        ("training", ["training"]),
    ],
)
def test_an_objective_is_every_targets_that_answers_it(text: str, found: list[str]) -> None:
    assert [str(objective) for objective in parse_objective(text, MODELS)] == found


@pytest.mark.parametrize("text", ["speed", "latency@counts", "latency@elsewhere", "bytes@counts", "", "@"])
def test_an_objective_that_nobody_answers_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError, match=r"allowed: bit_operations, .*bytes.*latency") as refusal:
        parse_objective(text, MODELS)
    assert "\n" not in str(refusal.value)


def test_unless_told_otherwise_targets_have_their_own() -> None:
    assert [o.figure for o in default_objectives(MODELS)] == [model.objective for model in MODELS]


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("latency=2ms", [2e-3, 2e-3]),
        (f"latency@{CPU}=750us", [7.5e-4]),
        ("latency=0.5", [0.5, 0.5]),
        ("fps=500", [500.0, 500.0]),
        ("bytes=100kB", [1e5]),
        ("bytes=64KiB", [65536.0]),
        (f"energy@{FPGA}=3mJ", [3e-3]),
        ("macs=10M", [1e7]),
        ("training=10m", [600.0]),
        ("drop=1.5", [1.5]),
        ("drop=0", [0.0]),
    ],
)
def test_limits_in_their_units(text: str, bounds: list[float]) -> None:
    assert [limit.bound for limit in parse_limit(text, MODELS)] == pytest.approx(bounds)


@pytest.mark.parametrize(
    "text",
    ["latency", "latency=", "latency=fast", "latency=2kB", "latency=-1ms", "latency=0ms", "drop=1ms", "=2", "a=1"],
)
def test_limits_that_say_nothing_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError) as refusal:
        parse_limit(text, MODELS)
    message = str(refusal.value)
    assert "\n" not in message and (text in message or repr(text.rpartition("=")[0]) in message)


@given(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9))
def test_a_violation_says_whether_and_how_far(value: float, bound: float) -> None:
    smaller = Limit(Objective("latency", CPU), bound).violation(known(latency=value), 0.9)
    larger = Limit(Objective("throughput", CPU), bound).violation(known(throughput=value), 0.9)
    assert smaller is not None and larger is not None
    assert (smaller > 0) == (value > bound) and (larger > 0) == (value < bound)
    assert abs(smaller) == pytest.approx(abs(value - bound) / bound) and larger == pytest.approx(-smaller)


def test_a_drop_is_in_points_and_what_is_not_known_is_not_violated() -> None:
    assert Limit(None, 2.0).violation(known(), 0.95) == pytest.approx(1.5)
    assert Limit(None, 10.0).violation(known(), 0.95) == pytest.approx(-0.5)
    assert Limit(Objective("latency", FPGA), 1.0).violation(known(latency=5.0), 0.9) is None


def test_values_are_accuracy_and_objectives_in_order() -> None:
    asked = [Objective("bytes"), Objective("latency", CPU), Objective("training")]
    assert values(known(latency=0.25), asked) == (0.9, 1000.0, 0.25, 60.0)
    with pytest.raises(InputError, match=f"energy@{CPU} has no value"):
        values(known(energy=None), [Objective("energy", CPU)])  # type: ignore[arg-type]
