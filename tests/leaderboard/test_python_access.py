"""A board in Python: `sb.leaderboard`, and what pandas, Polars, Parquet and CSV make of its rows."""

from __future__ import annotations

import csv
import inspect
import json
from pathlib import Path

import pandas
import polars
import pyarrow
import pytest
from board_samples import cost, entry, scored, training
from test_exchange import refused, run

import shrinkboard as sb
from leaderboard import Board, LeaderboardError, Query, Row, Store


@pytest.fixture
def storage(tmp_path: Path) -> str:
    with Store(str(tmp_path / "board.db")) as store:
        store.add_many(
            [
                scored(0, 0.98, 1.0, strategy="dense", role="control"),
                scored(1, 0.97, 2.0, strategy="=HYPERLINK(1)", training=training(starts_from="initial")),
                entry(trial=2, costs=[cost("fpga-z7020", 4.0), cost(speedup=None, unstable=True)]),
            ]
        )
    return str(tmp_path / "board.db")


def values(frame: pandas.DataFrame | polars.DataFrame) -> list[dict[str, object]]:
    if isinstance(frame, polars.DataFrame):
        return frame.to_dicts()
    return [
        {name: None if pandas.isna(value) else value for name, value in row.items()} for row in frame.to_dict("records")
    ]


def test_every_reader_sees_the_rows(storage: str, tmp_path: Path) -> None:
    board = sb.leaderboard(storage=storage)
    rows = [row._asdict() for row in board.rows]
    assert len(rows) == 4 and {row["starts_from"] for row in rows} == {None, "initial"}
    assert board.to_arrow().to_pylist() == rows
    assert values(board.to_pandas()) == rows
    assert values(polars.DataFrame(board)) == rows  # by the Arrow interface alone
    assert pyarrow.table(board).equals(board.to_arrow())
    board.to_parquet(tmp_path / "board.parquet")
    assert values(polars.read_parquet(tmp_path / "board.parquet")) == rows
    assert values(pandas.read_parquet(tmp_path / "board.parquet")) == rows
    board.to_csv(tmp_path / "board.csv")
    with (tmp_path / "board.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [row["id"] for row in written] == [row["id"] for row in rows]
    assert sorted(row["strategy"] for row in written) == ["'=HYPERLINK(1)", "dense", "pca_l1+int", "pca_l1+int"]
    assert [row["speedup"] for row in written].count("") == 1


def test_columns_have_their_types_where_there_are_no_rows(storage: str) -> None:
    empty, full = (sb.leaderboard(storage=storage, where=where) for where in ("macs < 0", "macs > 0"))
    assert empty.rows == []
    assert empty.to_arrow().schema == full.to_arrow().schema
    assert {str(field.type) for field in full.to_arrow().schema} == {"string", "int64", "double", "bool"}
    assert list(empty.to_pandas().columns) == list(Row._fields)


def test_it_asks_what_a_query_asks(storage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = inspect.signature(sb.leaderboard).parameters
    declared = inspect.signature(Query).parameters
    assert {name: one.default for name, one in asked.items()} == {
        **{name: one.default for name, one in declared.items()},
        "storage": None,
    }
    wanted = {"strategy": "dense,=HYPERLINK(1)", "max_drop": 1.0, "sort": "accuracy", "limit": 1}
    with Store(storage) as store:
        expected = store.query(Query(**wanted))  # type: ignore[arg-type]
    assert sb.leaderboard(**wanted, storage=storage) == expected
    monkeypatch.setenv("SHRINKBOARD_STORAGE", storage)
    assert sb.leaderboard(**wanted) == expected
    monkeypatch.delenv("SHRINKBOARD_STORAGE")
    monkeypatch.chdir(tmp_path / "..")
    with pytest.raises(LeaderboardError, match=r"shrinkboard\.db' does not exist"):
        sb.leaderboard()


def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    for write in (Board(()).to_csv, Board(()).to_parquet):
        for path in (tmp_path, tmp_path / "nowhere" / "board"):
            with pytest.raises(LeaderboardError, match="cannot be written") as caught:
                write(path)
            assert "\n" not in str(caught.value)


def test_the_command_writes_files(storage: str, tmp_path: Path) -> None:
    asked = ["leaderboard", "--strategy", "dense", "--storage", storage]
    for format in ("json", "csv", "markdown"):
        out = tmp_path / f"board.{format}"
        assert run(*asked, "--format", format, "--out", str(out)) == ""
        assert out.read_text().rstrip("\n") == run(*asked, "--format", format).rstrip("\n")
    (row,) = json.loads((tmp_path / "board.json").read_text())
    assert (row["front"], row["training_front"], row["final"], row["unstable"]) == (True, True, False, False)
    assert {type(row[name]) for name in ("front", "training_front", "final", "unstable")} == {bool}
    run(*asked, "--format", "parquet", "--out", str(tmp_path / "board.parquet"))
    assert polars.read_parquet(tmp_path / "board.parquet")["strategy"].to_list() == ["dense"]
    assert "parquet is written to a file" in refused(*asked, "--format", "parquet")
    assert "table is printed" in refused(*asked, "--out", str(tmp_path / "board.txt"))
    for format in ("json", "parquet"):
        assert "cannot be written" in refused(*asked, "--format", format, "--out", str(tmp_path))
