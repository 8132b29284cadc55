"""`shrinkboard rank` and `shrinkboard benchmarks`, as their users meet them."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from board_samples import entry
from ranking_samples import as_entries, benchmark, board
from typer import Typer
from typer.testing import CliRunner

import shrinkboard
from leaderboard import Benchmark, LeaderboardError, Store, commands, stored_ranking

RANK = ("rank", "--workload", "digits/cnn", "--target", "fpga-z7020")
HOSTILE = "<script>alert(1)</script>|[link](http://x)+int"
LEVELS = {"low_rank+int": 0.02, "pca_l1": 0.0, "uniform_with_a_long_name+minifloat": -0.01, HOSTILE: -0.03}


@pytest.fixture
def storage(tmp_path: Path) -> str:
    """A board with a search seed missing of one strategy, and pilots."""
    finals, tried = board(LEVELS, seed=1)
    finals = [f for f in finals if (f.strategy, f.search_seed) != ("pca_l1", 2)]
    pilots, _ = board({"pca_l1": 0.0}, seed=2, searches=(7,))
    url = str(tmp_path / "board.db")
    with Store(url) as store:
        store.add_many(as_entries([*finals, *pilots], tried))
        store.freeze_benchmark(benchmark())
    return url


app = Typer(pretty_exceptions_enable=False)
app.command("rank")(commands.rank)
app.command("leaderboard")(commands.leaderboard)
app.add_typer(commands.benchmarks_app, name="benchmarks")


def run(storage: str, *arguments: str) -> str:
    """Output of the command; its error is raised."""
    result = CliRunner().invoke(app, [*arguments, "--storage", storage], env={"COLUMNS": "100"})
    if result.exception is not None:
        raise result.exception
    return result.output


def test_the_table_fits_a_terminal_and_says_what_deviates(storage: str) -> None:
    told = run(storage, *RANK)
    lines = told.splitlines()
    assert all(len(line.rstrip()) <= 100 for line in lines)
    assert "digits/cnn on fpga-z7020, modelled: benchmark digits-cnn-fpga-z7020@1" in lines[0]
    assert lines[1].split()[:3] == ["rank", "strategy", "hypervolume"]
    assert "! pca_l1: no finalists of search seed 2" in told
    with Store(storage) as store:
        (first, *_) = stored_ranking(store, benchmark()).strategies
    assert first.hypervolume is not None and first.hypervolume.low is not None and first.strategy == "low_rank+int"
    assert lines[2].split()[:4] == [
        "1",
        "low_rank+int",
        f"{first.hypervolume.mean:.3f}",
        f"[{first.hypervolume.low:.3f},",
    ]


@pytest.mark.parametrize(
    ("without", "who"), [(("one", "two"), "one, two"), (("one", "two", "three"), "all strategies")]
)
def test_what_deviates_for_several_is_said_once(tmp_path: Path, without: tuple[str, ...], who: str) -> None:
    finals, tried = board({"one": 0.0, "two": -0.01, "three": -0.02}, seed=1)
    finals = [f for f in finals if f.search_seed != 2 or f.strategy not in without]
    url = str(tmp_path / "board.db")
    with Store(url) as store:
        store.add_many(as_entries(finals, tried))
        store.freeze_benchmark(benchmark())
    for form, mark in (("table", "!"), ("markdown", "-")):
        told = run(url, *RANK, "--format", form).splitlines()
        assert [line.rstrip() for line in told if "no finalists" in line] == [
            f"{mark} {who}: no finalists of search seed 2"
        ]


def test_what_only_some_searches_reached_is_marked(tmp_path: Path) -> None:
    finals, tried = board({"one": 0.0}, seed=1, points=1)
    finals = [dataclasses.replace(f, speedup=1.2) if (f.role, f.search_seed) == ("finalist", 2) else f for f in finals]
    url = str(tmp_path / "board.db")
    with Store(url) as store:
        store.add_many(as_entries(finals, tried))
        store.freeze_benchmark(benchmark())
    row = next(line for line in run(url, *RANK).splitlines() if " one " in line)
    assert row.count("(2/3)") == 2 and "(3/3)" not in row
    assert "(2/3)" in run(url, *RANK, "--format", "markdown")


def test_json_is_the_whole_ranking(storage: str) -> None:
    found = json.loads(run(storage, *RANK, "--format", "json"))
    with Store(storage) as store:
        expected = stored_ranking(store, benchmark())
    assert found == json.loads(json.dumps(expected.to_dict()))
    assert [one["strategy"] for one in found["strategies"]] == list(LEVELS)
    assert found["strategies"][0]["progress"][0]["at"] == [1, 2, 3, 4]
    assert len(found["pairs"]) == 6


def test_markdown_holds_every_question_and_nobodys_markup(storage: str, tmp_path: Path) -> None:
    out = tmp_path / "rank.md"
    assert "written to" in run(storage, *RANK, "--format", "markdown", "--out", str(out))
    text = out.read_text()
    for heading in (
        "Strategies",
        "Accuracy at a fixed",
        "at a fixed drop",
        "Pairs",
        "dense network",
        "training",
        "front",
    ):
        assert any(heading in line for line in text.splitlines() if line.startswith("## ")), heading
    assert "<script>" not in text and "[link](" not in text
    for table in text.split("\n\n"):
        if table.startswith("|"):  # what looks like a cell's border in a name is none
            assert len({len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    with Store(storage) as store:
        (pair, *_) = stored_ranking(store, benchmark()).pairs
    assert pair.difference is not None and f"| {pair.difference.mean:+.3f} |" in text


def test_some_strategies_are_shown_with_their_ranks_among_all(storage: str) -> None:
    whole = {one["strategy"]: one["rank"] for one in json.loads(run(storage, *RANK, "--format", "json"))["strategies"]}
    shown = json.loads(run(storage, *RANK, "--strategy", "pca_l1, low_rank+int", "--format", "json"))["strategies"]
    assert {one["strategy"]: one["rank"] for one in shown} == {name: whole[name] for name in ("low_rank+int", "pca_l1")}
    with pytest.raises(LeaderboardError, match="strategy 'nobody' is not in the ranking"):
        run(storage, *RANK, "--strategy", "nobody")


def test_another_benchmark_can_be_asked_for(storage: str, tmp_path: Path) -> None:
    two = tmp_path / "two.json"
    two.write_text(benchmark(version=2, search_seeds=[0, 1]).to_json())
    by_file = json.loads(run(storage, *RANK, "--benchmark", str(two), "--format", "json"))
    assert by_file["benchmark"]["version"] == 2
    assert {one["hypervolume"]["n"] for one in by_file["strategies"]} == {2}
    assert "benchmark digits-cnn-fpga-z7020@2 is in the storage" in run(storage, "benchmarks", "add", str(two))
    assert json.loads(run(storage, *RANK, "--format", "json")) == by_file
    first = run(storage, *RANK, "--benchmark", "digits-cnn-fpga-z7020@1", "--format", "json")
    assert json.loads(first)["benchmark"]["version"] == 1
    other = benchmark(name="other", workload="cifar10/resnet8")
    with Store(storage) as store:
        store.freeze_benchmark(other)
    with pytest.raises(LeaderboardError, match="benchmark 'other@1' is of 'cifar10/resnet8' on 'fpga-z7020', not of"):
        run(storage, *RANK, "--benchmark", "other")


def test_benchmarks_are_listed_shown_dumped_and_given_a_front(storage: str, tmp_path: Path) -> None:
    (listed,) = json.loads(run(storage, "benchmarks", "--format", "json"))
    assert listed == json.loads(benchmark().to_json())
    assert "digits-cnn-fpga-z7020@1" in run(storage, "benchmarks")
    assert "0, 1, 2" in run(storage, "benchmarks", "show", benchmark().name)
    told = run(storage, "benchmarks", "front", benchmark().name, "--study", "search-7")
    assert "benchmark digits-cnn-fpga-z7020@2 is frozen with a reference front of 3 points" in told
    shown = Benchmark.from_json(run(storage, "benchmarks", "show", benchmark().name, "--format", "json"))
    assert (shown.version, len(shown.front)) == (2, 3)
    assert "2 benchmarks written" in run(storage, "benchmarks", "dump", "--out", str(tmp_path / "out"))
    assert len(list((tmp_path / "out").glob("*.json"))) == 2
    ranked = json.loads(run(storage, *RANK, "--format", "json"))
    assert all(one["igd_plus"]["mean"] >= 0 for one in ranked["strategies"])


def test_a_file_that_cannot_be_written_is_told_in_one_line(storage: str, tmp_path: Path) -> None:
    with pytest.raises(LeaderboardError, match=r"cannot be written \(No such file or directory\); give another"):
        run(storage, *RANK, "--out", str(tmp_path / "nowhere" / "rank.txt"))


def test_a_track_without_finalists_is_an_empty_table(tmp_path: Path) -> None:
    url = str(tmp_path / "empty.db")
    with Store(url) as store:
        store.freeze_benchmark(benchmark())
    assert "digits-cnn-fpga-z7020@1" in run(url, *RANK)
    assert json.loads(run(url, *RANK, "--format", "json"))["strategies"] == []
    assert "# digits/cnn on fpga" in run(url, *RANK, "--format", "markdown")


def test_sb_ranks_in_python(storage: str) -> None:
    with shrinkboard.Store(storage) as store:
        found = shrinkboard.stored_ranking(store, benchmark())
        finals = store.finals("digits/cnn", "fpga-z7020")
    same = [dataclasses.replace(f) for f in reversed(finals)]
    assert shrinkboard.rank(benchmark(), same, []).strategies[0].hypervolume == found.strategies[0].hypervolume


def test_a_name_cannot_turn_the_direction_of_its_line(tmp_path: Path) -> None:
    storage = str(tmp_path / "board.db")
    with Store(storage) as store:
        store.add(entry(strategy="l1\u202etni+\u2066"))
    printed = run(storage, "leaderboard")
    assert "l1\ufffdtni+\ufffd" in printed and not {"\u202e", "\u2066"} & set(printed)
