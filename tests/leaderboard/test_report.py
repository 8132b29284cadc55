"""The page: one file, nothing fetched, and whatever an entry says is text."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from board_samples import cost, entry, scored, training
from hypothesis import given, settings
from hypothesis import strategies as st

from leaderboard import Board, LeaderboardError, Query, Store, report_html, write_report
from leaderboard.report import embedded

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>document.title='owned'</script>",
    "<!--<script>",
    "\"'><img src=x onerror=alert(1)>",
    "\u202egnp.exe\u2066",
    "{{script}}{{data}}",
    "&lt;b&gt; ${1} `x`",
    "javascript:alert(1)",
]


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


@pytest.fixture
def hostile(store: Store) -> Board:
    store.add_many(
        entry(trial=trial, strategy=text, workload=text, study=text, costs=[cost(key=f"{text}@{text}")])
        for trial, text in enumerate(HOSTILE)
    )
    return store.query(Query())


def test_hostile_text_appears_only_as_data(hostile: Board) -> None:
    page = report_html(hostile)
    plain = Elements(report_html(Board(())))
    elements = Elements(page)
    assert elements.found == plain.found
    assert elements.links == []
    data = json.loads(elements.data)
    assert sorted(track["workload"] for track in data["tracks"]) == sorted(HOSTILE)
    assert {row["strategy"] for track in data["tracks"] for row in track["rows"]} == set(HOSTILE)
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


def test_nothing_is_fetched_and_only_our_script_may_run(hostile: Board) -> None:
    page = report_html(hostile)
    shell = re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.DOTALL)
    assert set(re.findall(r"https?://[^\s\"']+", shell)) == {
        "http://www.w3.org/2000/svg"
    }  # a name space, never fetched
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    assert "default-src 'none'" in policy[1] and "unsafe" not in policy[1] and "http" not in policy[1]
    assert "innerHTML" not in page and "insertAdjacentHTML" not in page and "document.write" not in page


def test_a_report_that_cannot_be_written(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no" / "board.html"):
        with pytest.raises(LeaderboardError) as caught:
            write_report(Board(()), path)
        assert "\n" not in str(caught.value)


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def browsed(page: Path, profile: Path) -> tuple[str, str]:
    """The page's elements after its script ran, and what the browser had to complain about."""
    command = [CHROMIUM or "", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += [
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
    ]
    command += ["--window-size=1200,900", "--virtual-time-budget=3000", f"--user-data-dir={profile}"]
    command += ["--enable-logging=stderr", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_shows_hostile_text_as_text(hostile: Board, tmp_path: Path) -> None:
    file = tmp_path / "board.html"
    write_report(hostile, file)
    page, complaints = browsed(file, tmp_path / "profile")
    assert complaints == ""
    found = Elements(page).found
    assert found.count("script") == 2 and "img" not in found
    assert found.count("section") == found.count("table") == len(HOSTILE)
    assert "<title>shrinkboard</title>" in page


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_draws_every_entry(store: Store, tmp_path: Path) -> None:
    accuracies, speedups = (0.98, 0.97, 0.96, 0.5, 0.99), (1.0, 2.0, 1.5, 4.0, None)
    store.add_many(
        scored(trial, accuracy, speedup, training=training(seconds=4.0 - trial))
        for trial, (accuracy, speedup) in enumerate(zip(accuracies, speedups, strict=True))
    )
    file = tmp_path / "board.html"
    write_report(store.query(Query()), file)
    page, complaints = browsed(file, tmp_path / "profile")
    assert complaints == ""
    assert page.count("<tr") == 1 + 5
    assert page.count("<figure>") == page.count("1 network lies below this range") == 2
    speed, cost = page.split("<figure>")[1:]
    assert len(re.findall(r'<g class="point', speed)) == 3  # one lies below the range, one has no speed-up
    assert "1 without a speed-up" in speed
    assert len(re.findall(r'<g class="point', cost)) == 4
    # The last one is the most accurate, and its training the cheapest.
    assert re.findall(r"accuracy ([\d.]+) percent, trained in ([\d.]+ s), on the front", cost) == [("99.00", "12.0 s")]


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_board_without_training_times_has_no_picture_of_them(store: Store, tmp_path: Path) -> None:
    store.add(scored(0, 0.98, 1.0, training=training(seconds=0.0, dense_seconds=0.0)))
    file = tmp_path / "board.html"
    write_report(store.query(Query()), file)
    page, complaints = browsed(file, tmp_path / "profile")
    assert complaints == ""
    assert page.count("<figure>") == 1


@settings(max_examples=20)
@given(st.integers(0, 3))
def test_an_empty_board_is_a_page(_: int) -> None:
    assert "shrinkboard" in report_html(Board(()))
