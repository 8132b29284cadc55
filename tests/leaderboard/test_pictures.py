"""Pictures: what was asked for is in them, equal content gives equal bytes, and a bad name is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from board_samples import entry, layered, scored
from ranking_samples import benchmark, board

from leaderboard import Entry, LeaderboardError, Query, Store, rank
from leaderboard.pictures import draw_attainment, draw_convergence, draw_front, draw_layers


def front_of(entries: list[Entry], tmp_path: Path, name: str) -> str:
    with Store(str(tmp_path / f"{name}.db")) as store:
        store.add_many(entries)
        (track,) = store.query(Query()).tracks
    draw_front(track, tmp_path / name)
    return (tmp_path / name).read_text()


def test_the_front_names_its_strategies_and_draws_the_same_bytes_again(tmp_path: Path) -> None:
    entries = [
        scored(0, 0.97, 2.0, strategy="quick"),
        scored(1, 0.98, 1.2, strategy="exact"),
        scored(2, 0.96, 1.1, strategy="beaten"),
        scored(3, 0.30, 9.0, strategy="collapsed"),
    ]
    first, second = (front_of(entries, tmp_path, name) for name in ("one.svg", "two.svg"))
    assert first == second
    assert "quick" in first and "exact" in first and "others" in first
    assert "beaten" not in first and "collapsed" not in first
    assert "validation accuracy" in first


def test_a_board_without_speedups_has_no_front_to_draw(tmp_path: Path) -> None:
    with pytest.raises(LeaderboardError, match="no entry has a speed-up"):
        front_of([scored(0, 0.9, None)], tmp_path, "none.svg")


def test_layers_show_channels_bits_and_what_is_gone(tmp_path: Path) -> None:
    draw_layers([layered(), layered(trial=1, strategy="other")], tmp_path / "layers.svg")
    text = (tmp_path / "layers.svg").read_text()
    for told in ("stem", "body.second.reduce", "body.third", "int3", "8*", "2–3 bits", "32 bits", "other, entry"):
        assert told in text, told
    with pytest.raises(LeaderboardError, match="does not tell its layers"):
        draw_layers([entry()], tmp_path / "old.svg")


@pytest.mark.parametrize("suffix", ["pdf", "png"])
def test_other_formats_are_written_too(tmp_path: Path, suffix: str) -> None:
    draw_layers([layered()], tmp_path / f"layers.{suffix}")
    start = (tmp_path / f"layers.{suffix}").read_bytes()[:8]
    assert start.startswith({"pdf": b"%PDF", "png": b"\x89PNG"}[suffix])


def test_a_bad_name_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(LeaderboardError, match=r"must end in one of \.svg, \.pdf, \.png"):
        draw_layers([layered()], tmp_path / "layers.gif")
    with pytest.raises(LeaderboardError, match="cannot be written"):
        draw_layers([layered()], tmp_path / "nowhere" / "layers.svg")


def test_attainment_and_convergence_name_strategies_with_their_ranks(tmp_path: Path) -> None:
    ranking = rank(benchmark(), *board({"swift": 0.0, "slow": -0.03}, seed=1))
    draw_attainment(ranking, tmp_path / "attainment.svg")
    draw_convergence(ranking, tmp_path / "convergence.svg")
    for name in ("attainment", "convergence"):
        text = (tmp_path / f"{name}.svg").read_text()
        assert "1. swift" in text and "slow" in text
    assert "seconds of evaluation" in (tmp_path / "convergence.svg").read_text()
    nothing = rank(ranking.benchmark, [], [])
    with pytest.raises(LeaderboardError, match="no finalists"):
        draw_attainment(nothing, tmp_path / "nothing.svg")
    with pytest.raises(LeaderboardError, match="no searches"):
        draw_convergence(nothing, tmp_path / "nothing.svg")
