"""NVIDIA's binding and the meter over it on a fake library, whose card draws what the test says (fake_nvml.c)."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cost_models.power.energy import EnergyEffort
from cost_models.power.meter import MeterError, NoMeter
from cost_models.power.nvml import NvmlDevice, nvml_device

from .simulated import measured

UUID = "GPU-5ca1ab1e-0000-4000-8000-000000000001"
SLICE = "5ca1ab1e-0000-4000-8000-000000000002"
ENERGY, INSTANT = "nvmlDeviceGetTotalEnergyConsumption", "NVML_FI_DEV_POWER_INSTANT"
NOT_SUPPORTED, NO_PERMISSION, LOST = 3, 4, 15
QUICK = EnergyEffort(cool_down=1.0)


def opened(card):
    device = nvml_device(clock=card.clock)
    assert isinstance(device, NvmlDevice), device
    return device


def reason(**which):
    found = nvml_device(**which)
    assert isinstance(found, NoMeter)
    assert "\n" not in found.reason
    return found.reason


def test_a_card_tells_what_it_is_and_does(card):
    card = card(rest=71.5)
    device = opened(card)
    assert (device.name, device.product, device.driver) == ("nvml", "Fake Card 9000", "999.99")
    assert device.counted
    assert device.watts() == 71.5
    assert device.celsius() == 40.0
    assert device.sm_clock() == 1410e6


def test_energy_is_what_was_drawn_up_to_the_last_refresh(card):
    card = card(busy=250.0, seconds=0.73)
    device = opened(card)
    start = device.joules()
    for _ in range(3):
        card.run()
    assert device.joules() - start == pytest.approx(250 * 2.1)  # 2.19 s, refreshed every 0.1 s


def test_power_of_the_moment_is_not_the_average(card):
    card = card(busy=300.0, rest=60.0, seconds=0.1)
    device = opened(card)
    card.sleep(2)
    card.run()
    assert device.watts() == 300


@pytest.mark.parametrize("uuid", [UUID, UUID.removeprefix("GPU-")])
def test_a_card_is_found_by_its_uuid(card, uuid):
    card()
    assert nvml_device(index=7, uuid=uuid).product == "Fake Card 9000"


def test_a_card_that_is_not_there_is_named(card):
    card()
    assert reason(index=3) == "NVML: no GPU of index 3"
    assert reason(uuid="GPU-0ther") == "NVML: no GPU of the UUID that CUDA tells"  # who reads an entry need not know it


@pytest.mark.parametrize("prefix", ["MIG-", "GPU-", ""])
def test_a_slice_of_a_card_is_found_and_is_no_meter(card, prefix):
    card()
    told = reason(uuid=prefix + SLICE)
    assert "MIG" in told and "nvidia-smi -mig 0" in told and SLICE not in told


@pytest.mark.parametrize("seconds", [0.0007, 0.02, 0.31])
@pytest.mark.parametrize("early", [False, True])
def test_an_inference_is_metered(card, seconds, early):
    card = card(busy=321.0, rest=77.0, seconds=seconds, early=early)
    reading = measured(card, opened(card), QUICK)
    assert reading.gross.value == pytest.approx(321 * seconds, rel=0.01)
    assert reading.gross.low <= 321 * seconds <= reading.gross.high
    assert reading.net.value == pytest.approx((321 - 77) * seconds, rel=0.015)
    assert reading.power.value == pytest.approx(321, rel=0.01)
    assert reading.telemetry["idle_power"] == pytest.approx(77, rel=0.02)
    assert reading.telemetry["counter_over_integral"] == pytest.approx(1, abs=0.02)
    assert reading.telemetry["counter_disagrees"] == 0
    assert reading.telemetry["celsius_load"] == 40


@pytest.mark.parametrize("bits", [32, 64])
def test_a_counter_that_wraps_is_followed(card, bits):
    card = card(busy=300.0, seconds=0.01)
    # It starts over in the middle of the windows under load.
    card.counter(begin=2.0**bits - 4096 * 1000, end=2.0**bits)
    reading = measured(card, opened(card), QUICK)
    assert reading.gross.value == pytest.approx(3.0, rel=0.01)


def test_a_counter_that_is_reset_is_no_wrap(card):
    card = card(busy=300.0, seconds=0.01)
    card.counter(begin=3e9)  # far from where 32 bits end
    device = opened(card)
    card.run()
    before = device.joules()
    card.library.fake_counter_reset()
    card.sleep(1)
    with pytest.raises(MeterError, match="nvml: the energy counter was reset"):
        device.joules()
    for _ in range(100):
        card.run()
    after = device.joules()
    assert before <= after
    assert after - before == pytest.approx(300, rel=0.11)


def test_a_reset_while_metered_leaves_no_figure(card):
    card = card()
    card.counter(begin=1e9)
    device = opened(card)
    run, resets = card.run, []

    def run_and_reset():
        run()
        if card.now > 20 and not resets:
            resets.append(card.library.fake_counter_reset())

    card.run = run_and_reset
    with pytest.raises(MeterError, match="reset"):
        measured(card, device, QUICK)
    assert resets


def test_without_a_counter_the_power_is_integrated(card):
    card = card(busy=321.0, rest=77.0, seconds=0.02)
    card.fail(ENERGY, NOT_SUPPORTED)
    device = opened(card)
    assert device.name == "nvml, energy integrated from power"
    assert not device.counted
    reading = measured(card, device, QUICK)
    assert reading.gross.value == pytest.approx(321 * 0.02, rel=0.01)
    assert reading.net.value == pytest.approx((321 - 77) * 0.02, rel=0.01)
    assert reading.telemetry["energy_counted"] == 0
    assert reading.telemetry["counter_over_integral"] is None


def test_a_varying_power_is_integrated_too(card):
    card = card(busy=lambda now: 300 + 100 * np.sin(now * 2), rest=77.0, seconds=0.01)
    card.fail(ENERGY, NOT_SUPPORTED)
    reading = measured(card, opened(card), QUICK)
    drawn = card.drawn
    assert reading.gross.low <= 3.0 <= reading.gross.high
    assert drawn > 0


def test_an_average_stands_in_for_the_power_of_the_moment(card):
    card = card(busy=300.0, rest=60.0, seconds=0.02)
    card.fail(INSTANT, NOT_SUPPORTED)
    device = opened(card)
    assert device.name == "nvml, power averaged over up to 1 s"
    card.sleep(2)
    card.run()
    assert device.watts() == pytest.approx(60 + 240 * 0.02)
    reading = measured(card, device, QUICK)
    assert reading.gross.value == pytest.approx(6.0, rel=0.01)
    # Work goes on before the windows begin, so the average is that of the work.
    assert reading.telemetry["counter_over_integral"] == pytest.approx(1, abs=0.02)


def test_only_an_average_is_integrated_and_said(card):
    card = card(busy=300.0, rest=60.0, seconds=0.02)
    card.fail(INSTANT, NOT_SUPPORTED)
    card.fail(ENERGY, NOT_SUPPORTED)
    device = opened(card)
    assert device.name == "nvml, energy integrated from power, power averaged over up to 1 s"
    assert measured(card, device, QUICK).gross.value == pytest.approx(6.0, rel=0.01)


def test_a_counter_without_power_has_nothing_to_be_checked_by(card):
    card = card(busy=300.0, seconds=0.02)
    for function in (INSTANT, "nvmlDeviceGetPowerUsage"):
        card.fail(function, NOT_SUPPORTED)
    device = opened(card)
    assert device.watts() is None
    reading = measured(card, device, QUICK)
    assert reading.gross.value == pytest.approx(6.0, rel=0.01)
    assert reading.telemetry["counter_over_integral"] is None


def test_a_counter_unlike_the_power_is_marked(card):
    card = card(busy=300.0, seconds=0.02)
    card.counter(gain=0.9)
    telemetry = measured(card, opened(card), QUICK).telemetry
    assert telemetry["counter_over_integral"] == pytest.approx(0.9, rel=0.02)
    assert telemetry["counter_disagrees"] == 1


def test_a_counter_that_stands_still_or_hardly_moves_is_refused(card):
    for refresh, said in ((1e9, "did not rise"), (1.0, "rose only")):
        bench = card()
        bench.counter(refresh=refresh)
        with pytest.raises(MeterError, match=f"nvml: the energy {said}"):
            measured(bench, opened(bench), QUICK)


@pytest.mark.parametrize("moment", [0.5, 3.0, 8.7, 13.0, 13.2, 30.0])
@pytest.mark.parametrize("function", ["*", ENERGY])
def test_a_card_lost_on_the_way_says_so(card, moment, function):
    card = card()
    device = opened(card)
    card.fail(function, LOST, at=moment)
    with pytest.raises(MeterError, match="nvml: GPU is lost"):
        measured(card, device, QUICK)


def test_everything_of_a_lost_card_raises(card):
    card = card()
    device = opened(card)
    card.fail("*", LOST)
    for ask in (device.joules, device.watts, device.celsius, device.sm_clock, device.throttle_reasons):
        with pytest.raises(MeterError, match="GPU is lost"):
            ask()
    assert "GPU is lost" in reason()


@pytest.mark.parametrize("code, said", [(NOT_SUPPORTED, "neither its energy nor its power"), (NO_PERMISSION, "rights")])
def test_a_card_that_tells_nothing_is_no_meter(card, code, said):
    card = card()
    for function in (ENERGY, INSTANT, "nvmlDeviceGetPowerUsage"):
        card.fail(function, code)
    assert said in reason()


@pytest.mark.parametrize(
    "code, said",
    [
        (9, "driver is not loaded"),
        (18, "differ in version"),
        (NO_PERMISSION, "rights of /dev/nvidia"),
        (999, "Unknown"),
    ],
)
def test_a_library_that_cannot_start_says_why(card, code, said):
    card = card()
    card.fail("nvmlInitWithFlags", code)
    assert said in reason()


def test_a_partitioned_card_is_no_meter(card):
    card = card()
    card.library.fake_mig(1)
    assert "MIG" in reason() and "nvidia-smi -mig 0" in reason()


def test_a_card_that_knows_no_partitions_is_a_meter(card):
    for code in (NOT_SUPPORTED, 13):
        bench = card()
        bench.fail("nvmlDeviceGetMigMode", code)
        bench.fail("nvmlDeviceIsMigDeviceHandle", code)
        opened(bench)


def test_old_drivers_answer_by_older_functions(card):
    card = card()
    card.fail("nvmlDeviceGetTemperatureV", 13)
    card.fail("nvmlDeviceGetCurrentClocksEventReasons", 13)
    card.library.fake_clock(900, 0x8)
    device = opened(card)
    assert device.celsius() == 40
    assert device.throttled()


def test_what_a_card_does_not_tell_is_none(card):
    card = card()
    for function in (
        "nvmlDeviceGetTemperatureV",
        "nvmlDeviceGetTemperature",
        "nvmlDeviceGetClockInfo",
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetCurrentClocksThrottleReasons",
    ):
        card.fail(function, NOT_SUPPORTED)
    device = opened(card)
    assert device.celsius() is device.sm_clock() is device.throttle_reasons() is device.throttled() is None


@pytest.mark.parametrize(
    # nvml.h, nvmlClocksEventReasons: idle, application clocks, sync boost and display clock are nobody's fault.
    "bit, slowed",
    [(0x1, False), (0x2, False), (0x4, True), (0x8, True), (0x10, False), (0x20, True), (0x40, True), (0x80, True),
     (0x100, False), (0x0, False)],
)  # fmt: skip
def test_throttling_is_told_from_idling(card, bit, slowed):
    card = card()
    card.library.fake_clock(1200, bit)
    device = opened(card)
    assert device.throttle_reasons() == bit
    assert device.throttled() is slowed


def test_clocks_are_locked_and_freed(card):
    card = card()
    device = opened(card)
    with device.lock_clocks():
        assert card.locked() == [0xFFFFFF01, 0xFFFFFF01]  # nvml.h: NVML_CLOCK_LIMIT_ID_TDP
    assert card.locked() == [0, 0]
    with pytest.raises(KeyError), device.lock_clocks():
        raise KeyError
    assert card.locked() == [0, 0]


def test_clocks_that_may_not_be_locked_are_left(card):
    card = card()
    card.fail("nvmlDeviceSetGpuLockedClocks", NO_PERMISSION)
    card.fail("nvmlDeviceResetGpuLockedClocks", NO_PERMISSION)
    with pytest.raises(MeterError, match="Permission"):
        opened(card).lock_clocks()


OPEN = "from cost_models.power.nvml import nvml_device; d = nvml_device(); print(getattr(d, 'product', d))"


def in_a_process(folder):
    """What a fresh process finds where the loader looks for libraries in `folder` too."""
    run = subprocess.run(
        [sys.executable, "-c", OPEN], cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True,
        env=os.environ | {"LD_LIBRARY_PATH": str(folder)},
    )  # fmt: skip
    return run.stdout


def test_the_binding_itself_loads_the_library(fake_nvml, tmp_path):
    assert in_a_process(fake_nvml) == "Fake Card 9000\n"
    (tmp_path / "libnvidia-ml.so.1").write_bytes(b"no library")
    assert "libnvidia-ml.so.1 is not found" in in_a_process(tmp_path)
