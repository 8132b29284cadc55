"""The contract of a power meter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class MeterError(Exception):
    """A meter that cannot be read any more, with the reason in a few words; figures then are absent for that reason."""


class PowerMeter(Protocol):
    """The energy that one device draws.

    Obligations: readings are of the whole device, whoever uses it; reading changes nothing on it and takes
    milliseconds at most. Used by one thread at a time, not always the same. A reading that fails raises `MeterError`.
    """

    name: str
    """Such as `nvml`, for reasons; says where power stands for energy, or an average for the power of the moment."""
    counted: bool
    """True where the device counts its energy; False where `joules` is the integral of the power at the moments when
    `joules` was called, so that it must be called every 50 ms or so."""

    def joules(self) -> float:
        """Energy drawn since an origin of the meter's own, in J; never falls, whatever the counter behind it does."""
        ...

    def watts(self) -> float | None:
        """Power at this moment, in W; None where the device does not tell."""
        ...

    def celsius(self) -> float | None:
        """Temperature of the device; None where it does not tell."""
        ...


@dataclass(frozen=True)
class NoMeter:
    """That there is no meter, and why."""

    reason: str
