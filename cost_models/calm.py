"""How fast a reference ran when its device was calm, remembered between processes.

A study that begins while the machine is disturbed would otherwise take the disturbance for calm: every pair would count
that is as slow as the frozen reference. What was seen lower within a day says otherwise.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time

from workloads import cache_folder, write_whole

LIFETIME = 86400.0
"""Seconds for which a level is believed: virtual machines move to other hosts, and firmware changes clocks."""


class CalmLevels:
    """The calm level of one reference on one target, in seconds of an inference."""

    def __init__(self, key: str, reference: str) -> None:
        """`key` is the target's, with its fingerprint; `reference` a digest of the network and all it follows from."""
        told = hashlib.blake2b(f"{key} {reference}".encode(), digest_size=12).hexdigest()
        self._path = cache_folder() / "calm" / f"{told}.json"

    def known(self) -> float | None:
        """The lowest calm level of the last day; None where there is none."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            level, moment = float(kept["seconds"]), float(kept["time"])
            if 0 < level < math.inf and 0 <= time.time() - moment <= LIFETIME:
                return level
        return None

    def seen(self, level: float) -> float:
        """Remembers a level that was measured in calm, where it is the lowest; gives it back. A full disk forgets."""
        known = self.known()
        if known is None or level < known:
            with contextlib.suppress(OSError):
                write_whole(self._path, json.dumps({"seconds": level, "time": time.time()}).encode())
        return level
