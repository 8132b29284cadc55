"""How a strategy's knobs are laid out for a sampler: a common level with deviations, or every member on its own."""

from __future__ import annotations

from dataclasses import replace

from strategies import Family, Space
from workloads import InputError

LAYOUTS = ("guided", "levels", "flat")
"""`guided`: a common level is the plan of least predicted loss at a cost (`guide.py`), with deviations; `levels`: it is
the same level for all, as strategies describe their spaces; `flat`: every member of a family is drawn on its own, which
is how a search is usually set up and what ours is compared with."""


def check_layout(name: str) -> None:
    """Raises `InputError` for a layout that there is not."""
    if name not in LAYOUTS:
        raise InputError(f"layout {name!r} of the search space is unknown; allowed: {', '.join(LAYOUTS)}")


def flat(space: Space) -> Space:
    """Every member of every family over all levels, without a common level."""
    return replace(space, families=tuple(_independent(family) for family in space.families))


def _independent(family: Family) -> Family:
    middle = (len(family.levels) - 1) // 2
    # Reaches both ends from the middle; of an even number of levels one step beyond the end is the end.
    return replace(family, base=middle, reach=len(family.levels) - 1 - middle)
