"""Layouts of a search space."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from search.spaces import flat
from strategies import Family, Space


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
