"""RAPL on folders laid out as Linux does, and its absence on the machine that runs the tests."""

import contextlib
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models.power.counter import PowerIntegral, RisingCounter
from cost_models.power.energy import EnergyEffort
from cost_models.power.meter import MeterError, NoMeter
from cost_models.power.rapl import RaplMeter, rapl_meter

from .simulated import Bench, measured

RANGE = 262_143_328_850  # µJ, of the Intel processors with a unit of 61 µJ

linux = pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no powercap")


class Zone:
    """One folder of powercap."""

    def __init__(self, powercap, folder, name, microjoules=0, most=RANGE):
        self.path, self.most = powercap / folder, most
        self.path.mkdir(parents=True)
        (self.path / "name").write_text(f"{name}\n")
        (self.path / "max_energy_range_uj").write_text(f"{most}\n")
        self.set(microjoules)

    def set(self, microjoules):
        (self.path / "energy_uj").write_text(f"{int(microjoules) % (self.most + 1)}\n")


@linux
def test_packages_are_summed_and_nothing_twice(tmp_path):
    zones = {
        name: Zone(tmp_path, folder, name)
        for folder, name in (
            ("intel-rapl:0", "package-0"),
            ("intel-rapl:0:0", "core"),
            ("intel-rapl:0:1", "dram"),
            ("intel-rapl:1", "package-1"),
            ("intel-rapl:1:0", "uncore"),
            ("intel-rapl:2", "psys"),
            ("intel-rapl-mmio:0", "package-0 again"),
        )
    }
    meter = rapl_meter(tmp_path, tmp_path)
    start = meter.joules()
    for step, zone in enumerate(zones.values()):
        zone.set(10**step * 1e6)
    assert meter.joules() - start == pytest.approx(1 + 1000)  # package-0 and package-1
    assert meter.watts() is None
    assert meter.counted


@linux
@given(
    begin=st.integers(0, RANGE),
    steps=st.lists(st.integers(0, RANGE), max_size=20),
)
def test_wraps_are_followed(tmp_path_factory, begin, steps):
    folder = tmp_path_factory.mktemp("powercap")
    zone = Zone(folder, "intel-rapl:0", "package-0", begin)
    meter = rapl_meter(folder, folder)
    start, drawn = meter.joules(), 0
    for step in steps:
        drawn += step
        zone.set(begin + drawn)
        assert meter.joules() - start == pytest.approx(drawn / 1e6)


@contextlib.contextmanager
def as_nobody():
    """Root reads everything: as the user without rights, where that can be had."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@linux
def test_a_counter_for_root_only_says_what_to_do(tmp_path):
    zone = Zone(tmp_path, "intel-rapl:0", "package-0")
    (zone.path / "energy_uj").chmod(0)
    for folder in (zone.path, *zone.path.parents):
        if folder.stat().st_uid == os.getuid() and folder.is_relative_to(tmp_path.parents[1]):
            folder.chmod(0o755)
    with as_nobody():
        found = rapl_meter(tmp_path, tmp_path)
    assert isinstance(found, NoMeter)
    assert "root only" in found.reason
    assert "sudo chmod a+r" in found.reason
    assert "\n" not in found.reason


@linux
def test_a_counter_that_vanishes_is_a_lost_meter(tmp_path):
    zone = Zone(tmp_path, "intel-rapl:0", "package-0")
    meter = rapl_meter(tmp_path, tmp_path)
    (zone.path / "energy_uj").unlink()
    with pytest.raises(MeterError, match="cannot be read"):
        meter.joules()


@linux
@pytest.mark.parametrize("written", ["", "many\n"])
def test_a_counter_without_a_number_is_no_meter(tmp_path, written):
    (Zone(tmp_path, "intel-rapl:0", "package-0").path / "energy_uj").write_text(written)
    assert "cannot be read" in rapl_meter(tmp_path, tmp_path).reason


@linux
def test_without_packages_there_is_no_meter(tmp_path):
    assert "no energy counter" in rapl_meter(tmp_path / "absent", tmp_path).reason
    Zone(tmp_path, "intel-rapl:0", "psys")
    assert "no energy counter" in rapl_meter(tmp_path, tmp_path).reason


def test_this_machine_answers():
    found = rapl_meter()
    if isinstance(found, NoMeter):
        assert found.reason and "\n" not in found.reason
    else:
        assert found.joules() <= found.joules()


@linux
def test_the_temperature_is_that_of_the_hottest_package(tmp_path):
    Zone(tmp_path, "intel-rapl:0", "package-0")
    for number, (name, degrees) in enumerate([("coretemp", 51_000), ("nvme", 80_000), ("k10temp", 63_500)]):
        sensor = tmp_path / f"hwmon{number}"
        sensor.mkdir()
        (sensor / "name").write_text(f"{name}\n")
        (sensor / "temp1_input").write_text(f"{degrees}\n")
    assert rapl_meter(tmp_path, tmp_path).celsius() == 63.5
    assert rapl_meter(tmp_path, tmp_path / "absent").celsius() is None


@linux
def test_an_inference_is_metered_across_a_wrap(tmp_path):
    bench = Bench(busy=120.0, rest=30.0, seconds=0.004)
    zones = [Zone(tmp_path, f"intel-rapl:{n}", f"package-{n}", most=1_000_000_000) for n in (0, 1)]

    class OnTheBench(RaplMeter):
        """The counters as they stand when they are read; a package's wraps after 1 kJ."""

        def joules(self):
            for zone, share in zip(zones, (0.75, 0.25), strict=True):
                zone.set(bench.drawn * share * 1e6)
            return super().joules()

    meter = OnTheBench([zone.path for zone in zones], tmp_path)
    reading = measured(bench, meter, EnergyEffort(cool_down=1.0))
    assert bench.drawn * 0.75 > 2000
    assert reading.gross.value == pytest.approx(0.48, rel=1e-3)
    assert reading.net.value == pytest.approx(0.36, rel=1e-3)
    assert reading.telemetry["cooled"] is None
    assert reading.telemetry["counter_over_integral"] is None


def test_a_fall_that_is_too_large_for_a_wrap_is_a_reset():
    counter = RisingCounter([100, 1000], largest_step=30)
    assert [counter.grown(now) for now in (90, 99, 15)] == [0, 9, 25]
    with pytest.raises(MeterError, match="reset"):
        counter.grown(5)
    assert counter.grown(8) == 28
    counter = RisingCounter([100, 1000], largest_step=30)
    assert [counter.grown(now) for now in (990, 10)] == [0, 20]


@given(st.lists(st.tuples(st.floats(0.01, 10), st.floats(0, 500)), min_size=2, max_size=30))
def test_the_integral_of_a_power_is_exact_between_straight_lines(course):
    now = 0.0
    integral = PowerIntegral(lambda: now)
    expected, last = 0.0, None
    for step, watts in course:
        now += step
        expected += 0 if last is None else step * (watts + last) / 2
        assert integral.joules(watts) == pytest.approx(expected)
        last = watts
