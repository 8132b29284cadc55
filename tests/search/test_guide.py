"""Guides are optimal by brute force, cost what they promise, are plain data, and fit the space they were made for."""

from __future__ import annotations

import json
import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_models import CostModel, bit_operations, target
from search.guide import Guide, guided, make_guide, spread
from search.programme import GAP, Programme
from search.sensitivity import Sensitivity, format_sensitivity, width_sensitivity
from strategies import DROP, Space, branches, channel_groups, groups_before, removals, strategy, without
from strategies.uniform import KEEP
from tests.search.fakes import FakeLatency
from tests.strategies.subjects import untrained
from workloads import Dense, Format, InputError, trace
from workloads.models.resnet_cifar import resnet_cifar

BITS = frozenset({2, 4, 8})


@st.composite
def programmes(draw: st.DrawFn) -> Programme:
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    numbers = st.integers(-20, 100).map(float)

    def array(*shape: int) -> np.ndarray:
        return np.array(draw(st.lists(numbers, min_size=math.prod(shape), max_size=math.prod(shape)))).reshape(shape)

    places = [(a, b) for a in range(len(sizes)) for b in range(a + 1, len(sizes))]
    pairs = draw(st.lists(st.sampled_from(places), unique=True)) if places else []
    return Programme(
        [np.abs(array(size)) for size in sizes],
        [array(size) for size in sizes],
        {(a, b): array(sizes[a], sizes[b]) for a, b in pairs},
        draw(numbers),
    )


@settings(max_examples=60, deadline=None)
@given(programmes(), st.integers(-50, 400))
def test_a_programme_finds_what_trying_all_finds(programme: Programme, budget: int) -> None:
    every = list(product(*(range(len(losses)) for losses in programme.loss)))
    feasible = [levels for levels in every if programme.cost_of(levels) <= budget]
    found = programme.solve(budget, seconds=10)
    if not feasible:
        assert found is None
        return
    assert found is not None
    assert programme.cost_of(found) <= budget + 1e-4
    least = min(map(programme.loss_of, feasible))
    assert programme.loss_of(found) <= least * (1 + 2 * GAP) + 1e-6


@pytest.fixture(scope="module")
def model() -> FakeLatency:
    return FakeLatency()


@pytest.fixture(scope="module")
def guide(digits: Dense, model: FakeLatency) -> Guide:
    found = make_guide(digits, strategy("l1"), [target("counts"), model])
    assert found is not None
    return found


def test_profiles_are_the_best_of_all_plans_at_their_cost(digits: Dense, model: FakeLatency, guide: Guide) -> None:
    """Every plan of three groups, its latency by the formula, its loss by the table."""
    groups, curves = channel_groups(digits), width_sensitivity(digits)
    widths = [np.array([group.width(level) for level in KEEP]) for group in groups]
    losses = [curves[g.name].loss_at(w / g.channels) for g, w in zip(groups, widths, strict=True)]
    rows = {row.name: row for row in trace(digits.module, digits.workload.example).compute_layers}

    def seconds(conv1: Any, conv2: Any, conv3: Any) -> Any:
        total = 0.0
        for name, inputs, outputs in (("conv1", 1, conv1), ("conv2", conv1, conv2), ("conv3", conv2, conv3)):
            positions = rows[name].out_height * rows[name].out_width
            total = total + 9 * inputs * outputs * (positions * 3e-11 + 4 * 2e-11)
        return total + 10 * conv3 * (3e-11 + 4 * 2e-11) + 4e-6

    whole = [group.channels for group in groups]
    assert seconds(*whole) == pytest.approx(model.seconds(trace(digits.module, digits.workload.example)))
    cost = seconds(widths[0][:, None, None], widths[1][None, :, None], widths[2][None, None, :])
    loss = losses[0][:, None, None] + losses[1][None, :, None] + losses[2][None, None, :]
    least, most = cost.min(), cost[-1, -1, -1]
    assert guide.target == "fake"
    assert len(guide.profiles["keep"]) == len(KEEP)
    for common, row in enumerate(guide.profiles["keep"]):
        place = tuple(row[group.name] for group in groups)
        budget = least + (most - least) * common / (len(KEEP) - 1)
        assert cost[place] <= 1.03 * budget
        assert loss[place] <= loss[cost <= max(0.97 * budget, least)].min() + 1e-3
    assert loss[tuple(guide.profiles["keep"][9][g.name] for g in groups)] < loss[8, 8, 8]


def test_a_guided_space_has_the_same_knobs_and_decodes_to_the_profile(digits: Dense, guide: Guide) -> None:
    plain = strategy("l1").space(digits)
    space = guided(plain, guide)
    assert space.ranges() == plain.ranges()
    for common, row in enumerate(guide.profiles["keep"]):
        assert space.decode({"keep": common})["keep"] == {name: KEEP[level] for name, level in row.items()}


def test_a_guide_survives_json(guide: Guide) -> None:
    assert Guide.from_json(json.loads(json.dumps(guide.to_json()))) == guide


@pytest.mark.parametrize(
    "damage", [{"error": "x"}, {"ladder": [{"keep": 0.5}]}, {"more": 1}, {"profiles": {"keep": 1}}, {"error": math.nan}]
)
def test_a_damaged_guide_is_refused_in_one_line(guide: Guide, damage: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(damage))):
        Guide.from_json(guide.to_json() | damage)


def test_a_guide_of_another_space_is_refused(digits: Dense, guide: Guide) -> None:
    space = strategy("l1").space(digits)
    for rows in (({"conv1": 1},) * len(KEEP), guide.profiles["keep"][:-1]):
        with pytest.raises(InputError, match="keep"):
            guided(space, guide.model_copy(update={"profiles": {"keep": rows}}))
    assert guided(Space(), guide) == Space()


def test_the_ladder_leads_from_the_middle_to_both_ends(digits: Dense, guide: Guide) -> None:
    ranges = strategy("l1").space(digits).ranges()
    assert all(params.keys() == ranges.keys() for params in guide.ladder)
    assert all(low <= params[name] <= high for params in guide.ladder for name, (low, high) in ranges.items())
    walked = [params["keep"] for params in guide.ladder]
    assert len(set(walked)) == len(walked) <= len(KEEP)
    assert min(walked) < walked[0] < max(walked)
    assert {min(walked), max(walked)} == set(walked[1:3])


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12).map(sorted))
def test_every_beginning_of_a_spread_is_spread(values: list[float]) -> None:
    order = spread(np.array(values))
    assert sorted(order) == list(range(len(values)))
    for count in range(1, len(order)):
        gaps = [min(abs(values[place] - values[other]) for other in order[:count]) for place in range(len(values))]
        assert gaps[order[count]] == max(gaps)


def test_bits_and_widths_are_guided_together(digits: Dense) -> None:
    method = strategy("l1+int")
    found = make_guide(digits, method, [target("counts")], widths=BITS)
    assert found is not None and found.profiles.keys() == {"keep", "weight_bits", "activation_bits"}
    assert {len(rows) for rows in found.profiles.values()} == {len(KEEP), 3, 2}
    space = guided(method.space(digits, BITS), found)
    plans = [method.plan(digits, space.decode(params)) for params in found.ladder]
    assert len({plan.digest for plan in plans}) == len(plans)
    assert len({params["weight_bits"] for params in found.ladder}) > 1
    forms = {layer: [Format("int", bits) for bits in sorted(BITS)] for layer in ("conv2", "conv3")}
    table = Sensitivity(
        width_sensitivity(digits),
        format_sensitivity(digits, "weight", forms),
        format_sensitivity(digits, "activation", {layer: some[1:] for layer, some in forms.items()}),
    )
    compressed = [method.compress(digits, plan) for plan in plans]
    networks = [trace(each.module, digits.workload.example, each.formats) for each in compressed]
    costs = [sum(map(bit_operations, network.compute_layers)) for network in networks]
    order = np.argsort(costs)
    assert (np.diff([table.loss(plans[place]) for place in order]) < 1e-3).all()


@pytest.mark.parametrize(
    ("models", "bits"), [([target("counts")], {"weight_bits", "activation_bits"}), ([FakeLatency()], None)]
)
def test_bits_are_guided_where_they_save(digits: Dense, models: list[CostModel], bits: set[str] | None) -> None:
    found = make_guide(digits, strategy("int"), models, widths=BITS)
    assert (found and found.profiles.keys()) == bits


@pytest.mark.parametrize("name", ["uniform", "global_l1", "pca_l1", "sentei", "low_rank", "dense", "snip"])
def test_other_strategies_get_no_guide_and_cost_nothing(digits: Dense, name: str) -> None:
    model = FakeLatency()
    assert make_guide(digits, strategy(name), [model], widths=frozenset({8})) is None
    assert model.costed == 0


def test_progress_ascends_to_its_total(digits: Dense) -> None:
    told: list[tuple[int, int]] = []
    make_guide(digits, strategy("int"), [target("counts")], lambda done, total: told.append((done, total)), widths=BITS)
    assert told == sorted(told)
    assert len({total for _, total in told}) == 1
    assert told[-1][0] == told[-1][1]


@pytest.fixture(scope="module")
def deep() -> Dense:
    return untrained(lambda: resnet_cifar(4, 14), 16, classes=4)


def test_how_many_branches_go_is_part_of_the_ladder(
    deep: Dense, model: FakeLatency, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of an untrained network no branch is missed; in this one each of the six is worth a hundredth more than the last.
    rises = [0.005 * k * (k + 1) for k in range(1, 7)]
    names = [branch.name for branch in branches(deep)]
    monkeypatch.setattr("search.guide.removals", lambda *_: list(zip(names, rises, strict=True)))
    method = strategy("l1")
    guide = make_guide(deep, method, [model])
    assert guide is not None
    space = guided(method.space(deep), guide)
    plans = [method.plan(deep, space.decode(params)) for params in guide.ladder]
    assert len({len(plan.dropped) for plan in plans}) > 2
    # Along a front whoever costs more loses less: costs of the networks made and traced, losses of the tables.
    seconds = [model.seconds(trace(method.compress(deep, plan).module, deep.workload.example)) for plan in plans]
    order = np.argsort(seconds)
    channels, loss = Sensitivity(channels=width_sensitivity(deep)), []
    for plan in plans:
        reduced = without(deep, plan.dropped)
        before = groups_before(deep, reduced)
        named = plan.model_copy(update={"channels": {before[name]: ratio for name, ratio in plan.channels.items()}})
        assert set(plan.dropped) == set(names[: len(plan.dropped)])
        loss.append(channels.loss(named) + (rises[len(plan.dropped) - 1] if plan.dropped else 0.0))
    assert (np.diff(np.array(loss)[order]) < 1e-4).all()


def test_the_branches_that_save_most_for_what_they_lose_go_first(deep: Dense) -> None:
    """Losses and costs of the networks made, for every branch at every step."""
    model, method = FakeLatency(), strategy("l1")
    guide = make_guide(deep, method, [model])
    assert guide is not None and len(guide.drops) == len(guide.drop_losses) == 7 and guide.drops[-1] == ""
    names, seconds = [branch.name for branch in branches(deep)], model.seconds
    alone = {name: seconds(trace(without(deep, [name]).module, deep.workload.example)) for name in names}
    whole = seconds(trace(deep.module, deep.workload.example))
    expected = removals(deep, {name: whole - cost for name, cost in alone.items()})
    for count, (told, loss) in enumerate(zip(reversed(guide.drops), reversed(guide.drop_losses), strict=True)):
        assert {name for name in told.split(",") if name} == {name for name, _ in expected[:count]}
        assert loss == pytest.approx(max([0.0, *(rise for _, rise in expected[:count])]))
    space = guided(method.space(deep), guide)
    for level, told in enumerate(guide.drops):
        assert ",".join(method.plan(deep, space.decode({DROP: level})).dropped) == told


def test_depth_alone_is_guided(deep: Dense) -> None:
    guide = make_guide(deep, strategy("depth"), [FakeLatency()])
    assert guide is not None and not guide.profiles and len(guide.drops) == 7
    assert {frozenset(params) for params in guide.ladder} == {frozenset({DROP})}
    assert len({params[DROP] for params in guide.ladder}) == len(guide.ladder)


def test_trained_weights_do_not_say_what_goes_from_initial_ones(deep: Dense) -> None:
    method = strategy("snip_structured")
    assert DROP in method.space(deep).ranges()
    guide = make_guide(deep, method, [FakeLatency()])
    assert guide is None or guide.drops == ()


def test_the_least_cost_is_found_where_the_smallest_levels_are_not_the_cheapest() -> None:
    rng = np.random.default_rng(0)
    cost = [rng.random(4) for _ in range(3)]
    pairs = {(0, 1): rng.random((4, 4)) - 0.5, (1, 2): rng.random((4, 4)) - 0.5}
    programme = Programme([np.zeros(4)] * 3, cost, pairs, 1.0)
    least = min(programme.cost_of(levels) for levels in product(range(4), repeat=3))
    assert programme.cost_of(programme.cheapest()) == pytest.approx(least)
