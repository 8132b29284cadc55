"""What a search knows before its first trial: for every cost the plan of least predicted loss, as a space and a ladder.

An integer programme over what `sensitivity` measured and `predictor` fitted, as HALP does for latency (Shen et al.,
Structural Pruning via Latency-Saliency Knapsack, NeurIPS 2022) and HAWQ-V3 for bit widths (Yao et al., ICML 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from cost_models import CostModel, Reference
from strategies import (
    DROP,
    ChannelGroup,
    Plan,
    Space,
    Strategy,
    branches,
    channel_groups,
    formats_of,
    groups_before,
    removals,
    without,
)
from workloads import Dense, Formats, InputError, LayerFormats, Progress

from .families import Part, plan_at, understood, unlike
from .predictor import Predictor, costs_of, fitted, frozen_by
from .programme import Programme
from .sensitivity import Curve

HARMLESS, HOPELESS = 0.02, 2.0
"""Predicted increases of the loss in nats: below the first, a dearer plan gains nothing; beyond the second, which is
near guessing among ten classes, tuning was seen to bring little back (digits)."""
CHECKED = 40
"""Plans of the predicted front that a modelled target costs itself."""
NEGLIGIBLE = 1e-9
"""Part of the whole cost below which two members are taken not to multiply: it is rounding."""


class Guide(BaseModel):
    """Plain data, JSON in and out: what `guided` puts into a space, and what is tried first."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    target: str
    """Whose cost was predicted."""
    profiles: dict[str, tuple[dict[str, int], ...]]
    """Family → for every common level the base level of every member: of least predicted loss within a cost budget that
    grows evenly with the level, from all members at their smallest to all at their largest."""
    ladder: tuple[dict[str, int], ...]
    """Parameter sets to try first, the wider apart the earlier: as many as are wanted, from the front."""
    losses: dict[str, dict[str, tuple[float, ...]]]
    """Family → member → predicted increase of the loss at every level, in nats."""
    drops: tuple[str, ...] = ()
    """Branches that go at every level of the knob `drop`, with commas: ever fewer, those that save most for what they
    lose; empty where there is none."""
    drop_losses: tuple[float, ...]
    """Predicted increase of the loss at every level of the knob `drop`, in nats; as many as `drops`."""
    cuts: bool
    """Whether widths are among what the families decide."""
    weights: tuple[float, ...]
    """Of the features of `predictor`, in the unit of the cost."""
    block: int
    """Channels of a block, for which the features count."""
    executed: dict[str, str]
    """Formats of weights and activations, `int4/int8`, → those that the target runs."""
    error: float
    """Mean relative error of the predicted cost of networks that were left out of the fit."""
    rank_correlation: float | None
    """Spearman's, of the same; None where all cost the same."""

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` takes back."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Guide:
        """Reads a guide; raises `InputError` naming the first wrong field."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise InputError(f"guide: {'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg']}") from None


def guided(space: Space, guide: Guide) -> Space:
    """The space with the guide's profiles; raises `InputError` where they were made for another one."""
    families = []
    for family in space.families:
        if family.name not in guide.profiles:
            families.append(family)
            continue
        rows = guide.profiles[family.name]
        if any(row.keys() != set(family.members) for row in rows):
            raise InputError(f"guide: family {family.name!r} has other members here than where the guide was made")
        try:
            profile = tuple(tuple(row[member] for member in family.members) for row in rows)
            families.append(replace(family, profile=profile))
        except ValueError as error:
            raise InputError(f"guide: {error}") from error
    choices = [
        replace(choice, levels=guide.drops) if choice.name == DROP and guide.drops else choice
        for choice in space.choices
    ]
    return replace(space, choices=tuple(choices), families=tuple(families))


def make_guide(
    dense: Dense,
    strategy: Strategy,
    models: Sequence[CostModel],
    progress: Progress | None = None,
    *,
    widths: frozenset[int] = frozenset(range(2, 9)),
    reference: Reference | None = None,
) -> Guide | None:
    """The guide of a strategy's space on a network; None where nothing in it is understood and saves anything.

    Understood are families of keep ratios of prune groups, and of bit widths of layers, and the knob `drop`: which
    branches go is decided by what the target saves without them, and the ladder says how many. What a group or layer
    loses is taken to be the same without them. The cost is the objective of the first model that answers latency, else
    of the first. `widths` are those that `Strategy.space` is asked with, `reference` is that model's frozen dense
    network. On a measured target ResNet-20 took 40 s with 14 networks to cost, most of it the table of
    `width_sensitivity`, which is kept. Raises `InputError` where the target cannot take the network.
    """
    space = strategy.space(dense, widths)
    families = understood(dense, strategy, space)
    # Trained weights have no say in what goes where a method starts from initial ones.
    drops = strategy.start == "trained" and any(choice.name == DROP for choice in space.choices)
    droppable = [branch.name for branch in branches(dense)] if drops else []
    if not families and not droppable:
        return None
    model = next((model for model in models if model.objective == "latency"), models[0])
    groups = channel_groups(dense) if any(part.role == "channels" for part in families) else []
    every = list(unlike(families))
    plans = [plan_at(dense, strategy, space, levels) for levels in every]
    plans += [plan_at(dense, strategy, space, {}, dropped=names) for names in _some(droppable)]
    plans += [plan_at(dense, strategy, space, levels, other) for other in _others(space) for levels in every[2:5:2]]
    plans = list({plan.digest: plan for plan in plans}.values())
    lengths = [*(part.trials for part in families), len(plans), *(part.top + 1 for part in families)]
    steps = _Steps(progress, [*lengths, len(droppable)])
    curves = {part.family.name: part.curves(dense, steps.part(place)) for place, part in enumerate(families)}
    reference = reference or frozen_by(model, dense)
    predictor = fitted(dense, groups, strategy, plans, model, reference, steps.part(len(families)))
    costs = _Costs(predictor, plan_at(dense, strategy, space, {}), families)
    profiles = dict[str, tuple[tuple[int, ...], ...]]()
    for place, part in enumerate(families):
        found = _profile(part, curves[part.family.name], costs, steps.part(len(families) + 1 + place))
        if found is not None:
            profiles[part.family.name] = found
    families = [part for part in families if part.family.name in profiles]
    depths = _depths(dense, strategy, space, families, costs, steps.part(-1)) if droppable else []
    if not families and not depths:
        return None
    correlation = predictor.fit.rank_correlation
    guide = Guide(
        target=model.name,
        profiles={
            part.family.name: tuple(
                dict(zip(part.family.members, row, strict=True)) for row in profiles[part.family.name]
            )
            for part in families
        },
        ladder=(),
        losses={
            part.family.name: {
                member: tuple(map(float, values))
                for member, values in zip(part.family.members, part.losses(curves[part.family.name]), strict=True)
            }
            for part in families
        },
        drops=tuple(",".join(depth.dropped) for depth in depths),
        drop_losses=tuple(depth.loss for depth in depths),
        cuts=bool(groups),
        weights=tuple(map(float, predictor.fit.weights)),
        block=predictor.fit.block,
        executed=predictor.runs,
        error=predictor.fit.error,
        rank_correlation=correlation if math.isfinite(correlation) else None,
    )
    if space.ladder_knob not in {*profiles, DROP}:
        return guide.model_copy(update={"ladder": tuple(space.ladder(_levels(space)))})
    params, cost, loss = _predicted(space, families, profiles, curves, depths or [_whole(families, costs)])
    if model.kind == "modelled":
        # In milliseconds a network it says itself what others must be predicted by.
        some = np.unique(np.linspace(0, len(params) - 1, min(len(params), CHECKED)).round().astype(int))
        params, loss, knobs = [params[place] for place in some], loss[some], guided(space, guide)
        plans = [strategy.plan(dense, knobs.decode(chosen)) for chosen in params]
        cost = costs_of(dense, strategy, plans, model, reference)
    front = _worth_trying(_front(cost, loss), loss)
    ladder = [params[front[place]] for place in spread(np.log(cost[front]))[: _levels(space)]]
    return guide.model_copy(update={"ladder": tuple(ladder)})


class _Costs:
    """Predicted costs by levels of the families; what no family decides is as in `rest`."""

    def __init__(self, predictor: Predictor, rest: Plan, parts: Sequence[Part]) -> None:
        self.predictor, self._parts = predictor, parts
        self._widths = predictor.widths([rest])[0]
        self._formats = formats_of(rest)
        self._column = {group.name: place for place, group in enumerate(predictor.groups)}

    def of(self, levels: Mapping[str, np.ndarray], count: int) -> np.ndarray:
        """Costs (count,) at levels by family, (count, members); a family left out is at its top."""
        widths = np.repeat(self._widths[None], count, axis=0)
        formats: list[Formats] = [self._formats]
        for part in self._parts:
            rows = levels.get(part.family.name)
            if rows is None:
                continue
            for place, member in enumerate(part.family.members):
                if part.role == "channels":
                    by_level = np.array([part.groups[place].width(float(level)) for level in part.family.levels])
                    widths[:, self._column[member]] = by_level[rows[:, place]]
            if part.role != "channels":
                formats = formats * count if len(formats) == 1 else formats
                formats = [_with(form, part, row) for form, row in zip(formats, rows, strict=True)]
        return self.predictor.cost(widths, formats)

    def programme(self, part: Part, loss: Sequence[np.ndarray]) -> Programme:
        """Costs around the uncut network: exact where they are sums of terms of at most two members."""
        name, members, levels = part.family.name, len(part.family.members), part.top + 1
        top = np.full((1, members), part.top)

        def at(chosen: Mapping[int, np.ndarray]) -> np.ndarray:
            rows = np.repeat(top, len(next(iter(chosen.values()))), axis=0)
            for member, values in chosen.items():
                rows[:, member] = values
            return self.of({name: rows}, len(rows))

        constant, every = float(self.of({name: top}, 1)[0]), np.arange(levels)
        single = [at({member: every}) - constant for member in range(members)]
        pairs = {}
        for first, second in self._together(part):
            both = at({first: np.repeat(every, levels), second: np.tile(every, levels)}).reshape(levels, levels)
            joint = both - constant - single[first][:, None] - single[second][None]
            if np.abs(joint).max() > NEGLIGIBLE * constant:
                pairs[first, second] = joint
        return Programme(loss, single, pairs, constant)

    def _together(self, part: Part) -> list[tuple[int, int]]:
        if part.role != "channels":
            return []
        place = {self._column[member]: place for place, member in enumerate(part.family.members)}
        pairs = self.predictor.table.together()
        return [(place[a], place[b]) for a, b in pairs if a in place and b in place]


def _with(formats: Formats, part: Part, row: np.ndarray) -> Formats:
    """Formats with the widths that a family's levels say."""
    assert part.formats is not None
    changed = dict(formats)
    for member, level in zip(part.family.members, row, strict=True):
        form, before = part.formats[member][level], changed.get(member, LayerFormats())
        changed[member] = replace(before, **{"weight" if part.role == "weights" else "activation": form})
    return changed


def _profile(
    part: Part, curves: Mapping[str, Curve], costs: _Costs, progress: Progress
) -> tuple[tuple[int, ...], ...] | None:
    """For every common level, the levels of least predicted loss within its budget; None where shrinking saves nothing.

    Budgets are evenly spaced from the least cost there is to that of the uncut network: uniform ladders need not be
    ordered, for runtimes dislike some widths so much that the uncut network is faster.
    """
    members, programme = len(part.family.members), costs.programme(part, part.losses(curves))
    cheapest = programme.cheapest()
    least, most = programme.cost_of(cheapest), programme.cost_of([part.top] * members)
    if least > (1 - NEGLIGIBLE) * most:
        return None
    rows, best = [], cheapest
    for common, budget in enumerate(np.linspace(least, most, part.top + 1)):
        found = programme.solve(budget)
        if found is not None and programme.loss_of(found) < programme.loss_of(best):
            best = found
        rows.append(tuple(best))
        progress(common + 1, part.top + 1)
    return tuple(rows)


@dataclass(frozen=True)
class _Depth:
    """The network with some of its residual branches gone."""

    dropped: tuple[str, ...]
    params: dict[str, int]
    loss: float
    """Increase by what is gone."""
    costs: _Costs
    left: Mapping[str, np.ndarray]
    """Family → places of the members that are left, in the order of the costs' own."""


def _whole(parts: Sequence[Part], costs: _Costs, params: Mapping[str, int] | None = None) -> _Depth:
    """With nothing gone."""
    left = {part.family.name: np.arange(len(part.family.members)) for part in parts}
    return _Depth((), dict(params or {}), 0.0, costs, left)


def _some(names: Sequence[str]) -> list[list[str]]:
    """Branches to drop in networks that a cost is fitted to: all, every other one, one half or the other.

    Only so is it told what a layer costs.
    """
    half = len(names) // 2
    return [list(some) for some in (names, names[::2], names[1::2], names[:half], names[half:]) if some]


def _others(space: Space) -> list[dict[str, int]]:
    """Choices but `drop`, each away from its default: only so is it told what aligned widths cost."""
    return [
        {choice.name: index}
        for choice in space.choices
        if choice.name != DROP
        for index in range(len(choice.levels))
        if index != choice.default
    ]


def _depths(
    dense: Dense, strategy: Strategy, space: Space, parts: Sequence[Part], costs: _Costs, progress: Progress
) -> list[_Depth]:
    """The network with ever fewer of its branches gone, down to none: in reverse the order in which they go.

    That order weighs what the loss rises against what the target saves. In ONNX Runtime, int8, blocks of ResNet-20's
    first stage save twice what those of its last do, of as many operations.
    """

    def without_them(dropped: Sequence[str]) -> tuple[Predictor, Plan]:
        return costs.predictor.without(dense, dropped), plan_at(dense, strategy, space, {}, dropped=dropped)

    def cost(dropped: Sequence[str]) -> float:
        predictor, plan = without_them(dropped)
        return float(predictor.plans([plan])[0])

    names = [branch.name for branch in branches(dense)]
    whole = cost(())
    saved = {name: whole - cost((name,)) for name in names}
    order = removals(dense, saved, progress)
    rises = np.maximum.accumulate([max(0.0, rise) for _, rise in order])
    found = []
    for count in range(len(order), 0, -1):
        gone = {name for name, _ in order[:count]}
        dropped = tuple(name for name in names if name in gone)
        predictor, plan = without_them(dropped)
        reduced, own, left = without(dense, dropped), [], {}
        for part in parts:
            changed, left[part.family.name] = _on(part, dense, reduced, predictor.groups)
            own.append(changed)
        params, loss = {DROP: len(order) - count}, float(rises[count - 1])
        found.append(_Depth(dropped, params, loss, _Costs(predictor, plan, own), left))
    return [*found, _whole(parts, costs, {DROP: len(order)})]


def _on(part: Part, dense: Dense, reduced: Dense, groups: Sequence[ChannelGroup]) -> tuple[Part, np.ndarray]:
    """A family on the network that has lost branches, and the places of the members that are left."""
    places = {member: place for place, member in enumerate(part.family.members)}
    if part.role == "channels":
        before = groups_before(dense, reduced)
        kept = [group for group in groups if before[group.name] in places]
        family = replace(part.family, members=tuple(group.name for group in kept))
        chosen = [places[before[group.name]] for group in kept]
        return Part(family, part.role, tuple(kept)), np.array(chosen, dtype=int)
    layers = {name for name, _ in reduced.module.named_modules()}
    members = tuple(member for member in part.family.members if member in layers)
    family = replace(part.family, members=members)
    return Part(family, part.role, formats=part.formats), np.array([places[member] for member in members], dtype=int)


def _predicted(
    space: Space,
    parts: Sequence[Part],
    profiles: Mapping[str, Sequence[Sequence[int]]],
    curves: Mapping[str, Mapping[str, Curve]],
    depths: Sequence[_Depth],
) -> tuple[list[dict[str, int]], np.ndarray, np.ndarray]:
    """Parameter sets along the predicted front of all common levels and depths, their costs and losses, (n,) each."""
    (start,) = space.ladder(1)
    names = [part.family.name for part in parts]
    combined = np.array(list(product(*(range(part.top + 1) for part in parts))), dtype=int)
    chosen = {name: np.array(profiles[name])[combined[:, place]] for place, name in enumerate(names)}
    losses = {
        part.family.name: np.stack(
            [
                values[chosen[part.family.name][:, place]]
                for place, values in enumerate(part.losses(curves[part.family.name]))
            ],
            axis=1,
        )
        for part in parts
    }
    params, cost, loss = [], [], []
    for depth in depths:
        some = combined if depth.dropped else combined[:-1]  # the uncut network is a control
        count, rows = len(some), {name: chosen[name][: len(some), depth.left[name]] for name in names}
        cost.append(depth.costs.of(rows, count))
        by_family = [losses[name][:count, depth.left[name]].sum(1) for name in names]
        loss.append(np.sum(by_family, axis=0) + np.full(count, depth.loss))
        params += [start | depth.params | dict(zip(names, row, strict=True)) for row in some.tolist()]
    costs, lost = np.concatenate(cost), np.concatenate(loss)
    front = _front(costs, lost)
    return [params[place] for place in front], costs[front], lost[front]


def _levels(space: Space) -> int:
    knobs: list[Any] = [*space.choices, *space.families]
    return next((len(knob.levels) for knob in knobs if knob.name == space.ladder_knob), 1)


def _front(cost: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Places that nothing cheaper or equal beats in loss, by ascending cost."""
    order = np.lexsort((loss, cost))
    least = np.minimum.accumulate(loss[order])
    better = np.concatenate([[True], loss[order][1:] < least[:-1]])
    return order[better]


def _worth_trying(front: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """The part of a front (places, by ascending cost) between the cheapest that loses nothing and the last hope."""
    within = loss[front] <= HOPELESS
    some = front[within] if within.any() else front
    harmless = np.flatnonzero(loss[some] <= HARMLESS)
    return some[: harmless[0] + 1] if len(harmless) else some


def spread(values: np.ndarray) -> list[int]:
    """Places of `values` (n,), ascending, so ordered that every beginning is spread: middle, ends, then between."""
    order = [int(np.abs(values - (values[0] + values[-1]) / 2).argmin())]
    while len(order) < len(values):
        distance = np.abs(values[:, None] - values[order][None]).min(1)
        distance[order] = -1.0
        order.append(int(distance.argmax()))
    return order


class _Steps:
    """One progress for parts of known length."""

    def __init__(self, progress: Progress | None, lengths: Sequence[int]) -> None:
        self._progress, self._lengths = progress, lengths

    def part(self, place: int) -> Callable[[int, int], None]:
        """That of the part at `place`, counted from the end where that is negative."""
        place %= len(self._lengths)
        before, length, total = sum(self._lengths[:place]), self._lengths[place], sum(self._lengths)

        def tell(done: int, of: int) -> None:
            if self._progress:
                self._progress(before + round(length * done / of), total)

        return tell
