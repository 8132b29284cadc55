"""The adapter to zeus over zeus itself, whose NVIDIA GPU is the fake card.

Mostly skipped, for zeus never stands beside ray; in an environment of its own:

    pip install zeus scipy lazy-loader pytest hypothesis pytest-timeout
    pytest --confcutdir=tests/cost_models/power tests/cost_models/power/test_zeus.py
"""

import importlib.util

import pytest

from cost_models.power.energy import EnergyEffort
from cost_models.power.meter import MeterError, NoMeter
from cost_models.power.zeus import zeus_cpu, zeus_gpu

from .simulated import measured

ENERGY, INSTANT = "nvmlDeviceGetTotalEnergyConsumption", "NVML_FI_DEV_POWER_INSTANT"
NOT_SUPPORTED, LOST = 3, 15
QUICK = EnergyEffort(cool_down=1.0)

installed = importlib.util.find_spec("zeus") is not None
needs_zeus = pytest.mark.skipif(not installed, reason="needs zeus, in an environment without ray")


@pytest.mark.skipif(installed, reason="zeus is installed")
@pytest.mark.parametrize("meter", [zeus_gpu, zeus_cpu])
def test_without_zeus_it_says_what_to_install(meter):
    assert meter().reason == "zeus is not installed; in an environment without ray: pip install 'shrinkboard[zeus]'"


@pytest.fixture
def zeus_card(card, monkeypatch):
    import zeus.device.gpu

    monkeypatch.setattr(zeus.device.gpu, "_gpus", None)
    zeus.device.gpu.nvml_is_available.cache_clear()
    return card


@needs_zeus
def test_an_inference_is_metered(zeus_card):
    card = zeus_card(busy=321.0, rest=77.0, seconds=0.02)
    meter = zeus_gpu(clock=card.clock)
    assert (meter.name, meter.counted) == ("zeus", True)
    assert meter.watts() == 77
    assert meter.celsius() == 40
    reading = measured(card, meter, QUICK)
    assert reading.gross.value == pytest.approx(321 * 0.02, rel=0.01)
    assert reading.net.value == pytest.approx((321 - 77) * 0.02, rel=0.015)
    assert reading.telemetry["counter_over_integral"] == pytest.approx(1, abs=0.02)


@needs_zeus
def test_without_a_counter_the_power_is_integrated(zeus_card, monkeypatch):
    import zeus.device.gpu.nvidia

    card = zeus_card(busy=321.0, rest=77.0, seconds=0.02)
    monkeypatch.setattr(zeus.device.gpu.nvidia.NVIDIAGPU, "supports_get_total_energy_consumption", lambda self: False)
    meter = zeus_gpu(clock=card.clock)
    assert meter.name == "zeus, energy integrated from power"
    assert measured(card, meter, QUICK).gross.value == pytest.approx(321 * 0.02, rel=0.01)


@needs_zeus
def test_power_that_is_not_told_is_none(zeus_card):
    card = zeus_card()
    meter = zeus_gpu(clock=card.clock)
    card.fail(INSTANT, NOT_SUPPORTED)
    assert meter.watts() is None


@needs_zeus
def test_a_card_lost_on_the_way_says_so(zeus_card):
    card = zeus_card()
    meter = zeus_gpu(clock=card.clock)
    card.fail("*", LOST, at=13.0)
    with pytest.raises(MeterError, match="zeus: GPU is lost"):
        measured(card, meter, QUICK)


@needs_zeus
def test_cards_that_are_not_there_or_tell_nothing_are_no_meters(zeus_card):
    zeus_card()
    assert zeus_gpu(4).reason == "zeus: no GPU of index 4 among 1"
    zeus_card().fail(ENERGY, NOT_SUPPORTED)
    assert zeus_gpu(0).reason == "zeus: Not Supported"


@needs_zeus
def test_processors_are_metered_or_refused_with_zeus_reason():
    found = zeus_cpu()
    if isinstance(found, NoMeter):
        assert found.reason.startswith("zeus: ")
    else:
        assert found.joules() <= found.joules()


@needs_zeus
def test_packages_are_summed_without_their_parts(tmp_path, monkeypatch):
    import zeus.device.cpu
    from zeus.device.cpu import rapl

    counters = {}
    for folder, name in (("intel-rapl:0", "package-0"), ("intel-rapl:0/intel-rapl:0:0", "dram"),
                         ("intel-rapl:1", "package-1")):  # fmt: skip
        zone = tmp_path / folder
        zone.mkdir()
        (zone / "name").write_text(name)
        (zone / "max_energy_range_uj").write_text("262143328850")
        counters[name] = zone / "energy_uj"
        counters[name].write_text("1000000")
    monkeypatch.setattr(rapl, "RAPL_DIR", str(tmp_path))
    monkeypatch.setattr(zeus.device.cpu, "_cpus", None)
    rapl.rapl_is_available.cache_clear()
    meter = zeus_cpu()
    start = meter.joules()
    for name, microjoules in (("package-0", 3e6), ("package-1", 11e6), ("dram", 501e6)):
        counters[name].write_text(str(int(microjoules)))
    assert meter.joules() - start == pytest.approx(2 + 10)
    for cpu in meter._cpus:
        for file in (cpu.rapl_file, cpu.dram):
            if file is not None:
                file.wraparound_tracker._stop()
