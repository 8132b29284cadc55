"""The report: one file, nothing to fetch, and whatever an entry says is text. How it works is `test_page.py`'s."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from board_samples import cost, entry, scored
from hypothesis import given
from hypothesis import strategies as st
from page_samples import HOSTILE

from leaderboard import LeaderboardError, Query, Store, report_html, write_report
from leaderboard._page import embedded
from leaderboard.report import PLANS


class Elements(HTMLParser):
    """What a browser would make of the page: its elements in order, and the text of its data block."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.links: list[str] = []
        self.data = ""
        self._in_data = False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href", "action")]
        self._in_data = ("id", "data") in attributes

    def handle_data(self, text: str) -> None:
        if self._in_data:
            self.data += text

    def handle_endtag(self, tag: str) -> None:
        self._in_data = False


def held(page: str) -> dict[str, list[dict[str, object]]]:
    """The data of a report."""
    return json.loads(Elements(page).data)


@pytest.fixture
def hostile(store: Store) -> Store:
    store.add_many(
        entry(trial=trial, strategy=text, workload=text, study=text, costs=[cost(key=f"{text[:99]}@{text[:99]}")])
        for trial, text in enumerate(HOSTILE)
    )
    return store


def test_hostile_text_appears_only_as_data(hostile: Store, tmp_path: Path) -> None:
    page = report_html(hostile)
    with Store(str(tmp_path / "empty.db")) as empty:
        plain = Elements(report_html(empty))
    elements = Elements(page)
    assert (elements.found, elements.links) == (plain.found, plain.links)
    assert all(link.startswith(("#", "data:image/svg+xml,")) for link in elements.links)
    data = json.loads(elements.data)
    assert sorted(track["workload"] for track in data["tracks"]) == sorted(HOSTILE)
    assert {strategy for board in data["boards"] for strategy in board["rows"]["strategy"]} == set(HOSTILE)
    for text in HOSTILE[:4]:
        assert text not in page
    assert "\u202e" not in page


@given(
    st.recursive(st.text() | st.floats(allow_nan=False, allow_infinity=False), lambda x: st.dictionaries(st.text(), x))
)
def test_embedded_data_is_the_data(value: object) -> None:
    text = embedded({"value": value})
    assert json.loads(text) == {"value": value}
    assert text.isascii() and not set(text) & set("<>&")


def test_nothing_is_fetched_and_only_our_script_may_run(hostile: Store) -> None:
    page = report_html(hostile)
    shell = re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.DOTALL)
    # A name space, which is never fetched.
    assert set(re.findall(r"https?://[^\s\"']+", shell)) == {"http://www.w3.org/2000/svg"}
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    assert "default-src 'none'" in policy[1] and "unsafe" not in policy[1] and "http" not in policy[1]
    assert "connect-src" not in policy[1] and "require-trusted-types-for 'script'" in policy[1]
    assert "innerHTML" not in page and "insertAdjacentHTML" not in page and "document.write" not in page


def test_a_report_holds_every_row_and_the_plans_of_the_best(store: Store) -> None:
    spread = PLANS + 40
    store.add_many(scored(trial, 0.9, 1 + trial / 100, strategy="many") for trial in range(spread))
    store.add_many(scored(trial, 0.97, 1.1, strategy="few") for trial in range(3))
    data = held(report_html(store))
    (board,) = data["boards"]
    assert len(board["rows"]["id"]) == spread + 3
    in_full = data["entries"]
    rows = store.query(Query()).rows
    assert len(in_full) == PLANS + sum(row.front for row in rows)
    # The front, and of every strategy some, however slow.
    assert all(row.id in in_full for row in rows if row.front or row.strategy == "few")
    assert {strategy["name"] for strategy in data["strategies"]} == {"many", "few"}


def test_a_report_holds_what_was_asked_for(store: Store) -> None:
    store.add_many([scored(0, 0.9, 2.0, strategy="a"), scored(0, 0.9, 2.0, strategy="b", study="second")])
    data = held(report_html(store, Query(study="second")))
    (board,) = data["boards"]
    assert board["rows"]["strategy"] == ["b"]
    assert len(data["entries"]) == 1


def test_an_empty_board_is_a_page(store: Store) -> None:
    assert held(report_html(store))["tracks"] == []


def test_a_report_that_cannot_be_written(store: Store, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no" / "board.html"):
        with pytest.raises(LeaderboardError) as caught:
            write_report(store, path)
        assert "\n" not in str(caught.value)
