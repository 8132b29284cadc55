"""Energy of one inference by a meter of the whole device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .meter import PowerMeter


@dataclass(frozen=True)
class EnergyEffort:
    """How long to meter."""

    window: float = 5.0
    """Seconds that a window lasts at least: counters are refreshed every 20 to 100 ms."""
    windows: int = 4
    cool_down: float = 20.0
    """Seconds at most to wait for a stable temperature."""


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class EnergyReading:
    """What an inference took: `gross` and `net` (idle-subtracted) in J, `power` in W while it ran."""

    gross: Interval
    net: Interval
    power: Interval
    telemetry: dict[str, float | None] = field(default_factory=dict)
    samples: dict[str, list[list[float]]] = field(default_factory=dict)


def measure_energy(
    meter: PowerMeter, run: Callable[[], None], wait: Callable[[], None], effort: EnergyEffort
) -> EnergyReading:
    """Raises `MeterError` where the meter is lost."""
    raise NotImplementedError(meter, run, wait, effort)
