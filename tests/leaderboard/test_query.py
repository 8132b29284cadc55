"""Queries against the same question asked of plain Python lists."""

import itertools

import pytest
from board_samples import cost, entry, scored, training
from hypothesis import given, settings
from hypothesis import strategies as st

from leaderboard import LeaderboardError, Query, Row, Store, parse_latency

KEY = "cpu-onnxruntime@ab12cd34"
NAMES = itertools.count()
grid = st.tuples(st.integers(0, 6).map(lambda x: 0.90 + x / 100), st.none() | st.integers(1, 6).map(lambda x: x / 2))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(str(tmp_path_factory.mktemp("query") / "board.db"))


def brute_front(rows: list[Row]) -> set[str]:
    timed = [(row.speedup, row.accuracy, row.id) for row in rows if row.speedup is not None]
    return {id for s, a, id in timed if not any(t >= s and b >= a and (t, b) != (s, a) for t, b, _ in timed)}


@settings(max_examples=40, deadline=None)
@given(st.lists(grid, min_size=1, max_size=25), st.sampled_from(["a", "b", "a,b"]), st.sampled_from([None, 2.0, 5.0]))
def test_the_front_in_sql_is_the_front_by_definition(
    shared: Store, points: list[tuple[float, float | None]], strategy: str, max_drop: float | None
) -> None:
    workload = f"w{next(NAMES)}"
    shared.add_many(
        scored(trial, accuracy, speedup, workload=workload, study=workload, strategy="ab"[trial % 2])
        for trial, (accuracy, speedup) in enumerate(points)
    )
    rows = shared.query(Query(workload=workload)).rows
    assert len(rows) == len(points)
    assert {row.id for row in rows if row.front} == brute_front(rows)
    assert {row.id for row in shared.pareto(workload, KEY)} == brute_front(rows)

    kept = [r for r in rows if r.strategy in strategy.split(",") and (max_drop is None or r.drop <= max_drop)]
    query = Query(workload=workload, strategy=strategy, max_drop=max_drop)
    found = shared.query(query).rows
    assert {row.id for row in found} == {row.id for row in kept}
    assert {row.id for row in found if row.front} == brute_front(kept)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 6).map(lambda x: 0.90 + x / 100), st.integers(1, 6), st.booleans()),
        min_size=1,
        max_size=25,
    )
)
def test_the_front_of_training_counts_the_dense_network_where_a_recipe_starts_from_it(
    shared: Store, points: list[tuple[float, int, bool]]
) -> None:
    workload = f"t{next(NAMES)}"
    shared.add_many(
        scored(
            trial,
            accuracy,
            None,
            workload=workload,
            study=workload,
            training=training(seconds=float(seconds), dense_seconds=3.0, starts_from="initial" if fresh else "trained"),
        )
        for trial, (accuracy, seconds, fresh) in enumerate(points)
    )
    rows = shared.query(Query(workload=workload, front="training")).rows
    whole = {trial: seconds + (0.0 if fresh else 3.0) for trial, (_, seconds, fresh) in enumerate(points)}
    assert [row.total_seconds for row in rows] == sorted(whole.values())
    assert {row.trial: row.total_seconds for row in rows} == whole

    def beaten(row: Row) -> bool:
        return any(
            r.total_seconds <= row.total_seconds
            and r.accuracy >= row.accuracy
            and (r.total_seconds, r.accuracy) != (row.total_seconds, row.accuracy)
            for r in rows
        )

    unbeaten = {row.trial for row in rows if not beaten(row)}
    assert {row.trial for row in rows if row.training_front} == unbeaten
    assert {row.trial for row in shared.query(Query(workload=workload, front="training", pareto=True)).rows} == unbeaten
    assert not any(row.front for row in rows)  # none has a speed-up


@pytest.fixture
def board(store: Store) -> Store:
    store.add_many(
        [
            scored(0, 0.98, 1.0, parameters=9000, strategy="dense", role="control"),
            scored(1, 0.97, 2.0, parameters=4000),
            scored(2, 0.96, 1.5, parameters=3000),
            scored(3, 0.90, 4.0, parameters=1000),
            scored(4, 0.99, None, parameters=1000),
        ]
    )
    return store


def trials(store: Store, query: Query) -> list[int]:
    return [row.trial for row in store.query(query).rows]


def test_filters_sort_and_limit(board: Store) -> None:
    assert trials(board, Query()) == [3, 1, 2, 0, 4]  # fastest first, unknown last
    assert trials(board, Query(sort="speedup")) == [0, 2, 1, 3, 4]
    assert trials(board, Query(sort="-accuracy", limit=2)) == [4, 0]
    assert trials(board, Query(pareto=True)) == [3, 1, 0]
    assert [row.trial for row in board.pareto("digits/cnn", KEY)] == [3, 1, 0]
    assert board.pareto("digits/cnn", "cpu-onnxruntime") == board.pareto("other", KEY) == ()
    assert trials(board, Query(max_drop=1.0)) == [1, 0, 4]  # exactly one point is at most one point
    assert trials(board, Query(max_latency=parse_latency("500us"))) == [3, 1]
    assert trials(board, Query(strategy="dense")) == [0]
    assert trials(board, Query(where="parameters < 4000 and not (accuracy < 0.95)")) == [2, 4]
    assert trials(board, Query(where="0.955 <= top1 < 0.975 or speedup > 3")) == [3, 1, 2]
    assert trials(board, Query(where="speedup != 1")) == [3, 1, 2]  # an absent figure never matches
    assert trials(board, Query(where="drop <= -1")) == [4]
    assert board.query(Query(limit=1)).tracks[0].matched == 5
    assert trials(board, Query(where="parameters < 0")) == []


def test_machines_and_tracks_stay_apart(store: Store) -> None:
    keys = ["cpu-onnxruntime@aa", "cpu-onnxruntime@bb", "roofline"]
    for trial, key in enumerate(keys):
        store.add(entry(trial=trial, costs=[cost(key=key, speedup=1.0 + trial)]))
    tracks = store.query(Query()).tracks
    assert [(track.key, track.kind) for track in tracks] == [
        (keys[0], "measured"),
        (keys[1], "measured"),
        (keys[2], "modelled"),
    ]
    assert all(row.front for track in tracks for row in track.rows)
    assert len(store.query(Query(target="cpu-onnxruntime")).tracks) == 2
    assert len(store.query(Query(target="cpu-onnxruntime@bb")).tracks) == 1


def test_accuracy_as_run_is_the_one_that_ranks(store: Store) -> None:
    store.add(entry(costs=[cost(runtime_accuracy={"top1": 0.95})]))
    (row,) = store.query(Query()).rows
    assert (row.accuracy, row.drop) == (0.95, 3.0)


def test_pandas(board: Store) -> None:
    frame = board.query(Query()).to_pandas()
    assert list(frame["trial"]) == [3, 1, 2, 0, 4]
    assert frame["speedup"].isna().sum() == 1
    assert list(board.query(Query(where="seed > 9")).to_pandas().columns) == list(frame.columns)


@pytest.mark.parametrize(
    "where",
    [
        "",
        "speedup",
        "1 < 2",
        "nothing < 1",
        "id < 1",
        "speedup < True",
        "speedup < 1e999",
        "speedup < 1j",
        "speedup < '1'",
        "speedup < None",
        "speedup in (1, 2)",
        "speedup is 1",
        "speedup + 1 < 2",
        "speedup < 2 ** 10",
        "speedup < -(-1)",
        "speedup.real < 1",
        "speedup[0] < 1",
        "f'{speedup}' < 1",
        "(lambda: 1)() < speedup",
        "__import__('os').system('true') < speedup",
        "[x for x in speedup] < 1",
        "speedup := 1",
        "speedup < 1; DROP TABLE sb_entries",
        "speedup < 1 -- x",
        "speedup < 1 if macs else 2",
        "(" * 400,
        "not " * 400 + "speedup < 1",
        "speedup < 1\nand",
        "\0",
        "\ud800",
        "speedup < " + "9" * 450,
    ],
    ids=lambda text: repr(text[:24]),
)
def test_anything_but_comparisons_is_refused(board: Store, where: str) -> None:
    with pytest.raises(LeaderboardError) as caught:
        board.query(Query(where=where))
    message = str(caught.value)
    assert "\n" not in message and message.isprintable()
    assert "columns: accuracy" in message
    assert len(trials(board, Query())) == 5


@settings(deadline=None)
@given(
    st.text(max_size=40)
    | st.lists(
        st.sampled_from(
            [
                "speedup",
                "macs",
                "<",
                ">=",
                "==",
                "1",
                "-1",
                "1e999",
                "and",
                "or",
                "not",
                "(",
                ")",
                "x",
                "'",
                "**",
                "if",
                "in",
            ]
        ),
        max_size=14,
    ).map(" ".join)
)
def test_any_expression(shared: Store, where: str) -> None:
    try:
        shared.query(Query(where=where, limit=1))
    except LeaderboardError as error:
        assert "\n" not in str(error)


def test_deep_but_allowed_expressions_run(board: Store) -> None:
    assert len(trials(board, Query(where="not " * 110 + "macs > 0"))) == 5
    assert len(trials(board, Query(where=" or ".join(["macs>0"] * 45)))) == 5
    assert len(trials(board, Query(where="(" * 100 + "macs>0" + ")" * 100))) == 5


@pytest.mark.parametrize(
    "query",
    [
        Query(sort="document"),
        Query(sort="--speedup"),
        Query(front="beauty"),  # type: ignore[arg-type]
        Query(limit=0),
        Query(max_drop=float("nan")),
        Query(max_latency=-1.0),
        Query(workload="no\nsuch"),
        Query(target="'; DROP TABLE sb_entries; --"),
    ],
    ids=repr,
)
def test_bad_queries(board: Store, query: Query) -> None:
    with pytest.raises(LeaderboardError) as caught:
        board.query(query)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"), [("2ms", 2e-3), ("500us", 5e-4), ("0.002s", 2e-3), (" 1.5 µs ", 1.5e-6), ("1e3ns", 1e-6)]
)
def test_latencies(text: str, seconds: float) -> None:
    assert parse_latency(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "2", "ms", "-1ms", "2 minutes", "nan s", "1e999s", "2ms\n3", "9" * 400 + "s"])
def test_bad_latencies(text: str) -> None:
    with pytest.raises(LeaderboardError) as caught:
        parse_latency(text)
    assert "\n" not in str(caught.value)
