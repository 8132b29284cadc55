"""Energy of one inference by a meter of the whole device: windows of inferences beside windows of rest.

Counters of energy are refreshed every 20 to 100 ms, and some power sensors see only a part of the time (Yang, Adámek,
Armour: Part-time Power Measurements, SC 2024), so a window lasts seconds and begins at a random moment of the
counter's period: what is cut off or added at its ends then has mean zero and shows in the interval, which is never
narrower than that.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import stdtrit

from .meter import MeterError, PowerMeter

COUNTER_PERIOD = 0.1
"""Seconds between refreshes of the slowest counters that are known; windows begin anywhere within it."""
SAMPLING = 0.05
"""Seconds between readings of the meter, and between waits for the device."""
LEAD_IN = 1.5
"""Seconds under load before the first window: clocks have risen, and power that is averaged over 1 s has settled."""
LEAST_STEPS = 10
"""Refreshes of the counter in a window: with fewer, what its ends cut off is more than a tenth."""
STABLE_SECONDS = 5.0
STABLE_CELSIUS = 1.0
"""The temperature is stable when it stayed within so many degrees, the step of most sensors, for so long."""
DISAGREEMENT = 0.05
"""Difference between the counter and the integral of the power that is told in the telemetry."""

Repeat = Callable[[Callable[[], None], float], contextlib.AbstractContextManager[None]]
"""Calls a function every so many seconds until the context is left, which raises what the function raised."""


@dataclass(frozen=True)
class EnergyEffort:
    """How long to meter."""

    window: float = 5.0
    """Seconds that a window lasts at least."""
    windows: int = 4
    """Of inferences, and as many of rest, one half before and one half after; at least 2."""
    cool_down: float = 20.0
    """Seconds at most to wait for a stable temperature."""

    def __post_init__(self) -> None:
        if self.windows < 2:
            raise ValueError(f"an interval needs at least 2 windows, got {self.windows}")


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Window:
    """What the meter told between two readings."""

    joules: float
    seconds: float
    inferences: int
    refresh: float = 0.0
    """Seconds between refreshes of the counter as far as the readings tell them apart; 0 for an integral."""
    integral: float | None = None
    """Of the power of the moment, in J; None where the meter tells none beside its counter."""


@dataclass(frozen=True)
class EnergyReading:
    """What an inference took: `gross` and `net` (idle-subtracted) in J, `power` in W while it ran.

    Telemetry: `idle_power` in W; `idle_drift`, that of the windows after less that of those before; `cooled`, 1 where
    the temperature was stable before rest was metered, 0 where it was not within the time allowed (None where it is
    not told); `celsius_idle` and `celsius_load`; `energy_counted`, 1 where the device counts energy, 0 where it is the
    integral of its power; `counter_over_integral`, their ratio under load where both are told, and
    `counter_disagrees`, 1 where that is more than 5 % off, so that the figures deserve no trust.

    Samples, one list a window: `energy`, [J, s, inferences, s between refreshes]; `energy_idle`, the same.
    """

    gross: Interval
    net: Interval | None
    power: Interval
    net_reason: str | None = None
    """Why there is no `net`."""
    telemetry: dict[str, float | None] = field(default_factory=dict)
    samples: dict[str, list[list[float]]] = field(default_factory=dict)


@contextlib.contextmanager
def in_background(call: Callable[[], None], seconds: float) -> Iterator[None]:
    """`Repeat` in a thread of its own."""
    ended = threading.Event()
    failures: list[Exception] = []

    def loop() -> None:
        try:
            while not ended.wait(seconds):
                call()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if failures:
        raise failures[0]


def measure_energy(
    meter: PowerMeter,
    run: Callable[[], object],
    wait: Callable[[], None],
    effort: EnergyEffort | None = None,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    rng: np.random.Generator | None = None,
    repeat: Repeat = in_background,
) -> EnergyReading:
    """Repeats the inference `run` under the meter; `wait` returns when all runs have ended.

    Cool down, rest, inferences, cool down, rest: the drift of what the device draws at rest makes the net energy
    uncertain, as it should. Takes about `windows` × `window` × 2 + `cool_down` × 2 seconds at most. Raises `MeterError`
    where the meter is lost, or tells nothing that can be used.
    """
    effort = effort or EnergyEffort()
    bench = _Bench(meter, effort, clock, sleep, rng or np.random.default_rng(), repeat)
    calls = _calls_lasting(SAMPLING, run, wait, clock)

    def infer(count: int = calls) -> int:
        for _ in range(count):
            run()
        wait()
        return count

    cooled = bench.cool_down()
    rest_celsius = meter.celsius()
    idle_before = [bench.rest() for _ in range(effort.windows // 2)]
    bench.last(LEAD_IN, infer)
    load = [bench.load(infer, calls) for _ in range(effort.windows)]
    load_celsius = meter.celsius()
    bench.cool_down()
    idle_after = [bench.rest() for _ in range(effort.windows - len(idle_before))]

    gross, net, power = energy_per_inference(load, idle_before + idle_after)
    if min(gross.low, power.low) < 0:
        raise MeterError(
            f"{meter.name}: the energy of an inference is not told apart from zero ({gross.low:.3g} to "
            f"{gross.high:.3g} J, {power.low:.3g} to {power.high:.3g} W)"
        )
    ratio = counter_over_integral(load) if meter.counted else None
    return EnergyReading(
        gross,
        net if net.low >= 0 else None,
        power,
        None
        if net.low >= 0
        else f"{meter.name}: what the inference adds to the power at rest is not told apart from zero "
        f"({net.low:.3g} to {net.high:.3g} J)",
        telemetry={
            "idle_power": _mean_power(idle_before + idle_after),
            "idle_drift": _mean_power(idle_after) - _mean_power(idle_before),
            "cooled": cooled,
            "celsius_idle": rest_celsius,
            "celsius_load": load_celsius,
            "energy_counted": float(meter.counted),
            "counter_over_integral": ratio,
            "counter_disagrees": None if ratio is None else float(abs(ratio - 1) > DISAGREEMENT),
        },
        samples={
            "energy": [_sample(window) for window in load],
            "energy_idle": [_sample(window) for window in idle_before + idle_after],
        },
    )


def mean_interval(values: np.ndarray, resolution: np.ndarray | None = None) -> Interval:
    """Mean of independent values with its 95 % interval: Student's, or what their resolution alone makes where wider.

    Both are of shape (n,); `resolution` is the standard deviation that is known of each, by default none. Values that
    can take only a few steps are now and then all the same, and Student's interval then has no width.
    """
    mean, half = float(np.mean(values)), _half_width(values, resolution)
    return Interval(mean, mean - half, mean + half)


def energy_per_inference(load: Sequence[Window], idle: Sequence[Window]) -> tuple[Interval, Interval, Interval]:
    """Gross and net energy of an inference in J, and the power in W under load.

    The interval of the net energy is that over the windows, in quadrature with what the power at rest is uncertain by.
    """
    joules, seconds, ends = _columns(load)
    idle_joules, idle_seconds, idle_ends = _columns(idle)
    inferences = np.array([window.inferences for window in load])
    rest = mean_interval(idle_joules / idle_seconds, idle_ends / idle_seconds)
    work = mean_interval((joules - rest.value * seconds) / inferences, ends / inferences)
    half = math.hypot(work.high - work.value, float(np.mean(seconds / inferences)) * (rest.high - rest.value))
    net = Interval(work.value, work.value - half, work.value + half)
    return (
        mean_interval(joules / inferences, ends / inferences),
        net,
        mean_interval(joules / seconds, ends / seconds),
    )


def counter_over_integral(windows: Sequence[Window]) -> float | None:
    """Energy by the counter ÷ integral of the power, over all windows; None where no power was told."""
    integrals = [window.integral for window in windows if window.integral is not None]
    if len(integrals) < len(windows) or not sum(integrals) > 0:
        return None
    return sum(window.joules for window in windows) / sum(integrals)


def _half_width(values: np.ndarray, resolution: np.ndarray | None) -> float:
    count = len(values)
    student = stdtrit(count - 1, 0.975) * np.std(values, ddof=1) / math.sqrt(count)
    known = 0.0 if resolution is None else 1.96 * math.sqrt(np.sum(resolution**2)) / count
    return float(max(student, known))


def _columns(windows: Sequence[Window]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """J, s, and the standard deviation in J of what the ends of each window cut off or add.

    A window holds one of two numbers of refreshes, and its phase says which: at worst each half the time.
    """
    joules, seconds, refresh = np.array([(window.joules, window.seconds, window.refresh) for window in windows]).T
    return joules, seconds, joules / seconds * refresh / 2


def _sample(window: Window) -> list[float]:
    return [window.joules, window.seconds, float(window.inferences), window.refresh]


def _mean_power(windows: Sequence[Window]) -> float:
    return float(np.mean([window.joules / window.seconds for window in windows]))


def _calls_lasting(
    seconds: float, run: Callable[[], object], wait: Callable[[], None], clock: Callable[[], float]
) -> int:
    """Calls that take about so long, by doubling them; a run that returns before its end is timed to its end."""
    calls = 1
    while True:
        start = clock()
        for _ in range(calls):
            run()
        wait()
        took = clock() - start
        if took >= seconds / 2:
            return max(1, round(calls * seconds / took))
        calls *= 2


class _Bench:
    """The meter with a clock, and what is done under it."""

    def __init__(
        self,
        meter: PowerMeter,
        effort: EnergyEffort,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        rng: np.random.Generator,
        repeat: Repeat,
    ) -> None:
        self.meter, self.effort, self.rng = meter, effort, rng
        self.clock, self.sleep, self.repeat = clock, sleep, repeat

    def cool_down(self) -> float | None:
        """Waits for a stable temperature: 1 where it came, 0 where it did not in time, None where it is not told."""
        start = self.clock()
        seen: list[tuple[float, float]] = []
        told = False
        while self.clock() - start < self.effort.cool_down:
            celsius = self.meter.celsius()
            if celsius is not None:
                told = True
                seen.append((self.clock(), celsius))
                lately = [degrees for moment, degrees in seen if seen[-1][0] - moment <= STABLE_SECONDS]
                if seen[-1][0] - seen[0][0] >= STABLE_SECONDS and max(lately) - min(lately) <= STABLE_CELSIUS:
                    return 1.0
            self.sleep(0.5)
        return 0.0 if told else None

    def rest(self) -> Window:
        """A window in which nothing runs."""

        def sleep(seconds: float) -> int:
            self.sleep(seconds)
            return 0

        self._random_phase()
        return self._window(lambda: sleep(SAMPLING), lambda: sleep(self.rng.uniform(0, COUNTER_PERIOD)))

    def load(self, infer: Callable[[int], int], calls: int) -> Window:
        """A window of inferences, of which `calls` take `SAMPLING` seconds."""
        self._random_phase()
        # What a late counter brings into the window must be of the same power as what it leaves out at the end.
        self.last(2 * COUNTER_PERIOD, lambda: infer(calls))
        return self._window(lambda: infer(calls), lambda: infer(int(self.rng.integers(0, 2 * calls + 1))))

    def _random_phase(self) -> None:
        self.sleep(self.rng.uniform(0, COUNTER_PERIOD))

    def last(self, seconds: float, work: Callable[[], int]) -> int:
        """Works for so many seconds at least; how many inferences that were."""
        start, inferences = self.clock(), 0
        while self.clock() - start < seconds:
            inferences += work()
        return inferences

    def _window(self, work: Callable[[], int], end: Callable[[], int]) -> Window:
        """Works as long as a window lasts, then once `end`, which makes its length random."""
        readings = [self._reading()]
        # One thread at a time reads: this one before and after, the one in the background meanwhile.
        with self.repeat(lambda: readings.append(self._reading()), SAMPLING):
            inferences = self.last(self.effort.window, work) + end()
        readings.append(self._reading())
        moments, joules, watts = np.array(readings).T
        seconds, grown = float(moments[-1] - moments[0]), float(joules[-1] - joules[0])
        steps = int(np.count_nonzero(np.diff(joules) > 0))
        if not steps:
            raise MeterError(f"{self.meter.name}: the energy did not rise in a window of {seconds:.3g} s")
        if steps < LEAST_STEPS:
            raise MeterError(
                f"{self.meter.name}: the energy rose only {steps} times in a window of {seconds:.3g} s; at least "
                f"{LEAST_STEPS} are needed"
            )
        integral = None if np.isnan(watts).any() else float(np.trapezoid(watts, moments))
        return Window(grown, seconds, inferences, seconds / steps if self.meter.counted else 0.0, integral)

    def _reading(self) -> tuple[float, float, float]:
        """The moment in s, the energy in J, and the power in W, NaN where it is not told or would say the same."""
        moment, joules = self.clock(), self.meter.joules()
        watts = self.meter.watts() if self.meter.counted else None
        return moment, joules, math.nan if watts is None else watts
