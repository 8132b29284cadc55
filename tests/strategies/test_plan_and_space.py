"""Plans survive JSON and refuse nonsense in one line; spaces decode every parameter set that they allow."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import Choice, Family, LayerPlan, Plan, Space, strategy
from workloads import Dense, InputError

names = st.text(min_size=1, max_size=8)
formats = st.sampled_from(["fp32", "fp16", "bf16", "int4", "int8", "mf6"])
layers = st.builds(
    LayerPlan,
    sparsity=st.none() | st.floats(0, 0.999),
    weight_format=st.none() | formats,
    activation_format=st.none() | formats,
    rank=st.none() | st.integers(1, 512),
)
values = st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | names
plans = st.builds(
    Plan,
    strategy=names,
    dropped=st.lists(names, max_size=3).map(tuple),
    channels=st.dictionaries(names, st.floats(0.001, 1)),
    layers=st.dictionaries(names, layers),
    settings=st.dictionaries(names, values),
    notes=st.dictionaries(names, values),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(plans)
def test_a_plan_survives_json(plan: Plan) -> None:
    again = Plan.from_json(json.dumps(plan.to_json()))
    assert again == plan
    assert again.digest == plan.digest


@given(plans, plans)
def test_digest_ignores_notes_and_nothing_else(one: Plan, other: Plan) -> None:
    assert one.model_copy(update={"notes": other.notes}).digest == one.digest
    same = one.to_json() | {"notes": {}} == other.to_json() | {"notes": {}}
    assert (one.digest == other.digest) == same


def test_plans_without_dropped_branches_keep_the_digest_that_boards_know() -> None:
    plan = Plan(
        strategy="l1+int",
        channels={"conv1": 0.5, "layer2.0.conv2": 1.0},
        layers={"conv1": LayerPlan(weight_format="int8", activation_format="int8"), "linear": LayerPlan(sparsity=0.25)},
        settings={"distillation": 1.0, "bias_correction": True},
        notes={"keep": 0.5},
    )
    assert plan.digest == "b106bfabeb4337123078bd84ede06d0f463910a6f7b133cb0ba4f4b9f4ddc305"
    assert "dropped" not in plan.to_json()
    shallower = plan.model_copy(update={"dropped": ("layer1.0",)})
    assert shallower.digest != plan.digest and shallower.to_json()["dropped"] == ["layer1.0"]


@given(st.text() | st.binary() | json_values.map(json.dumps))
def test_any_text_is_a_plan_or_refused_in_one_line(text: str | bytes) -> None:
    try:
        Plan.from_json(text)
    except InputError as error:
        assert str(error).isprintable()


@given(json_values, st.sampled_from(["strategy", "dropped", "channels", "layers", "settings", "notes", "extra"]))
def test_any_wrong_field_is_refused_in_one_line(value: Any, field: str) -> None:
    try:
        Plan.from_json({"strategy": "uniform", field: value})
    except InputError as error:
        assert str(error).isprintable()
        assert str(error).startswith("plan: ")


@pytest.mark.parametrize(
    "plan",
    [
        {"strategy": "uniform", "channels": {"conv1": 1.5}},
        {"strategy": "uniform", "channels": {"conv1": 0}},
        {"strategy": "uniform", "channels": {"conv1": float("nan")}},
        {"strategy": "sentei", "layers": {"conv1": {"sparsity": 1.5}}},
        {"strategy": "int", "layers": {"conv1": {"weight_format": "int17"}}},
        {"strategy": "uniform", "surprise": 1},
    ],
)
def test_values_out_of_range_are_refused_with_field_value_and_reason(plan: dict[str, Any]) -> None:
    with pytest.raises(InputError) as refusal:
        Plan.from_json(plan)
    assert next(iter(plan.keys() - {"strategy"})) in str(refusal.value)


def test_a_deeply_nested_plan_is_refused() -> None:
    with pytest.raises(InputError):
        Plan.from_json("[" * 100_000)


@pytest.mark.parametrize(
    "plan",
    [
        Plan(strategy="uniform", channels={"nowhere": 0.5}),
        Plan(strategy="sentei", layers={"nowhere": LayerPlan(sparsity=0.5)}),
    ],
)
def test_names_that_the_network_has_not_are_refused(digits: Dense, plan: Plan) -> None:
    with pytest.raises(InputError, match="nowhere"):
        strategy(plan.strategy).compress(digits, plan)


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    choices = tuple(
        Choice(f"c{i}", tuple(range(n)), draw(st.integers(0, n - 1)))
        for i, n in enumerate(draw(st.lists(st.integers(1, 6), max_size=3)))
    )
    families = tuple(
        Family(
            f"f{i}",
            tuple(range(n)),
            ("a", "b"),
            draw(st.integers(0, n - 1)),
            2,
            draw(st.none() | st.integers(0, n - 1)),
        )
        for i, n in enumerate(draw(st.lists(st.integers(1, 6), max_size=3)))
    )
    families = tuple(replace(family, profile=draw(st.none() | profiles(family))) for family in families)
    return Space(choices, families, draw(st.sampled_from(["", "c0", "f0"])))


def profiles(family: Family) -> st.SearchStrategy[tuple[tuple[int, ...], ...]]:
    """Every profile that fits a family."""
    row = st.tuples(*[st.integers(0, len(family.levels) - 1)] * len(family.members))
    return st.tuples(*[row] * len(family.levels))


@given(spaces(), st.data())
def test_every_parameter_set_decodes_to_levels(space: Space, data: st.DataObject) -> None:
    params = {name: data.draw(st.integers(low, high)) for name, (low, high) in space.ranges().items()}
    knobs = space.decode(params)
    assert set(knobs) == {c.name for c in space.choices} | {f.name for f in space.families}
    for choice in space.choices:
        assert knobs[choice.name] in choice.levels
    for family in space.families:
        assert set(knobs[family.name]) == set(family.members)
        assert all(level in family.levels for level in knobs[family.name].values())


@given(spaces(), st.integers(0, 8))
def test_a_ladder_starts_at_the_defaults_and_walks_up_from_the_smallest(space: Space, rungs: int) -> None:
    ladder = space.ladder(rungs)
    ranges = space.ranges()
    assert len(ladder) <= rungs
    for params in ladder:
        assert params.keys() == ranges.keys()
        assert all(low <= params[name] <= high for name, (low, high) in ranges.items())
    if ladder:
        assert all(ladder[0][choice.name] == choice.default for choice in space.choices if choice.name in ranges)
    walked = [params[space.ladder_knob] for params in ladder[1:] if space.ladder_knob in params]
    assert walked == sorted(set(walked))
    assert all(
        params.items() - ladder[0].items() <= {(space.ladder_knob, params[space.ladder_knob])} for params in ladder[1:]
    )
    if walked and ladder[0][space.ladder_knob] != 0:
        assert walked[0] == 0


@given(spaces(), st.data())
def test_without_a_step_a_member_has_its_level_of_the_profile(space: Space, data: st.DataObject) -> None:
    params = {
        name: data.draw(st.integers(low, high)) for name, (low, high) in space.ranges().items() if "." not in name
    }
    knobs = space.decode(params)
    for family in space.families:
        common = params.get(family.name, family.default if family.base is None else family.base)
        row = family.profile[common] if family.profile else (common,) * len(family.members)
        assert knobs[family.name] == {m: family.levels[i] for m, i in zip(family.members, row, strict=True)}


@given(spaces())
def test_a_profile_changes_no_range_and_a_uniform_one_changes_nothing(space: Space) -> None:
    plain = replace(space, families=tuple(replace(family, profile=None) for family in space.families))
    uniform = replace(space, families=tuple(replace(family, profile=_uniform(family)) for family in space.families))
    assert space.ranges() == plain.ranges()
    for params in plain.ladder(6):
        assert uniform.decode(params) == plain.decode(params)


def _uniform(family: Family) -> tuple[tuple[int, ...], ...]:
    return tuple((level,) * len(family.members) for level in range(len(family.levels)))


@pytest.mark.parametrize("profile", [((0, 0),), ((0,), (1,)), ((0, 0), (1, 2)), ((0, -1), (1, 1))])
def test_a_profile_that_does_not_fit_is_refused(profile: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match="keep"):
        Family("keep", (0.5, 1.0), ("a", "b"), default=0, profile=profile)


def test_one_common_knob_moves_all_members_and_a_step_moves_one() -> None:
    space = Space(families=(Family("keep", (0.25, 0.5, 0.75, 1.0), ("a", "b"), default=1),), ladder_knob="keep")
    assert space.decode({"keep": 1, "keep.a": 2, "keep.b": -2})["keep"] == {"a": 1.0, "b": 0.25}
