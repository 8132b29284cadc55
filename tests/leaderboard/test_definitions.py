"""Where benchmarks come from, which one holds, and how a reference front is frozen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ranking_samples import DENSE, KEY, as_entries, benchmark, board

from leaderboard import (
    Benchmark,
    LeaderboardError,
    Store,
    add_benchmark,
    benchmark_of,
    current_benchmark,
    definitions,
    freeze_front,
    known_benchmarks,
    named_benchmark,
    read_benchmark,
    shipped_benchmarks,
    stored_ranking,
    write_benchmarks,
)


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that stands for that of the shipped definitions."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    monkeypatch.setattr(definitions, "_SHIPPED", folder)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store(str(tmp_path / "board.db")) as opened:
        yield opened


def test_what_is_shipped_is_intact(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(definitions.__file__).parent / "benchmarks"
    monkeypatch.setattr(definitions, "_SHIPPED", folder)
    files = sorted(folder.glob("*"))
    assert files
    assert [file.name for file in files] == [f"{one.id}.json" for one in shipped_benchmarks()]


def test_the_highest_version_holds_wherever_it_stands(store: Store, shipped: Path) -> None:
    assert current_benchmark(store, "digits/cnn", KEY) is None
    write_benchmarks([benchmark(version=2), benchmark(version=3, name="of others", workload="other")], shipped)
    store.freeze_benchmark(benchmark(version=1))
    assert current_benchmark(store, "digits/cnn", KEY) == benchmark(version=2)
    store.freeze_benchmark(benchmark(version=2, trials=9))
    assert current_benchmark(store, "digits/cnn", KEY) == benchmark(version=2, trials=9)  # by which finalists were made
    store.freeze_benchmark(benchmark(version=10, name="renamed"))
    assert current_benchmark(store, "digits/cnn", KEY) == benchmark(version=10, name="renamed")
    assert [one.version for one in known_benchmarks(store)] == [1, 2, 3, 10]


def test_a_benchmark_is_found_by_name_and_version(store: Store, shipped: Path) -> None:
    named = "digits-cnn-cpu-onnxruntime@ab12cd34"  # as finalists name one: the key's fingerprint is a part of it
    for version in (1, 2, 10):
        store.freeze_benchmark(benchmark(version=version, name=named))
    assert named_benchmark(store, named).version == 10
    assert named_benchmark(store, f"{named}@2").version == 2
    with pytest.raises(LeaderboardError, match=r"no benchmark 'nowhere'; there are 'digits-cnn-cpu"):
        named_benchmark(store, "nowhere")


def test_results_of_two_machines_need_the_key_of_one(store: Store, shipped: Path) -> None:
    with pytest.raises(LeaderboardError, match="there is none yet; run `shrinkboard finalists`"):
        benchmark_of(store, "digits/cnn", "cpu")
    for key in ("cpu@one", "cpu@two"):
        store.freeze_benchmark(benchmark(name=key, target="cpu", key=key, track="measured"))
    with pytest.raises(LeaderboardError, match="a benchmark for each of 'cpu@one', 'cpu@two'; give one of them"):
        benchmark_of(store, "digits/cnn", "cpu")
    assert benchmark_of(store, "digits/cnn", "cpu@two").key == "cpu@two"
    with pytest.raises(LeaderboardError, match="'mnist' on target 'cpu'; there are 'digits/cnn on cpu@one'"):
        benchmark_of(store, "mnist", "cpu")


def test_definitions_travel_as_files(store: Store, tmp_path: Path) -> None:
    hostile = benchmark(name="../../escaped/name")
    assert write_benchmarks([benchmark(), hostile], tmp_path / "out") == 2
    files = sorted((tmp_path / "out").iterdir())
    assert len(files) == 2 and not (tmp_path / "escaped").exists()
    assert sorted((read_benchmark(file) for file in files), key=lambda b: b.name) == [hostile, benchmark()]
    with pytest.raises(LeaderboardError, match="one benchmark is expected"):
        read_benchmark(tmp_path / "out")
    files[0].write_text('{"track": "modelled"}')
    with pytest.raises(LeaderboardError, match="benchmark: name is missing"):
        read_benchmark(files[0])
    with pytest.raises(LeaderboardError, match="no such file"):
        read_benchmark(tmp_path / "nothing.json")


def test_a_definition_that_stands_is_never_changed(store: Store, shipped: Path) -> None:
    write_benchmarks([benchmark()], shipped)
    with pytest.raises(LeaderboardError, match="is shipped with other content"):
        add_benchmark(store, benchmark(trials=9))
    assert add_benchmark(store, benchmark()) == benchmark() == add_benchmark(store, benchmark())
    add_benchmark(store, benchmark(version=2))
    with pytest.raises(LeaderboardError, match="stands with other content"):
        add_benchmark(store, benchmark(version=2, trials=9))


def test_a_reference_front_is_that_of_the_pilots_finalists(store: Store, shipped: Path) -> None:
    finals, tried = board({"one": 0.0}, seed=1)
    pilots, _ = board({"one": 0.0, "two": -0.02}, seed=2, searches=(7, 8))
    store.add_many(as_entries([*finals, *pilots], tried))
    add_benchmark(store, benchmark(version=3))
    found = freeze_front(store, benchmark().name, ["search-7", "search-8"])
    assert found == current_benchmark(store, "digits/cnn", KEY) and found.version == 4
    assert found.front_source is not None and "search-7, search-8" in found.front_source

    networks: dict[tuple[str, int | None, int | None], list[Any]] = {}
    for one in pilots:
        if one.role == "finalist":
            networks.setdefault((one.strategy, one.search_seed, one.trial), []).append(one)
    means = [(own[0].speedup, sum(f.accuracy for f in own) / len(own)) for own in networks.values()]
    front = [a for a in means if a[1] > DENSE - 0.1 and not any(b[0] >= a[0] and b[1] > a[1] for b in means)]
    kept = [a for a in front if not any(b[0] > a[0] and b[1] >= a[1] for b in means)]
    assert [gain for gain, _ in found.front] == pytest.approx(sorted((g for g, _ in kept), reverse=True))
    assert [accuracy for _, accuracy in found.front] == pytest.approx(sorted(a for _, a in kept))

    (only,) = stored_ranking(store, found).strategies
    assert only.igd_plus is not None and only.epsilon is not None and only.igd_plus.n == 3


@pytest.mark.parametrize(
    ("studies", "expected"),
    [
        (["search-1"], "study 'search-1' is of search seed 1, which 'digits-cnn-fpga-z7020@1' ranks by"),
        (["search-7", "search-1"], "study 'search-1' is of search seed 1"),
        (["nowhere"], "study 'nowhere' has no finalists for 'fpga-z7020'; there are 'search-0'"),
        (["search-9"], "no finalist of 'search-9' is faster than the dense network and accurate enough to count"),
    ],
)
def test_a_reference_front_is_refused(store: Store, shipped: Path, studies: list[str], expected: str) -> None:
    finals, _ = board({"one": 0.0}, seed=1)
    pilots, _ = board({"one": 0.0}, seed=2, searches=(7,))
    useless, _ = board({"one": -0.3}, seed=2, searches=(9,))
    store.add_many(as_entries([*finals, *pilots, *useless], []))
    add_benchmark(store, benchmark())
    with pytest.raises(LeaderboardError, match=expected):
        freeze_front(store, benchmark().id, studies)
    assert known_benchmarks(store) == [benchmark()]


def test_json_is_what_is_read_again() -> None:
    assert Benchmark.from_json(benchmark().to_json()) == benchmark()
    assert json.loads(benchmark().to_json())["search_seeds"] == [0, 1, 2]
