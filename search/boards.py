"""Which storages use this user's cache folder: each driver notes its own, so that `gc` knows whom to ask."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL, make_url

from leaderboard import LeaderboardError, Store
from workloads import InputError, cache_folder, write_whole


@dataclass(frozen=True)
class Board:
    """A storage that has been noted."""

    name: str
    """Fit to be shown; for a file, its whole path."""
    note: Path

    @property
    def is_file(self) -> bool:
        return "://" not in self.name


def note_board(store: Store) -> None:
    """Notes a storage; one in memory is none that could be asked later."""
    name = _name(store)
    if name:
        with contextlib.suppress(OSError):  # where nothing can be written, no network can be kept either
            write_whole(_note(name), json.dumps({"storage": name}).encode())


def noted_boards() -> list[Board]:
    """All that were noted and not forgotten, by name."""
    found = []
    for note in _folder().glob("*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found.append(Board(str(json.loads(note.read_text())["storage"]), note))
    return sorted(found, key=lambda board: board.name)


def open_boards(storages: list[str], without: list[str]) -> list[Store]:
    """These storages, and all that were noted but those `without`; they are to be closed.

    Raises `InputError` where one cannot be looked into, or there is none: what it needs would then be taken for waste.
    """
    opened: dict[str, Store] = {}
    unheard: dict[str, str] = {}
    try:
        for text in storages:
            store = Store(text, create=False)
            opened[_name(store)] = store
        for board in noted_boards():
            if board.name in opened or board.name in without:
                continue
            try:
                if not board.is_file:
                    raise LeaderboardError("on a server, which may want a password")
                opened[board.name] = Store(board.name, create=False)
            except LeaderboardError as error:
                unheard[board.name] = str(error)
        if unheard:
            disown = " ".join(f"--without {name}" for name in unheard)
            first, more = next(iter(unheard)), f" and {len(unheard) - 1} more" if len(unheard) > 1 else ""
            raise InputError(
                f"not all storages that have used this cache can be asked: {first} ({unheard[first]}){more}; give "
                "those that there are, at their new places, with --storage, and disown those that are gone for good: "
                f"{disown}"
            )
        if not opened:
            raise InputError(
                "no storage is known to use this cache folder: give every one that does with --storage, for what none "
                "of them needs is removed"
            )
    except BaseException:
        for store in opened.values():
            store.close()
        raise
    return list(opened.values())


def forget_boards(names: list[str]) -> None:
    """Notes of these storages are removed."""
    for board in noted_boards():
        if board.name in names:
            board.note.unlink(missing_ok=True)


def _name(store: Store) -> str:
    """The storage without any password; empty for one in memory."""
    url = make_url(store.url)
    if url.get_backend_name() != "sqlite":
        query = {name: value for name, value in url.query.items() if "pass" not in name.lower()}
        told = URL.create(url.drivername, url.username, None, url.host, url.port, url.database, query)
        return told.render_as_string()
    return "" if url.database in (None, "", ":memory:") else str(Path(str(url.database)).resolve())


def _folder() -> Path:
    return cache_folder() / "boards"


def _note(name: str) -> Path:
    return _folder() / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.json"
