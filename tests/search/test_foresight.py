"""What is foretold of a plan is what the tables and the predictor say of it, whatever branches it drops."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cost_models import CostModel, target
from search.foresight import NOTHING, Foresight
from search.guide import Guide, guided, make_guide
from search.sensitivity import Sensitivity, format_sensitivity, width_sensitivity
from strategies import DROP, Space, Strategy, branches, strategy
from tests.search.fakes import FakeLatency
from tests.strategies.subjects import untrained
from workloads import Dense, Format, trace
from workloads.models.resnet_cifar import resnet_cifar

BITS = frozenset({2, 4, 8})


@pytest.fixture(scope="module")
def deep() -> Dense:
    return untrained(lambda: resnet_cifar(4, 14), 16, classes=4)


def drawn(space: Space, count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return space.indices({n: rng.integers(a, b, count, endpoint=True) for n, (a, b) in space.ranges().items()}, count)


def foretold(dense: Dense, method: Strategy, model: CostModel) -> tuple[Space, Guide, Foresight]:
    found = make_guide(dense, method, [model], widths=BITS)
    assert found is not None
    guide = Guide.from_json(json.loads(json.dumps(found.to_json())))  # as it comes out of a study
    space = guided(method.space(dense, BITS), guide)
    return space, guide, Foresight(dense, method, space, guide)


def test_losses_are_those_of_the_tables(digits: Dense) -> None:
    method = strategy("l1+int")
    space, _, foresight = foretold(digits, method, target("counts"))
    forms = {layer: [Format("int", bits) for bits in sorted(BITS)] for layer in ("conv2", "conv3")}
    table = Sensitivity(
        width_sensitivity(digits),
        format_sensitivity(digits, "weight", forms),
        format_sensitivity(digits, "activation", {layer: some[1:] for layer, some in forms.items()}),
    )
    levels = drawn(space, 20)
    levels[:, [choice.name for choice in space.choices].index("align")] = 0
    plans = [method.plan(digits, space.values(row)) for row in levels]
    found, loss, cost = foresight(levels)
    assert (loss == found[:, -2]).all() and (cost == found[:, -1]).all()
    assert found.shape == (20, len(space.families) + 2)
    assert np.exp(found[:, -2]) - NOTHING == pytest.approx([table.loss(plan) for plan in plans], abs=2e-5)


def test_costs_are_those_of_the_networks_made_where_the_cost_is_of_the_predictors_kind(deep: Dense) -> None:
    method, model = strategy("l1"), FakeLatency()
    space, guide, foresight = foretold(deep, method, model)
    levels = drawn(space, 30)
    plans = [method.plan(deep, space.values(row)) for row in levels]
    assert len({len(plan.dropped) for plan in plans}) > 3
    made = [model.seconds(trace(method.compress(deep, plan).module, deep.workload.example)) for plan in plans]
    assert np.exp(foresight(levels)[2]) == pytest.approx(made, rel=0.02 + 3 * guide.error)


def test_what_branches_are_worth_counts(deep: Dense, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [branch.name for branch in branches(deep)]
    rises = [0.1 * count for count in range(1, 7)]
    monkeypatch.setattr("search.guide.removals", lambda *_: list(zip(names, rises, strict=True)))
    method = strategy("l1")
    space, guide, foresight = foretold(deep, method, FakeLatency())
    place = [choice.name for choice in space.choices].index(DROP)
    assert guide.drop_losses == pytest.approx([*rises[::-1], 0.0])
    left = guide.drop_losses
    levels = np.repeat(drawn(space, 1), len(left), axis=0)
    levels[:, place] = np.arange(len(left))
    losses = np.exp(foresight(levels)[0][:, -2])
    assert losses - losses.min() == pytest.approx(left)


def test_it_answers_the_same_again(digits: Dense) -> None:
    space, _, foresight = foretold(digits, strategy("l1"), FakeLatency())
    levels = drawn(space, 10)
    assert (foresight(levels)[0] == foresight(levels)[0]).all()
    assert (foresight(levels[::-1])[0] == foresight(levels)[0][::-1]).all()


def test_without_widths_no_group_is_asked_for(digits: Dense) -> None:
    space, guide, foresight = foretold(digits, strategy("int"), target("counts"))
    assert not guide.cuts and np.isfinite(foresight(drawn(space, 5))[0]).all()
