"""The strategy that `chaos.py` plugs in: `l1`, which misbehaves once for every file that it finds in a folder.

A file's name begins with the fault; whoever renames it has taken it, so each happens once, in one worker.
"""

from __future__ import annotations

import math
import os
import resource
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import shrinkboard as sb
from search import evaluation

TOKENS, DRIVER = "CHAOS_TOKENS", "CHAOS_DRIVER"
"""Variables of the environment: the folder, and the number of the driver's process, which stays well-behaved."""
POISONED = "poisoned"
"""File that holds the digest of the plan that kills its workers."""
ROOM = 2**26
"""Bytes that a worker may still have when its memory is used up."""


class Chaotic(type(sb.strategy("l1"))):  # type: ignore[misc]
    """Takes a fault from the folder, if there is one, and does as it says."""

    name = "chaotic"
    summary = "l1 whose trials go wrong on request"
    source = "a test of shrinkboard"

    def _compress(self, dense: sb.Dense, plan: sb.Plan) -> sb.Compressed:
        fault = "" if os.environ.get(DRIVER) == str(os.getpid()) else take(Path(os.environ[TOKENS]), plan.digest)
        compressed = super()._compress(dense, plan)
        FAULTS.get(fault, lambda _: None)(compressed)
        return compressed


def take(folder: Path, digest: str) -> str:
    """The fault that is this worker's now; empty where there is none."""
    poisoned = folder / POISONED
    if poisoned.exists() and digest in poisoned.read_text().split():
        return "poison"
    for token in sorted(folder.glob("trial-*")):
        with suppress(FileNotFoundError):  # another worker was faster
            token.rename(folder / f"taken-{token.name}")
            fault = token.name.split(".")[0].removeprefix("trial-")
            if fault == "poison":
                with poisoned.open("a") as file:
                    file.write(f"{digest}\n")
            return fault
    return ""


def _raise(compressed: sb.Compressed) -> None:
    raise RuntimeError("chaos: this trial raises")


def _hang(compressed: sb.Compressed) -> None:
    time.sleep(3600)


def _use_up_memory(compressed: sb.Compressed) -> None:
    """Asks for more than a limit of the process leaves: a real `MemoryError`."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + ROOM, before[1]))
    try:
        bytearray(16 * ROOM)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _die(compressed: sb.Compressed) -> None:
    """As the kernel does to a process that it takes memory from."""
    os.kill(os.getpid(), signal.SIGKILL)


def _spoil_weights(compressed: sb.Compressed) -> None:
    with torch.no_grad():
        for parameter in compressed.module.parameters():
            parameter.fill_(math.nan)


def _spoil_accuracy(compressed: sb.Compressed) -> None:
    """The next accuracy that this process finds is NaN."""
    real = vars(evaluation)["evaluate"]

    def spoilt(*arguments: Any, **named: Any) -> Any:
        vars(evaluation)["evaluate"] = real
        return replace(real(*arguments, **named), top1=math.nan)

    vars(evaluation)["evaluate"] = spoilt


FAULTS: dict[str, Callable[[sb.Compressed], None]] = {
    "raises": _raise,
    "hangs": _hang,
    "memory": _use_up_memory,
    "killed": _die,
    "poison": _die,
    "nan_weights": _spoil_weights,
    "nan_accuracy": _spoil_accuracy,
}
