"""Stages before a full evaluation: in the evaluator on a real network, and in campaigns on a fake one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from cost_models import Frozen
from leaderboard import Entry, Store
from search import Campaign, Evaluator, Job, Staging, Subject, Summary, run_campaign
from search.campaign import settings_before
from search.checkpoints import checkpoint_path
from search.evaluation import Report
from search.lane import RUNGS, staging_of
from search.log import records
from search.objectives import parse_limit
from search.samplers import SAMPLERS, choose_sampler
from strategies import Plan, strategy
from workloads import Dense, InputError

from .fakes import FakeEvaluator

FULL = Staging(screen=True, rungs=(0.25, 0.5))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "board.db"))


def campaign(**changes: object) -> Campaign:
    plain = Campaign("s", Subject("digits/cnn"), ("l1",), ("counts",), epochs=4.0, training_epochs=4.0, staging=FULL)
    return replace(plain, **changes)


def run(store: Store, evaluator: FakeEvaluator, trials: int = 6, **options: object) -> Summary:
    chosen = options.pop("campaign", campaign())
    return run_campaign(chosen, store, trials=trials, evaluator=evaluator, **options)  # type: ignore[arg-type]


def entries(store: Store) -> list[Entry]:
    return [entry for entry in store.entries(study="s") if entry.role == "candidate"]


def log(store: Store, name: str = "l1") -> list:
    return records(optuna.storages.RDBStorage(store.url), "s", name)


# The evaluator


@pytest.fixture
def evaluator(digits: Dense) -> Evaluator:
    return Evaluator(Subject("digits/cnn"), ["counts"], {"counts": Frozen(None)})


def job(evaluator: Evaluator, name: str = "uniform", epochs: float = 2.0, **more: object) -> Job:
    plan = strategy(name).plan(evaluator.dense, {})
    return replace(Job("study", name, 0, "candidate", plan.to_json(), {}, epochs), **more)


def paused(evaluator: Evaluator, asked: Job) -> Path:
    plan = Plan.from_json(asked.plan).digest
    return checkpoint_path(asked.study, asked.strategy, asked.trial, plan, evaluator.dense.digest, asked.epochs)


@pytest.mark.parametrize("name", ["uniform", "sentei+int", "snip"])
def test_in_stages_it_is_the_same_entry(evaluator: Evaluator, name: str) -> None:
    asked = job(evaluator, name)
    at_once = evaluator.run(asked)
    path = paused(evaluator, asked)
    costed = None
    for until in (0.0, 0.5, 1.0):
        report = evaluator.run(replace(asked, until=until, costed=costed))
        assert isinstance(report, Report) and report.epochs == until and not report.exceeded
        assert path.exists() == (until > 0)
        costed = report.costed
    staged = evaluator.run(replace(asked, costed=costed))
    assert isinstance(at_once, Entry) and isinstance(staged, Entry)
    assert staged.accuracy == at_once.accuracy and staged.costs == at_once.costs
    assert staged.training.epochs == at_once.training.epochs
    assert staged.training.images == at_once.training.images
    assert not path.exists()


def test_a_paused_candidate_that_is_lost_or_damaged_is_trained_again(evaluator: Evaluator) -> None:
    asked = job(evaluator)
    at_once = evaluator.run(asked)
    path = paused(evaluator, asked)
    for damage in (
        lambda: path.unlink(),
        lambda: path.write_bytes(path.read_bytes()[:-9]),
        lambda: path.write_bytes(b""),
    ):
        first = evaluator.run(replace(asked, until=1.0))
        damage()
        second = evaluator.run(replace(asked, until=1.0))
        assert isinstance(first, Report) and isinstance(second, Report) and first.known == second.known
    assert evaluator.run(asked).accuracy == at_once.accuracy  # type: ignore[union-attr]


def test_a_limit_ends_it_before_anything_is_trained(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    models = list(evaluator.models.values())
    parameters = evaluator.run(job(evaluator, until=0.0)).known.figures["counts"]["parameters"]  # type: ignore[union-attr]
    monkeypatch.setattr("search.evaluation.evaluate", lambda *_: pytest.fail("its accuracy was asked for"))
    limits = parse_limit(f"parameters={parameters / 2}", models)
    report = evaluator.run(job(evaluator, until=0.0, limits=limits))
    assert isinstance(report, Report) and report.costed is None
    assert report.exceeded == {"parameters@counts": pytest.approx(1.0)}


def test_an_untrained_candidate_is_judged_near_its_accuracy(evaluator: Evaluator) -> None:
    report = evaluator.run(job(evaluator, "dense", until=0.0))
    assert isinstance(report, Report)
    assert report.known.accuracy == pytest.approx(evaluator.dense.validation.primary, abs=0.03)


def test_what_another_study_of_the_name_has_left_behind_is_not_taken_up(evaluator: Evaluator) -> None:
    asked = job(evaluator)
    fresh = evaluator.run(replace(asked, until=0.5))
    evaluator.run(replace(asked, until=1.5))
    again = evaluator.run(replace(asked, until=0.5))  # the network on disk has been trained for longer
    assert isinstance(fresh, Report) and isinstance(again, Report) and again.known == fresh.known
    shorter = replace(asked, epochs=1.0, until=0.5)  # another schedule of the learning rate
    assert paused(evaluator, shorter) != paused(evaluator, asked)
    evaluator.drop(asked)


# Campaigns


def test_only_full_evaluations_count_and_few_of_many_get_there(store: Store, digits: Dense) -> None:
    evaluator = FakeEvaluator(digits)
    summary = run(store, evaluator, trials=12)
    assert summary.finished == len(entries(store)) == 12
    stages = Counter(job.until for job in evaluator.jobs if job.role == "candidate")
    # Half of the trials come from the ladder, which skips the rungs.
    assert stages[None] == 12 and stages[0.0] > stages[1.0] > stages[2.0] > 0
    assert sum(stages[rung] for rung in (1.0, 2.0)) >= 12 - 5


def test_what_is_beaten_before_its_training_is_let_go(store: Store, digits: Dense) -> None:
    class Odd(FakeEvaluator):
        def accuracy(self, size: float, trained: float) -> float:
            # Every second network of a size is useless, and its untrained accuracy says so.
            return 0.05 if round(size * 1000) % 2 else super().accuracy(size, 1.0)

    summary = run(store, Odd(digits), trials=12)
    assert summary.let_go["l1"].keys() == {"beaten before training"}
    assert sum(summary.let_go["l1"].values()) >= 5
    told = [r for r in log(store) if r.ended == "beaten before training"]
    assert len(told) == summary.let_go["l1"]["beaten before training"]
    assert all(r.steps[-1].stage == "screen" and r.steps[-1].epochs == 0 for r in told)
    trials = optuna.load_study(study_name="s/l1", storage=store.url).get_trials()
    infeasible = [t for t in trials if t.constraints["screened"] > 0]
    assert len(infeasible) == len(told) and all(t.state.name == "COMPLETE" for t in infeasible)


def test_who_costs_more_than_was_thought_is_not_trained(store: Store, digits: Dense) -> None:
    """Odd sizes cost three times what their neighbours do, which nobody can foresee."""

    class Dear(FakeEvaluator):
        def run(self, job: Job) -> Entry | Report:
            report = super().run(job)
            ratios = list(dict(job.plan)["channels"].values())
            if isinstance(report, Report) and ratios and round(sum(ratios) / len(ratios) * 1000) % 2:
                figures = {name: 3 * value for name, value in report.known.figures["counts"].items() if value}
                return replace(report, known=replace(report.known, figures={"counts": figures}))
            return report

    searched = campaign(sampler="ehvi", staging=Staging(screen=True))
    summary = run(store, Dear(digits), trials=20, campaign=searched)
    assert summary.let_go["l1"]["costs more than it was chosen for"] >= 3
    assert summary.finished == 20
    trials = optuna.load_study(study_name="s/l1", storage=store.url).get_trials()
    told = [t for t in trials if t.user_attrs.get("reason") == "costs more than it was chosen for"]
    assert all(t.user_attrs["known"].keys() == {"bit_operations@counts"} and t.constraints["screened"] for t in told)
    # A resumed search knows what they cost.
    evaluator = Dear(digits)
    assert run(store, evaluator, trials=24, resume=True, campaign=searched).finished == 4
    digests = [r.digest for r in log(store)]
    assert len(set(digests)) == len(digests)


def test_limits_are_constraints_and_what_exceeds_them_is_never_trained(store: Store, digits: Dense) -> None:
    evaluator = FakeEvaluator(digits)
    summary = run(store, evaluator, trials=8, campaign=campaign(limits=("parameters=500", "drop=40")))
    assert all(entry.parameters <= 500 for entry in entries(store))
    assert summary.let_go["l1"]["exceeds parameters@counts"] >= 2
    assert summary.finished == 8
    trials = optuna.load_study(study_name="s/l1", storage=store.url).get_trials()
    assert all(t.constraints.keys() == {"parameters@counts", "drop", "screened"} for t in trials)
    by_entry = {entry.id: entry for entry in entries(store)}
    dropped = [t.constraints["drop"] > 0 for t in trials if "entry" in t.user_attrs]
    lost = [digits.validation.primary - by_entry[t.user_attrs["entry"]].accuracy.validation.primary > 0.4
            for t in trials if "entry" in t.user_attrs]  # fmt: skip
    assert dropped == lost


@pytest.mark.parametrize("at", [3, 8, 12, 15, 20, 25])
def test_an_interrupted_campaign_takes_up_what_was_paused(store: Store, digits: Dense, at: int) -> None:
    evaluator = FakeEvaluator(digits)
    evaluator.fail = {at: KeyboardInterrupt}
    assert run(store, evaluator, trials=10).ended == "interrupted"
    paused = [r.digest for r in log(store) if r.ended == "paused"]
    resumed = FakeEvaluator(digits)
    summary = run(store, resumed, trials=10, resume=True)
    assert summary.ended == "all trials done" and len(entries(store)) == 10
    digests = [entry.plan_digest for entry in entries(store)]
    assert len(set(digests)) == 10
    # Nothing that was costed, screened or trained for a part is so a second time.
    before = {(Plan.from_json(j.plan).digest, j.until) for j in evaluator.jobs[: at - 1] if j.role == "candidate"}
    after = {(Plan.from_json(j.plan).digest, j.until) for j in resumed.jobs if j.role == "candidate"}
    waiting = {(digest, until) for digest, until in before & after if digest in paused}
    assert not waiting
    numbers = [r.number for r in log(store)]
    assert len(numbers) == len(set(numbers))


def test_limits_that_nothing_keeps_end_the_search_with_the_reason(
    store: Store, digits: Dense, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.lane.IN_A_ROW", 25)
    summary = run(store, FakeEvaluator(digits), trials=5, campaign=campaign(limits=("parameters=1",)))
    assert summary.finished == 0 and summary.let_go["l1"] == {"exceeds parameters@counts": 25}
    assert summary.given_up["l1"] == "25 candidates in a row were let go, the last: exceeds parameters@counts"


def test_a_space_that_is_used_up_fills_its_trials_from_what_waits(store: Store, digits: Dense) -> None:
    summary = run(store, FakeEvaluator(digits), trials=500, campaign=campaign(strategies=("uniform",)))
    assert summary.exhausted == ["uniform"] and summary.ended == "all trials done"
    assert not [r for r in log(store, "uniform") if r.ended == "paused"]
    assert 19 <= summary.finished <= 57


def test_a_failure_on_a_rung_is_noted_and_the_campaign_goes_on(store: Store, digits: Dense) -> None:
    class Fragile(FakeEvaluator):
        def run(self, job: Job) -> Entry | Report:
            if job.until == 1.0 and not self.fail:
                self.fail = {-1: RuntimeError}
                raise RuntimeError("the loss became nan")
            return super().run(job)

    summary = run(store, Fragile(digits), trials=8)
    assert summary.finished == 8 and [reason for *_, reason in summary.failed] == ["RuntimeError: the loss became nan"]
    [failed] = [r for r in log(store) if r.ended.startswith("RuntimeError")]
    assert [step.stage for step in failed.steps] == ["screen"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_leads_a_search(store: Store, digits: Dense, sampler: str) -> None:
    # The Gaussian process takes seconds a suggestion, and begins after ten.
    asked = {"limits": ("parameters=800",), "objectives": ("bit_operations", "bytes"), "staging": Staging()}
    assert run(store, FakeEvaluator(digits), trials=11, campaign=campaign(sampler=sampler, **asked)).finished == 11


def test_in_a_flat_space_the_sampler_begins_and_every_group_goes_its_own_way(store: Store, digits: Dense) -> None:
    evaluator = FakeEvaluator(digits)
    run(store, evaluator, trials=40, campaign=campaign(staging=Staging(), layout="flat", sampler="random"))
    drawn = [list(dict(job.plan)["channels"].values()) for job in evaluator.jobs if job.role == "candidate"]
    assert len({tuple(ratios) for ratios in drawn}) == 40
    # With a common level, ratios of two groups lie four steps of 0.05 apart at most.
    assert sum(max(ratios) - min(ratios) > 0.25 for ratios in drawn) > 20


def test_stages_by_name_and_by_what_they_save() -> None:
    assert staging_of("none", 1e6) == ("levels", Staging())
    assert staging_of("rungs", 0.0) == ("levels", Staging(False, RUNGS))
    assert staging_of("sensitivity, screening, rungs", 0.0) == ("guided", Staging(True, RUNGS))
    assert [staging_of("auto", seconds) for seconds in (1.0, 7.0, 15.0, 100.0)] == [
        ("levels", Staging()),
        ("levels", Staging(True)),
        ("guided", Staging(True)),
        ("guided", Staging(True, RUNGS)),
    ]
    with pytest.raises(InputError, match=r"'rugs'.*allowed: auto, none, or some of sensitivity, screening, rungs"):
        staging_of("screening,rugs", 0.0)


def test_auto_takes_the_sampler_that_suits() -> None:
    assert choose_sampler(5000, 1) == "nsga2"
    assert choose_sampler(50, 1) == choose_sampler(999, 3) == "ehvi"
    assert choose_sampler(50, 4) == "tpe"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"objectives": ("bytes",)}, "--objective bit_operations@counts, not bytes"),
        ({"limits": ("drop=1",)}, "--limit none, not drop=1"),
        ({"layout": "flat"}, "laid out as levels, not flat"),
        ({"subject": Subject("digits/cnn", learning_rate=0.2)}, "--learning-rate the recipe's, not 0.2"),
    ],
)
def test_a_study_is_not_resumed_for_something_else(store: Store, digits: Dense, changed: dict, told: str) -> None:
    run(store, FakeEvaluator(digits), trials=2)
    with pytest.raises(InputError, match=told) as refusal:
        run(store, FakeEvaluator(digits), trials=3, resume=True, campaign=campaign(**changed))
    assert "\n" not in str(refusal.value)
    assert run(store, FakeEvaluator(digits), trials=3, resume=True).finished == 1


def test_what_a_study_was_begun_with_is_known_when_it_goes_on(store: Store, digits: Dense) -> None:
    assert settings_before(store, "s") is None
    run(store, FakeEvaluator(digits), trials=2)
    before = settings_before(store, "s")
    assert before is not None and (before.asking.layout, before.staging) == ("levels", FULL)


def test_an_unknown_sampler_is_refused(store: Store, digits: Dense) -> None:
    with pytest.raises(
        InputError, match=r"sampler 'annealing' is unknown; allowed: auto, ehvi, tpe, gp, nsga2, random, qmc"
    ):
        run(store, FakeEvaluator(digits), campaign=campaign(sampler="annealing"))
