"""RAPL."""

from __future__ import annotations

from .absence import cpu_power_absence
from .meter import NoMeter, PowerMeter


def rapl_meter() -> PowerMeter | NoMeter:
    """The meter of this machine's CPU, or why there is none."""
    return NoMeter(cpu_power_absence())
