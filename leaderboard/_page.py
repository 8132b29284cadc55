"""The page: one HTML document with its style, script and, in a report, its data inside."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cache
from importlib import resources
from typing import Any

_SCRIPTS = (
    *("dom", "words", "state", "source", "marks", "axes", "plot", "table", "layers", "entry", "strategy"),
    *("ranking", "controls", "panel", "board"),
)
"""In the order in which they are read: each uses only what stands before it."""


def page(data: Any = None) -> tuple[str, str]:
    """The document and its content-security policy, without and with `data` to show.

    The policy allows this style and this script, by hash, and nothing else; without data the page may ask its own
    server. No string becomes markup: browsers that know trusted types refuse it.
    """
    style, script, template = _parts()
    policy = [
        "default-src 'none'",
        f"style-src {_hash(style)}",
        f"script-src {_hash(script)}",
        "img-src data:",
        *([] if data is not None else ["connect-src 'self'"]),
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
    parts = {"policy": "; ".join(policy), "style": style, "script": script, "data": embedded(data)}
    # In one pass, so that text of an entry that looks like a placeholder stays what it is.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template), parts["policy"]


def embedded(data: Any) -> str:
    """`data` as JSON that may stand inside a script element: ASCII, and no character that HTML could read."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _parts() -> tuple[str, str, str]:
    folder = resources.files("leaderboard") / "page"

    def read(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    script = "\n".join(read(f"{name}.js") for name in _SCRIPTS)
    return read("board.css"), f'(() => {{\n"use strict";\n{script}\nboard.start();\n}})();', read("board.html")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
