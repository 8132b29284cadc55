"""Entries as files: one JSON file each, named by its id."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from .entry import Entry
from .errors import LeaderboardError, quoted

# An entry of ours has about 100 kB; whatever is larger than this is none of ours and is not read.
_MAX_BYTES = 16_000_000


def write_entries(entries: Iterable[Entry], folder: Path) -> int:
    """Writes `<id>.json` for every entry; returns how many. Raises `LeaderboardError` where that fails."""
    count = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for entry in entries:
            (folder / f"{entry.id}.json").write_text(entry.to_json(), encoding="ascii")
            count += 1
    except OSError as error:
        reason = f"folder {quoted(str(folder))} cannot be written ({error.strerror}); give another"
        raise LeaderboardError(reason) from None
    return count


def read_entries(paths: Sequence[Path]) -> list[tuple[Path, Entry]]:
    """Every entry in these files and, for a folder, in all `.json` files below it.

    Raises `LeaderboardError`, naming the file and the reason, for the first that is not an intact entry; the same entry
    twice counts once, two entries with one key (study, strategy, trial) are refused.
    """
    found: dict[tuple[str, str, int], tuple[Path, Entry]] = {}
    for file in _files(paths):
        try:
            entry = Entry.from_json(read_text(file))
        except LeaderboardError as error:
            raise LeaderboardError(f"{quoted(str(file))}: {error}") from None
        first, standing = found.setdefault(entry.key, (file, entry))
        if standing.id != entry.id:
            raise LeaderboardError(
                f"{quoted(str(file))}: same study, strategy and trial as {quoted(str(first))}, other content; "
                "remove one"
            )
    return list(found.values())


def _files(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if os.path.isdir(path):  # unlike Path's, False for a name that no file can have
            below = sorted(path.rglob("*.json"))
            if not below:
                raise LeaderboardError(f"folder {quoted(str(path))} holds no .json file; give entries that dump wrote")
            files += below
        else:
            files.append(path)
    return files


def read_text(file: Path) -> str:
    """What a file of at most 16 MB holds; raises `LeaderboardError`, without its name."""
    try:
        if not file.is_file():  # a pipe or a device would be read for ever
            raise LeaderboardError("no such file" if not file.exists() else "not a regular file")
        if file.stat().st_size > _MAX_BYTES:
            raise LeaderboardError(f"larger than {_MAX_BYTES} bytes, as no file of ours is")
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise LeaderboardError(f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise LeaderboardError("not UTF-8 text; give a file that `shrinkboard` wrote") from None
    except ValueError as error:  # a NUL in the name
        raise LeaderboardError(f"cannot be read ({error})") from None
