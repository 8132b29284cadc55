"""What the page asks a storage for, on every kind of it. How it is sent: `test_server.py`, `test_report.py`."""

from __future__ import annotations

from board_samples import cost, entry, scored
from hypothesis import given
from hypothesis import strategies as st
from page_samples import RANKED, finals, ranked_benchmark

from leaderboard import Query, Reference, Store
from leaderboard.answers import ranking, settings

KEY = "cpu-onnxruntime@ab12cd34"


def test_tracks_by_what_they_hold(store: Store) -> None:
    assert store.tracks() == []
    store.add_many(
        [
            entry(costs=[cost(KEY), cost("counts", None)]),
            entry(
                workload="camvid/unet",
                study="scenes",
                costs=[cost("counts", None)],
                accuracy={"validation": {"miou": 0.6}, "dense_validation": 0.7},
            ),
            *finals(["a"]),
        ]
    )
    held = {
        (track.workload, track.key): (track.kind, track.segments, track.timed, track.searched, track.finals)
        for track in store.tracks()
    }
    assert held == {
        ("camvid/unet", "counts"): ("modelled", True, False, True, False),
        ("digits/cnn", "counts"): ("modelled", False, False, True, False),
        ("digits/cnn", KEY): ("measured", False, True, True, False),
        ("digits/cnn", RANKED): ("modelled", False, True, True, True),
    }


def test_what_was_tried_of_a_strategy_is_read_from_its_newest_entries(store: Store) -> None:
    method = {"summary": "cuts", "source": "a paper"}
    for trial, day in enumerate(("01", "02", "03")):
        about = method if trial == 2 else None
        made = f"2026-11-{day}T00:00:00Z"
        store.add(scored(trial, 0.9, 2.0, strategy="a", knobs={"keep": trial}, method=about, created=made))
    store.add(scored(9, 0.9, 2.0, strategy="b", knobs={}))
    first, second = store.tried("digits/cnn", KEY, newest=2)
    assert (first.strategy, first.entries, first.knobs) == ("a", 3, [{"keep": 2}, {"keep": 1}])
    assert first.method and first.method.model_dump() == method
    assert (second.strategy, second.entries, second.knobs, second.method) == ("b", 1, [{}], None)
    assert store.tried("digits/cnn", KEY, "b") == [second]
    assert store.tried("digits/cnn", KEY, "none") == store.tried("digits/cnn", "other", "a") == []


def test_a_mark_changes_with_what_is_asked_for_and_with_nothing_else(store: Store) -> None:
    store.add_many([scored(0, 0.9, 2.0), entry(workload="other", study="other")])
    mine, all_ = Query(workload="digits/cnn"), Query()
    before = store.mark(mine), store.mark(all_)
    assert (store.mark(mine), store.mark(all_)) == before
    store.add(entry(workload="other", study="another"))
    assert store.mark(mine) == before[0] and store.mark(all_) != before[1]
    store.add(scored(1, 0.9, 2.0))
    assert store.mark(mine) != before[0]
    before = store.mark(mine), store.mark(all_)
    store.freeze_reference("digits/cnn", KEY, Reference(latency=1e-3, dense_accuracy=0.9))
    assert store.mark(mine) != before[0]


def test_there_is_a_ranking_once_finalists_and_a_benchmark_are_there(store: Store) -> None:
    assert ranking(store, "digits/cnn", RANKED).ranking is None
    store.freeze_benchmark(ranked_benchmark())
    assert ranking(store, "digits/cnn", RANKED).ranking is None
    store.add_many(finals(["a", "b"]))
    found = ranking(store, "digits/cnn", RANKED).ranking
    assert found and [one.name for one in found.strategies] == ["a", "b"]


values = st.integers(-100, 100) | st.booleans() | st.text(max_size=5) | st.none()


@given(st.lists(st.dictionaries(st.sampled_from(["keep", "keep.a", "keep.b", "bits"]), values), max_size=20))
def test_settings_tell_what_there_was(knobs: list[dict[str, object]]) -> None:
    told = {setting.name: setting for setting in settings(knobs)}
    given_ = [(name.replace(".a", ".*").replace(".b", ".*"), value) for one in knobs for name, value in one.items()]
    assert set(told) == {name for name, _ in given_}
    for name, setting in told.items():
        own = [value for given_name, value in given_ if given_name == name]
        numbers = [value for value in own if isinstance(value, int) and not isinstance(value, bool)]
        assert setting.low == (min(numbers) if numbers else None)
        assert setting.high == (max(numbers) if numbers else None)
        assert len(setting.values) == min(setting.distinct, 12)
        assert 1 <= setting.distinct <= len(own)
