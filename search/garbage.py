"""What lies in the cache folder and nobody needs: networks that no entry names, candidates that nobody trains on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import safetensors

from leaderboard import Store
from workloads import cache_folder

from .checkpoints import paused_folder
from .drivers import drivers_of
from .leases import open_candidates
from .networks import networks_folder
from .status import seems_alive
from .unsaved import all_unsaved

AGE = 24 * 3600.0
"""Seconds that a file is left alone: its entry may be on its way to a board that nobody has told us of."""


@dataclass(frozen=True)
class Waste:
    """A file that may go."""

    path: Path
    kind: Literal["network", "paused candidate", "left over"]
    """The last: what a process that was killed while writing has left."""
    bytes: int


def find_waste(stores: Sequence[Store], age: float = AGE) -> list[Waste]:
    """Files older than `age` seconds that none of these storages needs, and no entry that waits for its storage.

    Studies that a driver works on keep all that is theirs, and so do candidates that a later run would take up.
    """
    needed = {entry.weights for entry in all_unsaved()}.union(*(store.weights() for store in stores))
    running = {driver.study for store in stores for driver in drivers_of(store) if seems_alive(driver)}
    waiting = {key for store in stores for key in open_candidates(store)}
    found = []
    for path in _old(networks_folder(), age):
        if path.stem not in needed and _study(path) not in running:
            found.append(_waste(path, "network"))
    theirs = [paused_folder(study) for study in running]
    places = {(paused_folder(study, strategy), trial) for study, strategy, trial in waiting}
    for path in _old(cache_folder() / "paused", age):
        trial = path.stem.partition("-")[0]
        if path.parent.parent not in theirs and (path.parent, trial) not in places:
            found.append(_waste(path, "paused candidate"))
    return found


def remove(waste: Sequence[Waste]) -> None:
    """Removes the files, and folders that have become empty."""
    for one in waste:
        with contextlib.suppress(OSError):
            one.path.unlink(missing_ok=True)
    for folder in {folder for one in waste for folder in (one.path.parent, one.path.parent.parent)}:
        if cache_folder() in folder.parents:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _old(folder: Path, age: float) -> Iterator[Path]:
    before = time.time() - age
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(OSError):  # it may go while we look
            if path.is_file() and path.stat().st_mtime < before:
                yield path


def _waste(path: Path, kind: Literal["network", "paused candidate"]) -> Waste:
    half = path.name.startswith(".") or path.suffix != ".safetensors"
    return Waste(path, "left over" if half else kind, path.stat().st_size)


def _study(network: Path) -> str | None:
    with contextlib.suppress(OSError, safetensors.SafetensorError), safetensors.safe_open(network, "pt") as file:
        return (file.metadata() or {}).get("study")
    return None
