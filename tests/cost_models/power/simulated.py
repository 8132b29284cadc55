"""A device whose time passes only by what it does, and a meter of it whose truth is known."""

import contextlib
import math

import numpy as np


class Bench:
    """Clock, sleep, inference and background of a device, all on one wound clock.

    `busy` and `rest` are its power in W, or functions of the time; an inference takes `seconds`, and returns before its
    end where `early`.
    """

    def __init__(self, busy=300.0, rest=60.0, seconds=0.01, early=False):
        self.busy, self.resting, self.seconds, self.early = busy, rest, seconds, early
        self.now = self.drawn = 0.0
        self.watts = self._at(rest)
        self.queued = self.runs = 0
        self.longest_queue = 0
        self._call, self._every, self._due = None, math.inf, math.inf

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self._pass(seconds, self.resting)

    def run(self):
        self.runs += 1
        if self.early:
            self.queued += 1
            self.longest_queue = max(self.longest_queue, self.queued)
        else:
            self._pass(self.seconds, self.busy)

    def wait(self):
        self._pass(self.queued * self.seconds, self.busy)
        self.queued = 0

    @contextlib.contextmanager
    def repeat(self, call, seconds):
        self._call, self._every, self._due = call, seconds, self.now + seconds
        try:
            yield
        finally:
            self._due = math.inf

    def _pass(self, seconds, power):
        end = self.now + seconds
        while self._due <= end:
            self._until(self._due, power)
            self._due += self._every
            self._call()
        self._until(end, power)

    def _until(self, moment, power):
        self.watts = self._at(power)
        self.wind(max(moment - self.now, 0.0))

    def wind(self, seconds):
        self.drawn += seconds * self.watts
        self.now += seconds

    def _at(self, power):
        return power(self.now) if callable(power) else power


class Meter:
    """Reads a bench: a counter that is refreshed every `period` seconds and shows `gain` times what was drawn."""

    name = "simulated"

    def __init__(self, bench, period=0.0, gain=1.0, counted=True, watts=True, celsius=lambda now: 40.0):
        self.bench, self.period, self.gain, self.counted = bench, period, gain, counted
        self._watts, self._celsius = watts, celsius
        self._seen = (0.0, 0.0)

    def joules(self):
        refreshed, _ = self._seen
        if self.bench.now - refreshed >= self.period:
            ticks = math.floor(self.bench.now / self.period) * self.period if self.period else self.bench.now
            self._seen = ticks, self.bench.drawn - (self.bench.now - ticks) * self.bench.watts
        return self._seen[1] * self.gain

    def watts(self):
        return self.bench.watts if self._watts else None

    def celsius(self):
        return self._celsius(self.bench.now)


def measured(bench, meter, effort=None, seed=0):
    from cost_models.power.energy import measure_energy

    return measure_energy(
        meter, bench.run, bench.wait, effort, bench.clock, bench.sleep, np.random.default_rng(seed), bench.repeat
    )
