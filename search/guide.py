"""What a search knows before its first trial: for every cost the plan of least predicted loss, as a space and a ladder.

An integer programme over what `sensitivity` measured and `predictor` fitted, as HALP does for latency (Shen et al.,
Structural Pruning via Latency-Saliency Knapsack, NeurIPS 2022) and HAWQ-V3 for bit widths (Yao et al., ICML 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from cost_models import CostModel, Reference
from strategies import Plan, Space, Strategy, channel_groups, formats_of
from workloads import Dense, Formats, InputError, LayerFormats, Progress

from .families import Part, plan_at, understood, unlike
from .predictor import Predictor, fitted
from .programme import Programme
from .sensitivity import Curve

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
    return replace(space, families=tuple(families))


def make_guide(
    dense: Dense,
    strategy: Strategy,
    models: Sequence[CostModel],
    progress: Progress | None = None,
    *,
    widths: frozenset[int] = frozenset(range(2, 9)),
    reference: Reference | None = None,
) -> Guide | None:
    """The guide of a strategy's space on a network; None where it has no family that is understood and saves anything.

    Understood are families of keep ratios of prune groups, and of bit widths of layers. The cost is the objective of
    the first model that answers latency, else of the first. `widths` are those that `Strategy.space` is asked with,
    `reference` is that model's frozen dense network. A network with dropped branches is a `Dense` of its own. On a
    measured target ResNet-20 takes 40 s, most of it the table of `width_sensitivity`, which is kept. Raises
    `InputError` where the target cannot take the network.
    """
    space = strategy.space(dense, widths)
    families = understood(dense, strategy, space)
    if not families:
        return None
    model = next((model for model in models if model.objective == "latency"), models[0])
    groups = channel_groups(dense) if any(part.role == "channels" for part in families) else []
    plans = [plan_at(dense, strategy, space, levels) for levels in unlike(families)]
    steps = _Steps(progress, [*(part.trials for part in families), len(plans), *(part.top + 1 for part in families)])
    curves = {part.family.name: part.curves(dense, steps.part(place)) for place, part in enumerate(families)}
    predictor = fitted(dense, groups, strategy, plans, model, reference, steps.part(len(families)))
    costs = _Costs(predictor, plan_at(dense, strategy, space, {}), families)
    profiles = dict[str, tuple[tuple[int, ...], ...]]()
    for place, part in enumerate(families):
        found = _profile(part, curves[part.family.name], costs, steps.part(len(families) + 1 + place))
        if found is not None:
            profiles[part.family.name] = found
    families = [part for part in families if part.family.name in profiles]
    if not families:
        return None
    correlation = predictor.fit.rank_correlation
    return Guide(
        target=model.name,
        profiles={
            part.family.name: tuple(
                dict(zip(part.family.members, row, strict=True)) for row in profiles[part.family.name]
            )
            for part in families
        },
        ladder=tuple(_ladder(space, families, profiles, curves, costs)),
        error=predictor.fit.error,
        rank_correlation=correlation if math.isfinite(correlation) else None,
    )


class _Costs:
    """Predicted costs by levels of the families; what no family decides is as in `rest`."""

    def __init__(self, predictor: Predictor, rest: Plan, parts: Sequence[Part]) -> None:
        self.predictor, self._parts = predictor, parts
        self._widths = predictor.widths([rest])[0]
        self._formats = formats_of(rest)
        self._column = {group.name: place for place, group in enumerate(predictor.groups)}

    def of(self, levels: Mapping[str, np.ndarray]) -> np.ndarray:
        """Costs (N,) at levels by family, (N, members); a family left out is at its top."""
        count = max(len(rows) for rows in levels.values())
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
            return self.of({name: rows})

        constant, every = float(self.of({name: top})[0]), np.arange(levels)
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

    Budgets are evenly spaced from the cost of all at the smallest level to that of all at the largest: between them the
    uniform ladder need not be ordered, for runtimes dislike some widths so much that the uncut network is faster.
    """
    members, programme = len(part.family.members), costs.programme(part, part.losses(curves))
    least, most = (programme.cost_of([level] * members) for level in (0, part.top))
    if least > (1 - NEGLIGIBLE) * most:
        return None
    rows, best = [], [0] * members
    for common, budget in enumerate(np.linspace(least, most, part.top + 1)):
        found = programme.solve(budget)
        if found is not None and programme.loss_of(found) < programme.loss_of(best):
            best = found
        rows.append(tuple(best))
        progress(common + 1, part.top + 1)
    return tuple(rows)


def _ladder(
    space: Space,
    parts: Sequence[Part],
    profiles: Mapping[str, Sequence[Sequence[int]]],
    curves: Mapping[str, Mapping[str, Curve]],
    costs: _Costs,
) -> list[dict[str, int]]:
    """Parameter sets along the predicted front of all common levels; the uncut network, a control, is left out."""
    (start,) = space.ladder(1)
    if space.ladder_knob not in [part.family.name for part in parts]:
        return space.ladder(_levels(space))
    combined = np.array(list(product(*(range(part.top + 1) for part in parts))))[:-1]
    chosen = {
        part.family.name: np.array(profiles[part.family.name])[combined[:, place]] for place, part in enumerate(parts)
    }
    cost, loss = costs.of(chosen), np.zeros(len(combined))
    for part in parts:
        for place, losses in enumerate(part.losses(curves[part.family.name])):
            loss += losses[chosen[part.family.name][:, place]]
    front = _front(cost, loss)
    order = spread(np.log(cost[front]))[: _levels(space)]
    names = [part.family.name for part in parts]
    return [start | dict(zip(names, combined[front[place]].tolist(), strict=True)) for place in order]


def _levels(space: Space) -> int:
    knobs: list[Any] = [*space.choices, *space.families]
    return next((len(knob.levels) for knob in knobs if knob.name == space.ladder_knob), 1)


def _front(cost: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Places that nothing cheaper or equal beats in loss, by ascending cost."""
    order = np.lexsort((loss, cost))
    least = np.minimum.accumulate(loss[order])
    better = np.concatenate([[True], loss[order][1:] < least[:-1]])
    return order[better]


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
        before, length, total = sum(self._lengths[:place]), self._lengths[place], sum(self._lengths)

        def tell(done: int, of: int) -> None:
            if self._progress:
                self._progress(before + round(length * done / of), total)

        return tell
