"""Entries that found the storage away: kept as files until it is back, so that ending the driver loses nothing."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from pathlib import Path

from leaderboard import Entry, LeaderboardError
from workloads import cache_folder, write_whole


def keep_unsaved(entry: Entry) -> None:
    """Writes the entry into the user's cache folder; where that cannot be written either, nothing is kept."""
    with contextlib.suppress(OSError):
        write_whole(_folder(entry.study) / f"{entry.id}.json", entry.to_json().encode())


def forget_unsaved(entry: Entry) -> None:
    """Removes the file of an entry that is on the board, or is refused there."""
    with contextlib.suppress(OSError):
        (_folder(entry.study) / f"{entry.id}.json").unlink(missing_ok=True)


def unsaved(study: str) -> list[Entry]:
    """Entries of a study that an earlier driver on this machine could not save; files that are damaged are left out."""
    return [entry for entry in _entries(_folder(study).glob("*.json")) if entry.study == study]


def all_unsaved() -> list[Entry]:
    """Those of all studies."""
    return _entries((cache_folder() / "unsaved").glob("*/*.json"))


def _entries(paths: Iterable[Path]) -> list[Entry]:
    found = []
    for path in sorted(paths):
        with contextlib.suppress(OSError, LeaderboardError, UnicodeDecodeError):
            found.append(Entry.from_json(path.read_text()))
    return found


def _folder(study: str) -> Path:
    return cache_folder() / "unsaved" / hashlib.sha256(study.encode()).hexdigest()[:16]
