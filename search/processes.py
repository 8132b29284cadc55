"""Which process of which machine this is, said so that another process can tell whether it still lives."""

from __future__ import annotations

import hashlib
import os
import uuid
from functools import cache
from pathlib import Path


@cache
def machine() -> str:
    """Eight hexadecimal digits for the space of process numbers that this process lives in; says nothing of the host.

    On Linux they change with a reboot, and differ between containers of one machine.
    """
    try:
        told = Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        told = str(uuid.getnode())
    return hashlib.sha256(told.encode()).hexdigest()[:8]


def this_process() -> str:
    """Number and start of this process."""
    return f"{os.getpid()}.{_started(os.getpid())}"


def is_alive(process: str) -> bool:
    """Whether a process of this machine, as `this_process` told it, still lives."""
    number, _, started = process.partition(".")
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        pass
    return _started(int(number)) == started


def _started(number: int) -> str:
    """Clock ticks from the boot to the start of a process: numbers are given anew. Empty where no system tells."""
    try:
        stat = Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]
