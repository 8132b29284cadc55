"""A browser and a served board, for the scripts that look at the page."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
"""A browser that asks for nothing but the page."""


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium of the system, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    file = shutil.which("chromium") or shutil.which("google-chrome")
    if file is None:
        sys.exit("chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=file, args=list(QUIET))
        yield browser
        browser.close()


@contextmanager
def served(storage: str) -> Iterator[str]:
    """The address of a board that `shrinkboard serve` shows meanwhile."""
    command = [sys.executable, "-m", "shrinkboard", "serve", "--port", "0", "--storage", storage]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        found = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
        assert found, "the server did not start"
        yield found[0]
        server.terminate()
