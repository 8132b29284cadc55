"""Campaigns: exactly the trials asked for, no plan twice, equal budgets, and nothing finished lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from cost_models import Counts, Frozen
from cost_models import Reference as Measured
from leaderboard import Reference, Store
from search import Campaign, Subject, Summary, run_campaign
from strategies import Plan
from strategies.uniform import Uniform
from workloads import Dense, InputError

from .fakes import FakeEvaluator

STRATEGIES = ("l1", "pca_l1", "global_l1")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "board.db"))


def campaign(strategies: tuple[str, ...] = STRATEGIES, name: str = "s", epochs: float = 1.0, seed: int = 0) -> Campaign:
    return Campaign(name, Subject("digits/cnn", seed=seed), strategies, ("counts",), epochs, 2 * epochs)


def run(store: Store, evaluator: FakeEvaluator, trials: int = 6, **options: object) -> Summary:
    chosen = options.pop("campaign", campaign())
    return run_campaign(chosen, store, trials=trials, evaluator=evaluator, **options)  # type: ignore[arg-type]


def stored_trials(store: Store, strategy: str, state: str = "COMPLETE") -> list[optuna.trial.FrozenTrial]:
    study = optuna.load_study(study_name=f"s/{strategy}", storage=store.url)
    return study.get_trials(states=(optuna.trial.TrialState[state],))


def test_every_strategy_gets_the_trials_asked_for_and_the_controls_come_first(store: Store, digits: Dense) -> None:
    evaluator = FakeEvaluator(digits)
    summary = run(store, evaluator)
    entries = list(store.entries(study="s"))
    assert summary.finished == 18
    assert Counter(e.strategy for e in entries if e.role == "candidate") == dict.fromkeys(STRATEGIES, 6)
    assert [job.strategy for job in evaluator.jobs[:2]] == ["dense", "dense+int"]
    assert [job.epochs for job in evaluator.jobs[:2]] == [0.0, 0.0]


def test_strategies_take_turns(store: Store, digits: Dense) -> None:
    evaluator = FakeEvaluator(digits)
    run(store, evaluator)
    order = [job.strategy for job in evaluator.jobs[2:]]
    assert all(set(order[i : i + 3]) == set(STRATEGIES) for i in range(0, 18, 3))


def test_no_plan_is_evaluated_twice(store: Store, digits: Dense) -> None:
    run(store, FakeEvaluator(digits), trials=25, campaign=campaign(("pca_l1",)))
    digests = [e.plan_digest for e in store.entries(study="s")]
    assert len(set(digests)) == len(digests)


def test_the_ladder_comes_before_the_sampler(store: Store, digits: Dense) -> None:
    evaluator = FakeEvaluator(digits)
    run(store, evaluator, trials=6, campaign=campaign(("l1",)))
    default, smallest, middle = (dict(job.plan)["channels"] for job in evaluator.jobs[2:5])
    assert set(default.values()) == {0.5}
    assert max(smallest.values()) < 0.15 < min(middle.values())
    assert all(len(job.knobs) == 5 for job in evaluator.jobs[2:])


def test_study_and_board_agree(store: Store, digits: Dense) -> None:
    run(store, FakeEvaluator(digits))
    for strategy in STRATEGIES:
        trials = stored_trials(store, strategy)
        entries = [e for e in store.entries(study="s") if e.strategy == strategy]
        assert {t.user_attrs["entry"] for t in trials} == {e.id for e in entries}
        by_id = {e.id: e for e in entries}
        for trial in trials:
            entry = by_id[trial.user_attrs["entry"]]
            assert trial.values[0] == entry.accuracy.validation.primary
            assert trial.params == entry.knobs


@pytest.mark.parametrize("at", [1, 2, 3, 7, 12])
def test_an_interrupted_campaign_keeps_what_was_finished_and_resumes_to_the_number_asked_for(
    store: Store, digits: Dense, at: int
) -> None:
    evaluator = FakeEvaluator(digits)
    evaluator.fail = {at: KeyboardInterrupt}
    summary = run(store, evaluator)
    assert summary.ended == "interrupted"
    assert len(list(store.entries(study="s"))) == at - 1
    resumed = run(store, FakeEvaluator(digits), resume=True)
    assert resumed.ended == "all trials done"
    entries = [e for e in store.entries(study="s") if e.role == "candidate"]
    assert Counter(e.strategy for e in entries) == dict.fromkeys(STRATEGIES, 6)
    for strategy in STRATEGIES:
        digests = [e.plan_digest for e in entries if e.strategy == strategy]
        assert len(set(digests)) == 6
        assert len(stored_trials(store, strategy)) == 6
        assert not stored_trials(store, strategy, "RUNNING")


def test_an_entry_whose_trial_was_never_told_is_reconciled_on_start(store: Store, digits: Dense) -> None:
    """As after a kill between writing the entry and telling the trial."""
    run(store, FakeEvaluator(digits), trials=3, campaign=campaign(("l1",)))
    optuna.delete_study(study_name="s/l1", storage=store.url)
    evaluator = FakeEvaluator(digits)
    run(store, evaluator, trials=5, resume=True, campaign=campaign(("l1",)))
    assert len(evaluator.jobs) == 2
    assert len(stored_trials(store, "l1")) == 5
    assert sorted(e.trial for e in store.entries(study="s") if e.role == "candidate") == [0, 1, 2, 3, 4]


def test_a_failing_trial_is_told_noted_and_replaced(store: Store, digits: Dense) -> None:
    evaluator = FakeEvaluator(digits)
    evaluator.fail = {4: RuntimeError("the loss\nbecame nan")}
    lines: list[str] = []
    summary = run(store, evaluator, campaign=campaign(("l1",)), listen=lambda entry, line: lines.append(line))
    assert summary.finished == 6
    assert [reason for _, _, reason in summary.failed] == ["RuntimeError: the loss became nan"]
    [failed] = stored_trials(store, "l1", "FAIL")
    assert failed.user_attrs["reason"] == "RuntimeError: the loss became nan"
    told = next(line for line in lines if line)
    assert "plan:" in told and "Traceback" in told
    assert len([e for e in store.entries(study="s") if e.role == "candidate"]) == 6


def test_a_strategy_that_fails_again_and_again_is_given_up_and_the_others_go_on(store: Store, digits: Dense) -> None:
    class Half(FakeEvaluator):
        def run(self, job):  # type: ignore[no-untyped-def]
            if job.strategy == "l1":
                raise RuntimeError("no")
            return super().run(job)

    summary = run(store, Half(digits))
    assert summary.given_up == {"l1": "RuntimeError: no"}
    assert Counter(e.strategy for e in store.entries(study="s") if e.role == "candidate") == {
        "pca_l1": 6,
        "global_l1": 6,
    }


def test_knob_values_that_make_no_network_are_passed_over(
    store: Store, digits: Dense, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = Uniform._resolve

    def picky(self: Uniform, dense: Dense, knobs: dict) -> Plan:
        if knobs.get("keep", 0.5) < 0.4:
            raise InputError("too small")
        return resolve(self, dense, knobs)

    monkeypatch.setattr(Uniform, "_resolve", picky)
    summary = run(store, FakeEvaluator(digits), trials=5, campaign=campaign(("uniform",)))
    assert summary.finished == 5 and not summary.given_up
    assert all(e.plan["notes"]["keep"] >= 0.4 for e in store.entries(study="s") if e.role == "candidate")


def test_strategies_that_start_from_initial_weights_train_longer(store: Store, digits: Dense) -> None:
    evaluator = FakeEvaluator(digits)
    run(store, evaluator, trials=1, campaign=campaign(("l1", "l1@scratch-e", "uniform@reinit")))
    assert {job.strategy: job.epochs for job in evaluator.jobs if job.role == "candidate"} == {
        "l1": 1.0,
        "l1@scratch-e": 2.0,
        "uniform@reinit": 1.0,
    }


def test_options_reach_every_plan_that_they_concern_and_a_study_is_resumed_with_them(
    store: Store, digits: Dense
) -> None:
    evaluator = FakeEvaluator(digits)
    options = {"distillation": 0.5, "straight_through": True}
    asked = replace(campaign(("l1", "l1+int")), options=options)
    run(store, evaluator, trials=1, campaign=asked)
    settings = {job.strategy: dict(job.plan)["settings"] for job in evaluator.jobs if job.role == "candidate"}
    assert settings["l1"] == {"distillation": 0.5, "temperature": 4.0}
    assert settings["l1+int"] == {"distillation": 0.5, "temperature": 4.0, "straight_through": True}
    with pytest.raises(InputError, match="other options"):
        run(store, FakeEvaluator(digits), resume=True, campaign=campaign(("l1", "l1+int")))


def test_a_space_that_is_used_up_ends_cleanly(store: Store, digits: Dense) -> None:
    summary = run(store, FakeEvaluator(digits), trials=500, campaign=campaign(("uniform",)))
    assert summary.exhausted == ["uniform"]
    assert summary.ended == "all trials done"
    digests = [e.plan_digest for e in store.entries(study="s") if e.role == "candidate"]
    assert len(set(digests)) == len(digests) == summary.finished
    # 19 ratios by 3 alignments; aligned to 8 and 16 most of them coincide
    assert 19 <= summary.finished <= 57


def test_a_spent_time_budget_starts_no_more_trials(store: Store, digits: Dense) -> None:
    evaluator = FakeEvaluator(digits)
    summary = run(store, evaluator, time_budget=0.0)
    assert summary.ended == "time budget spent"
    assert evaluator.jobs == []


def test_a_study_that_exists_is_not_overwritten(store: Store, digits: Dense) -> None:
    run(store, FakeEvaluator(digits), trials=1)
    with pytest.raises(InputError, match="--resume"):
        run(store, FakeEvaluator(digits), trials=1)


@pytest.mark.parametrize("changed", [{"epochs": 2.0}, {"seed": 1}])
def test_a_study_is_resumed_under_its_own_settings_only(store: Store, digits: Dense, changed: dict) -> None:
    run(store, FakeEvaluator(digits), trials=1)
    with pytest.raises(InputError, match=f"--{next(iter(changed))}") as refusal:
        run(store, FakeEvaluator(digits, changed.get("seed", 0)), resume=True, campaign=campaign(**changed))
    assert "\n" not in str(refusal.value)


def test_the_same_seed_gives_the_same_plans(tmp_path: Path, digits: Dense) -> None:
    runs = []
    for name in ("a.db", "b.db"):
        evaluator = FakeEvaluator(digits)
        with Store(str(tmp_path / name)) as store:
            run(store, evaluator, trials=12, campaign=campaign(("l1",)))
        runs.append([job.plan for job in evaluator.jobs])
    assert runs[0] == runs[1]


def test_a_study_is_not_resumed_on_another_machine(
    store: Store, digits: Dense, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(store, FakeEvaluator(digits), trials=2)
    monkeypatch.setattr(Counts, "key", property(lambda self: "counts@elsewhere"))
    with pytest.raises(InputError, match=r"measured as counts, this machine and its runtime are counts@elsewhere"):
        run(store, FakeEvaluator(digits), resume=True)


def test_a_reference_from_before_throughputs_were_frozen_gets_one_and_keeps_its_latency(
    store: Store, digits: Dense, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = FakeEvaluator(digits)
    name, key = digits.workload.name, "counts"
    store.freeze_reference(name, key, Reference(1e-3, 0.9))
    monkeypatch.setattr(Counts, "kind", "measured")
    monkeypatch.setattr(Counts, "figures", (*Counts.figures, "throughput"))
    monkeypatch.setattr(Counts, "freeze", lambda self, dense: Measured(dense, 2e-3, 700.0))
    run(store, evaluator, trials=2)
    assert store.reference(name, key) == Reference(1e-3, 0.9, 700.0)
    assert evaluator.frozen == {"counts": Frozen(1e-3, 700.0)}
