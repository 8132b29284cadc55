"""A GPU target with NVML beside it: the real binding on the fake library, the stand-in for the GPU itself."""

import pytest
import torch
from gpu_stand_in import OnProcessor, Processor

from cost_models import Reference, doctor
from cost_models.power.energy import EnergyEffort
from cost_models.testing import sample_deployable
from cost_models.timing import Effort
from workloads import InputError

QUICK = Effort(goal=0.5, budget=0.3, pairs=10)
SW_POWER_CAP = 0x4


class OnFakeCard(OnProcessor):
    """The stand-in under the UUID of the fake library's card; notes what is locked while it is measured on."""

    class Accelerator(Processor):
        uuid = "GPU-5ca1ab1e-0000-4000-8000-000000000001"

    accelerator = Accelerator()

    def __init__(self, card, **options):
        super().__init__(QUICK, QUICK, EnergyEffort(window=0.1, windows=2, cool_down=0.0), **options)
        self.card, self.locked = card, []

    def _telemetry(self):
        self.locked.append(self.card.locked())
        return super()._telemetry()

    def cost(self):
        dense = sample_deployable()
        return super().cost(dense, Reference(dense, 1e-4))


def test_the_card_is_found_by_its_uuid_and_tells_of_itself(card):
    model = OnFakeCard(card())
    assert model._runtime()["driver"] == "999.99"
    model.card.library.fake_clock(1500, 0)
    told = model.cost().telemetry
    assert told["sm_clock"] == told["sm_clock_before"] == 1.5e9
    assert told["throttled"] == 0 and told["throttle_reasons"] == 0 and told["celsius"] is not None


def test_clocks_are_left_alone_unless_they_are_to_be_locked(card):
    model = OnFakeCard(card())
    free = model.cost()
    assert model.locked and not any(any(pair) for pair in model.locked)
    other = OnFakeCard(card(), clocks="locked")
    held = other.cost()
    assert other.locked and all(any(pair) for pair in other.locked) and not any(other.card.locked())
    assert (free.runtime["clocks"], held.runtime["clocks"]) == ("free", "locked")
    assert free.target != held.target  # figures of the two do not compare


def test_clocks_that_may_not_be_locked_are_refused(card):
    model = OnFakeCard(card(), clocks="locked")
    model.card.fail("nvmlDeviceSetGpuLockedClocks", 4)
    with pytest.raises(InputError, match=r"clocks=locked: the clocks cannot be locked .*run as root") as caught:
        model.cost()
    assert "\n" not in str(caught.value)


def test_a_card_at_its_power_limit_is_unstable(card):
    model = OnFakeCard(card())
    model.card.library.fake_clock(1200, SW_POWER_CAP)
    cost = model.cost()
    assert cost.unstable and cost.telemetry["throttled"] == 1 and cost.telemetry["throttle_reasons"] == SW_POWER_CAP


@pytest.mark.parametrize("mig", [0, 1])
def test_why_there_is_no_energy(card, mig):
    model = OnFakeCard(card())
    model.card.library.fake_mig(mig)
    reason = model.cost().figures["energy"].reason
    assert ("MIG" in reason) == bool(mig) and reason  # or that its counter, whose time stands still, does not move


def test_a_card_that_is_lost_tells_nothing_more(card):
    model = OnFakeCard(card())
    assert model._runtime()["gpu"] == Processor.name
    model.card.fail("nvmlDeviceGetClockInfo", 15)
    cost = model.cost()
    assert cost.telemetry["sm_clock"] is None and cost.figures["latency"].value


def test_the_doctor_asks_for_the_card_that_torch_uses(card, monkeypatch):
    class Slice(Processor):
        uuid = "GPU-5ca1ab1e-0000-4000-8000-000000000002"

    def told():
        (gpu,) = (ability for ability in doctor._meters() if ability.what == "energy of a GPU")
        return gpu

    card()
    for accelerator, possible in ((OnFakeCard.accelerator, True), (Slice(), False)):
        monkeypatch.setattr(doctor, "cuda", lambda found=accelerator: found)
        assert told().possible == possible
    assert "MIG" in told().remark


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_torch_on_a_card_the_doctor_asks_for_the_first(card):
    card()
    assert doctor.Ability("energy of a GPU", True, "nvml, Fake Card 9000") in doctor._meters()
