"""The families of a space that a guide understands: keep ratios of prune groups, and bit widths of layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np

from strategies import ChannelGroup, Family, Plan, Space, Strategy, channel_groups, formats_of
from workloads import Dense, Format, InputError, LayerFormats, Progress

from .sensitivity import RATIOS, Curve, format_sensitivity, width_sensitivity

PREFERENCE = 1e-6
"""Of the loss, for the larger of two networks that are predicted to lose the same."""
Role = Literal["channels", "weights", "activations"]


@dataclass(frozen=True)
class Part:
    """A family that is understood."""

    family: Family
    role: Role
    groups: tuple[ChannelGroup, ...] = ()
    """Of channels: those of the members."""
    formats: Mapping[str, tuple[Format, ...]] | None = None
    """Of bit widths: every member's formats at the levels."""

    @property
    def top(self) -> int:
        return len(self.family.levels) - 1

    @property
    def trials(self) -> int:
        """Evaluations that its curves take at most."""
        return len(self.family.members) * (len(RATIOS) if self.role == "channels" else len(self.family.levels))

    def curves(self, dense: Dense, progress: Progress) -> Mapping[str, Curve]:
        if self.formats is None:
            return width_sensitivity(dense, progress=progress)
        side: Literal["weight", "activation"] = "weight" if self.role == "weights" else "activation"
        return format_sensitivity(dense, side, self.formats, progress)

    def losses(self, curves: Mapping[str, Curve]) -> list[np.ndarray]:
        """Predicted increase of the loss of every member at every level."""
        found = []
        for place, member in enumerate(self.family.members):
            levels = np.array(self.family.levels, dtype=float)
            if self.role == "channels":
                group = self.groups[place]
                levels = np.array([group.width(level) / group.channels for level in levels])
            found.append(curves[member].loss_at(levels) + PREFERENCE * (1 - levels / levels.max()))
        return found


def understood(dense: Dense, strategy: Strategy, space: Space) -> list[Part]:
    """The families whose levels are keep ratios or bit widths: that is, with which the plan's widths or formats go."""
    found = []
    for family in space.families:
        if family.base is not None or len(family.levels) < 2 or not family.members:
            continue
        numbers = [level for level in family.levels if isinstance(level, int | float)]
        if len(numbers) < len(family.levels) or min(numbers) <= 0:
            continue
        try:
            ends = [plan_at(dense, strategy, space, {family.name: dict.fromkeys(family.members, n)}) for n in (0, -1)]
        except InputError:  # levels at which no network is left are no keep ratios
            continue
        named = {group.name: group for group in channel_groups(dense)} if ends[0].channels else {}
        if all(member in named for member in family.members) and max(numbers) <= 1:
            groups = tuple(named[member] for member in family.members)
            if all(
                round(plan.channels[g.name] * g.channels) == g.width(level)
                for plan, level in zip(ends, (numbers[0], numbers[-1]), strict=True)
                for g in groups
            ):
                found.append(Part(family, "channels", groups))
            continue
        for role in ("weights", "activations"):
            formats = [_formats_at(plan, family.members, role) for plan in ends]
            bits = [{form.bits for form in forms.values()} for forms in formats]
            if bits == [{numbers[0]}, {numbers[-1]}]:
                kinds = {member: form.kind for member, form in formats[0].items()}
                every = {m: tuple(Format(kinds[m], int(level)) for level in numbers) for m in family.members}
                found.append(Part(family, role, formats=every))
    return found


def _formats_at(plan: Plan, members: Sequence[str], role: Role) -> dict[str, Format]:
    formats = formats_of(plan)
    chosen = {member: formats.get(member, LayerFormats()) for member in members}
    return {member: form.weight if role == "weights" else form.activation for member, form in chosen.items()}


def plan_at(
    dense: Dense,
    strategy: Strategy,
    space: Space,
    levels: Mapping[str, Mapping[str, int]],
    choices: Mapping[str, int] | None = None,
    dropped: Sequence[str] = (),
) -> Plan:
    """The plan with these levels (family → member → index) and choices, other families at their top.

    The branches `dropped` go, and no others.
    """
    knobs = space.decode(choices or {}) | {"dropped": dropped}
    for family in space.families:
        if family.base is None:
            chosen = levels.get(family.name, dict.fromkeys(family.members, -1))
            knobs[family.name] = {member: family.levels[chosen[member]] for member in family.members}
    return strategy.plan(dense, knobs)


def unlike(parts: Sequence[Part]) -> Iterator[dict[str, dict[str, int]]]:
    """Networks to fit a cost to, as levels: all members alike from the smallest to the largest, and in turns.

    Members of several families are cut against each other, so that what bits save is told from what widths save.
    """
    for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        yield {part.family.name: dict.fromkeys(part.family.members, round(share * part.top)) for part in parts}
    for period, phase in product((1, 2, 3, 5), (0, 1)):
        yield {
            part.family.name: {
                member: part.top if (place // period + order + phase) % 2 else part.top // 4
                for place, member in enumerate(part.family.members)
            }
            for order, part in enumerate(parts)
        }
