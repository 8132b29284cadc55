"""Waiting for a storage that is away for a while: what was finished is not given up for that."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy import exc

from leaderboard import StorageUnavailable

T = TypeVar("T")

AWAY = (StorageUnavailable, StorageInternalError, exc.OperationalError, exc.InterfaceError)
"""What a database raises that is down, cannot be reached, is locked for long, or whose disk is full."""
FIRST, LONGEST = 0.2, 10.0
"""Seconds between tries, doubled from one to the next."""
TELL_EVERY = 60.0


class Patience:
    """Does something with the storage, again and again until it is there; Ctrl-C ends the wait."""

    def __init__(self, say: Callable[[str], None] = lambda line: None, sleep: Callable[[float], None] = time.sleep):
        """`say` is told when a wait begins, every minute of it, and when it is over."""
        self._say, self._sleep = say, sleep

    def __call__(
        self,
        action: Callable[[], T],
        landed: Callable[[], T | None] = lambda: None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> T:
        """What `action` gives; `meanwhile` is done once where there is a wait.

        Whoever loses the connection does not know whether the database took what was sent. `action` must bear to be
        done twice, or `landed` gives what it would have given where it was done, and None where it was not.
        """
        began, wait, tell_at = time.monotonic(), FIRST, 0.0
        again = False
        while True:
            try:
                found = landed() if again else None
                found = action() if found is None else found
            except AWAY as error:
                if not again:
                    meanwhile()
                again, waited = True, time.monotonic() - began
                if waited >= tell_at:
                    tell_at = waited + TELL_EVERY
                    self._say(f"the storage is away, waiting for it ({waited:.0f} s): {first_line(error)}")
                self._sleep(wait)
                wait = min(2 * wait, LONGEST)
                continue
            if again:
                self._say(f"the storage is back after {time.monotonic() - began:.0f} s")
            return found


def first_line(error: BaseException) -> str:
    """The first line of the first cause, which never holds the URL."""
    while error.__cause__ is not None:
        error = error.__cause__
    cause = getattr(error, "orig", None) or error
    return " ".join((str(cause).strip().splitlines() or [type(cause).__name__])[0].split())
