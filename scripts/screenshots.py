"""Pictures of the page for README and docs, from a board that a search has filled.

    python scripts/screenshots.py --storage demo/board.db --workload digits/cnn --target cpu-onnxruntime

The page is served, opened in headless Chromium and seen at 1280 points and on a phone. Its text is set in Inter where
that is installed (`apt-get install fonts-inter`), as it is in the pictures in `docs`.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from browsing import chromium, served
from PIL import Image

from leaderboard import Query, Row, Store

COLOURS = 256
"""Of a picture: it looks the same as with all, and is a third of the size."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", required=True)
    parser.add_argument("--workload", required=True)
    parser.add_argument("--target", required=True, help="a target or target key")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder to write to (default docs)")
    arguments = parser.parse_args()
    with Store(arguments.storage, create=False) as store:
        (track,) = store.query(Query(workload=arguments.workload, target=arguments.target)).tracks
    one, other = chosen(track.rows)
    shown = {"workload": track.workload, "target": track.key}
    with served(arguments.storage) as url, chromium() as browser:

        def picture(name: str, height: int, show: Callable[[Any], object] = lambda page: None, **how: Any) -> None:
            query, width = how.pop("query", {}), how.pop("width", 1280)
            page = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=1.5, **how)
            page.goto(f"{url}/?{urlencode({**shown, **query})}")
            page.locator("#board[aria-busy=false]").wait_for()
            page.wait_for_timeout(300)
            show(page)
            image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            image.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=4, dither=Image.Dither.NONE).save(
                arguments.out / f"{name}.png", optimize=True
            )
            page.close()

        def pointed(page: Any) -> None:
            page.locator("#main .cursor").focus()
            for _ in range(6):  # along the front, to where both pictures stay in sight
                page.keyboard.press("ArrowDown")

        def ranks(page: Any) -> None:
            page.locator("#ranking").wait_for()
            page.locator("#ranking").evaluate("section => section.scrollIntoView()")

        picture("board", 1370)
        picture("board_dark", 1370, pointed, color_scheme="dark")
        picture("board_phone", 1500, width=390, is_mobile=True)
        picture("board_network", 1000, query={"entry": one.id})
        picture("board_compared", 900, query={"entry": one.id, "beside": other.id})
        picture("board_strategy", 900, query={"strategy": one.strategy})
        picture("board_ranking", 1000, ranks, query={"split": "finals"})


def chosen(rows: tuple[Row, ...]) -> tuple[Row, Row]:
    """The smallest within two points whose number formats were chosen too, and the fastest of another strategy."""
    good = [row for row in rows if row.drop <= 2 and row.role == "candidate"]
    one = min((row for row in good if "+" in row.strategy), key=lambda row: row.parameters)
    return one, max((row for row in good if row.strategy != one.strategy), key=lambda row: row.speedup or 0)


if __name__ == "__main__":
    main()
