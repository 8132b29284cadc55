"""How figures are written for people: a few significant digits and the unit that fits."""

from __future__ import annotations

import html
import re

ABSENT = "–"


def percent(fraction: float | None) -> str:
    return ABSENT if fraction is None else f"{100 * fraction:.2f}"


def points(drop: float) -> str:
    return f"{drop:.2f}"


def speedup(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return ABSENT
    return f"{value:.2f}×" if low is None or high is None else f"{value:.2f}× [{low:.2f}, {high:.2f}]"


def seconds(value: float | None) -> str:
    if value is None:
        return ABSENT
    if value == 0:
        return "0 s"
    if value >= 60:
        return f"{value / 60:.3g} min"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def joules(value: float | None) -> str:
    if value is None:
        return ABSENT
    for unit, size in (("J", 1.0), ("mJ", 1e-3), ("µJ", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-9:.3g} nJ"


def beside(value: float | None, dense: float | None) -> str:
    """A time and how many times faster it is than the dense network's."""
    if value is None or dense is None:
        return ABSENT
    return seconds(value) + (f" ({dense / value:.2f}×)" if value else "")


def count(value: float) -> str:
    for suffix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def size(value: float) -> str:
    return f"{count(value)}B"


def escaped(text: str) -> str:
    """Text as it may stand in Markdown: nothing in it is markup."""
    return re.sub(r"([\\`*_{}\[\]|~#])", r"\\\1", html.escape(text, quote=False))
