"""Energy from what a device tells: a counter that starts over, or nothing but the power of the moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .meter import MeterError


class RisingCounter:
    """A counter that starts over at one of some moduli, as one that never does."""

    def __init__(self, moduli: Sequence[int], largest_step: float = float("inf")) -> None:
        """`largest_step` is more than it can grow between two readings across a wrap; any fall that would take more
        is a reset."""
        self._moduli = moduli
        self._largest_step = largest_step
        self._last: int | None = None
        self._sum = 0

    def grown(self, now: int) -> int:
        """What was counted from the first reading to this one.

        Raises `MeterError` where the counter was reset, for nobody knows what it had counted until then; the next
        reading goes on from there.
        """
        last, self._last = self._last, now
        if last is None:
            return 0
        step = now - last
        if step < 0:
            wrapped = [step + modulus for modulus in self._moduli if last < modulus]
            if not wrapped or min(wrapped) > self._largest_step:
                raise MeterError("the energy counter was reset while it was read")
            step = min(wrapped)
        self._sum += step
        return self._sum


class PowerIntegral:
    """The integral of a power over time, by the trapezoid between the moments at which it is read."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last: tuple[float, float] | None = None
        self._sum = 0.0

    def joules(self, watts: float) -> float:
        """Energy in J until now, where the power is `watts`."""
        now = self._clock()
        if self._last is not None:
            before, then = self._last
            self._sum += (now - before) * (watts + then) / 2
        self._last = now, watts
        return self._sum
