"""What this machine can measure, how noisy it is, and what to change: the report of `shrinkboard doctor`.

Facts are read by small functions, each of which answers None or nothing where the system does not tell; what to change
follows from the facts and the noise alone (`advice`).
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from workloads import InputError

from .calm import CalmLevels
from .gpu import cuda
from .machine import Telemetry, exclusive, fingerprint, multiplies_int8_exactly, pinned, processor
from .power.meter import NoMeter
from .power.nvml import nvml_device
from .power.rapl import rapl_meter
from .registry import target, target_names
from .testing import sample_deployable
from .timing import CALM, Comparison, Effort, Run, compare, thread_timer

STRETCH = 150
"""Calm pairs of a stretch: as many as a measurement has at least."""
BETWEEN_PROCESSES = 2.0
"""Fresh processes were seen to scatter up to twice as much as one process says (timing.py)."""
AIM = 0.02
"""Figures of two measurements are to agree within this."""
BUSY = 0.05
"""Share of one CPU from which another process is named."""


@dataclass(frozen=True)
class Facts:
    """The machine as its system describes it; None and empty where it does not tell."""

    processor: str
    instruction_sets: tuple[str, ...]
    cores: int
    exact_int8: bool
    allowed: tuple[int, ...] | None = None
    """CPUs that this process may run on; None where the system cannot pin."""
    governors: tuple[str, ...] = ()
    """Of the clock, each once."""
    boost: bool | None = None
    """Whether the clock may rise above the nominal one."""
    siblings: tuple[tuple[int, ...], ...] = ()
    """Groups of CPUs that share a physical core."""
    quota: float | None = None
    """CPUs' worth of time that the control group allows; None where it sets no bound."""
    load: float | None = None
    """Processes that ran or waited for a CPU, on average over the last minute."""
    swapped: int | None = None
    """Bytes of memory that are swapped out."""
    on_battery: bool | None = None
    energy_for_root_only: bool = False
    """There are energy counters of the CPU, which this user may not read."""


@dataclass(frozen=True)
class Busy:
    """Another process that takes CPU time."""

    pid: int
    name: str
    share: float
    """Of one CPU."""


@dataclass(frozen=True)
class Noise:
    """What a small network beside itself showed; without noise `ratio` is 1 and all deviations are 0."""

    seconds: float
    ratio: float
    low: float
    high: float
    """95 % interval of the ratio."""
    stretches: int
    """Parts of the time, each as long as a short measurement."""
    ratio_deviation: float
    """Of the stretches' median ratios, the largest distance from 1."""
    plain_deviation: float
    """Of the stretches' plain medians, the largest distance from all their median, relative to it."""
    spread: float
    """5th to 95th percentile of the plain samples, relative to their median."""
    calm: float
    """Share of calm pairs."""
    found_calm: bool
    """False where the machine was nowhere near as fast as its remembered calm."""
    slowdown: float | None
    """Calm level of now ÷ the one remembered of the last day; None where none is."""
    steal: float | None
    switches: float | None
    pressure: float | None
    frequency: float | None
    """These four as in `Telemetry`."""
    busy: tuple[Busy, ...] = ()


@dataclass(frozen=True)
class Ability:
    """Something that can be measured here, or not."""

    what: str
    possible: bool
    remark: str
    """The target's key or the meter's name; else the one line why not."""


@dataclass(frozen=True)
class Advice:
    """Something that makes figures worse, and what to do about it."""

    seen: str
    do: str


@dataclass(frozen=True)
class Report:
    facts: Facts
    abilities: tuple[Ability, ...]
    noise: Noise | None
    no_noise: str | None
    """Why the noise could not be measured."""
    advice: tuple[Advice, ...]
    verdict: str


def examine(seconds: float = 10.0, say: Callable[[str], None] = lambda text: None) -> Report:
    """All of it: tries every measured target on a small network, then measures the noise for `seconds`.

    `say` is told what is being done, for it takes a while.
    """
    facts = read_facts()
    abilities = (*_target_abilities(say), *_meters())
    say(f"measuring the noise for {seconds:g} s")
    noise, no_noise = None, None
    try:
        noise = measure_noise(seconds)
    except InputError as error:
        no_noise = str(error)
    return Report(facts, abilities, noise, no_noise, advice(facts, noise), verdict(noise, no_noise))


def advice(facts: Facts, noise: Noise | None) -> tuple[Advice, ...]:
    """What to change, the gravest first."""
    return tuple(Advice(seen, do) for seen, do in (*_of_noise(facts, noise), *_of_facts(facts)))


def verdict(noise: Noise | None, no_noise: str | None = None) -> str:
    """One line: what repeatability to expect."""
    if noise is None:
        return f"what repeatability to expect is unknown: {no_noise}"
    if not noise.found_calm:
        return (
            "expect figures marked unstable: the machine is disturbed and nowhere near as fast as it was "
            f"({noise.slowdown or 1:.2f} times its calm latency)"
        )
    expected = BETWEEN_PROCESSES * noise.ratio_deviation
    repeat = (
        f"medians of ratios repeat within {noise.ratio_deviation:.1%} in one process, so expect {expected:.1%} between "
        f"processes; plain medians differ by {noise.plain_deviation:.1%}"
    )
    if expected <= AIM:
        return f"{repeat}: good enough for figures that agree within {AIM:.0%}"
    return f"{repeat}: too noisy for figures that agree within {AIM:.0%}; expect wider intervals and more ties"


def fact_rows(facts: Facts) -> list[tuple[str, str]]:
    """Name and value of each fact that the system tells, in words."""
    words: list[tuple[str, str | None]] = [
        ("processor", facts.processor),
        ("instruction sets", ", ".join(facts.instruction_sets) or None),
        ("CPUs", f"{facts.cores}{'' if facts.allowed is None else f', allowed: {len(facts.allowed)}'}"),
        ("time granted by the control group", None if facts.quota is None else f"{facts.quota:g} CPUs"),
        ("governor of the clock", ", ".join(facts.governors) or None),
        ("boost", None if facts.boost is None else "on" if facts.boost else "off"),
        ("CPUs that share a core", ", ".join("+".join(map(str, group)) for group in facts.siblings) or None),
        ("load over the last minute", None if facts.load is None else f"{facts.load:.2f}"),
        ("swapped out", f"{facts.swapped / 2**20:.0f} MiB" if facts.swapped else None),
        ("power", None if facts.on_battery is None else "battery" if facts.on_battery else "mains"),
    ]
    return [(name, value) for name, value in words if value is not None]


def noise_rows(noise: Noise) -> list[tuple[str, str, str]]:
    """Name, value and meaning of each figure of the noise, in words."""

    def share(value: float | None, digits: int = 0) -> str:
        return "unknown" if value is None else f"{value:.{digits}%}"

    half = (noise.high - noise.low) / 2
    return [
        (
            "ratio",
            f"{noise.ratio:.4f} ± {half:.4f}",
            f"a small network beside itself for {noise.seconds:.0f} s; true is 1",
        ),
        ("ratios repeat within", share(noise.ratio_deviation, 1), f"the worst of {noise.stretches} parts of that time"),
        ("plain medians within", share(noise.plain_deviation, 1), "the same parts, without a reference beside"),
        ("spread", share(noise.spread), "5th to 95th percentile of single samples, relative to their median"),
        ("calm", share(noise.calm), "share of pairs that count, taken while neighbours rested"),
        (
            "calm level",
            "unknown" if noise.slowdown is None else f"{noise.slowdown:.2f}",
            "time of an inference in calm ÷ the least of the last day",
        ),
        ("steal", share(noise.steal, 1), "share of time that a hypervisor gave to others"),
        (
            "switches",
            "unknown" if noise.switches is None else f"{noise.switches:.0f}/s",
            "how often the measuring thread had to leave its CPU to others",
        ),
        ("pressure", share(noise.pressure), "share of time in which some task waited for a CPU"),
        ("clock", "unknown" if noise.frequency is None else f"{noise.frequency / 1e9:.2f} GHz", "of the first CPU"),
    ]


def measure_noise(seconds: float) -> Noise:
    """Times a small network beside itself for about so many seconds.

    Raises `InputError` where another process measures at the same time and does not end within as many seconds.
    """
    levels = CalmLevels(f"doctor@{fingerprint({})}", "sample")
    known, prepare = levels.known(), _small_network()
    with exclusive("cpu", timeout=max(seconds, 1.0)), pinned() as pin:
        before, start, telemetry = _cpu_seconds(), time.monotonic(), Telemetry()
        found = compare(prepare, prepare, Effort(budget=seconds, pairs=10**9), known, pin.move, timer=thread_timer())
        told = telemetry.read()
        busy = _busy(before, _cpu_seconds(), time.monotonic() - start)
    level = float(np.median(found.reference[found.calm]))
    if found.found_calm:
        levels.seen(level)
    return noise_of(found, told | {"slowdown": level / known if known else None}, busy)


def noise_of(found: Comparison, telemetry: dict[str, float | None], busy: tuple[Busy, ...] = ()) -> Noise:
    """The summary of a comparison of a network with itself; `telemetry` as `Telemetry.read`, with `slowdown`."""
    ratios, plain = _stretches(found)
    plain_median = float(np.median(found.reference))
    low, high = np.quantile(found.reference, (0.05, 0.95))
    return Noise(
        seconds=found.seconds,
        ratio=found.ratio,
        low=found.low,
        high=found.high,
        stretches=len(ratios),
        ratio_deviation=float(np.abs(ratios - 1).max()),
        plain_deviation=float(np.abs(plain / np.median(plain) - 1).max()),
        spread=float(high - low) / plain_median,
        calm=float(found.calm.mean()),
        found_calm=found.found_calm,
        slowdown=telemetry["slowdown"],
        steal=telemetry["steal"],
        switches=telemetry["switches"],
        pressure=telemetry["pressure"],
        frequency=telemetry["frequency"],
        busy=busy,
    )


def read_facts(root: Path = Path("/")) -> Facts:
    """The facts of this machine; `root` is where `/proc` and `/sys` stand."""
    cpu, devices = processor(), root / "sys/devices/system/cpu"
    counters = list(root.glob("sys/class/powercap/intel-rapl:*/energy_uj"))
    return Facts(
        processor=cpu.model,
        instruction_sets=cpu.instruction_sets,
        cores=cpu.cores,
        exact_int8=multiplies_int8_exactly(cpu),
        allowed=tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None,
        governors=tuple(sorted(set(_texts(devices, "cpu[0-9]*/cpufreq/scaling_governor")))),
        boost=_boost(devices),
        siblings=_siblings(devices),
        quota=_quota(root),
        load=_load(root),
        swapped=_swapped(root),
        on_battery=_on_battery(root),
        energy_for_root_only=bool(counters) and not any(os.access(counter, os.R_OK) for counter in counters),
    )


def _of_noise(facts: Facts, noise: Noise | None) -> Iterator[tuple[str, str]]:
    pressure = (noise.pressure if noise else None) or 0.0
    if noise and noise.busy:
        named = ", ".join(f"{other.name} (pid {other.pid}) {other.share:.0%}" for other in noise.busy)
        yield f"other processes take CPU time: {named}", "end or pause them while you measure (kill -STOP, kill -CONT)"
    elif pressure > 0.05 or (facts.load or 0.0) > 0.5:
        told = [f"pressure {pressure:.0%}"] if pressure > 0.05 else []
        told += [f"load {facts.load:.1f} over the last minute"] if facts.load else []
        yield (
            f"processes shared the CPUs ({', '.join(told)}), and none that shows here now",
            "see what runs outside this container with top, or try again in a minute",
        )
    if noise is None:
        return
    if (noise.steal or 0.0) > 0.01:
        yield (
            f"the hypervisor gave {noise.steal:.0%} of the time to others",
            "measure on a machine of your own or an instance with CPUs of its own",
        )
    if noise.slowdown is not None and noise.slowdown > CALM:
        yield (
            f"a small network takes {noise.slowdown:.2f} times as long as in the calm of the last day",
            "wait until the neighbour is gone or the processor has cooled, then run the doctor again",
        )
    if noise.calm < 0.5:
        yield (
            f"only {noise.calm:.0%} of the pairs were calm",
            "allow more CPUs to move to, or measure when neighbours rest: all waits for calm",
        )


def _of_facts(facts: Facts) -> Iterator[tuple[str, str]]:
    if facts.on_battery:
        yield "it runs on battery, which lowers the clock", "plug it in"
    if facts.quota is not None and facts.quota < len(facts.allowed or range(facts.cores)):
        yield (
            f"a control group grants {facts.quota:g} CPUs: who has used them up is stopped for milliseconds",
            "start the container without --cpus (Kubernetes: without a CPU limit; systemd: CPUQuota=)",
        )
    if facts.cores == 1:
        yield "there is one CPU only: all that runs disturbs", "measure on a machine with two or more"
    elif facts.allowed is None:
        yield "this system cannot keep a thread on one CPU", "close other programs; Linux gives tighter intervals"
    elif len(facts.allowed) == 1:
        yield (
            f"of {facts.cores} CPUs only CPU {facts.allowed[0]} is allowed: none to move to when it is disturbed",
            "start without taskset, or the container with more in --cpuset-cpus",
        )
    if set(facts.governors) - {"performance"}:
        yield (
            f"the governor of the clock is {', '.join(facts.governors)}: short measurements run at changing clocks",
            "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
        )
    if facts.boost:
        yield (
            "boost is on: the clock follows heat and neighbours",
            "for steady, slower figures: echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo (Intel) or "
            "echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost",
        )
    if facts.siblings:
        pair = " and ".join(map(str, facts.siblings[0]))
        yield (
            f"CPUs {pair} share a core{f' ({len(facts.siblings)} such groups)' if len(facts.siblings) > 1 else ''}: "
            "what runs on one slows the other",
            "echo off | sudo tee /sys/devices/system/cpu/smt/control",
        )
    if (facts.swapped or 0) > 64 * 2**20:
        yield (
            f"{(facts.swapped or 0) / 2**20:.0f} MiB of memory are swapped out",
            "end what takes the memory, then sudo swapoff -a",
        )
    if facts.energy_for_root_only:
        yield (
            "only root may read the CPU's energy counters, so there is no energy",
            "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj (until the next start)",
        )
    if not facts.exact_int8:
        yield (
            "this processor has no VNNI: int8 is slower than elsewhere, and its weights keep to 7 bits",
            "measure int8 on one that has it (Intel since Cascade Lake, AMD since Zen 4)",
        )


def _target_abilities(say: Callable[[str], None]) -> Iterator[Ability]:
    """Measured targets and whatever does not open; what opens must run a small network."""
    sample = sample_deployable()
    for name in target_names():
        say(f"trying {name}")
        try:
            model = target(name)
            if model.kind == "modelled":
                continue
            model.predict(sample, sample.example)
        except InputError as error:
            yield Ability(name, False, str(error))
        except Exception as error:  # a broken driver or plug-in is what the doctor is asked about
            line = (str(error).strip().splitlines() or [""])[0]
            yield Ability(name, False, f"{type(error).__name__}: {line}")
        else:
            yield Ability(name, True, model.key)


def _meters() -> Iterator[Ability]:
    cpu = rapl_meter()
    try:
        gpu = nvml_device(uuid=cuda().uuid)
    except InputError:
        gpu = nvml_device()  # a card that torch does not use may be metered all the same
    yield (
        Ability("energy of the CPU", False, cpu.reason)
        if isinstance(cpu, NoMeter)
        else Ability("energy of the CPU", True, cpu.name)
    )
    yield (
        Ability("energy of a GPU", False, gpu.reason)
        if isinstance(gpu, NoMeter)
        else Ability("energy of a GPU", True, f"{gpu.name}, {gpu.product}")
    )


def _small_network() -> Callable[[], Run]:
    """Sets up a CNN of some tens of microseconds in ONNX Runtime on one thread."""
    import onnxruntime

    from .export import INPUT, export_onnx

    sample = sample_deployable(width=32)
    data = export_onnx(sample.module, sample.example).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    feed = {INPUT: sample.example.numpy()}

    def prepare() -> Run:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return partial(session.run, None, feed)

    return prepare


def _stretches(found: Comparison) -> tuple[np.ndarray, np.ndarray]:
    """Median ratio over the calm pairs, and plain median of the candidate, of each `STRETCH` calm pairs in turn.

    What is left at the end belongs to the last stretch.
    """
    calm = found.calm.ravel()
    number = np.maximum(np.cumsum(calm) - 1, 0) // STRETCH
    number = np.minimum(number, max(int(calm.sum()) // STRETCH - 1, 0))
    candidate, reference = found.candidate.ravel(), found.reference.ravel()
    each = [number == place for place in range(number[-1] + 1)]
    ratios = [float(np.median((candidate / reference)[part & calm])) for part in each]
    return np.array(ratios), np.array([float(np.median(candidate[part])) for part in each])


def _texts(folder: Path, pattern: str) -> list[str]:
    """What stands in all these files; those that cannot be read are left out."""
    texts = []
    for path in sorted(folder.glob(pattern)):
        with contextlib.suppress(OSError, ValueError):
            texts.append(path.read_text(encoding="ascii").strip())
    return texts


def _boost(devices: Path) -> bool | None:
    for pattern, on in (("intel_pstate/no_turbo", "0"), ("cpufreq/boost", "1")):
        for text in _texts(devices, pattern):
            return text == on
    return None


def _siblings(devices: Path) -> tuple[tuple[int, ...], ...]:
    groups = {_cpu_list(text) for text in _texts(devices, "cpu[0-9]*/topology/thread_siblings_list")}
    return tuple(sorted(group for group in groups if len(group) > 1))


def _cpu_list(text: str) -> tuple[int, ...]:
    """Of `0,4` or `0-3,8`: the kernel's list format; what is none is empty."""
    found: list[int] = []
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def _quota(root: Path) -> float | None:
    """The tightest bound of this process's control group and those above it; cgroup version 2, then 1."""
    groups = root / "sys/fs/cgroup"
    own = next(
        (line[3:] for line in "\n".join(_texts(root, "proc/self/cgroup")).splitlines() if line[:3] == "0::"), "/"
    )
    folder = groups / own.strip("/")
    bounds = []
    for place in (folder, *folder.parents):
        if not place.is_relative_to(groups):
            break
        for text in _texts(place, "cpu.max"):
            bound, _, period = text.partition(" ")
            if bound.isdecimal() and period.isdecimal() and int(period):
                bounds.append(int(bound) / int(period))
    for bound, period in zip(
        _texts(groups, "cpu/cpu.cfs_quota_us"), _texts(groups, "cpu/cpu.cfs_period_us"), strict=False
    ):
        if bound.isdecimal() and period.isdecimal() and int(period):  # -1: no bound
            bounds.append(int(bound) / int(period))
    return min(bounds, default=None)


def _load(root: Path) -> float | None:
    with contextlib.suppress(IndexError, ValueError):
        return float(_texts(root, "proc/loadavg")[0].split()[0])
    with contextlib.suppress(OSError, AttributeError):
        return os.getloadavg()[0]
    return None


def _swapped(root: Path) -> int | None:
    """proc(5), /proc/swaps: one line a device, its fourth column the KiB in use."""
    with contextlib.suppress(IndexError, ValueError):
        return sum(int(line.split()[3]) for line in _texts(root, "proc/swaps")[0].splitlines()[1:]) * 1024
    return None


def _on_battery(root: Path) -> bool | None:
    """True where a battery gives and no mains supply is on."""
    supplies = root / "sys/class/power_supply"
    if any(text == "1" for text in _texts(supplies, "*/online")):
        return False
    states = _texts(supplies, "BAT*/status")
    return any(state == "Discharging" for state in states) if states else None


def _cpu_seconds(root: Path = Path("/")) -> dict[int, tuple[str, float]]:
    """Process → name and CPU seconds since it began, of all processes but this one: proc(5), /proc/PID/stat."""
    found = {}
    ticks = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
    for path in root.glob("proc/[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            before, _, after = path.read_text(encoding="utf-8", errors="replace").rpartition(")")
            fields = after.split()
            found[int(path.parent.name)] = before.partition("(")[2], (int(fields[11]) + int(fields[12])) / ticks
    found.pop(os.getpid(), None)
    return found


def _busy(
    before: dict[int, tuple[str, float]], after: dict[int, tuple[str, float]], seconds: float
) -> tuple[Busy, ...]:
    """Up to five processes that took most in between; one that began in between is counted from its beginning."""
    shares = [
        Busy(pid, name, (taken - before.get(pid, ("", 0.0))[1]) / seconds) for pid, (name, taken) in after.items()
    ]
    return tuple(sorted((other for other in shares if other.share >= BUSY), key=lambda other: -other.share)[:5])
