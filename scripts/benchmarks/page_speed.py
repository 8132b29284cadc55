"""How quick the page is with ten thousand networks on one track, in a browser, and how quick its server answers.

    python scripts/benchmarks/page_speed.py --out docs/results/page_speed

A board of 10,000 networks of 30 strategies is served and opened in headless Chromium, 1280 by 900 points, without a
graphics card. Every interaction is repeated; two times are taken in the page, from the moment the event happened:

- `seen`: to the frame that shows what one looked at, which is what a visitor waits for;
- `settled`: to the last change of the page, for the second picture and the tables below follow a frame later.

The goal is 100 ms until it is seen. The API is asked for the whole track from outside the browser: for the first time,
again (the server keeps an answer as long as the board stands), and by a browser that has it already.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from cost_models import processor
from leaderboard import Entry, Store

sys.path.insert(0, str(Path(__file__).parent.parent))
from browsing import chromium, served

WORKLOAD, KEY = "digits/cnn", "cpu-onnxruntime@ab12cd34"
GOAL, API_GOAL = 100.0, 50.0
"""Milliseconds."""
METHODS = (
    *("pca_l1", "sentei", "uniform", "global_l1", "l1", "low_rank", "depth", "frequency", "snip_structured"),
    *("pai_pat", "random", "conventional", "grasp", "synflow", "magnitude"),
)
METER = """
(() => {
  let kind = null, from = null, seen = null, last = null;
  new MutationObserver(() => { last = performance.now(); })
    .observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
  for (const one of ["input", "click", "keydown", "pointermove", "pointerup"]) {
    addEventListener(one, (event) => {
      if (one !== kind || from !== null) return;
      from = event.timeStamp;
      // The frame is drawn before the next message is handled.
      requestAnimationFrame(() => {
        const channel = new MessageChannel();
        channel.port1.onmessage = () => { seen = performance.now(); };
        channel.port2.postMessage(0);
      });
    }, true);
  }
  window.timed = (one) => { kind = one; from = seen = last = null; };
  window.taken = () => seen === null ? null : [seen - from, Math.max(seen, last ?? 0) - from];
})();
"""
"""Put into the page before its own script."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=10_000, help="default 10,000")
    parser.add_argument("--rounds", type=int, default=20, help="default 20")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    arguments = parser.parse_args()
    found: dict[str, Any] = {
        "machine": f"{processor().model}, {os.cpu_count()} cores",
        "networks": arguments.networks,
        "rounds": arguments.rounds,
        "load_before": os.getloadavg()[0],
    }
    with tempfile.TemporaryDirectory() as folder:
        board = f"{folder}/board.db"
        with Store(board) as store:
            store.add_many(crowd(arguments.networks))
        with served(board) as url, chromium() as browser:
            found["api"] = api(url, arguments.rounds)
            found["browser"] = browser.version
            found["interactions"] = interactions(browser, url, arguments.rounds)
    found["load_after"] = os.getloadavg()[0]
    text = markdown(found)
    print(text)
    if arguments.out:
        arguments.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
        arguments.out.with_suffix(".md").write_text(
            "# Speed of the page\n\nMade by `python scripts/benchmarks/page_speed.py`; every time stands in "
            f"`{arguments.out.name}.json`.\n\n{text}\n"
        )


def crowd(count: int) -> list[Entry]:
    """Networks of 30 strategies that lie as those of a search do: the faster, the less accurate."""
    rng = random.Random(0)
    made = []
    for trial in range(count):
        speedup = 2 ** rng.uniform(-0.3, 3)
        loss = 0.03 * max(0.0, speedup - 1) ** 2 / 49 * rng.uniform(0.5, 4) + rng.gauss(0, 0.004)
        accuracy = min(0.999, max(0.5, 0.985 - loss))
        low, high = speedup * 0.97, speedup * 1.03
        made.append(
            Entry.create(
                workload=WORKLOAD,
                strategy=rng.choice(METHODS) + rng.choice(("", "+int")),
                study="crowd",
                trial=trial,
                role="candidate",
                seed=0,
                plan={"channels": {"conv1": 0.5, "conv2": 0.25}},
                plan_digest=f"{trial:064x}",
                knobs={"keep": trial % 20},
                epochs=5.0,
                accuracy={"validation": {"top1": accuracy, "top5": 1.0}, "dense_validation": 0.98},
                parameters=int(90_000 / speedup),
                macs=int(1.5e6 / speedup),
                bytes=int(360_000 / speedup),
                dense_parameters=90_000,
                dense_macs=1_500_000,
                costs=[
                    {
                        "target": KEY.partition("@")[0],
                        "key": KEY,
                        "kind": "measured",
                        "figures": {"latency": {"value": 2e-5 / speedup, "unit": "s"}},
                        "speedup": {"value": speedup, "low": low, "high": high},
                    }
                ],
                training={
                    "epochs": 5.0,
                    "seconds": rng.uniform(1, 30),
                    "images": 5000,
                    "dense_epochs": 20.0,
                    "dense_seconds": 12.0,
                    "starts_from": "trained",
                },
                environment={
                    "python": "3.11",
                    "torch": "2.13.0",
                    "onnxruntime": None,
                    "shrinkboard": "0.1",
                    "platform": "Linux",
                    "cpu": "some CPU",
                },
                dense_digest="0",
            )
        )
    return made


def api(url: str, rounds: int) -> dict[str, Any]:
    """Milliseconds that the server takes to answer for the whole track, and how much it sends."""
    address = f"{url}/api/board?{urlencode({'workload': WORKLOAD, 'target': KEY, 'limit': 20000})}"

    def ask(**headers: str) -> tuple[float, int, str]:
        began = time.perf_counter()
        try:
            with urlopen(Request(address, headers={k.replace("_", "-"): v for k, v in headers.items()})) as answer:
                size, tag = len(answer.read()), answer.headers["ETag"]
        except OSError as error:
            if getattr(error, "code", None) != 304:
                raise
            size, tag = 0, ""
        return 1e3 * (time.perf_counter() - began), size, tag

    first, size, tag = ask()
    return {
        "first": first,
        "again": [ask()[0] for _ in range(rounds)],
        "again, compressed": [ask(Accept_Encoding="gzip")[0] for _ in range(rounds)],
        "unchanged": [ask(If_None_Match=tag)[0] for _ in range(rounds)],
        "bytes": size,
        "bytes compressed": ask(Accept_Encoding="gzip")[1],
    }


def interactions(browser: Any, url: str, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds by interaction, every round of them in the same order."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.add_init_script(METER)
    page.goto(url)
    page.locator("#board[aria-busy=false]").wait_for()
    plot = page.locator("#main .plot")
    times: dict[str, dict[str, list[float]]] = {}

    def take(name: str, kind: str, act: Callable[[], object]) -> None:
        page.evaluate("kind => window.timed(kind)", kind)
        act()
        page.wait_for_function("() => window.taken() !== null")
        page.wait_for_timeout(300)
        seen, settled = page.evaluate("window.taken()")
        own = times.setdefault(name, {"seen": [], "settled": []})
        own["seen"].append(seen)
        own["settled"].append(settled)

    def corner(x: float, y: float) -> tuple[float, float]:
        box = plot.bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def frame() -> None:
        page.mouse.move(*corner(0.3, 0.1))
        page.mouse.down()
        page.mouse.move(*corner(0.6, 0.5), steps=3)
        page.mouse.up()

    for i in range(rounds):
        page.locator("#drop").focus()
        take("type a limit", "input", lambda: page.keyboard.type("1"))
        take("take the limit away", "input", lambda: page.keyboard.press("Backspace"))
        chip = page.locator("#methods button").nth(i % len(METHODS))
        take("one method only", "click", chip.click)
        take("all methods again", "click", chip.click)
        take("front only", "click", page.locator("#front").click)
        take("all networks again", "click", page.locator("#front").click)
        take("sort the table", "click", page.locator("#table th button").nth(1 + i % 9).click)
        take("next page of the table", "click", page.get_by_role("button", name="Next").click)
        page.locator("#axis button").nth(1 - i % 2).scroll_into_view_if_needed()
        take("another figure on the axis", "click", page.locator("#axis button").nth(1 - i % 2).click)
        plot.scroll_into_view_if_needed()
        page.mouse.move(*corner(0.5, 0.5))
        take("point at a network", "pointermove", lambda: page.mouse.move(*corner(0.3, 0.2)))
        page.locator("#main .cursor").focus()
        take("go to the next network", "keydown", lambda: page.keyboard.press("ArrowRight"))
        take("draw a frame", "pointerup", frame)
        take("leave the frame", "click", page.get_by_role("button", name="Leave this section").click)
        take("open a network", "click", page.locator("#table tbody tr").nth(i).click)
        take("close it", "keydown", lambda: page.keyboard.press("Escape"))
    page.close()
    return times


def markdown(found: dict[str, Any]) -> str:
    api = found["api"]
    lines = [
        f"{found['networks']:,} networks on one track, Chromium {found['browser']} without a graphics card, on "
        f"{found['machine']}. Load of the minute before: {found['load_before']:.2f}, at the end: "
        f"{found['load_after']:.2f}. {found['rounds']} rounds; goal: {GOAL:.0f} ms until it is seen.",
        "",
        "| interaction | seen, median | worst | settled, median | worst | goal |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for name, own in found["interactions"].items():
        seen, settled = own["seen"], own["settled"]
        figures = (statistics.median(seen), max(seen), statistics.median(settled), max(settled))
        met = "met" if max(seen) <= GOAL else "median only" if figures[0] <= GOAL else "**missed**"
        lines.append(f"| {name} | {' | '.join(f'{x:.0f} ms' for x in figures)} | {met} |")
    lines += [
        "",
        f"The API answers for the whole track ({api['bytes'] / 1e6:.1f} MB, {api['bytes compressed'] / 1e6:.1f} MB "
        f"compressed) in {api['first']:.0f} ms for the first time; goal: {API_GOAL:.0f} ms.",
        "",
        "| asked | median | worst |",
        "|---|---:|---:|",
    ]
    for name in ("again", "again, compressed", "unchanged"):
        lines.append(f"| {name} | {statistics.median(api[name]):.1f} ms | {max(api[name]):.1f} ms |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
