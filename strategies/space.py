"""What a strategy lets a search choose: knobs as ordered integers, independent of any search library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Value = bool | int | float | str


@dataclass(frozen=True)
class Choice:
    """One knob: an index into `levels`, which are ordered from the smallest network to the largest."""

    name: str
    levels: tuple[Value, ...]
    default: int
    """Index of the level that a ladder over another knob leaves this one at."""


@dataclass(frozen=True)
class Family:
    """One knob for all members, and a step of −`reach`…`reach` levels up or down for each of them.

    Independent draws for every member concentrate at average compression and never reach the ends of the front; a
    common level with small deviations does. With `base`, the common level is fixed there and only the deviations are
    chosen. With `profile`, a common level means a level of its own for every member, from which the deviations go.
    """

    name: str
    levels: tuple[Value, ...]
    members: tuple[str, ...]
    default: int
    reach: int = 2
    base: int | None = None
    profile: tuple[tuple[int, ...], ...] | None = None
    """For every common level, the base level of every member, in the order of `members`; None is uniform."""

    def __post_init__(self) -> None:
        if self.profile is None:
            return
        if len(self.profile) != len(self.levels) or any(len(row) != len(self.members) for row in self.profile):
            raise ValueError(
                f"profile of family {self.name!r} has {len(self.profile)} rows of lengths "
                f"{sorted({len(row) for row in self.profile})}; it needs one of {len(self.members)} for each of "
                f"{len(self.levels)} levels"
            )
        if any(not 0 <= level < len(self.levels) for row in self.profile for level in row):
            raise ValueError(f"profile of family {self.name!r} has levels outside 0…{len(self.levels) - 1}")

    def levels_at(self, common: int, steps: Mapping[str, int]) -> dict[str, int]:
        """Index of every member's level at a common one, moved by its own step (0 where absent), within bounds."""
        bases = [common] * len(self.members) if self.profile is None else self.profile[common]
        top = len(self.levels) - 1
        return {m: min(max(b + steps.get(m, 0), 0), top) for m, b in zip(self.members, bases, strict=True)}


@dataclass(frozen=True)
class Space:
    """The knobs of one strategy on one network. A sampler sees integers by parameter name."""

    choices: tuple[Choice, ...] = ()
    families: tuple[Family, ...] = ()
    ladder_knob: str = ""
    """The common knob that decides the size of the network most: the one that a ladder walks."""

    def __add__(self, other: Space) -> Space:
        return Space(
            self.choices + other.choices, self.families + other.families, self.ladder_knob or other.ladder_knob
        )

    def ranges(self) -> dict[str, tuple[int, int]]:
        """Parameter → lowest and highest integer, both included. A knob with a single level has no parameter."""
        ranges = {knob.name: (0, len(knob.levels) - 1) for knob in self._common()}
        for family in self.families:
            if len(family.levels) > 1:
                ranges |= {f"{family.name}.{member}": (-family.reach, family.reach) for member in family.members}
        return ranges

    def decode(self, params: Mapping[str, int]) -> dict[str, Any]:
        """Knob values by name: a level for a choice, `{member: level}` for a family. Absent deviations are 0."""
        knobs: dict[str, Any] = {c.name: c.levels[params.get(c.name, c.default)] for c in self.choices}
        for family in self.families:
            common = params.get(family.name, family.default if family.base is None else family.base)
            steps = {member: params.get(f"{family.name}.{member}", 0) for member in family.members}
            knobs[family.name] = {m: family.levels[level] for m, level in family.levels_at(common, steps).items()}
        return knobs

    def indices(self, params: Mapping[str, np.ndarray], count: int) -> np.ndarray:
        """`decode` for many at once: indices into the levels, (count, choices and members of all families).

        `params` holds arrays of shape (count,); absent ones are at their defaults.
        """
        columns = [params.get(c.name, np.full(count, c.default)) for c in self.choices]
        for family in self.families:
            fixed = family.default if family.base is None else family.base
            common = params.get(family.name, np.full(count, fixed))
            profile = np.array(family.profile) if family.profile is not None else None
            for place, member in enumerate(family.members):
                bases = common if profile is None else profile[common, place]
                steps = params.get(f"{family.name}.{member}", 0)
                columns.append(np.clip(bases + steps, 0, len(family.levels) - 1))
        return np.stack(columns, axis=1) if columns else np.zeros((count, 0), dtype=int)

    def values(self, indices: np.ndarray) -> dict[str, Any]:
        """Knob values by name of one row of `indices`, (choices and members,), as `decode` gives them."""
        knobs: dict[str, Any] = {c.name: c.levels[place] for c, place in zip(self.choices, indices, strict=False)}
        column = len(self.choices)
        for family in self.families:
            own = indices[column : column + len(family.members)]
            knobs[family.name] = {m: family.levels[place] for m, place in zip(family.members, own, strict=True)}
            column += len(family.members)
        return knobs

    def tops(self) -> np.ndarray:
        """The highest of `indices`, in their order."""
        tops = [len(c.levels) - 1 for c in self.choices]
        return np.array(tops + [len(family.levels) - 1 for family in self.families for _ in family.members])

    def common_names(self) -> frozenset[str]:
        """Parameters that concern the whole network."""
        return frozenset(knob.name for knob in self._common())

    def ladder(self, rungs: int) -> list[dict[str, int]]:
        """At most `rungs` parameter sets: the defaults, then `ladder_knob` from its smallest network upwards, evenly.

        The other knobs stay at their defaults and all deviations at 0, so that the method's own setting and the whole
        range of compression are seen before a sampler takes over. The largest level is left out: it is near the dense
        control.
        """
        common = {knob.name: knob for knob in self._common()}
        if not common or rungs < 1:
            return []
        start = {name: 0 for name in self.ranges()} | {knob.name: knob.default for knob in common.values()}
        if self.ladder_knob not in common:
            return [start]
        top = len(common[self.ladder_knob].levels) - 1
        walk = [round(k * top / (rungs - 1)) for k in range(rungs - 1)]
        levels = dict.fromkeys([start[self.ladder_knob], *walk])
        return [start | {self.ladder_knob: level} for level in levels]

    def _common(self) -> list[Choice | Family]:
        """Knobs of the whole network that can be turned."""
        free = [family for family in self.families if family.base is None]
        knobs: list[Choice | Family] = [*self.choices, *free]
        return [knob for knob in knobs if len(knob.levels) > 1]
