"""The page in a browser, as its visitors meet it: served, and as a report; with a mouse, a keyboard, a phone."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from board_samples import cost, entry, layer, layered, training
from board_server import serving
from page_samples import HOSTILE, finals, ranked_benchmark

from leaderboard import Entry, Query, Reference, Row, Store, report_html, stored_ranking, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'shrinkboard[browser]'")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
expect: Any = sync_api.expect

_QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
KEY = "cpu-onnxruntime@ab12cd34"
DEVICE = "fpga-z7020"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    # Not for the whole session: its event loop belongs to the thread, and would be in the way of other tests.
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*_QUIET, "--disable-component-update", "--disable-sync"]
        )
        yield opened
        opened.close()


class Visit:
    """A tab that notes what it asks for and what it complains about."""

    def __init__(self, browser: Any, **context: Any) -> None:
        self._context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
        self.page = self._context.new_page()
        self.page.set_default_timeout(10_000)
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.refused: list[str] = []
        self.page.on("requestfailed", lambda request: self.refused.append(f"{request.failure} {request.url}"))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))

    def to(self, address: str) -> Any:
        self.page.goto(address)
        self.page.locator("#board[aria-busy=false], #message:not([hidden])").first.wait_for()
        return self.page

    def close(self) -> None:
        self._context.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    opened: list[Visit] = []

    def start(**context: Any) -> Visit:
        opened.append(Visit(browser, **context))
        return opened[-1]

    yield start
    for one in opened:
        one.close()
        # Whatever a test does, a page asks for nothing but its own server's and its own file, and has nothing to say.
        for url in one.asked:
            assert url.startswith(("http://127.0.0.1:", "file://", "data:image/svg+xml,")), url
        assert one.complaints == []


def networks() -> list[Entry]:
    """Searches on a CPU, on a device and on counts alone, a segmentation, and finals; 46 on the first track."""
    made = []
    for trial in range(11):
        for place, strategy in enumerate(("sentei", "sentei+int", "pca_l1", "pca_l1+int")):
            speedup = 1 + trial / 4 + place / 16
            made.append(
                entry(
                    strategy=strategy,
                    trial=trial,
                    accuracy={
                        "validation": {"top1": round(0.99 - trial * trial / 2000 - place / 500, 6)},
                        "dense_validation": 0.98,
                    },
                    costs=[cost(KEY, speedup), cost(DEVICE, 3 * speedup), cost("counts", None)],
                    training=training(seconds=5.0 + (7 * trial + place) % 11, starts_from="trained"),
                    parameters=8000 - 500 * trial - 10 * place,
                    bytes=4 * (8000 - 500 * trial) // (1 + place % 2),
                    plan={
                        "strategy": strategy,
                        "channels": {"conv1": 0.25, "block.conv2": 1 - trial / 20},
                        "layers": {"block.conv2": {"weight_format": "int4", "sparsity": 0.5}, "linear": {"rank": 7}},
                        "dropped": ["block3"],
                    },
                    method={"summary": "Chooses widths", "source": "A paper, section 3"} if place else None,
                )
            )
    for strategy, speedup in (("dense", 1.0), ("dense+int", 1.4)):
        accuracy = {"validation": {"top1": 0.98}, "dense_validation": 0.98}
        costs = [cost(KEY, speedup), cost(DEVICE, speedup), cost("counts", None)]
        made.append(entry(strategy=strategy, role="control", accuracy=accuracy, costs=costs, parameters=9000))
    origin = {"entry": made[0].id, "study": "first", "trial": 0, "seed": 1, "targets": [KEY]}
    tested = {
        "validation": {"top1": 0.97},
        "test": {"top1": 0.965},
        "dense_validation": 0.98,
        "dense_test": 0.975,
    }
    made += [
        entry(study="finals", strategy="sentei", trial=t, seed=40 + t, role="finalist", accuracy=tested, origin=origin)
        for t in range(3)
    ]
    segmented = {"validation": {"miou": 0.61}, "dense_validation": 0.62}
    made.append(entry(workload="camvid/unet", study="scenes", accuracy=segmented, costs=[cost("counts", None)]))
    return made


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = str(tmp_path_factory.mktemp("board") / "board.db")
    with Store(file) as store:
        store.add_many(networks())
        store.freeze_reference("digits/cnn", KEY, Reference(latency=1e-3, dense_accuracy=0.98))
    return file


@pytest.fixture(scope="module")
def served(board: str) -> Iterator[str]:
    with serving(board) as url:
        yield url


@pytest.fixture(scope="module")
def written(board: str) -> str:
    file = Path(board).with_name("board.html")
    with Store(board) as store:
        write_report(store, file)
    return file.as_uri()


@pytest.fixture(params=["server", "report"])
def address(request: pytest.FixtureRequest) -> str:
    """Both ways to see the same board."""
    return str(request.getfixturevalue("served" if request.param == "server" else "written"))


@pytest.fixture(scope="module")
def rows(board: str) -> tuple[Row, ...]:
    """What the page should show of its first track."""
    with Store(board) as store:
        return store.query(Query(workload="digits/cnn", target=KEY)).tracks[0].rows


def ids(page: Any) -> list[str]:
    """The entries of the table, in its order, once the page is at rest."""
    page.locator("#board[aria-busy=false]").wait_for()
    return page.locator("#table tbody tr").evaluate_all("rows => rows.map(row => row.dataset.id)")


def query_of(page: Any) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


def cursor(page: Any, picture: str = "main") -> Any:
    """The one element of a picture that stands for a point."""
    return page.locator(f"#{picture} .cursor")


def test_the_first_view_holds_every_network_of_a_measured_track(
    visit: Callable[..., Visit], address: str, rows: tuple[Row, ...]
) -> None:
    page = visit().to(address)
    expect(page).to_have_title("digits/cnn on cpu-onnxruntime · shrinkboard")
    assert page.locator("#target").input_value() == KEY
    assert sorted(ids(page)) == sorted(row.id for row in rows)
    # The points of the picture: all but those more than ten points below the dense network.
    near = [row for row in rows if row.accuracy >= 0.88]
    expect(page.locator("#main .plot")).to_have_attribute("data-drawn", str(len(near)))
    # Its front is the store's.
    bold = page.locator("#table tr.front").evaluate_all("rows => rows.map(row => row.dataset.id)")
    assert set(bold) == {row.id for row in rows if row.front}
    fastest = max((row for row in rows if row.drop <= 1), key=lambda row: row.speedup or 0)
    expect(page.locator("#cards li").nth(1)).to_contain_text(f"{fastest.speedup:.2f}×")
    expect(page.locator("#cards li").nth(1)).to_contain_text(fastest.strategy)


def test_filters_keep_what_passes_them(visit: Callable[..., Visit], address: str, rows: tuple[Row, ...]) -> None:
    page = visit().to(address)
    page.get_by_label("Lose at most").fill("1.5")
    assert sorted(ids(page)) == sorted(row.id for row in rows if row.drop <= 1.5)
    page.get_by_label("Take at most").fill("0.5")  # milliseconds, for the dense network takes one
    passing = {row.id for row in rows if row.drop <= 1.5 and (row.latency or 1) <= 500e-6}
    assert 0 < len(passing) < len(rows)
    assert set(ids(page)) == passing
    page.get_by_role("button", name="pca_l1", exact=True).click()
    page.get_by_role("group", name="Numbers").get_by_role("button", name="int").click()
    passing &= {row.id for row in rows if row.strategy == "pca_l1+int"}
    assert set(ids(page)) == passing
    expect(page.locator("#shown")).to_have_text(f"{len(passing)} of {len(rows)} networks shown")
    page.get_by_label("Front only").check()
    assert set(ids(page)) <= passing
    page.get_by_role("button", name="Clear filters").click()
    assert sorted(ids(page)) == sorted(row.id for row in rows)


def test_the_table_sorts_by_every_column(visit: Callable[..., Visit], address: str, rows: tuple[Row, ...]) -> None:
    page = visit().to(address)
    for label, name in (
        ("Accuracy", "accuracy"),
        ("Latency", "latency"),
        ("Parameters", "parameters"),
        ("Size", "bytes"),
    ):
        header = page.get_by_role("columnheader", name=label)
        header.get_by_role("button").click()
        order = [getattr(next(row for row in rows if row.id == id), name) for id in ids(page)]
        down = header.get_attribute("aria-sort") == "descending"
        assert order == sorted(order, reverse=down)
        header.get_by_role("button").click()
        expect(header).to_have_attribute("aria-sort", "ascending" if down else "descending")
        again = [getattr(next(row for row in rows if row.id == id), name) for id in ids(page)]
        assert again == order[::-1]
        assert header.get_by_role("button").evaluate("button => button === document.activeElement")


def test_a_link_gives_the_same_view(visit: Callable[..., Visit], address: str) -> None:
    page = visit().to(address)
    page.get_by_label("Runs on").select_option(DEVICE)
    page.get_by_label("Lose at most").fill("2")
    page.get_by_role("button", name="sentei", exact=True).click()
    page.get_by_role("columnheader", name="Accuracy").get_by_role("button").click()
    page.get_by_role("button", name="Size", exact=True).first.click()
    shown, link = ids(page), page.url
    assert query_of(page).items() >= {"target": [DEVICE], "drop": ["2"], "method": ["sentei"], "axis": ["size"]}.items()
    page.locator("#table tbody a").first.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    with_panel = page.url

    other = visit().to(link)
    assert ids(other) == shown
    assert other.get_by_label("Lose at most").input_value() == "2"
    expect(other.get_by_role("button", name="sentei", exact=True)).to_have_attribute("aria-pressed", "true")
    expect(other.locator("#main h3")).to_have_text("Accuracy against size")
    expect(visit().to(with_panel).get_by_role("dialog")).to_contain_text(shown[0][:8])


def test_back_and_forward_go_through_the_views(visit: Callable[..., Visit], address: str) -> None:
    page = visit().to(address)
    whole = ids(page)
    page.get_by_role("button", name="pca_l1", exact=True).click()
    some = ids(page)
    page.locator("#table tbody a").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    page.go_back()
    expect(dialog).to_be_hidden()
    assert ids(page) == some
    page.go_back()
    assert ids(page) == whole
    page.go_forward()
    page.go_forward()
    expect(dialog).to_be_visible()
    assert ids(page) == some
    page.get_by_label("Close").click()
    page.get_by_label("Network and data").select_option("camvid/unet")
    expect(page.locator("#main .plot")).to_have_attribute("data-drawn", "1")
    page.go_back()
    expect(page.locator("#target")).to_have_value(KEY)


def test_the_whole_way_goes_by_keyboard(visit: Callable[..., Visit], address: str, rows: tuple[Row, ...]) -> None:
    page = visit().to(address)
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.getAttribute('class')"))
        if seen[-1] == "cursor":
            break
    # As one reads: the choice of the track, then the filters, then the picture, which is a single stop.
    order = [seen.index(name) for name in ("workload", "target", "drop", "latency", "front", "cursor")]
    assert order == sorted(order)
    point = cursor(page)
    start = point.get_attribute("aria-label")
    assert start and "on the front" in start
    expect(page.get_by_role("status").filter(has_text="accuracy")).to_be_visible()
    page.keyboard.press("Home")
    walked = [point.get_attribute("aria-label")]
    for _ in range(len(rows)):
        page.keyboard.press("ArrowRight")
        if point.get_attribute("aria-label") == walked[-1]:
            break
        walked.append(point.get_attribute("aria-label"))
    drawn = page.locator("#main .plot").get_attribute("data-drawn")
    assert len(set(walked)) == int(drawn or 0)
    page.keyboard.press("ArrowDown")
    assert "on the front" in (point.get_attribute("aria-label") or "")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    # The rest of the page is out of reach while it is open.
    for _ in range(40):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body || panel.contains(document.activeElement)")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert page.evaluate("document.activeElement.getAttribute('class')") == "cursor"


def test_a_point_opens_its_network(visit: Callable[..., Visit], address: str, rows: tuple[Row, ...]) -> None:
    page = visit().to(address)
    page.locator("#main").scroll_into_view_if_needed()
    at = cursor(page).locator("circle").bounding_box()
    assert at
    page.mouse.move(at["x"] + at["width"] / 2, at["y"] + at["height"] / 2)
    expect(page.locator("#tip")).to_be_visible()
    expect(page.locator("#second .echo")).to_have_attribute("visibility", "visible")
    page.mouse.click(at["x"] + at["width"] / 2, at["y"] + at["height"] / 2)
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    front = [row for row in rows if row.front]
    fastest = max(front, key=lambda row: row.speedup or 0)
    shown = next(row for row in front if row.id in page.url)
    expect(dialog).to_contain_text(f"{100 * shown.accuracy:.2f}")
    # Layer by layer: the ratio, the format, the zeros, the rank, the branch that is gone.
    layers = dialog.get_by_role("table", name="What is left of every layer").get_by_role("row")
    expect(layers.filter(has_text="conv1").first).to_contain_text("25\u00a0%")
    expect(layers.filter(has_text="block.conv2")).to_contain_text("int4, 50\u00a0% zeros")
    expect(layers.filter(has_text="linear")).to_contain_text("rank 7")
    expect(layers.filter(has_text="block3")).to_contain_text("dropped")
    # A figure that is absent says why, and the commands name this entry.
    expect(dialog).to_contain_text("no meter")
    expect(dialog).to_contain_text(f"shrinkboard verify {shown.id}")
    expect(dialog).to_contain_text("--workload digits/cnn")
    # Along the front to its end.
    while dialog.get_by_role("button", name="Faster").is_enabled():
        dialog.get_by_role("button", name="Faster").click()
    assert fastest.id in page.url


@pytest.mark.parametrize("way", ["server", "report"])
def test_an_entry_that_tells_its_layers_needs_no_plan(visit: Callable[..., Visit], tmp_path: Path, way: str) -> None:
    made = layered(costs=[cost(KEY, executed={"stem": ["int8", "int8"], "body.first": ["int8", "int8"]})])

    def look(address: str) -> None:
        page = visit().to(address)
        page.locator("#table tbody tr").first.click()
        layers = page.get_by_role("dialog").get_by_role("table", name="What is left of every layer").get_by_role("row")
        expect(layers).to_have_count(5)
        expect(layers.nth(1)).to_contain_text("50\u00a0%")
        expect(layers.nth(1)).to_contain_text("8\u00a0channels, int8")
        expect(layers.nth(2)).to_contain_text("int3 × int8, runs as int8, 75\u00a0% zeros")
        expect(layers.nth(3)).not_to_contain_text("%")
        expect(layers.nth(4)).to_contain_text("dropped")
        expect(page.get_by_role("dialog")).to_contain_text("parts of a layer that was factored")

    file = str(tmp_path / "board.db")
    with Store(file) as store:
        store.add(made)
        write_report(store, tmp_path / "board.html")
    if way == "report":
        return look((tmp_path / "board.html").as_uri())
    with serving(file) as address:
        look(address)


def test_two_networks_side_by_side(visit: Callable[..., Visit], address: str, rows: tuple[Row, ...]) -> None:
    page = visit().to(address)
    page.locator("#table tbody tr").nth(3).click()
    first = query_of(page)["entry"][0]
    dense = next(row for row in rows if row.strategy == "dense")
    page.get_by_label("Compare with").select_option(dense.id)
    dialog = page.get_by_role("dialog")
    one = next(row for row in rows if row.id == first)
    figures = dialog.get_by_role("table", name="Figures of both networks")
    ratio = dense.parameters / one.parameters
    expect(figures.get_by_role("row", name="Parameters")).to_contain_text(
        f"{100 * (ratio - 1):.0f} % more" if ratio < 2 else f"{ratio:.2f}× more"
    )
    points = f"{100 * abs(one.accuracy - dense.accuracy):.2f} points"
    expect(figures.get_by_role("row", name="top-1")).to_contain_text(points)
    expect(
        dialog.get_by_role("table", name="both networks").last.get_by_role("row").filter(has_text="conv1")
    ).to_have_count(1)
    dialog.get_by_role("button", name="Swap").click()
    expect(dialog.get_by_role("heading", level=2)).to_have_text(re.compile("^dense and"))
    assert query_of(page).items() >= {"entry": [dense.id], "beside": [first]}.items()

    # Another one, picked on the board.
    dialog.get_by_role("button", name="Only the first").click()
    page.get_by_label("Compare with").select_option("pick")
    expect(dialog).to_be_hidden()
    expect(page.get_by_text("Choose a network to compare with")).to_be_visible()
    page.locator("#table tbody tr").nth(5).click()
    expect(dialog.get_by_role("heading", level=2)).to_have_text(re.compile("^dense and"))


def test_a_strategy_says_what_it_is(visit: Callable[..., Visit], address: str, rows: tuple[Row, ...]) -> None:
    page = visit().to(address)
    page.locator("#strategies").get_by_role("link", name="pca_l1+int").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Chooses widths")
    expect(dialog).to_contain_text("A paper, section 3")
    expect(dialog.locator(".plot")).to_have_attribute("data-drawn", re.compile("[1-9]"))
    expect(dialog.get_by_text("ratio", exact=True)).to_be_visible()
    dialog.get_by_role("button", name="Show only this strategy").click()
    assert set(ids(page)) == {row.id for row in rows if row.strategy == "pca_l1+int"}
    page.get_by_role("button", name="Clear filters").click()
    # Older entries do not describe their method.
    page.locator("#strategies").get_by_role("link", name="sentei", exact=True).click()
    expect(dialog).to_contain_text("before entries described their method")


def test_finals_stand_apart_from_searches(visit: Callable[..., Visit], address: str) -> None:
    page = visit().to(address)
    page.get_by_role("button", name="Finals").click()
    expect(page.locator("#table tbody tr")).to_have_count(3)
    expect(page.locator("#summary")).to_contain_text("test split")
    page.locator("#table tbody a").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("96.50 %")
    dialog.get_by_role("definition").filter(has_text="search seed 1").get_by_role("link").click()
    expect(dialog).to_contain_text("trial 0, seed 1")


@pytest.mark.parametrize("way", ["server", "report"])
def test_a_ranking_shows_who_is_better_and_how_surely(visit: Callable[..., Visit], tmp_path: Path, way: str) -> None:
    file = str(tmp_path / "board.db")
    with Store(file) as store:
        store.add_many(finals(["best", "one", "other"]))
        store.freeze_benchmark(ranked_benchmark())
        ranking = stored_ranking(store, ranked_benchmark())
        write_report(store, tmp_path / "board.html")

    def look(address: str) -> None:
        page = visit().to(address)
        lines = page.get_by_role("table", name="Ranking of strategies").locator("tbody tr")
        expect(lines).to_have_count(3)
        for line, one in zip(lines.all(), ranking.strategies, strict=True):
            assert one.hypervolume and one.front_probability is not None
            expect(line.get_by_role("cell").first).to_have_text(str(one.rank))
            expect(line.get_by_role("rowheader")).to_have_text(one.strategy)
            expect(line).to_contain_text(
                f"{one.hypervolume.mean:.3f} {one.hypervolume.low:.3f}–{one.hypervolume.high:.3f}"
            )
            expect(line).to_contain_text(f"{100 * one.front_probability:.0f}\u00a0%")
        assert [one.rank for one in ranking.strategies] == [1, 2, 2]
        reached = page.get_by_role("table", name="What each strategy reaches").get_by_role("row", name="best")
        accuracy = ranking.strategies[0].at_gain[2].accuracy
        assert accuracy
        expect(reached.get_by_role("cell").nth(2)).to_have_text(f"{100 * accuracy.mean:.2f}")
        expect(page.locator("#ranking")).to_contain_text("digits-cnn-fpga-z7020@1")
        lines.first.get_by_role("link").click()
        expect(page.get_by_role("dialog").get_by_role("heading", level=2)).to_have_text("best")

    if way == "report":
        return look((tmp_path / "board.html").as_uri())
    with serving(file) as url:
        look(url)


def test_a_track_without_a_speed_up_is_ranked_by_size(visit: Callable[..., Visit], address: str) -> None:
    page = visit().to(f"{address}?target=counts&workload=digits%2Fcnn")
    expect(page.locator("#main h3")).to_have_text("Accuracy against size")
    expect(page.get_by_role("columnheader", name="Speed-up")).to_have_count(0)
    expect(page.locator("#cards-title")).to_contain_text("smallest")
    page.get_by_label("Network and data").select_option("camvid/unet")
    expect(page.locator("#main .plot")).to_contain_text("mIoU, %")


def test_a_frame_drawn_in_a_picture_shows_what_is_in_it(visit: Callable[..., Visit], address: str) -> None:
    page = visit().to(address)
    page.locator("#main").scroll_into_view_if_needed()
    box = page.locator("#main .plot").bounding_box()
    assert box
    before = int(page.locator("#main .plot").get_attribute("data-drawn") or 0)
    page.mouse.move(box["x"] + 60, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 320, box["y"] + 160, steps=4)
    page.mouse.up()
    expect(page.get_by_role("button", name="Leave this section")).to_be_visible()
    inside = int(page.locator("#main .plot").get_attribute("data-drawn") or 0)
    assert 0 < inside < before
    assert visit().to(page.url).locator("#main .plot").get_attribute("data-drawn") == str(inside)
    page.get_by_role("button", name="Leave this section").click()
    expect(page.locator("#main .plot")).to_have_attribute("data-drawn", str(before))


def test_a_phone_needs_no_sideways_scrolling(visit: Callable[..., Visit], address: str, rows: tuple[Row, ...]) -> None:
    phone = visit(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    first, second = rows[3].id, rows[9].id
    for query in ("", f"?entry={first}", f"?entry={first}&beside={second}", "?strategy=pca_l1"):
        page = phone.to(address + query)
        if query:
            expect(page.get_by_role("dialog")).to_be_visible()
            body = page.locator("#panel-body")
            assert body.evaluate("body => [body.scrollWidth, body.getBoundingClientRect().right]") == [359, 360]
        assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_light_and_dark_follow_the_system_until_one_is_chosen(visit: Callable[..., Visit], address: str) -> None:
    def brightness(page: Any) -> int:
        return sum(map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]))

    def ink(page: Any) -> list[int]:
        """The darkest opaque pixel that the points are drawn with, to see that the canvas follows too."""
        return page.evaluate(
            """() => { const c = document.querySelector('#main canvas');
            const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
            const sums = [];
            for (let i = 0; i < d.length; i += 4) if (d[i + 3] === 255) sums.push(d[i] + d[i + 1] + d[i + 2]);
            return [Math.min(...sums.slice(0, 50000))]; }"""
        )

    dark = visit(color_scheme="dark")
    page = dark.to(address)
    assert brightness(page) < 120
    drawn_dark = ink(page)
    for event, light in (("beforeprint", True), ("afterprint", False)):  # paper is light
        page.evaluate("event => dispatchEvent(new Event(event))", event)
        assert (brightness(page) > 700, ink(page) != drawn_dark) == (light, light)
    page.get_by_role("button", name="Theme: system").click()
    assert brightness(page) > 700
    assert ink(page) != drawn_dark
    page.reload()
    assert brightness(page) > 700
    page.get_by_role("button", name="Theme: light").click()
    page.emulate_media(color_scheme="light")
    assert brightness(page) < 120
    # That we read the canvas here is no fault of the page's.
    dark.complaints = [line for line in dark.complaints if "willReadFrequently" not in line]


def test_nothing_else_can_be_asked_for_and_no_text_becomes_markup(visit: Callable[..., Visit], address: str) -> None:
    one = visit()
    page = one.to(address)
    refused = page.evaluate(
        """async () => { const tried = [];
        const blocked = new Promise((done) => addEventListener('securitypolicyviolation', (event) => {
            tried.push(event.effectiveDirective); done(); }));
        await fetch('https://example.com/').then(() => tried.push('fetched'), () => {});
        await blocked;
        const image = new Image(); image.src = 'http://127.0.0.2:9/x.png';
        await new Promise((done) => image.addEventListener('error', done));
        try { document.body.innerHTML = '<b>x</b>'; tried.push('markup'); } catch { tried.push('no markup'); }
        try { eval('1'); tried.push('eval'); } catch { tried.push('no eval'); }
        return tried; }"""
    )
    assert refused[0] == "connect-src"
    assert "fetched" not in refused and "markup" not in refused and "eval" not in refused
    assert {"no markup", "no eval"} <= set(refused)
    # The browser ended both before they left, and says so.
    left = [url for url in one.asked if not url.startswith((address, "data:")) and f"csp {url}" not in one.refused]
    assert left == []
    assert "csp http://127.0.0.2:9/x.png" in one.refused
    one.complaints.clear()
    one.asked.clear()


@pytest.fixture(scope="module")
def hostile_board(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = str(tmp_path_factory.mktemp("hostile") / "board.db")
    with Store(file) as store:
        store.add_many(
            entry(
                trial=trial,
                strategy=text,
                study=text,
                plan={
                    "channels": {text: 0.5, "a": text},
                    "layers": {text: {"weight_format": text, "rank": text}, "b": 1},
                },
                knobs={text: text, f"{text}.x": 1},
                method={"summary": text, "source": text},
                layers=[layer(text[:200], part_of=text[:200], weights=text[:200])] if trial % 2 else (),
                subject={"model": text, "dataset": text},
                environment={**entry().environment.model_dump(), "cpu": text, "platform": text},
                costs=[
                    {
                        **cost(KEY, 1 + trial / 10),
                        "executed": {text: [text, text]},
                        "runtime": {text[:100]: text[:100]},
                        "figures": {
                            "latency": {"value": 1e-3, "unit": "s"},
                            text: {"value": None, "unit": text, "reason": text},
                            f"{text[:190]} 2": {"value": 1.0, "unit": text},
                        },
                    }
                ],
            )
            for trial, text in enumerate(HOSTILE)
        )
        store.add_many(
            entry(workload=text, study="w", trial=trial, costs=[cost(f"{text[:99]}@{text[:99]}")])
            for trial, text in enumerate(HOSTILE)
        )
    return file


@pytest.mark.parametrize("way", ["server", "report"])
def test_hostile_text_is_text(visit: Callable[..., Visit], hostile_board: str, tmp_path: Path, way: str) -> None:
    def look(address: str) -> None:
        page = visit().to(address)
        elements = "() => document.querySelectorAll('img, iframe, object, embed, foreignObject, script').length"
        assert page.evaluate(elements) == 2  # the data and the script
        assert page.evaluate("[...document.querySelectorAll('#workload option')].map(o => o.value)") == [
            *sorted({*HOSTILE, "digits/cnn"}),
        ]
        page.get_by_label("Network and data").select_option("digits/cnn")
        expect(page.locator("#table tbody tr")).to_have_count(len(HOSTILE))
        shown = page.locator("#table tbody th").evaluate_all("cells => cells.map(cell => cell.textContent)")
        assert sorted(shown) == sorted(HOSTILE)
        for text in HOSTILE:
            page.locator("#table tbody tr").filter(has=page.get_by_text(text, exact=True)).first.click()
            dialog = page.get_by_role("dialog")
            expect(dialog.get_by_role("heading", level=2)).to_have_text(text)
            expect(dialog.get_by_role("heading", name="Make it again")).to_be_visible()
            command = dialog.locator(".command pre").last.text_content()
            # A shell would read the names as they are, and no character turns the line round.
            assert shell_reads(command)[3] == text and command.isascii()
            dialog.get_by_role("heading", level=2).get_by_role("link").click()
            expect(dialog.get_by_text("Settings tried")).to_be_visible()
            expect(dialog.locator(".summary")).to_have_text(text)
            dialog.get_by_label("Close").click()
        assert page.evaluate(elements) == 2
        hrefs = page.evaluate("[...document.querySelectorAll('a')].map(a => a.protocol)")
        assert set(hrefs) <= {"http:", "file:"}
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert page.title() == "digits/cnn on cpu-onnxruntime · shrinkboard"

    if way == "server":
        with serving(hostile_board) as url:
            look(url)
    else:
        file = tmp_path / "board.html"
        with Store(hostile_board) as store:
            write_report(store, file)
        look(file.as_uri())


def shell_reads(command: str) -> list[str]:
    """The words of a command line as bash reads them."""
    script = f"for word in {command}; do printf '%s\\0' \"$word\"; done"
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, check=True, timeout=20)
    assert done.stderr == ""
    return done.stdout.split("\0")


def crowd(document: str, count: int) -> tuple[str, list[float]]:
    """A report with many networks in place of those that it holds, and their accuracies."""
    block = re.search(r'(<script type="application/json" id="data">)(.*?)(</script>)', document, re.DOTALL)
    assert block
    data = json.loads(block[2])
    rng = random.Random(0)
    accuracies = [round(0.98 - 0.2 * rng.random() ** 3, 4) for _ in range(count)]
    columns = data["boards"][0]["rows"]
    for name, values in columns.items():
        columns[name] = [values[0]] * count
    columns["id"] = [f"{i:016x}" for i in range(count)]
    columns["strategy"] = [f"method{i % 15}{'+int' * (i % 2)}" for i in range(count)]
    columns["accuracy"] = accuracies
    columns["drop"] = [round(100 * (0.98 - accuracy), 9) for accuracy in accuracies]
    for name in ("speedup", "total_seconds", "parameters"):
        columns[name] = [rng.randint(100, 800) / 100 for _ in range(count)]
    data.update(boards=[{**data["boards"][0], "matched": count}], tracks=data["tracks"][:1], entries={}, strategies=[])
    return document.replace(block[2], json.dumps(data)), accuracies


def test_ten_thousand_networks_stay_usable(visit: Callable[..., Visit], tmp_path: Path) -> None:
    with Store(str(tmp_path / "board.db")) as store:
        store.add(entry(costs=[cost(KEY)]))
        document, accuracies = crowd(report_html(store), 10_000)
    file = tmp_path / "crowd.html"
    file.write_text(document)
    page = visit().to(file.as_uri())
    plot = page.locator("#main .plot")
    outside = re.match(r"([\d,]+) networks lie outside", page.locator("#main .note").inner_text())
    assert outside
    drawn = 10_000 - int(outside[1].replace(",", ""))
    assert drawn >= sum(accuracy >= 0.88 for accuracy in accuracies)
    expect(plot).to_have_attribute("data-drawn", str(drawn))
    expect(page.locator("#table tbody tr")).to_have_count(50)
    expect(page.locator("#pages")).to_contain_text("1–50 of 10,000")
    page.get_by_role("button", name="Next").click()
    expect(page.locator("#pages")).to_contain_text("51–100 of 10,000")
    page.get_by_role("columnheader", name="Accuracy").get_by_role("button").click()
    first = page.locator("#table tbody td").first
    expect(first).to_have_text(f"{100 * max(accuracies):.2f}")
    page.get_by_label("Lose at most").fill("1")
    passing = sum(round(100 * (0.98 - accuracy), 9) <= 1 for accuracy in accuracies)
    expect(page.locator("#shown")).to_have_text(f"{passing:,} of 10,000 networks shown")
    expect(plot).to_have_attribute("data-drawn", str(passing))
    # What is drawn does not become elements: the page stays light.
    assert page.evaluate("document.querySelectorAll('*').length") < 3000
    page.locator("#main").scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box
    page.mouse.move(box["x"] + 200, box["y"] + 60)
    expect(page.locator("#tip")).to_be_visible()
    page.keyboard.press("Escape")
    cursor(page).focus()
    start = cursor(page).get_attribute("aria-label")
    page.keyboard.press("ArrowRight")
    assert cursor(page).get_attribute("aria-label") != start


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_rule_of_accessibility_is_broken(
    visit: Callable[..., Visit], written: str, rows: tuple[Row, ...], scheme: str
) -> None:
    """By axe-core, which knows names and roles, tables, labels, contrast, landmarks and the order of headings."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    one = visit(color_scheme=scheme)
    first, second = rows[3].id, rows[9].id
    for query in ("?drop=0.1&front=1", f"?entry={first}", f"?entry={first}&beside={second}", "?strategy=pca_l1"):
        page = one.to(written + query)
        if "drop" not in query:
            expect(page.get_by_role("dialog")).to_be_visible()
        violations = axe.Axe().run(page).response["violations"]
        assert [(broken["id"], broken["nodes"][0]["html"]) for broken in violations] == []


def test_tables_are_tables(visit: Callable[..., Visit], address: str) -> None:
    page = visit().to(address)
    table = page.get_by_role("table", name=f"Networks of digits/cnn on {KEY}")
    assert table.get_by_role("columnheader").count() == table.locator("tbody tr").first.locator("th, td").count()
    assert table.get_by_role("rowheader").count() == table.locator("tbody tr").count()
    expect(table.locator("[aria-sort]")).to_have_count(1)


def test_an_empty_board_says_what_to_do(visit: Callable[..., Visit], tmp_path: Path) -> None:
    file = str(tmp_path / "board.db")
    with Store(file) as store:
        write_report(store, tmp_path / "board.html")
    message = "There are no results yet"
    expect(visit().to((tmp_path / "board.html").as_uri()).locator("#message")).to_contain_text(message)
    with serving(file) as url:
        expect(visit().to(url).locator("#message")).to_contain_text(message)


def test_what_an_address_asks_for_in_vain(visit: Callable[..., Visit], address: str) -> None:
    one = visit()
    page = one.to(f"{address}?entry=0123456789abcdef")
    expect(page.get_by_role("dialog")).to_contain_text(re.compile("no (network|entry)"))
    # A browser notes an answer of 404 by itself.
    one.complaints = [line for line in one.complaints if "404" not in line]
    nonsense = "?drop=x&latency=-&page=-3&sort=nothing&zoom=1,2&axis=up&split=both&method=none&entry="
    page = visit().to(address + nonsense)
    expect(page.get_by_text("No network passes these filters.")).to_be_visible()
    page.get_by_role("button", name="Clear filters").click()
    expect(page.locator("#table tbody tr")).not_to_have_count(0)
    tab = visit()
    for zoom in ("-1e308,1e308,0,1", "0,1e-17,0.1,0.1000000000000001", "1,0,1,0", "NaN,1,0,1", ",,,", "0,1,0,1,2"):
        page = tab.to(f"{address}?zoom=speed,{zoom}")
        expect(page.locator("#main .plot")).to_have_attribute("data-drawn", re.compile("[1-9]"))
        expect(page.get_by_role("button", name="Leave this section")).to_have_count(0)
