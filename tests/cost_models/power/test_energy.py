"""Energy of an inference on simulated devices whose truth is known: the windows, and the statistics over them."""

import math
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_models.power.energy import (
    EnergyEffort,
    Window,
    counter_over_integral,
    energy_per_inference,
    in_background,
    mean_interval,
    measure_energy,
)
from cost_models.power.meter import MeterError

from .simulated import Bench, Meter, measured


def contains(interval, truth):
    return interval.low <= truth <= interval.high


@settings(max_examples=25, deadline=None)
@given(
    busy=st.floats(5, 700),
    share=st.floats(0.1, 0.9),
    seconds=st.floats(1e-3, 0.4),
    early=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_steady_device_gives_power_times_time(busy, share, seconds, early, seed):
    bench = Bench(busy, busy * share, seconds, early)
    reading = measured(bench, Meter(bench), EnergyEffort(cool_down=1.0), seed)
    assert reading.gross.value == pytest.approx(busy * seconds, rel=1e-6)
    assert reading.net.value == pytest.approx(busy * (1 - share) * seconds, rel=1e-6)
    assert reading.power.value == pytest.approx(busy, rel=1e-6)
    assert reading.telemetry["idle_power"] == pytest.approx(busy * share, rel=1e-6)
    assert reading.telemetry["idle_drift"] == pytest.approx(0, abs=1e-6 * busy)
    assert reading.telemetry["counter_over_integral"] == pytest.approx(1, rel=0.02)
    assert reading.telemetry["counter_disagrees"] == 0


def test_windows_last_as_long_and_are_as_many_as_told():
    bench = Bench()
    reading = measured(bench, Meter(bench), EnergyEffort(window=6.0, windows=5))
    assert len(reading.samples["energy"]) == len(reading.samples["energy_idle"]) == 5
    for _, seconds, inferences, _ in reading.samples["energy_idle"]:
        assert 6.0 <= seconds <= 6.2
        assert inferences == 0
    for _, seconds, inferences, _ in reading.samples["energy"]:
        assert 6.0 <= seconds <= 6.2
        assert inferences * bench.seconds == pytest.approx(seconds)


def test_the_figures_follow_from_the_samples():
    bench = Bench(busy=lambda now: 300 + now)
    reading = measured(bench, Meter(bench, period=0.1))
    load, idle = ([Window(*row) for row in reading.samples[name]] for name in ("energy", "energy_idle"))
    assert (reading.gross, reading.net, reading.power) == energy_per_inference(load, idle)


def test_a_runtime_that_runs_ahead_is_waited_for_every_fifty_milliseconds():
    bench = Bench(seconds=0.001, early=True)
    reading = measured(bench, Meter(bench))
    assert 25 <= bench.longest_queue <= 110
    assert reading.gross.value == pytest.approx(0.3)


@pytest.mark.parametrize("seconds", [0.0025, 0.0137, 0.12])
def test_late_counters_are_right_on_average_and_their_intervals_hold_the_truth(seconds):
    gross, net, errors = [], [], []
    for seed in range(200):
        bench = Bench(seconds=seconds)
        reading = measured(bench, Meter(bench, period=0.1), EnergyEffort(cool_down=0.5), seed)
        errors.append(reading.gross.value / (300 * seconds) - 1)
        gross.append(contains(reading.gross, 300 * seconds))
        net.append(contains(reading.net, 240 * seconds))
    assert abs(np.mean(errors)) < 4 * np.std(errors) / math.sqrt(len(errors))
    assert np.max(np.abs(errors)) < 0.1 / 5
    assert np.std(errors) > 1e-4  # or the windows did not begin at random phase
    assert np.mean(gross) >= 0.93
    assert np.mean(net) >= 0.93


def test_rest_that_drifts_widens_the_net_energy_and_is_told():
    bench = Bench(rest=lambda now: 60 + 0.2 * now)
    drifting = measured(bench, Meter(bench))
    steady_bench = Bench()
    steady = measured(steady_bench, Meter(steady_bench))
    assert drifting.telemetry["idle_drift"] > 2
    assert drifting.net.high - drifting.net.low > 4 * (steady.net.high - steady.net.low)
    assert drifting.gross.value == pytest.approx(steady.gross.value)


def test_a_net_energy_below_what_can_be_told_is_absent_for_a_reason():
    bench = Bench(busy=60.0, rest=lambda now: 60 + 5 * math.sin(now / 3))
    reading = measured(bench, Meter(bench))
    assert reading.net is None
    assert "not told apart from zero" in reading.net_reason
    assert reading.gross.value == pytest.approx(0.6, rel=1e-3)


@pytest.mark.parametrize("gain, disagrees", [(1.0, 0), (1.03, 0), (1.08, 1), (0.9, 1)])
def test_a_counter_unlike_the_power_is_marked(gain, disagrees):
    bench = Bench()
    telemetry = measured(bench, Meter(bench, gain=gain)).telemetry
    assert telemetry["counter_over_integral"] == pytest.approx(gain, rel=0.01)
    assert telemetry["counter_disagrees"] == disagrees


def test_without_power_or_a_counter_there_is_nothing_to_check():
    for meter in ({"watts": False}, {"counted": False}):
        bench = Bench()
        telemetry = measured(bench, Meter(bench, **meter)).telemetry
        assert telemetry["counter_over_integral"] is None
        assert telemetry["counter_disagrees"] is None
        assert telemetry["energy_counted"] == meter.get("counted", True)


@pytest.mark.parametrize("period, said", [(math.inf, "did not rise"), (1.0, "rose only")])
def test_a_counter_that_hardly_moves_is_refused(period, said):
    bench = Bench()
    meter = Meter(bench, period=min(period, 1e9))
    with pytest.raises(MeterError, match=f"simulated: the energy {said}"):
        measured(bench, meter)


def test_rest_waits_for_a_stable_temperature():
    cooling = Bench()
    seen = measured(cooling, Meter(cooling, celsius=lambda now: 40 + 30 * math.exp(-now / 3)))
    assert seen.telemetry["cooled"] == 1
    assert seen.telemetry["celsius_idle"] < 42
    hot = Bench()
    seen = measured(hot, Meter(hot, celsius=lambda now: 90 - now / 4))
    assert seen.telemetry["cooled"] == 0
    silent = Bench()
    assert measured(silent, Meter(silent, celsius=lambda now: None)).telemetry["cooled"] is None


def test_cooling_down_is_bounded():
    times = []
    for cool_down in (0.0, 10.0, 30.0):
        bench = Bench()
        measured(bench, Meter(bench, celsius=lambda now: 90 - now / 4), EnergyEffort(cool_down=cool_down))
        times.append(bench.now)
    assert times[1] - times[0] == pytest.approx(20, abs=2)
    assert times[2] - times[0] == pytest.approx(60, abs=2)


def test_a_lost_meter_ends_it_also_from_the_background():
    for moment in np.linspace(0.5, 50, 25):
        bench = Bench()
        meter = Meter(bench)
        joules = meter.joules

        def lost(bench=bench, joules=joules, moment=moment):
            if bench.now > moment:
                raise MeterError("simulated: lost")
            return joules()

        meter.joules = lost
        with pytest.raises(MeterError, match="lost"):
            measured(bench, meter)


def test_an_energy_that_is_not_told_apart_from_zero_is_refused():
    bench = Bench(busy=lambda now: 300.0 if int(now / 7) % 3 == 0 else 0.001)
    with pytest.raises(MeterError, match="simulated: the energy of an inference is not told apart from zero"):
        measured(bench, Meter(bench))


def test_fewer_than_two_windows_are_refused():
    with pytest.raises(ValueError, match="at least 2 windows, got 1"):
        EnergyEffort(windows=1)


@pytest.mark.parametrize("windows", [2, 4, 8])
def test_intervals_hold_the_truth_as_often_as_they_say(windows):
    rng = np.random.default_rng(1)
    held = {"gross": [], "net": [], "power": []}
    for _ in range(1500):
        each = 0.01
        # Independent windows: a wandering load, and at each end the phase of a counter of 100 ms.
        load, idle = (
            [
                Window((5 + rng.uniform(-0.1, 0.1) + rng.uniform(-0.1, 0.1)) * watts, 5.0, 500, 0.1)
                for watts in level * (1 + rng.normal(0, 0.01, windows))
            ]
            for level in (300.0, 60.0)
        )
        gross, net, power = energy_per_inference(load, idle)
        for name, interval, truth in (
            ("gross", gross, 300 * each),
            ("net", net, 240 * each),
            ("power", power, 300.0),
        ):
            held[name].append(contains(interval, truth))
    for name, counts in held.items():
        assert np.mean(counts) > 0.93, name


def test_the_interval_is_students():
    # NIST/SEMATECH e-Handbook 1.3.6.7.2: t(0.975) is 3.182 for 3 degrees of freedom, 12.706 for 1.
    found = mean_interval(np.array([1.0, 2.0, 3.0, 4.0]))
    assert found.value == 2.5
    assert found.high - found.value == pytest.approx(3.182 * np.std([1, 2, 3, 4], ddof=1) / 2, rel=1e-3)
    found = mean_interval(np.array([1.0, 3.0]))
    assert found.high - found.value == pytest.approx(12.706, rel=1e-3)


def test_values_that_happen_to_be_the_same_are_no_better_than_their_resolution():
    found = mean_interval(np.full(4, 10.0), np.full(4, 0.2))
    assert found.high - found.value == pytest.approx(1.96 * 0.2 / 2)
    wide = np.array([8.0, 9.0, 11.0, 12.0])
    assert mean_interval(wide, np.full(4, 0.2)) == mean_interval(wide)


def test_the_ratio_needs_the_power_of_every_window():
    whole, blind = Window(10.0, 5.0, 1, integral=8.0), Window(10.0, 5.0, 1)
    assert counter_over_integral([whole, whole]) == 1.25
    assert counter_over_integral([whole, blind]) is None
    assert counter_over_integral([Window(10.0, 5.0, 1, integral=0.0)]) is None


def test_the_background_is_a_thread_that_ends_and_hands_on_what_failed():
    threads = threading.active_count()
    called = threading.Event()
    with in_background(called.set, 0.001):
        assert called.wait(10)
    assert threading.active_count() == threads

    def fail():
        called.set()
        raise MeterError("gone")

    called.clear()
    with pytest.raises(MeterError, match="gone"), in_background(fail, 0.001):
        assert called.wait(10)
    assert threading.active_count() == threads


def test_on_the_machines_own_clock():
    class Steady:
        name, counted = "steady", True

        def joules(self):
            return 50 * time.perf_counter()

        def watts(self):
            return 50.0

        def celsius(self):
            return None

    reading = measure_energy(
        Steady(), lambda: time.sleep(0.002), lambda: None, EnergyEffort(window=1.2, windows=2, cool_down=0.0)
    )
    assert reading.power.value == pytest.approx(50, rel=1e-3)
    assert reading.telemetry["counter_over_integral"] == pytest.approx(1, rel=1e-3)
    assert reading.net is None  # the device draws as much at rest
