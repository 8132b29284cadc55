"""How fast a board of a million entries answers, beside the same done in pandas.

    python scripts/benchmarks/leaderboard_query.py --folder boards --postgres URL --out docs/results/leaderboard_query

The boards hold ten workloads on ten targets, 10,000 entries a pair, added through the public API in the order in which
parallel searches would: pairs mixed. They are kept in the folder (SQLite) and in the database behind the URL, and made
on from where they were left.

Two questions are asked of one pair at a time, another one every round: its Pareto front, and the fastest fifty of one
strategy within two points of accuracy and two thirds of the dense latency. Each is answered in four ways, in turns,
everything in memory:

- `SQL`: the statements that `Store.query` sends, on the bare driver;
- `API`: `Store.query`, with its rows as objects;
- `pandas`: all rows of the pair by `read_sql`, then the question in pandas;
- `pandas, read`: the question in pandas alone, where the frame is already there.

All ways must name the same entries. `insert` adds 10,000 entries to a new board, at once and one by one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa

from cost_models import processor
from leaderboard import Entry, Query, Store

ENTRIES, BATCH, ROUNDS, INSERTED = 1_000_000, 10_000, 100, 10_000
WORKLOADS = tuple(f"cifar10/network{i}" for i in range(10))
TARGETS = (
    *(f"cpu-onnxruntime@{i:08x}" for i in range(3)),
    *("cpu-openvino@0000000a", "gpu-torch@0000000b"),
    *(f"fpga-device{i}" for i in range(5)),
)
STRATEGIES = tuple(
    f"{pruner}{numbers}"
    for pruner in (
        "l1",
        "pca_l1",
        "frequency",
        "sentei",
        "low_rank",
        "global_l1",
        "uniform",
        "snip",
        "grasp",
        "pai_pat",
    )
    for numbers in ("+int", "+minifloat")
)
AIMS = {"SQL": 20.0, "API": 50.0}
"""Milliseconds."""
WAYS = ("SQL", "API", "pandas", "pandas, read")
FRONT, FASTEST = "Pareto front", "filtered top 50"
COLUMNS = """
    SELECT e.id, e.study, e.strategy, e.trial, e.role, e.seed, c.unstable, c.final, c.accuracy, c."drop",
           e.dense_accuracy, c.speedup, c.low, c.high, c.latency, c.energy, e.parameters, e.macs, e.bytes,
           e.dense_parameters, e.dense_macs, e.epochs, e.seconds, e.dense_epochs, e.dense_seconds, e.starts_from,
           e.total_epochs, c.total_seconds, e.epoch_fp32, e.epoch_bf16, e.dense_epoch_fp32, e.dense_epoch_bf16,
           e.created
    FROM sb_tracks t JOIN sb_costs c ON c.track = t.id JOIN sb_entries e ON e.id = c.entry
    WHERE t.workload = :workload AND t.key = :key
"""

Answer = Callable[[], list[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the SQLite board is kept")
    parser.add_argument("--postgres", metavar="URL", help="a database of its own, where the same board is kept")
    parser.add_argument("--entries", type=int, default=ENTRIES, help=f"default {ENTRIES:,}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default {ROUNDS}")
    parser.add_argument("--inserted", type=int, default=INSERTED, help=f"entries of `insert` (default {INSERTED:,})")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    urls = {"SQLite": f"sqlite:///{arguments.folder}/queries.db"}
    if arguments.postgres:
        urls["PostgreSQL"] = arguments.postgres
    for name, url in urls.items():
        fill(name, url, arguments.entries)
    found: dict[str, Any] = {
        "machine": f"{processor().model}, {os.cpu_count()} cores",
        "versions": {"Python": platform.python_version(), "pandas": pd.__version__, "SQLAlchemy": sa.__version__},
        "entries": arguments.entries,
        "rounds": arguments.rounds,
        "load_before": os.getloadavg()[0],
        "databases": {name: settings(url) for name, url in urls.items()},
        **measured(urls, arguments.rounds),
        "insert": {name: inserted(url, arguments.inserted) for name, url in urls.items()},
        "load_after": os.getloadavg()[0],
    }
    text = markdown(found)
    print(text)
    if arguments.out:
        arguments.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
        arguments.out.with_suffix(".md").write_text(
            "# Speed of the board's queries\n\nMade by `python scripts/benchmarks/leaderboard_query.py --folder FOLDER"
            f"{' --postgres URL' * bool(arguments.postgres)} --entries {arguments.entries} --rounds {arguments.rounds}"
            f"`; every round stands in `{arguments.out.name}.json`.\n\n{text}\n"
        )


# The boards


def fill(name: str, url: str, entries: int) -> None:
    """Adds what is missing of the first `entries`."""
    with Store(url) as store:
        there = sum(track.matched for track in store.query(Query(limit=1)).tracks)
        for start in range(there, entries, BATCH):
            store.add_many(made(start, min(BATCH, entries - start)))
            print(f"{name}: {start + BATCH:,} entries", end="\r", file=sys.stderr, flush=True)
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        # What a database does by itself, in its own time.
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(
            "PRAGMA optimize" if name == "SQLite" else "VACUUM ANALYZE"
        )
    engine.dispose()


def made(start: int, count: int) -> Iterator[Entry]:
    """Entries number `start` and on, each on one target, with a trade-off between speed and accuracy and noise."""
    rng = np.random.default_rng(start)
    pairs = rng.permutation(np.arange(start, start + count) % (len(WORKLOADS) * len(TARGETS)))
    speedups = np.exp(rng.normal(0.7, 0.5, count))
    noise, widths = np.abs(rng.normal(0, 0.02, count)), rng.uniform(0.5, 1.2, count)
    chosen, seconds = rng.integers(len(STRATEGIES), size=count), rng.lognormal(5, 1, count)
    for i in range(count):
        workload, key = WORKLOADS[pairs[i] // len(TARGETS)], TARGETS[pairs[i] % len(TARGETS)]
        size = 1.0 + pairs[i] // len(TARGETS)
        dense = round(0.91 + 0.005 * size, 4)
        accuracy = dense + 0.005 - 0.008 * max(np.log2(speedups[i]), 0.0) ** 2 - noise[i]
        kept = min(widths[i] / speedups[i], 1.0)
        yield entry(
            start + i, workload, key, STRATEGIES[chosen[i]], seed=start // BATCH % 5, size=size, kept=kept,
            speedup=float(speedups[i]), dense=dense, seconds=float(seconds[i]),
            # As of 5,000 images of the validation split.
            accuracy=round(5000 * min(max(accuracy, 0.1), 1.0)) / 5000,
        )  # fmt: skip


def entry(
    number: int, workload: str, key: str, strategy: str, *, seed: int, size: float, kept: float, speedup: float,
    dense: float, seconds: float, accuracy: float,
) -> Entry:  # fmt: skip
    target, _, fingerprint = key.partition("@")
    latency = 1e-3 * size / speedup
    timed: dict[str, Any] = {"value": latency, "unit": "s", "low": 0.99 * latency, "high": 1.01 * latency}
    if number % 100 == 0:
        timed = {"value": None, "unit": "s", "reason": "an operation that the runtime lacks"}
    ratio = {"value": speedup, "low": 0.98 * speedup, "high": 1.02 * speedup}
    metered = {"value": 5.0 * latency, "unit": "J"}
    cost = {
        "target": target,
        "key": key,
        "kind": "measured" if fingerprint else "modelled",
        "figures": {
            "latency": timed,
            "energy": metered if target == "gpu-torch" else {"value": None, "unit": "J", "reason": "no meter"},
        },
        "speedup": {"value": None, "reason": timed["reason"]} if timed["value"] is None else ratio,
        "unstable": number % 50 == 1,
    }
    return Entry.create(
        workload=workload,
        strategy=strategy,
        study=f"{workload} on {target}, seed {seed}",
        trial=number,
        role="candidate",
        seed=seed,
        plan={"groups": {f"stage{i}": {"keep": round(kept, 3)} for i in range(8)}},
        plan_digest=f"{number:032x}",
        knobs={"ratio": round(1 - kept, 3)},
        epochs=5.0,
        accuracy={"validation": {"top1": accuracy}, "dense_validation": dense},
        parameters=int(1e6 * size * kept),
        macs=int(1e8 * size * kept),
        bytes=int(1e6 * size * kept),
        dense_parameters=int(1e6 * size),
        dense_macs=int(1e8 * size),
        costs=[cost],
        training={
            **{"epochs": 5.0, "seconds": seconds, "images": 225_000, "starts_from": "trained"},
            **{"dense_epochs": 100.0, "dense_seconds": 4000.0, "epoch_fp32": seconds / 5, "dense_epoch_fp32": 40.0},
        },
        environment={
            **{"python": "3.11.7", "torch": "2.13.0", "onnxruntime": "1.31.1", "shrinkboard": "0.1.0"},
            **{"platform": "Linux x86_64", "cpu": "a processor"},
        },
        dense_digest=f"{int(size):032x}",
        evaluation_seconds=1.1 * seconds,
        created="2026-11-27T12:00:00Z",
    )


# Queries


@dataclass(frozen=True)
class Pair:
    """One round's question: a pair of the board, and the latency of its dense network in seconds."""

    workload: str
    key: str
    strategy: str
    latency: float

    def queries(self) -> dict[str, Query]:
        where = {"workload": self.workload, "target": self.key}
        limits = {"max_drop": 2.0, "max_latency": self.latency * 2 / 3, "strategy": self.strategy}
        return {
            FRONT: Query(**where, pareto=True),
            FASTEST: Query(**where, **limits, sort="-speedup", limit=50),  # type: ignore[arg-type]
        }


def measured(urls: dict[str, str], rounds: int) -> dict[str, Any]:
    """Milliseconds by database, question and way, one a round, databases and ways by turns; and how many match."""
    stores = {name: Store(url) for name, url in urls.items()}
    engines = {name: sa.create_engine(url) for name, url in urls.items()}
    matching: list[int] = []
    found: dict[str, Any] = {name: {what: {way: [] for way in WAYS} for what in (FRONT, FASTEST)} for name in urls}
    for number in range(rounds):
        which = number * 37 % (len(WORKLOADS) * len(TARGETS))  # a different pair every round, all in a hundred
        size = 1.0 + which // len(TARGETS)
        key = TARGETS[which % len(TARGETS)]
        pair = Pair(WORKLOADS[which // len(TARGETS)], key, STRATEGIES[number % len(STRATEGIES)], 1e-3 * size)
        for name in urls:
            with engines[name].connect() as connection:
                for what, query in pair.queries().items():
                    asked = ways(stores[name], connection, pair, what, query)
                    told = {way: answer() for way, answer in asked.items()}  # now all of it is in memory
                    if any(ids != told["API"] for ids in told.values()):
                        raise SystemExit(f"{name}, {what} of {pair}: the ways differ")
                    if what == FASTEST:
                        matching += [track.matched for track in stores[name].query(query).tracks]
                    for way, answer in asked.items():
                        began = time.perf_counter()
                        answer()
                        found[name][what][way].append(round(1e3 * (time.perf_counter() - began), 3))
        print(f"round {number + 1} of {rounds}", end="\r", file=sys.stderr, flush=True)
    for store in stores.values():
        store.close()
    return {"milliseconds": found, "matching": matching}


def ways(store: Store, connection: sa.Connection, pair: Pair, what: str, query: Query) -> dict[str, Answer]:
    """The same question four times, each answering with ids, the fastest first."""
    statements = sent(lambda: store.query(query))
    driver = connection.connection.dbapi_connection
    assert driver is not None

    def in_sql() -> list[str]:
        ids: list[str] = []
        for statement, parameters in statements:
            cursor = driver.cursor()
            cursor.execute(statement, parameters)
            rows = cursor.fetchall()
            if "AS training_front" in statement:  # the board's own, which begins with the id
                ids = [row[0] for row in rows]
        return ids

    def read() -> pd.DataFrame:
        return pd.read_sql(sa.text(COLUMNS), connection, params={"workload": pair.workload, "key": pair.key})

    def in_pandas(frame: pd.DataFrame) -> list[str]:
        return (front(frame) if what == FRONT else fastest(frame, query))["id"].tolist()

    frame = read()
    return {
        "SQL": in_sql,
        "API": lambda: [row.id for row in store.query(query).rows],
        "pandas": lambda: in_pandas(read()),
        "pandas, read": lambda: in_pandas(frame),
    }


def front(frame: pd.DataFrame) -> pd.DataFrame:
    ordered = frame.dropna(subset="speedup").sort_values(["speedup", "accuracy"], ascending=False)
    unbeaten = ordered[ordered["accuracy"] > ordered["accuracy"].cummax().shift(fill_value=-1.0)]
    equal = ordered.merge(unbeaten[["speedup", "accuracy"]].drop_duplicates())
    return equal.sort_values(["speedup", "id"], ascending=[False, True])


def fastest(frame: pd.DataFrame, query: Query) -> pd.DataFrame:
    kept = frame[
        (frame["strategy"] == query.strategy)
        & (frame["drop"] <= query.max_drop)
        & (frame["latency"] <= query.max_latency)
    ]
    return kept.sort_values(["speedup", "id"], ascending=[False, True]).head(query.limit)


def sent(work: Callable[[], object]) -> list[tuple[str, Any]]:
    """The statements, with parameters, that SQLAlchemy hands to the driver meanwhile."""
    statements: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.lstrip().startswith(("SELECT", "WITH")):
            statements.append((statement, parameters))

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        work()
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    return statements


# Adding


def inserted(url: str, count: int) -> dict[str, float]:
    """Seconds that it takes to add entries at once and one by one, each to a new board on the same server."""
    entries = list(made(0, count))
    found = {"entries": count}
    for how in ("at once", "one by one"):
        with new_board(url) as store:
            began = time.perf_counter()
            if how == "at once":
                store.add_many(entries)
            else:
                for entry in entries:
                    store.add(entry)
            found[how] = time.perf_counter() - began
    return found


@contextmanager
def new_board(url: str) -> Iterator[Store]:
    if url.startswith("sqlite"):
        folder = Path(url.removeprefix("sqlite:///")).parent
        with tempfile.TemporaryDirectory(dir=folder) as made, Store(f"{made}/board.db") as store:
            yield store
        return
    engine = sa.create_engine(url)
    schema = "leaderboard_query"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
    try:
        within = sa.make_url(url).update_query_dict({"options": f"-csearch_path={schema}"})
        with Store(within.render_as_string(hide_password=False)) as store:
            yield store
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP SCHEMA {schema} CASCADE")
        engine.dispose()


# The page


def settings(url: str) -> dict[str, str]:
    if url.startswith("sqlite"):
        file = Path(url.removeprefix("sqlite:///"))
        return {"version": sqlite3.sqlite_version, "size": f"{file.stat().st_size / 1e9:.2f} GB"}
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        shown = {
            what: str(connection.exec_driver_sql(f"SHOW {what}").scalar_one())
            for what in ("server_version", "shared_buffers", "fsync")
        }
        size = connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one()
    engine.dispose()
    version = shown.pop("server_version").split()[0]
    return {"version": version, "size": f"{size / 1e9:.2f} GB", **shown}


def markdown(found: dict[str, Any]) -> str:
    databases = "; ".join(
        f"{name} {about['version']}, {about['size']}"
        + "".join(f", {k} {v}" for k, v in about.items() if "_" in k or k == "fsync")
        for name, about in found["databases"].items()
    )
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    pairs = len(WORKLOADS) * len(TARGETS)
    lines = [
        f"{found['entries']:,} entries in {pairs} pairs of workload and target, {found['entries'] // pairs:,} each. "
        f"{databases}; {versions}; {found['machine']}. Load of the minute before: {found['load_before']:.2f}, at the "
        f"end: {found['load_after']:.2f}, of which one is its own.",
        "",
        f"Milliseconds, median of {found['rounds']} rounds (5 to 95 %), all in memory. `SQL`: the statements of "
        "`Store.query` on the bare driver; `API`: `Store.query`; `pandas`: the pair by `read_sql`, then the question; "
        "`pandas, read`: the question alone.",
        "",
        "| database | question | " + " | ".join(WAYS) + " | aims |",
        "|---|---|" + "---:|" * len(WAYS) + "---|",
    ]
    for name, questions in found["milliseconds"].items():
        for what, by_way in questions.items():
            met = all(np.median(by_way[way]) <= aim for way, aim in AIMS.items())
            cells = " | ".join(spread(by_way[way]) for way in WAYS)
            lines.append(f"| {name} | {what} | {cells} | {'met' if met else '**missed**'} |")
    aims = ", ".join(f"{way} {aim:.0f} ms" for way, aim in AIMS.items())
    lines += [
        "",
        f"Aims: {aims}. What is filtered is one strategy, at most two points below the dense network, at most two "
        f"thirds of its latency: {np.median(found['matching']):.0f} entries in the median, of which the fastest 50 are "
        "wanted.",
        "",
        "| database | entries added | at once | one by one | ratio |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, row in found["insert"].items():
        at_once, single = row["at once"], row["one by one"]
        lines.append(f"| {name} | {row['entries']:,} | {at_once:.1f} s | {single:.1f} s | {single / at_once:.1f} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    low, middle, high = np.percentile(values, [5, 50, 95])
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


if __name__ == "__main__":
    main()
