"""How a strategy's knobs are laid out for a sampler: a common level with deviations, or every member on its own."""

from __future__ import annotations

from dataclasses import replace

from strategies import Family, Space

LAYOUTS = ("levels", "flat")
"""`levels`: as strategies describe their spaces; `flat`: every member of a family drawn on its own, which is how a
search is usually set up and what ours is compared with."""


def flat(space: Space) -> Space:
    """Every member of every family over all levels, without a common level."""
    return replace(space, families=tuple(_independent(family) for family in space.families))


def _independent(family: Family) -> Family:
    middle = (len(family.levels) - 1) // 2
    # Reaches both ends from the middle; of an even number of levels one step beyond the end is the end.
    return replace(family, base=middle, reach=len(family.levels) - 1 - middle)
