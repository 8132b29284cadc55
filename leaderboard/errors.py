"""The error that bad input raises in the leaderboard room, how a bad value is quoted in it, and failing files told."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class LeaderboardError(ValueError):
    """Input that the user can mend: one line saying what was given, what is allowed and what to do.

    The command prints it as it stands and ends with `exit_code`.
    """

    exit_code = 2


class StorageUnavailable(LeaderboardError):
    """The database is down, cannot be reached, is locked for long or cannot grow: the same call may succeed later."""


def quoted(value: object) -> str:
    """`value` as it may stand in a message: at most about 60 characters, printable, on one line."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 60
    short.maxlevel = 2
    try:
        return " ".join(short.repr(value).split())
    except ValueError:  # Python refuses to write out integers of more than 4300 digits
        return f"a {type(value).__name__} too long to show"


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Within it, a file that cannot be written raises `LeaderboardError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise LeaderboardError(f"file {quoted(str(path))} cannot be written ({reason}); give another") from None
