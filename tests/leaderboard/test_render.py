"""Boards as text: each front has its own columns and marks."""

from __future__ import annotations

import csv
import io
import json

from board_samples import cost, entry, scored, training
from rich.console import Console

from leaderboard import Query, Store, render

MEASURED = {"epoch_fp32": 2.0, "dense_epoch_fp32": 3.0, "starts_from": "trained"}


def shown(renderable: object) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def test_the_training_front_has_its_own_columns_and_marks(store: Store) -> None:
    store.add_many(
        [
            scored(0, 0.98, 1.0, strategy="late", training=training(seconds=60.0, **MEASURED)),
            scored(1, 0.97, 2.0, strategy="worse", training=training(seconds=90.0)),
            scored(2, 0.96, 1.5, strategy="fresh", training=training(seconds=3.0, starts_from="initial")),
        ]
    )
    board = store.query(Query(front="training"))
    for text in (render.to_markdown(board), shown(render.to_table(board))):
        rows = {name: next(line for line in text.splitlines() if name in line) for name in ("fresh", "late", "worse")}
        assert list(rows.values()) == [line for line in text.splitlines() if any(name in line for name in rows)]
        assert [name for name, line in rows.items() if "*" in line] == ["fresh", "late"]
        assert "3 s" in rows["fresh"] and "initial" in rows["fresh"]
        assert "1.2 min" in rows["late"] and "2 s (1.50×)" in rows["late"]
    assert "latency" in render.to_markdown(store.query(Query()))


def test_exports_hold_the_whole_training(store: Store) -> None:
    store.add(entry(training=training(**MEASURED)))
    board = store.query(Query())
    (as_json,) = json.loads(render.to_json(board))
    (as_csv,) = csv.DictReader(io.StringIO(render.to_csv(board)))
    assert as_json["total_seconds"] == float(as_csv["total_seconds"]) == 15.5
    assert as_json["epoch_fp32"] == float(as_csv["epoch_fp32"]) == 2.0
    assert as_json["epoch_bf16"] is None and as_csv["epoch_bf16"] == ""


def test_an_entry_shows_its_whole_training() -> None:
    text = shown(render.entry_table(entry(training=training(**MEASURED))))
    assert "12 epochs in 15.5 s, from trained weights" in text
    assert "fp32 2 s (1.50×)" in text


def test_energy_has_a_column_where_it_was_metered(store: Store) -> None:
    figures = cost()["figures"] | {"energy": {"value": 0.0123, "unit": "J", "low": 0.011, "high": 0.013}}
    store.add_many([entry(trial=0, strategy="metered", costs=[cost(figures=figures)]), entry(trial=1, strategy="not")])
    board = store.query(Query())
    for text in (render.to_markdown(board), shown(render.to_table(board))):
        header = next(line for line in text.splitlines() if "latency" in line)
        assert header.index("latency") < header.index("energy") < header.index("params")
        assert "12.3 mJ" in next(line for line in text.splitlines() if "metered" in line)
    assert "energy" not in render.to_markdown(store.query(Query(strategy="not")))
    assert "energy" not in render.to_markdown(store.query(Query(front="training")))


def test_an_entry_shows_what_measured_it_and_how_noisily() -> None:
    runtime = {"runtime": "onnxruntime", "version": "1.31.1"}
    text = shown(render.entry_table(entry(costs=[cost(runtime=runtime, telemetry={"steal": None, "calm": 0.875})])))
    assert "runtime onnxruntime, version 1.31.1" in text
    assert "calm 0.875" in text and "steal" not in text
