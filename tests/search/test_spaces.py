"""Layouts of a search space."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from search.spaces import flat
from strategies import Choice, Family, Space


@given(st.integers(2, 30), st.integers(1, 4))
def test_a_flat_space_reaches_every_level_of_every_member_on_its_own(levels: int, members: int) -> None:
    names = tuple(f"m{place}" for place in range(members))
    space = flat(Space(families=(Family("keep", tuple(range(levels)), names, default=0),), ladder_knob="keep"))
    ranges = space.ranges()
    assert ranges.keys() == {f"keep.{name}" for name in names}
    low, high = ranges["keep.m0"]
    decoded = [space.decode({"keep.m0": step})["keep"] for step in range(low, high + 1)]
    assert [knobs["m0"] for knobs in decoded] == sorted(knobs["m0"] for knobs in decoded)
    assert {knobs["m0"] for knobs in decoded} == set(range(levels))
    assert len(decoded) <= levels + 1  # hardly any level is drawn more often than another
    assert all(knobs[name] == decoded[0][name] for knobs in decoded for name in names[1:])


@given(st.integers(0, 2**32 - 1))
def test_levels_of_many_at_once_are_those_of_each(seed: int) -> None:
    rng = np.random.default_rng(seed)
    profile = tuple(tuple(map(int, row)) for row in rng.integers(0, 4, (4, 3)))
    space = Space(
        (Choice("align", (1, 8), 0), Choice("only", ("one",), 0)),
        (
            Family("keep", (0.1, 0.4, 0.7, 1.0), ("a", "b", "c"), default=2, profile=profile),
            Family("fixed", (1, 2, 3), ("d",), default=0, base=1),
        ),
        ladder_knob="keep",
    )
    drawn = {name: rng.integers(low, high, 20, endpoint=True) for name, (low, high) in space.ranges().items()}
    indices = space.indices(drawn, 20)
    assert (indices >= 0).all() and (indices <= space.tops()).all()
    for place, row in enumerate(indices):
        assert space.values(row) == space.decode({name: int(values[place]) for name, values in drawn.items()})
