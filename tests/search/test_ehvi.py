"""The sampler's expectation is that of a brute-force integral; it finds more than random, and tries nothing twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import moocore
import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.ehvi import ACCURACY, KNOWN, POINTS, ExpectedHypervolume, Goal, _Seen
from search.regression import Predicted
from search.samplers import make_sampler
from strategies import Choice, Family, Space

MEMBERS = tuple("abcdef")
SPACE = Space((Choice("align", (1, 8), 0),), (Family("keep", tuple(range(1, 11)), MEMBERS, default=5),), "keep")
SENSITIVE = dict(zip(MEMBERS, (9.0, 0.5, 6.0, 0.3, 0.2, 3.0), strict=True))


def network(levels: Mapping[str, Any]) -> dict[str, float]:
    """Members cost alike and matter unlike."""
    cut = {member: 1 - level / 10 for member, level in levels["keep"].items()}
    lost = sum(SENSITIVE[member] * share**2 for member, share in cut.items()) / 100
    return {ACCURACY: 0.95 - lost, "latency": 0.1 + sum(levels["keep"].values()) / 60 + 0.01 * (levels["align"] == 8)}


def search(name: str, trials: int, seed: int, goal: Goal | None = None, space: Space = SPACE) -> list[dict[str, Any]]:
    """What a sampler tried: levels and figures."""
    goal = goal or Goal(0.95, ("latency",), dense_costs={"latency": 1.1})
    sampler = make_sampler(name, seed, trials, space, goal, None)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    distributions = {n: optuna.distributions.IntDistribution(*ends) for n, ends in space.ranges().items()}
    found = []
    for _ in range(trials):
        trial = study.ask(distributions)
        levels = space.decode(trial.params)
        figures = network(levels)
        trial.set_user_attr(KNOWN, figures)
        study.tell(trial, [figures[ACCURACY], figures["latency"]])
        found.append({**figures, "levels": levels})
    return found


def covered(found: list[dict[str, Any]]) -> float:
    points = [(np.log(1.1 / f["latency"]), max(0.0, 10 * (f[ACCURACY] - 0.95) + 1)) for f in found]
    return float(moocore.hypervolume(points, ref=[0, 0], maximise=True))


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def test_in_forty_trials_it_covers_more_than_random_and_tpe_in_a_hundred() -> None:
    ours = np.mean([covered(search("ehvi", 40, seed)) for seed in range(3)])
    assert ours > max(np.mean([covered(search(name, 100, seed)) for seed in range(3)]) for name in ("random", "tpe"))


def figure(means: Any, errors: Any) -> Predicted:
    return Predicted(np.array(means, dtype=float), np.array(errors, dtype=float))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 2))
def test_the_expectation_is_that_of_drawing(seed: int, dimensions: int) -> None:
    """Draws the candidate's figures and asks another library for the gain of each draw."""
    rng = np.random.default_rng(seed)
    names = ("latency", "energy")[:dimensions]
    goal = Goal(0.9, names, dense_costs=dict.fromkeys(names, 1.0))
    worth, costs = rng.uniform(0.2, 1.0, 5), {name: np.log(rng.uniform(0.2, 0.9, 5)) for name in names}
    seen = _Seen(np.zeros((5, 0)), np.zeros((5, 0)), np.zeros(5, dtype=bool), worth, costs)
    candidate = figure([rng.uniform(0.3, 1.0)], [rng.uniform(0.02, 0.2)])
    theirs = {name: figure([np.log(rng.uniform(0.2, 0.9))], [rng.uniform(0.02, 0.2)]) for name in names}
    sampler = ExpectedHypervolume(SPACE, goal, 0)
    lowest = [min(costs[name].min(), theirs[name].mean[0] - 2 * theirs[name].error[0]) for name in names]
    found = sampler._integrated(seen, candidate, theirs)[0] * np.prod(np.negative(lowest))

    points = np.column_stack([worth, *(-costs[name] for name in names)])
    base = moocore.hypervolume(points, ref=[0] * (1 + dimensions), maximise=True)
    draws = np.column_stack(
        [
            np.minimum(rng.normal(candidate.mean[0], candidate.error[0], 4000), 1.1),
            # What is cheaper than the integral goes counts as if it cost as little as that.
            *(np.minimum(-rng.normal(theirs[n].mean[0], theirs[n].error[0], 4000), -low)
              for n, low in zip(names, lowest, strict=True)),
        ]
    )  # fmt: skip
    gains = [
        moocore.hypervolume(np.vstack([points, draw]), ref=[0] * (1 + dimensions), maximise=True) - base
        for draw in np.maximum(draws, 0)
    ]
    coarse = float(np.prod(np.negative(lowest))) * (2 / POINTS if dimensions == 1 else 0.02)
    assert found == pytest.approx(np.mean(gains), abs=5 * np.std(gains) / np.sqrt(4000) + coarse)


def test_a_small_space_is_walked_through_without_a_plan_twice() -> None:
    space = Space((Choice("drop", tuple(range(9)), 0),), ladder_knob="drop")
    goal = Goal(1.0, ("latency",))
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=ExpectedHypervolume(space, goal, seed=0))
    study.enqueue_trial({"drop": 8})
    tried = []
    for _ in range(9):
        trial = study.ask({"drop": optuna.distributions.IntDistribution(0, 8)})
        tried.append(trial.params["drop"])
        trial.set_user_attr(KNOWN, {ACCURACY: 1 - 0.01 * trial.params["drop"], "latency": 9.0 - trial.params["drop"]})
        study.tell(trial, [0.0, 0.0])
    # The first four are drawn before there is anything to model.
    assert tried[0] == 8 and set(tried[4:]).isdisjoint(tried[:4]) and len(set(tried[4:])) == 5


def asked(goal: Goal) -> tuple[optuna.Study, list[dict[str, Any]]]:
    """A study of a ladder and fifty others, and the levels of five more that were asked for without telling any."""
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=ExpectedHypervolume(SPACE, goal, seed=3))
    distributions = {n: optuna.distributions.IntDistribution(*ends) for n, ends in SPACE.ranges().items()}
    rng = np.random.default_rng(0)
    ladder = [{"align": 0, "keep": level, **{f"keep.{m}": 0 for m in MEMBERS}} for level in range(10)]
    others = [{n: int(rng.integers(*ends, endpoint=True)) for n, ends in SPACE.ranges().items()} for _ in range(50)]
    for params in (*ladder, *others):
        study.enqueue_trial(params)
        trial = study.ask(distributions)
        figures = told(network(SPACE.decode(params)))
        trial.set_user_attr(KNOWN, figures)
        study.tell(trial, [figures[ACCURACY], figures["latency"]])
    return study, [SPACE.decode(study.ask(distributions).params) for _ in range(5)]


def told(figures: dict[str, float]) -> dict[str, float]:
    return {**figures, "fps": 1 / figures["latency"], "bytes": 60 * (figures["latency"] - 0.1)}


def free(**changes: Any) -> Goal:
    return Goal(0.95, ("latency",), dense_costs={"latency": 1.1}, **changes)


def test_networks_on_their_way_are_not_asked_for_again() -> None:
    _, plans = asked(free())
    assert len({json.dumps(plan) for plan in plans}) == 5


@pytest.mark.parametrize(
    ("name", "bound", "sign"), [("latency", 0.41, 1), ("fps", 1 / 0.41, -1), ("bytes", 18.6, 1)], ids=str
)
def test_what_exceeds_a_bound_is_hardly_asked_for(name: str, bound: float, sign: int) -> None:
    """All three bound the latency to 0.41."""

    def beyond(goal: Goal) -> float:
        _, plans = asked(goal)
        return sum(max(0.0, sign * (told(network(plan))[name] / bound - 1)) for plan in plans)

    assert beyond(free(larger_is_better=frozenset({"fps"}), bounds={name: bound})) < 0.3 * beyond(free())


def test_below_the_least_accuracy_nothing_is_gained() -> None:
    means = [
        np.mean([network(plan)[ACCURACY] for plan in asked(goal)[1]]) for goal in (free(least_accuracy=0.94), free())
    ]
    assert means[0] > means[1] + 0.01


def test_a_figure_that_nothing_is_known_of_bounds_nothing() -> None:
    assert asked(free(bounds={"energy": 1.0}))[1] == asked(free())[1]


def test_true_costs_change_what_is_expected() -> None:
    study, _ = asked(free())
    sampler, number = study.sampler, study.trials[-1].number
    assert isinstance(sampler, ExpectedHypervolume)
    cheap, dear, useless = (sampler.gain(study, number, {"latency": x}) for x in (0.3, 1.0, 1.2))
    assert sampler.expected[number] > 0 and cheap > 2 * dear and useless == pytest.approx(0.0, abs=1e-4)


def test_the_same_seed_tries_the_same() -> None:
    first, second = (search("ehvi", 12, seed=5) for _ in range(2))
    assert first == second
