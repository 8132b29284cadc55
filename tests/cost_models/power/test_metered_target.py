"""What a target's cost says of its meter: figures, or the reason why there are none."""

import time

import pytest

from cost_models.base import Reference
from cost_models.cpu_onnxruntime import CpuOnnxRuntime
from cost_models.power.energy import EnergyEffort
from cost_models.power.meter import MeterError, NoMeter
from cost_models.power.rapl import rapl_meter
from cost_models.testing import sample_deployable
from cost_models.timing import Effort

NAMES = ("energy", "net_energy", "power")
QUICK = Effort(goal=0.5, budget=0.3, pairs=20)


class Metered(CpuOnnxRuntime):
    base = "cpu-onnxruntime-metered"
    device = "wall"

    def __init__(self, meter):
        super().__init__(QUICK, QUICK, EnergyEffort(window=1.0, windows=3, cool_down=0.0))
        self.meter = meter

    def _meter(self):
        return self.meter


class Wall:
    """Draws 1 W at rest, and 60 W more while the process works, by the processor's time that it takes."""

    name, counted = "wall", True

    def __init__(self, busy=60.0):
        self.busy = busy

    def joules(self):
        return time.perf_counter() + self.busy * time.process_time()

    def watts(self):
        return None

    def celsius(self):
        return None


class Lost(Wall):
    def joules(self):
        raise MeterError("wall: unplugged")


def cost(meter):
    return measured(Metered(meter))


def measured(model):
    dense = sample_deployable()
    return model.cost(dense, Reference(dense, 1e-4))


def test_a_meter_gives_figures_with_intervals_and_samples():
    found = cost(Wall())
    energy, net, power = (found.figures[name] for name in NAMES)
    assert 1 < power.value <= 1 + 3 * 60
    assert 0 < net.value < energy.value
    assert energy.low <= energy.value <= energy.high
    assert 1 <= found.telemetry["idle_power"] < power.value
    for joules, seconds, inferences, _ in found.samples["energy"]:
        assert 1 < joules / seconds <= 1 + 3 * 60
        assert joules / inferences == pytest.approx(energy.value, rel=0.5)


@pytest.mark.parametrize(
    "meter, reason", [(NoMeter("no socket in the wall"), "no socket in the wall"), (Lost(), "wall: unplugged")]
)
def test_without_a_meter_the_figures_say_why(meter, reason):
    found = cost(meter)
    assert [found.figures[name].reason for name in NAMES] == [reason] * 3
    assert found.figures["latency"].value


def test_net_energy_alone_may_be_absent():
    found = cost(Wall(busy=0.0))
    assert found.figures["energy"].value
    assert "not told apart from zero" in found.figures["net_energy"].reason


def test_the_cpu_is_metered_by_rapl():
    meter = rapl_meter()
    if not isinstance(meter, NoMeter):
        pytest.skip("this machine has RAPL: see test_this_machine_answers")
    model = CpuOnnxRuntime(QUICK, QUICK)
    model.device = "wall"  # nothing here depends on quiet, so others that measure need not be waited for
    found = measured(model)
    assert [found.figures[name].reason for name in NAMES] == [meter.reason] * 3
