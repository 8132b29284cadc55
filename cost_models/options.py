"""Options of a target, as they stand behind its name: `cpu-onnxruntime:threads=2,image=640x480`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from workloads import InputError


@dataclass(frozen=True)
class Option:
    """How the value of an option is written."""

    form: str
    """For help texts: `N`, `WIDTHxHEIGHT`, `cold|warm`."""
    read: Callable[[str], Any]
    """The value of a text; raises `ValueError` that says what is allowed."""
    default: Any = None
    """The value where the option is left out; a target that is given it is the one that is not."""


def parse_options(target: str, text: str, allowed: Mapping[str, Option]) -> dict[str, Any]:
    """The values of `text`, such as `threads=2,image=640x480`; raises `InputError` for what is unknown or wrong."""
    found: dict[str, Any] = {}
    for part in text.split(","):
        name, given, value = part.partition("=")
        if name not in allowed or not given or name in found:
            known = ", ".join(described(allowed)) or "none"
            raise InputError(f"target {target}: {part!r} is no option, or given twice; allowed: {known}")
        try:
            found[name] = allowed[name].read(value)
        except ValueError as error:
            raise InputError(f"target {target}: {name}={value!r} is not allowed; {error}") from None
    return found


def described(options: Mapping[str, Option]) -> list[str]:
    """One word an option, such as `image=WIDTHxHEIGHT`."""
    return [f"{name}={option.form}" for name, option in options.items()]


def named(base: str, options: Mapping[str, Any], allowed: Mapping[str, Option]) -> str:
    """The name of a target with these options, which `target()` reads again: without defaults, sorted."""
    told = [f"{name}={_said(value)}" for name, value in sorted(options.items()) if value != allowed[name].default]
    return f"{base}:{','.join(told)}" if told else base


def one_of(*words: str) -> Option:
    """One of some words, by default the first."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"allowed: {', '.join(words)}")
        return text

    return Option("|".join(words), read, words[0])


def _thread_count(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,3}", text) or int(text) > 1024:
        raise ValueError("give a number of threads from 1 to 1024")
    return int(text)


def _picture_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})", text)
    if not match or max(int(match[1]), int(match[2])) > LARGEST_SIDE:
        raise ValueError(
            "give the size of the picture that arrives as WIDTHxHEIGHT in pixels, such as 640x480, "
            f"of at most {LARGEST_SIDE} each way"
        )
    return int(match[1]), int(match[2])


LARGEST_SIDE = 4096
"""Of a picture, in pixels: larger ones take hundreds of megabytes to make."""

thread_count = Option("N", _thread_count, 1)
"""1 to 1024."""
picture_size = Option("WIDTHxHEIGHT", _picture_size)
"""(width, height) of `640x480`."""


def _said(value: Any) -> str:
    return f"{value[0]}x{value[1]}" if isinstance(value, tuple) else str(value)
