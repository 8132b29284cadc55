"""Replays: the recorded search over again, another one by a surrogate that says what it is worth, and a clock."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import optuna
import pytest

import shrinkboard
from leaderboard import Entry, Store, hypervolume
from search import Job, Staging
from search.evaluation import Report
from search.executors import Outcome
from search.gain import Gain
from search.log import records
from search.objectives import Objective
from search.replay import Mean, Recorded, Run, Setup, at, curve, one_two_five, simulate, summaries
from search.settings import Settings, settings_of
from search.simulated import SimulatedExecutor
from search.surrogate import Forest, Surrogate, levels, rank_correlation, regressor
from search.table import FULL, START
from workloads import Dense, InputError

from .fakes import FakeEvaluator
from .recorded import NAME, STAGED, opened, searched, told


class Rough(FakeEvaluator):
    """Every third size is useless and says so untrained; one job fails."""

    def run(self, job: Job) -> Entry | Report:
        if job.until == 1.0 and not self.fail:
            self.fail = {-1: RuntimeError}
            raise RuntimeError("the loss became nan")
        return super().run(job)

    def accuracy(self, size: float, trained: float) -> float:
        return 0.05 if round(size * 1000) % 3 == 0 else super().accuracy(size, trained)


def fitted(recorded: Recorded) -> Surrogate:
    asking = recorded.settings.asking
    return Surrogate(recorded.table, recorded.settings.space, asking.objectives, asking.limits, recorded.gain)


class Replay:
    """A study with its surrogate, which takes longer to fit than a simulation takes."""

    def __init__(self, file: Path, digits: Dense) -> None:
        with opened(file) as recorded:
            self.recorded = recorded
        self.table, self.surrogate, self.digits = recorded.table, fitted(recorded), digits

    def __call__(self, setup: Setup, seed: int = 0, staging: Staging | None = None) -> Run:
        nobody = FakeEvaluator(self.digits)
        settings = self.recorded.settings
        run = simulate(
            self.recorded,
            self.surrogate,
            nobody,
            setup,
            trials=settings.trials,
            seed=seed,
            staging=settings.staging if staging is None else staging,
        )
        assert not nobody.jobs
        return run


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, digits: Dense) -> Path:
    """A staged study, led by chance."""
    path = tmp_path_factory.mktemp("replay") / "board.db"
    searched(path, Rough(digits))
    return path


@pytest.fixture(scope="module")
def replay(file: Path, digits: Dense) -> Replay:
    return Replay(file, digits)


# The recorded search over again


@pytest.mark.parametrize(
    ("sampler", "staging", "more"),
    [
        ("tpe", STAGED, {}),
        ("nsga2", STAGED, {"limits": ("parameters=600", "drop=40"), "objectives": ("bit_operations", "bytes")}),
        ("random", Staging(), {}),
        ("random", Staging(screen=True), {"objectives": ("training", "macs")}),
    ],
)
def test_the_same_search_asks_for_the_same_plans_and_hears_the_same(
    tmp_path: Path, digits: Dense, sampler: str, staging: Staging, more: dict
) -> None:
    searched(tmp_path / "board.db", Rough(digits), 20, sampler=sampler, staging=staging, **more)
    run = Replay(tmp_path / "board.db", digits)(Setup(sampler, 1))
    with Store(str(tmp_path / "board.db")) as store:
        original = records(optuna.storages.RDBStorage(store.url), NAME, "l1")
    assert told(run.log) == told(original)
    assert len(run.hypervolume) == 20
    took = sum(step.seconds for record in original for step in record.steps)
    # A job that failed left no seconds in the log; its are predicted.
    assert run.makespan == pytest.approx(took, rel=0.05)


def test_another_seed_asks_for_other_plans_which_are_predicted_within_what_was_recorded(
    replay: Replay,
) -> None:
    run = replay(Setup("random", 1), seed=7)
    accuracies = [row.known[FULL].accuracy for row in replay.table.full]
    fresh = [record for record in run.log if record.digest not in replay.table.by_digest]
    whole = [step.values[0] for record in fresh for step in record.steps if step.stage == "full"]
    assert len(fresh) > 5 and whole
    assert min(accuracies) - 1e-9 <= min(whole) and max(whole) <= max(accuracies) + 1e-9


def test_a_replay_writes_nothing_and_is_repeatable(file: Path, replay: Replay) -> None:
    before = file.read_bytes()
    first, second = (replay(Setup("nsga2", 4), seed=3) for _ in range(2))
    assert told(first.log) == told(second.log) and first.makespan == second.makespan
    assert (first.hypervolume == second.hypervolume).all()
    assert file.read_bytes() == before
    # One write for every candidate that ended, one for the board's entry, one for each pause and its end, one study.
    assert first.writes > len(first.log) + len(first.hypervolume)


def test_without_stages_a_recorded_plan_takes_all_of_its_seconds_at_once(replay: Replay) -> None:
    run = replay(Setup("random", 1), staging=Staging())
    rows = replay.table.by_digest
    assert {step.stage for record in run.log for step in record.steps} == {"full"}
    seen = [record for record in run.log if record.digest in rows and rows[record.digest].entry is not None]
    assert seen
    for record in seen:
        assert record.steps[0].seconds == pytest.approx(sum(rows[record.digest].seconds.values()))


def test_more_workers_are_sooner_done_and_no_curve_falls(replay: Replay) -> None:
    runs = [replay(Setup("random", workers), seed) for workers in (1, 8) for seed in (0, 1)]
    alone, many = summaries(runs)
    assert many.makespan.mean < alone.makespan.mean / 3
    assert many.writes.mean > 3 * alone.writes.mean
    for run in runs:
        assert (np.diff(run.hypervolume) >= 0).all() and (np.diff(run.seconds) >= 0).all()
        assert 0 < run.hypervolume[-1] <= 1
        assert at(run, run.seconds[5]) >= run.hypervolume[5] and at(run, run.seconds[0] / 2) == 0
    for one in (alone, many):
        for means_by in (one.after, one.at):
            means = [told.mean for told in means_by.values()]
            assert means == sorted(means)
    assert list(alone.after) == list(many.after) == [1, 2, 5, 10, 20, 24]
    assert list(alone.at) == list(many.at)


@pytest.mark.parametrize("told", [True, False])
def test_a_curve_is_the_hypervolume_of_all_networks_so_far(told: bool) -> None:
    rng = np.random.default_rng(0)
    gain = Gain(Objective("macs", "counts"), told, 1.0, 0.95, 64.0)
    gains, accuracies = list(2 ** (6 * rng.random(40))), list(0.8 + 0.2 * rng.random(40))
    gains[7] = None
    so_far = [[(g, a) for g, a in zip(gains[:n], accuracies[:n], strict=True) if g] for n in range(1, 41)]
    expected = [hypervolume([g for g, _ in some], [a for _, a in some], 0.95, 64.0) for some in so_far]
    assert list(curve(gain, gains, accuracies)) == pytest.approx(expected)


# The clock


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 40])
def test_a_makespan_is_that_of_handing_jobs_to_whoever_is_free(workers: int) -> None:
    rng = random.Random(workers)
    lengths = [rng.choice([0.5, 1.0, 2.0, rng.random() * 9]) for _ in range(30)]

    def answer(job: Job) -> tuple[Outcome, float]:
        return Report(0.0, None), lengths[job.trial]  # type: ignore[arg-type]

    executor = SimulatedExecutor(answer, workers)
    jobs = [Job("s", "l1", trial, "candidate", {}, {}, 1.0) for trial in range(30)]
    waiting, running, ends = list(jobs), 0, {}
    while waiting or running:
        while waiting and running < workers:
            executor.submit(waiting.pop(0))
            running += 1
        done, _ = executor.next()
        ends[done.trial] = executor.now()
        running -= 1
    free = [0.0] * workers
    expected = {}
    for trial, length in enumerate(lengths):
        first = free.index(min(free))
        free[first] += length
        expected[trial] = free[first]
    assert ends == pytest.approx(expected)
    assert executor.now() == pytest.approx(max(free))
    assert list(ends.values()) == sorted(ends.values())


# The surrogate


def test_a_known_function_is_ranked_well_and_noise_not_at_all() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 12, (200, 5))
    assert (rank_correlation(x, x[:, 0] + 0.3 * x[:, 1]) or 0) > 0.95
    assert abs(rank_correlation(x, rng.normal(size=200)) or 0) < 0.2
    assert rank_correlation(x, np.ones(200)) is None
    assert rank_correlation(x[:4], x[:4, 0]) is None


@pytest.mark.parametrize("logarithm", [False, True])
def test_a_forest_predicts_what_scikit_learn_predicts(logarithm: bool) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 9, (50, 4)).astype(float), rng.random(50) + 0.1
    asked = rng.integers(0, 9, (20, 4)).astype(float)
    expected = regressor().fit(x, np.log(y) if logarithm else y).predict(asked)
    forest = Forest(x, y, logarithm)
    assert [forest(row) for row in asked] == pytest.approx(list(np.exp(expected) if logarithm else expected))


def test_what_is_fitted_says_its_rows_and_how_well_it_ranks(replay: Replay) -> None:
    fits = {fit.value: fit for fit in replay.surrogate.fits}
    table = replay.table
    assert fits["accuracy"].rows == len(table.full) == 24
    assert fits["accuracy before training"].rows == len(table.judged[0.0]) > 24
    assert fits["bit_operations@counts"].rows == len([row for row in table.rows if row.known])
    assert (fits["bit_operations@counts"].spearman or 0) > 0.8
    assert fits["seconds from start to screen"].rows == len(table.parts[START, 0.0])


def test_levels_are_what_a_network_has_not_the_steps_of_a_sampler(replay: Replay) -> None:
    space = replay.recorded.settings.space
    at_level = levels(space, {"keep": 10, "keep.conv1": 2, "keep.conv2": -1})
    assert [at_level[f"keep.conv{i}"] for i in (1, 2, 3)] == [12, 9, 10]
    assert levels(space, {"keep": 0, "keep.conv1": -2})["keep.conv1"] == 0


def test_a_small_table_is_refused(tmp_path: Path, digits: Dense) -> None:
    searched(tmp_path / "board.db", FakeEvaluator(digits), trials=19, staging=Staging())
    with (
        opened(tmp_path / "board.db") as recorded,
        pytest.raises(InputError, match=r"19 full evaluations, at least 20 are needed"),
    ):
        fitted(recorded)


def test_a_stage_that_was_never_recorded_is_refused(tmp_path: Path, digits: Dense) -> None:
    searched(tmp_path / "board.db", FakeEvaluator(digits), staging=Staging(screen=True))
    with pytest.raises(InputError, match="never asked for the accuracy at 25 % of the training"):
        Replay(tmp_path / "board.db", digits)(Setup("random", 1), staging=STAGED)


# Small things


def test_an_interval_over_seeds_is_students() -> None:
    told = Mean.of([1.0, 2.0, 3.0])
    assert told.mean == 2.0 and told.half_width == pytest.approx(4.3027 / np.sqrt(3), abs=1e-3)
    assert Mean.of([0.5]) == Mean(0.5, None)
    assert one_two_five(0.3, 20) == [0.5, 1, 2, 5, 10, 20]
    assert one_two_five(1, 1) == [1]


def test_settings_come_back_from_json(tmp_path: Path, digits: Dense) -> None:
    limits = {"limits": ("parameters=600", "drop=4"), "options": {"distillation": 0.5}}
    searched(tmp_path / "board.db", FakeEvaluator(digits), trials=1, strategies=("l1+int",), **limits)
    with Store(str(tmp_path / "board.db")) as store:
        settings = settings_of(optuna.storages.RDBStorage(store.url), NAME, "l1+int")
    assert Settings.from_json(settings.to_json()) == settings
    assert settings.staging == STAGED and settings.trials == 1 and settings.options == {"distillation": 0.5}
    assert [str(limit) for limit in settings.asking.limits] == ["parameters@counts", "drop"]
    assert settings.space.ranges()["keep"] == (0, 18)


# The command


def shrinkboard_says(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple:
    monkeypatch.setattr("sys.argv", ["shrinkboard", *words])
    with pytest.raises(SystemExit) as ended:
        shrinkboard.main()
    out, error = capsys.readouterr()
    return ended.value.code or 0, out, error


def test_the_command_compares_samplers_and_workers(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = "--sampler", "random,nsga2", "--workers", "1,5", "--seeds", "2", "--stages", "none"
    where = "--storage", str(file), "--out", str(tmp_path / "curves.json")
    code, out, error = shrinkboard_says(monkeypatch, capsys, "replay", NAME, *told, *where, "--format", "json")
    assert code == 0, error
    data = json.loads(out)
    assert data == json.loads((tmp_path / "curves.json").read_text())
    assert {(run["sampler"], run["workers"], run["seed"]) for run in data["runs"]} == {
        (sampler, workers, seed) for sampler in ("random", "nsga2") for workers in (1, 5) for seed in (0, 1)
    }
    assert all(len(run["curve"]["hypervolume"]) == 24 for run in data["runs"])
    first = data["summary"][0]
    assert first["after"][-1]["evaluations"] == 24 and first["after"][-1]["half_width"] is not None
    code, out, _ = shrinkboard_says(monkeypatch, capsys, "replay", NAME, "--seeds", "1", "--storage", str(file))
    assert code == 0 and "random × 1" in out and "one seed, so no intervals" in out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("elsewhere",), "there is no study 'elsewhere' in this storage; there are s"),
        ((NAME, "--strategy", "uniform"), "study 's' has no strategy 'uniform'; searched were l1"),
        ((NAME, "--workers", "1,none"), "workers '1,none' are no whole numbers"),
        ((NAME, "--sampler", "annealing"), "sampler 'annealing' is unknown"),
        ((NAME, "--stages", "rugs"), "stage 'rugs' is unknown"),
        ((NAME, "--out", "nowhere/x.json"), "file nowhere/x.json cannot be written"),
    ],
)
def test_bad_input_is_one_line(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], line: str
) -> None:
    code, out, error = shrinkboard_says(monkeypatch, capsys, "replay", *words, "--storage", str(file))
    assert code == 2 and not out
    assert line in error and error.count("\n") == 1
