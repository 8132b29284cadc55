"""This machine while it is measured on: what it is, how it is kept to ourselves, and what disturbed it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from workloads import InputError

# The instruction sets that decide which kernels a runtime picks. All flags would change with every kernel update.
_INSTRUCTION_SETS = frozenset(
    [
        "avx",
        "avx2",
        "fma",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx_vnni",
        "avx512_vnni",
        "avx512_bf16",
        "amx_tile",
        "amx_int8",
        "amx_bf16",
        "asimd",
        "asimdhp",
        "asimddp",
        "i8mm",
        "bf16",
        "sve",
        "sve2",
    ]
)


@dataclass(frozen=True)
class Processor:
    """The CPU as the operating system describes it."""

    model: str
    instruction_sets: tuple[str, ...]
    cores: int


def processor() -> Processor:
    """The CPU of this machine."""
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    # Virtual machines show no more than "AMD EPYC": family and model tell the generations apart.
    names = ("model name", "cpu family", "model", "stepping", "CPU implementer", "CPU part")
    model = " / ".join(fields[name] for name in names if fields.get(name)) or platform.processor() or platform.machine()
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return Processor(model, tuple(sorted(flags & _INSTRUCTION_SETS)), os.cpu_count() or 1)


def multiplies_int8_exactly(cpu: Processor) -> bool:
    """False on x86 processors without VNNI, whose int8 products saturate unless weights keep to 7 bits."""
    return platform.machine().lower() not in ("x86_64", "amd64") or any("vnni" in flag for flag in cpu.instruction_sets)


def fingerprint(runtime: Mapping[str, object]) -> str:
    """Eight hexadecimal digits for this processor, the kind of operating system and `runtime` (versions and settings).

    Says nothing of the host's name, user or address, and stays the same over reboots.
    """
    cpu = processor()
    said = {"cpu": cpu.model, "sets": cpu.instruction_sets, "cores": cpu.cores, "os": platform.system(), **runtime}
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:8]


@contextlib.contextmanager
def exclusive(device: str, timeout: float = 3600.0) -> Iterator[None]:
    """Holds `device` for this process: one measurement at a time, between processes too.

    Waits for at most `timeout` seconds, then raises `InputError`. The lock is a file in the temporary folder that only
    its owner may open, so users of one machine do not exclude each other.
    """
    owner = os.getuid() if hasattr(os, "getuid") else 0
    path = Path(tempfile.gettempdir()) / f"shrinkboard-{owner}-{device}.lock"
    lock = FileLock(path, mode=0o600)
    try:
        lock.acquire(timeout=timeout)
    except Timeout as error:
        raise InputError(
            f"device {device} has been measured on by another process for more than {timeout:g} s; wait for it to end"
        ) from error
    except OSError as error:
        raise InputError(f"device {device} cannot be locked with {path}: {error.strerror}; remove that file") from error
    try:
        yield
    finally:
        lock.release()


class Pin:
    """The calling thread, and those that it starts, on some CPUs of those that it was allowed."""

    def __init__(self, allowed: set[int], count: int = 1) -> None:
        """`count` CPUs, or as many as there are."""
        self.allowed = frozenset(allowed)
        self._order = sorted(allowed)
        self._count = count
        # The last to begin with: the first serves interrupts on most machines.
        self._place = max(len(self._order) - count, 0)
        self._stay()

    @property
    def cpus(self) -> tuple[int, ...]:
        """Where it is now; empty where the system cannot pin."""
        return tuple((self._order[self._place :] + self._order[: self._place])[: self._count])

    def move(self) -> None:
        """To the next CPU in turn: a neighbour that disturbs one often leaves another alone."""
        self._place = (self._place + 1) % max(len(self._order), 1)
        self._stay()

    def _stay(self) -> None:
        if self._order:
            os.sched_setaffinity(0, self.cpus)


@contextlib.contextmanager
def pinned(count: int = 1) -> Iterator[Pin]:
    """Keeps the calling thread on `count` CPUs, undone at the end; nothing where the system cannot (macOS)."""
    if not hasattr(os, "sched_setaffinity"):
        yield Pin(set())
        return
    allowed = os.sched_getaffinity(0)
    try:
        yield Pin(allowed, count)
    finally:
        os.sched_setaffinity(0, allowed)


class Telemetry:
    """What disturbed a measurement between its start and `read()`; what cannot be read on this system is None."""

    def __init__(self) -> None:
        self._start, self._stolen, self._cpus = self._counters(), _steal(), _allowed()

    def read(self) -> dict[str, float | None]:
        """`seconds`; `steal`, the share of its CPUs' time that a hypervisor gave to others; `switches`, involuntary
        context switches a second; `pressure`, the share of time in which some task waited for a CPU; `cpus`, how many
        the thread may run on (its affinity); `frequency` in Hz at the end, of the first of them."""
        now = self._counters()

        def grown(name: str) -> float | None:
            before, after = self._start[name], now[name]
            return None if before is None or after is None else max(after - before, 0.0)

        seconds = grown("seconds") or 1e-9
        switches, stalled = grown("switches"), grown("stalled")
        return {
            "seconds": seconds,
            "steal": self._steal_since(),
            "switches": None if switches is None else switches / seconds,
            "pressure": None if stalled is None else stalled / seconds,
            "cpus": float(len(_allowed())) or None,
            "frequency": _frequency(),
        }

    def _steal_since(self) -> float | None:
        """On the CPUs that the thread might run on at the start or now: those of others would dilute it."""
        now = _steal()
        used = [cpu for cpu in self._cpus | _allowed() or now.keys() if cpu in now and cpu in self._stolen]
        grown = [(now[cpu][0] - self._stolen[cpu][0], now[cpu][1] - self._stolen[cpu][1]) for cpu in used]
        jiffies = sum(all_of_it for _, all_of_it in grown)
        return None if not jiffies else max(sum(stolen for stolen, _ in grown) / jiffies, 0.0)

    def _counters(self) -> dict[str, float | None]:
        return {
            "seconds": time.monotonic(),
            "switches": _involuntary_switches(),
            "stalled": _stalled(),
        }


def _allowed() -> frozenset[int]:
    """CPUs that the calling thread may run on; none where the system does not tell (macOS)."""
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()


def _steal() -> dict[int, tuple[float, float]]:
    """CPU → stolen and total jiffies since boot: proc(5), /proc/stat."""
    found: dict[int, tuple[float, float]] = {}
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
            name, *numbers = line.split()
            if re.fullmatch(r"cpu\d+", name):
                jiffies = [float(number) for number in numbers[:8]]
                found[int(name.removeprefix("cpu"))] = jiffies[7], sum(jiffies)
    return found


def _involuntary_switches() -> float | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    # Of the thread that measures, where the system tells threads apart.
    who = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
    return float(resource.getrusage(who).ru_nivcsw)


def _stalled() -> float | None:
    """Seconds since boot in which some task waited for a CPU: /proc/pressure/cpu."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return float(Path("/proc/pressure/cpu").read_text(encoding="ascii").split("total=")[1].split()[0]) / 1e6
    return None


def _frequency() -> float | None:
    """Of the first CPU that the thread may run on; virtual machines seldom tell."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        path = f"/sys/devices/system/cpu/cpu{min(os.sched_getaffinity(0))}/cpufreq/scaling_cur_freq"
        return float(Path(path).read_text(encoding="ascii")) * 1e3
    return None
