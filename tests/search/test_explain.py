"""Explanations: what was let go and saved, which levels matter, the front, and the pictures of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import shrinkboard
from leaderboard import Entry
from search import Job
from search.explain import Stage, fanova, front, importances, permutation_shares, saved, sensitivity, stages
from search.log import Record, Step
from search.objectives import Objective
from search.pictures import draw_sensitivity
from search.render import sensitivity_lines
from search.sensitivity import width_sensitivity
from search.table import FULL, Table
from strategies import strategy
from workloads import Dense

from .fakes import FakeEvaluator
from .recorded import NAME, opened, searched

SIZE = (Objective("bytes"),)


def entry(digits: Dense, trial: int, keep: float) -> Entry:
    plan = strategy("uniform").plan(digits, {"keep": keep}).to_json()
    found = FakeEvaluator(digits).run(Job("s", "uniform", trial, "candidate", plan, {"keep": trial}, 4.0))
    assert isinstance(found, Entry)
    return found


@pytest.fixture
def hand_made(digits: Dense) -> Table:
    """Six candidates: two evaluated in full on two ways, two rejected, one left waiting, one failed."""
    known = {"accuracy": 0.5, "figures": {}, "bytes": 2000.0}
    screen, quarter = Step("screen", 0.0, (0.4, 1.0), 1.0), Step("rung", 1.0, (0.5, 1.0), 2.0)
    half = Step("rung", 2.0, (0.6, 1.0), 3.0)
    log = [
        Record(0, {}, "a", (screen, Step("full", 4.0, (0.9, 1.0), 10.0))),
        Record(1, {}, "b", (screen, quarter, half, Step("full", 4.0, (0.9, 1.0), 4.0))),
        Record(2, {}, "c", (screen,), "beaten before training", known),
        Record(3, {}, "d", (screen, quarter), "paused", known),
        Record(4, {}, "e", (Step("cost", 0.0, (), 0.5),), "exceeds bytes", known),
        Record(5, {}, "f", (screen, quarter), "RuntimeError: no", failed=True),
    ]
    return Table(log, [entry(digits, 0, 0.5), entry(digits, 1, 0.9)], SIZE, (0.25, 0.5))


def test_what_was_let_go_and_what_it_saved_is_counted_from_the_log(hand_made: Table) -> None:
    told = saved(hand_made)
    # Rejected untrained: 10 s each, as the one that went on from there at once; on the first rung: 3 s and 4 s.
    assert told.let_go == 3
    assert told.avoided == 10 + 10 + (3 + 4)
    assert told.spent == 5 * 1 + 0.5 + 3 * 2 + 3
    assert told.spent_on_let_go == 1 + (1 + 2) + 0.5
    assert told.net == 27 - 4.5


def test_every_stage_says_who_came_to_it_and_who_went_no_further(hand_made: Table) -> None:
    assert stages(hand_made) == [
        Stage("screen", 0.0, 6, {"beaten before training": 1, "exceeds bytes": 1}, 0, 5.5, 1.0),
        Stage("rung at 25 %", 0.25, 3, {"left waiting": 1}, 1, 6.0, 2.0),
        Stage("rung at 50 %", 0.5, 1, {}, 0, 3.0, 3.0),
        Stage("full", FULL, 2, {}, 0, 14.0, 7.0),
    ]


def test_seconds_follow_the_steps_that_were_taken(hand_made: Table) -> None:
    first, second, *_ = hand_made.rows
    assert second.between(-1.0, FULL) == 10.0 and second.between(0.25, FULL) == 7.0
    assert first.between(0.0, FULL) == 10.0 and first.between(0.25, FULL) is None
    assert hand_made.path(-1.0, FULL) == [(-1.0, 0.0), (0.0, FULL)]
    assert hand_made.median_seconds(0.25, FULL) == 7.0
    assert hand_made.median_seconds(0.75, FULL) is None


def test_what_decides_gets_the_share() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 10, (150, 4))
    shares = permutation_shares(x, 3.0 * x[:, 2] + 1.0 * x[:, 0])
    assert shares.sum() == pytest.approx(1.0)
    # The growth of the squared error goes with the square of the factor.
    assert shares[2] == pytest.approx(0.9, abs=0.06) and shares[0] == pytest.approx(0.1, abs=0.06)
    assert max(shares[1], shares[3]) < 0.02
    assert not permutation_shares(x, np.ones(150)).any()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, digits: Dense) -> Path:
    path = tmp_path_factory.mktemp("explain") / "board.db"
    searched(path, FakeEvaluator(digits), limits=("parameters=700",))
    return path


def test_layers_of_a_study_are_weighed_and_what_no_value_depends_on_weighs_nothing(file: Path) -> None:
    import optuna

    with opened(file) as recorded:
        objectives = recorded.settings.asking.objectives
        accuracy, cost = importances(recorded.table, recorded.settings.space, objectives)
        study = optuna.load_study(study_name=f"{NAME}/l1", storage=f"sqlite:///{file}")
        knobs = fanova(study, objectives)
    assert (accuracy.value, cost.value) == ("accuracy", "bit_operations@counts")
    assert accuracy.rows == 24 and (accuracy.trust or 0) > 0.7
    # The fake's accuracy and cost follow from the mean of the widths alone.
    weights = {matters.level: matters for matters in accuracy.levels}
    assert weights["align"].share < 0.1
    assert sum(matters.share for matters in accuracy.levels) == pytest.approx(1.0)
    assert all((weights[f"keep.conv{i}"].spearman or 0) > 0.3 for i in (1, 2, 3))
    assert knobs.keys() == {"accuracy", "bit_operations@counts"}
    assert max(knobs["accuracy"], key=knobs["accuracy"].__getitem__) == "keep"


def test_too_few_networks_are_not_weighed(hand_made: Table) -> None:
    from strategies import Space

    assert importances(hand_made, Space(), SIZE) == []


def test_a_front_is_what_no_other_network_beats(file: Path) -> None:
    with opened(file) as recorded:
        table, objectives = recorded.table, recorded.settings.asking.objectives
        found = [row.digest for row in front(table, objectives)]
    points = {r.digest: (r.known[FULL].accuracy, objectives[0].value(r.known[FULL]) or 0.0) for r in table.full}
    expected = [
        digest
        for digest, (accuracy, cost) in points.items()
        if not any(a >= accuracy and c <= cost and (a, c) != (accuracy, cost) for a, c in points.values())
    ]
    assert sorted(found) == sorted(expected)
    assert [points[d][0] for d in found] == sorted((points[d][0] for d in found), reverse=True)


def test_sensitivity_is_the_table_of_the_guide_in_words_and_as_a_picture(digits: Dense, tmp_path: Path) -> None:
    found = sensitivity(digits, strategy("l1+int"), frozenset({4, 8}))
    assert found.keys() == {"keep", "weight_bits", "activation_bits"}
    curves, keep = width_sensitivity(digits), found["keep"]
    for member, losses in zip(keep.members, keep.losses, strict=True):
        assert losses.tolist() == curves[member].loss_at(keep.levels).tolist()
    lines = sensitivity_lines(found)
    most = max(keep.members, key=lambda member: curves[member].loss[0])
    assert lines[0].startswith(f"keep 0.1: {most} +") and len(lines) == 3
    draw_sensitivity(found, tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert sensitivity(digits, strategy("uniform"), frozenset({8})) == {}


def explained(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple:
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setattr("sys.argv", ["shrinkboard", "explain", *words])
    with pytest.raises(SystemExit) as ended:
        shrinkboard.main()
    out, error = capsys.readouterr()
    return ended.value.code or 0, out, error


def test_the_command_explains_in_text_as_data_and_in_pictures(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, error = explained(monkeypatch, capsys, NAME, "--storage", str(file), "--out", str(tmp_path / "new/pics"))
    assert code == 0, error
    assert "keep.conv1" in out and "exceeds parameters" in out and "left waiting" in out and "let go:" in out
    for name in ("front.png", "importances.png"):
        assert (tmp_path / "new/pics" / name).read_bytes().startswith(b"\x89PNG")
    code, out, _ = explained(monkeypatch, capsys, NAME, "--storage", str(file), "--format", "json")
    data = json.loads(out)
    assert code == 0 and data["saved"]["net"] == pytest.approx(
        data["saved"]["avoided"] - data["saved"]["spent_on_let_go"]
    )
    assert data["front"] and data["stages"][-1] == data["stages"][-1] | {"name": "full", "stop": None, "candidates": 24}
    assert 0 < data["front"][0]["levels"]["keep.conv1"] <= 1


def test_a_study_that_is_not_there_is_one_line(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, error = explained(monkeypatch, capsys, "other", "--storage", str(file))
    assert code == 2 and not out and error.count("\n") == 1 and "no study 'other'" in error
    code, out, error = explained(monkeypatch, capsys, "other", "--storage", str(file.parent / "none.db"))
    assert code == 2 and error.count("\n") == 1 and "does not exist" in error
