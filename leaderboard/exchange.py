"""Entries and benchmarks as files: one JSON file each, named by its id."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from .benchmark import Benchmark
from .entry import Entry, parse_object
from .errors import LeaderboardError, quoted

# An entry of ours has about 100 kB; whatever is larger than this is no entry and is not read.
_MAX_BYTES = 16_000_000


@dataclass
class Exchanged:
    """What files held, each beside its file: no entry twice, no key (study, strategy, trial) with two contents."""

    entries: list[tuple[Path, Entry]] = field(default_factory=list)
    benchmarks: list[tuple[Path, Benchmark]] = field(default_factory=list)


def write_entries(entries: Iterable[Entry], folder: Path) -> int:
    """Writes `<id>.json` for every entry; returns how many. Raises `LeaderboardError` where that fails."""
    return _write(((entry.id, entry.to_json()) for entry in entries), folder)


def write_benchmarks(benchmarks: Iterable[Benchmark], folder: Path) -> int:
    """Writes `<name>@<version>.json` for every definition, as `write_entries`; odd characters of a name as %2F."""
    return _write(((quote(one.id, safe="@"), one.to_json()) for one in benchmarks), folder)


def _write(named: Iterable[tuple[str, str]], folder: Path) -> int:
    count = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in named:
            (folder / f"{name}.json").write_text(text, encoding="ascii")
            count += 1
    except OSError as error:
        reason = f"folder {quoted(str(folder))} cannot be written ({error.strerror}); give another"
        raise LeaderboardError(reason) from None
    return count


def read_files(paths: Sequence[Path]) -> Exchanged:
    """Every entry and benchmark in these files and, for a folder, in all `.json` files below it.

    Raises `LeaderboardError`, naming the file and the reason, for the first that is not an intact one; the same entry
    twice counts once, two entries with one key (study, strategy, trial) are refused.
    """
    found = Exchanged()
    standing: dict[tuple[str, str, int], tuple[Path, Entry]] = {}
    for file in _files(paths):
        try:
            read = _read(file)
            if isinstance(read, Benchmark):
                found.benchmarks.append((file, read))
                continue
            first, one = standing.setdefault(read.key, (file, read))
            if one.id != read.id:
                raise LeaderboardError(
                    f"same study, strategy and trial as {quoted(str(first))}, other content; remove one"
                )
        except LeaderboardError as error:
            raise LeaderboardError(f"{quoted(str(file))}: {error}") from None
    found.entries += standing.values()
    return found


def json_schema(what: Literal["entry", "benchmark"]) -> str:
    """The JSON schema (draft 2020-12) of an entry's or a benchmark's file, as indented JSON.

    It tells names, types and ranges; that the id fits the content, and what fields say of each other, `read_files`
    checks.
    """
    model = Entry if what == "entry" else Benchmark
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    if model is Entry:
        hashed = "First 16 hexadecimal digits of the SHA-256 of the canonical JSON of every field but created."
        schema["properties"]["id"] = {"description": hashed, "pattern": "^[0-9a-f]{16}$", "type": "string"}
        schema["required"].append("id")
    return json.dumps(schema, indent=1) + "\n"


def _files(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if os.path.isdir(path):  # unlike Path's, False for a name that no file can have
            below = sorted(path.rglob("*.json"))
            if not below:
                raise LeaderboardError(f"folder {quoted(str(path))} holds no .json file; give entries that dump wrote")
            # A folder may be a stranger's: a link in it could point at a file of the reader's, to be told of.
            link = next((file for file in below if file.is_symlink()), None)
            if link is not None:
                raise LeaderboardError(f"{quoted(str(link))}: a symbolic link; put the file itself there")
            files += below
        else:
            files.append(path)
    return files


def _read(file: Path) -> Entry | Benchmark:
    data = parse_object(_text(file), "file")
    # An entry has an id, which is its hash; a definition is named by its name and version.
    return Benchmark.create(**data) if "id" not in data and "track" in data else Entry.from_fields(data)


def _text(file: Path) -> str:
    try:
        if not file.is_file():  # a pipe or a device would be read for ever
            raise LeaderboardError("no such file" if not file.exists() else "not a regular file")
        if file.stat().st_size > _MAX_BYTES:
            raise LeaderboardError(f"larger than {_MAX_BYTES} bytes, so it is no entry")
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise LeaderboardError(f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise LeaderboardError("not UTF-8 text; give a file that `shrinkboard dump` wrote") from None
    except ValueError as error:  # a NUL in the name
        raise LeaderboardError(f"cannot be read ({error})") from None
