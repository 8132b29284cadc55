"""Options of a target, as they stand behind its name: `cpu-onnxruntime:threads=2,image=640x480`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from workloads import InputError

Option = Callable[[str], Any]
"""Reads the text of a value; raises `ValueError` that says what is allowed."""


def parse_options(target: str, text: str, allowed: Mapping[str, Option]) -> dict[str, Any]:
    """The values of `text`, such as `threads=2,image=640x480`; raises `InputError` for what is unknown or wrong."""
    found: dict[str, Any] = {}
    for part in text.split(","):
        name, given, value = part.partition("=")
        if name not in allowed or not given or name in found:
            known = ", ".join(f"{option}=…" for option in allowed) or "none"
            raise InputError(f"target {target}: {part!r} is no option, or given twice; allowed: {known}")
        try:
            found[name] = allowed[name](value)
        except ValueError as error:
            raise InputError(f"target {target}: {name}={value!r} is not allowed; {error}") from None
    return found


def named(base: str, options: Mapping[str, Any]) -> str:
    """The name of a target with these options, which `target()` reads again: in the order of the alphabet."""
    told = [f"{name}={_said(value)}" for name, value in sorted(options.items()) if value is not None]
    return f"{base}:{','.join(told)}" if told else base


def thread_count(text: str) -> int:
    """1 to 1024."""
    if not re.fullmatch(r"[1-9]\d{0,3}", text) or int(text) > 1024:
        raise ValueError("give a number of threads from 1 to 1024")
    return int(text)


def picture_size(text: str) -> tuple[int, int]:
    """(width, height) of `640x480`."""
    match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", text)
    if not match:
        raise ValueError("give the size of the picture that arrives as WIDTHxHEIGHT in pixels, such as 640x480")
    return int(match[1]), int(match[2])


def one_of(*words: str) -> Option:
    """One of some words."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"allowed: {', '.join(words)}")
        return text

    return read


def _said(value: Any) -> str:
    return f"{value[0]}x{value[1]}" if isinstance(value, tuple) else str(value)
