"""`gpu-torch`: all that needs no card, on a stand-in for the device that runs on the CPU; and what needs one, skipped.

The stand-in checks the logic (clock, sessions, options, formats, bytes, telemetry), not CUDA: the tests at the end do,
where there is a card.
"""

import gc
import itertools
import pickle
import tempfile
import time
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from gpu_stand_in import OnOldProcessor, OnProcessor, Processor
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.sparse._semi_structured_conversions import sparse_semi_structured_from_dense_cutlass
from torch.utils._python_dispatch import TorchDispatchMode

from cost_models import GpuTorch, Reference, check_cost_model, gpu, gpu_torch, target
from cost_models.machine import exclusive
from cost_models.power.meter import NoMeter
from cost_models.testing import sample_deployable
from cost_models.timing import Effort
from workloads import Format, InputError

QUICK = Effort(goal=0.05, budget=1.0, pairs=30)
QUICKEST = Effort(goal=0.5, budget=0.3, pairs=10)
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
HERE = torch.cuda.is_available()


class Script:
    """An accelerator of which only the clock is asked: time passes as it is told to, and what is queued is written."""

    device, cache = torch.device("cpu"), 1000

    def __init__(self):
        self.now, self.queued, self.waited = 0.0, [], 0

    def event(self):
        return Noted(self)

    def occupy(self, seconds):
        self.now += seconds
        self.queued.append("lead")

    def synchronize(self):
        self.waited += 1

    def replay(self, seconds):
        def pass_time():
            self.now += seconds
            self.queued.append("replay")

        return pass_time


class Noted:
    def __init__(self, script):
        self.script = script

    def record(self):
        self.at = self.script.now
        self.script.queued.append("event")

    def elapsed_time(self, end_event):
        return (end_event.at - self.at) * 1e3


class Writes(TorchDispatchMode):
    """Notes tensors that are zeroed."""

    def __init__(self, script):
        super().__init__()
        self.script, self.bytes = script, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._overloadpacket is torch.ops.aten.zero_:
            self.script.queued.append("flush")
            self.bytes.append(args[0].nbytes)
        return func(*args, **(kwargs or {}))


# The clock


@given(st.lists(st.one_of(st.floats(1e-6, 1e-2), st.sampled_from(["seconds", "wait"])), max_size=40))
def test_the_clock_counts_replays_and_nothing_else(steps):
    script = Script()
    clock, sum_of_replays = gpu.GpuClock(script), 0.0
    for step in steps:
        if step == "seconds":
            assert clock.seconds() == pytest.approx(sum_of_replays)
            script.now += 1.0
        elif step == "wait":
            clock.wait()
        else:
            clock.run(script.replay(step))
            sum_of_replays += step
    assert clock.seconds() == pytest.approx(sum_of_replays)


def test_the_clock_waits_before_the_queue_is_full():
    script = Script()
    clock = gpu.GpuClock(script)
    for _ in range(3 * gpu.PENDING):
        clock.run(script.replay(1e-3))
    assert script.waited == 3 and clock.seconds() == pytest.approx(3 * gpu.PENDING * 1e-3)


@pytest.mark.parametrize("cold", [False, True])
def test_before_a_sample_the_gpu_is_held_up_and_its_cache_warmed_outside_what_counts(cold):
    script = Script()
    clock = gpu.GpuClock(script, cold)
    for _ in range(2):
        clock.seconds()
        clock.run(script.replay(1e-3))
        clock.run(script.replay(1e-3))
    assert script.queued == 2 * ["lead", *([] if cold else ["replay"]), *2 * ["event", "replay", "event"]]
    assert clock.seconds() == pytest.approx(4e-3)


def test_a_cold_replay_follows_a_write_of_twice_the_cache_outside_its_events():
    script = Script()
    clock = gpu.GpuClock(script, cold=True)
    with Writes(script) as writes:
        for _ in range(2):
            clock.run(script.replay(1e-3))
    assert script.queued == 2 * ["flush", "event", "replay", "event"]
    assert writes.bytes == [2 * Script.cache] * 2


def test_a_cache_of_unknown_size_cannot_be_emptied():
    class Untold(Processor):
        cache = 0

    with pytest.raises(InputError, match=r"cache=cold.*warm"):
        gpu.GpuClock(Untold(), cold=True)
    gpu.GpuClock(Untold())


# Names, options and formats


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rest", ["", ",sparsity=none", ",image=64x48", ",cache=cold"])
def test_a_name_with_options_is_read_again(precision, rest):
    model = target(f"gpu-torch:precision={precision}{rest}")
    assert isinstance(model, GpuTorch) and target(model.name).name == model.name
    default = precision == "fp32" and rest in ("", ",sparsity=none")
    assert (model.key == target("gpu-torch").key) == default


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("sparsity=2:4", "fp16 and bf16, not fp32"),
        ("precision=tf32,sparsity=2:4", "not tf32"),
        ("cache=cold,image=64x48", "leave one out"),
        ("precision=int8", "fp32, tf32, fp16, bf16"),
        ("threads=2", "precision="),
    ],
)
def test_options_that_do_not_go_together(options, told):
    with pytest.raises(InputError, match=told) as caught:
        target(f"gpu-torch:{options}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_everything_runs_in_the_precision(precision, network, deploy):
    model, form = OnProcessor(QUICKEST, QUICKEST, precision=precision), Format.parse(precision)
    for weight, activation in itertools.product(map(Format.parse, ("fp32", "int4", "mf5", "bf16")), repeat=2):
        assert model.executed(weight, activation) == (form, form)
    dense = deploy(network("residual"))
    cost = model.cost(deploy(network("residual"), "int8"), Reference(dense, 1.0))
    assert cost.executed == {layer: (form, form) for layer in ("stem", "conv1", "conv2", "head")}
    assert cost.runtime["precision"] == precision


def test_the_default_is_fp32_and_warm():
    runtime = OnProcessor()._runtime()
    assert (runtime["precision"], runtime["cache"], runtime["sparsity"]) == ("fp32", "warm", "none")


@pytest.mark.parametrize("options", [{"precision": "tf32"}, {"precision": "bf16"}])
def test_what_an_old_card_lacks_is_refused(options, network, deploy):
    dense = deploy(network("plain"))
    with pytest.raises(InputError, match=r"needs compute capability 8\.0, and Turing has 7\.5"):
        OnOldProcessor(**options).freeze(dense)
    with pytest.raises(InputError, match="2:4 needs"):
        OnOldProcessor(precision="fp16", sparsity="2:4").freeze(dense)
    assert OnOldProcessor(precision="fp16").predict(dense, dense.example).shape == (1, 5)


@pytest.mark.parametrize("tf32", [False, True])
def test_arithmetic_is_fixed_and_given_back(tf32):
    def settings():
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        return matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.benchmark, torch.get_float32_matmul_precision()

    before = settings()
    torch.backends.cudnn.benchmark = True
    try:
        with pytest.raises(KeyError), gpu_torch.arithmetic(tf32):
            form = "tf32" if tf32 else "ieee"
            assert torch.backends.cuda.matmul.fp32_precision == torch.backends.cudnn.conv.fp32_precision == form
            assert not torch.backends.cudnn.benchmark
            raise KeyError
        assert torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.benchmark = before[2]
    assert settings() == before


# Networks


@pytest.mark.parametrize(("precision", "error"), [("fp32", 1e-5), ("tf32", 1e-5), ("fp16", 5e-3), ("bf16", 4e-2)])
def test_predict_is_the_network(precision, error, module, deploy):
    deployable = deploy(module)
    images = torch.randn(70, 3, 16, 16)  # more than one batch
    with torch.no_grad():
        expected = module(images).numpy()
    found = OnProcessor(precision=precision).predict(deployable, images)
    assert found.dtype == np.float32 and abs(found - expected).max() <= error * abs(expected).max()
    if precision in ("fp16", "bf16"):
        assert abs(found - expected).max() > 0


def test_a_session_keeps_what_its_graph_reads(network, deploy):
    deployable = deploy(network("plain"))
    session = OnProcessor()._program(deployable).session(2, 1)
    gc.collect()
    images = deployable.calibration[0][:2].numpy()
    session.feed(images)
    session.run()
    first = session.fetch()
    session.feed(-images)
    session.run()
    session.wait()
    assert not np.allclose(session.fetch(), first)
    with torch.no_grad():
        np.testing.assert_allclose(first, deployable.module(torch.from_numpy(images)), rtol=1e-4, atol=1e-5)


def test_what_is_queued_is_kept_until_it_has_ended(network, deploy):
    model = OnProcessor()
    session = model._program(deploy(network("plain"))).session(1, 1)
    session.run()
    kept = weakref.ref(session)
    del session
    gc.collect()
    assert kept() is not None
    model._clock().wait()
    gc.collect()
    assert kept() is None


def test_a_network_that_does_not_run_is_one_line(network, deploy):
    dense = deploy(network("plain"))
    with pytest.raises(InputError, match=r"gpu-torch.*does not run") as caught:
        OnProcessor().freeze(replace(dense, example=torch.randn(1, 7, 16, 16)))
    assert "\n" not in str(caught.value)


def test_memory_is_what_the_folded_network_stores(network, deploy):
    dense = deploy(network("plain"))
    # Weights and biases of two convolutions and a linear layer, batch norm gone.
    numbers = (8 * 3 * 9 + 8) + (16 * 8 * 9 + 16) + (5 * 16 + 5)
    for precision, size in (("fp32", 4), ("tf32", 4), ("fp16", 2), ("bf16", 2)):
        assert OnProcessor(precision=precision)._program(dense).memory == numbers * size


# 2:4


@given(st.lists(st.lists(st.sampled_from([0.0, 0.0, 1.5]), min_size=8, max_size=8), min_size=1, max_size=4))
def test_two_of_four(rows):
    expected = all(sum(value != 0 for value in row[at : at + 4]) <= 2 for row in rows for at in (0, 4))
    assert gpu_torch.is_two_of_four(torch.tensor(rows)) == expected


def sparse_network():
    """Linear layers: one in 2:4, one dense, two in 2:4 of which no kernel takes the inputs, or the outputs."""
    linear = [nn.Linear(3 * 256, 64), nn.Linear(64, 32), nn.Linear(32, 64), nn.Linear(64, 10)]
    with torch.no_grad():
        for layer in (linear[0], linear[2], linear[3]):
            layer.weight.view(-1, 4)[:, :2] = 0
    return nn.Sequential(nn.Flatten(), *linear).eval()


def test_linear_layers_in_2_4_are_counted_where_a_kernel_takes_them(deploy):
    dense = deploy(sparse_network())
    cost = {
        sparsity: OnProcessor(QUICKEST, QUICKEST, precision="fp16", sparsity=sparsity).cost(
            dense, Reference(dense, 1.0)
        )
        for sparsity in ("none", "2:4")
    }
    assert cost["none"].telemetry["sparse_layers"] == 0 and cost["2:4"].telemetry["sparse_layers"] == 1
    weight = dense.module[1].weight.detach().half()
    packed, places = sparse_semi_structured_from_dense_cutlass(weight)
    saved = cost["none"].figures["memory"].value - cost["2:4"].figures["memory"].value
    assert saved == weight.nbytes - packed.nbytes - places.nbytes > 0


# Costs


@pytest.mark.parametrize("options", [{}, {"precision": "bf16", "cache": "cold"}])
def test_the_contract_on_the_stand_in(options):
    check_cost_model(OnProcessor(QUICK, QUICK, **options))


def test_from_the_picture_on_it_is_timed_by_the_wall_clock(network, deploy):
    dense = deploy(network("plain"))
    cost = OnProcessor(QUICKEST, QUICKEST, image=(320, 240)).cost(dense, Reference(dense, 1.0))
    assert 0 < cost.telemetry["input_share"] <= 1


@pytest.mark.parametrize(("image", "held"), [(None, {"gpu"}), ((64, 48), {"gpu", "cpu"})])
def test_who_times_by_the_wall_clock_holds_the_cpu_too(image, held, network, deploy, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where others that measure hold nothing
    seen = []

    class Asks(OnProcessor):
        def _telemetry(self):
            seen.append({name for name, device in (("cpu", "cpu"), ("gpu", self.device)) if is_held(device)})
            return super()._telemetry()

    dense = deploy(network("plain"))
    Asks(QUICKEST, QUICKEST, image=image).cost(dense, Reference(dense, 1.0))
    assert seen and all(found == held for found in seen)
    assert not is_held("cpu")


def is_held(device):
    try:
        with exclusive(device, timeout=0):
            return False
    except InputError:
        return True


def test_energy_is_absent_with_a_reason(network, deploy):
    dense = deploy(network("plain"))
    for options, told in (({}, "NV"), ({"cache": "cold"}, "cold run")):
        figure = OnProcessor(QUICKEST, QUICKEST, **options).cost(dense, Reference(dense, 1.0)).figures["energy"]
        assert figure.value is None and told in figure.reason


class Card:
    """What NVML tells of a card that gets hot once it works."""

    product, driver = "a hot card", "1.2.3"

    def __init__(self):
        self.asked = 0

    def sm_clock(self):
        self.asked += 1
        return 2e9 - self.asked * 1e8

    def throttle_reasons(self):
        return 0x20 if self.asked % 2 == 0 else 0x1

    def throttled(self):
        return self.asked % 2 == 0

    def celsius(self):
        return 80.0


class Hot(OnProcessor):
    card = Card()

    def _nvml(self):
        return self.card

    def _meter(self):
        return NoMeter("not asked here")


def test_a_card_that_is_slowed_down_is_tried_twice_and_then_marked(network, deploy):
    dense, card = deploy(network("plain")), Hot.card
    before = card.asked
    cost = Hot(QUICKEST, QUICKEST).cost(dense, Reference(dense, 1.0))
    assert cost.unstable and card.asked - before == 4
    told = cost.telemetry
    assert told["throttled"] == 1 and told["throttle_reasons"] == 0x21
    assert told["sm_clock_before"] - told["sm_clock"] == pytest.approx(1e8) and told["celsius"] == 80
    assert cost.runtime["driver"] == "1.2.3" and cost.runtime["gpu"] == Processor.name


def test_without_nvml_the_gpu_tells_nothing():
    told = gpu.GpuTelemetry(NoMeter("none here")).read()
    assert {"seconds", "steal", "switches"} <= set(told)
    assert all(told[name] is None for name in ("sm_clock", "throttled", "throttle_reasons", "celsius"))


# Processes


def test_it_travels_between_processes_without_its_device(network, deploy):
    model, dense = OnProcessor(QUICK, precision="fp16"), deploy(network("plain"))
    assert model.missing() is None
    fresh = pickle.dumps(model)
    before = model.predict(dense, dense.example)
    assert pickle.dumps(model) == fresh
    copy = pickle.loads(pickle.dumps(model))
    assert copy.key == model.key and copy.device == model.device == "gpu-GPU-in-place"
    np.testing.assert_array_equal(copy.predict(dense, dense.example), before)


@pytest.mark.skipif(HERE, reason="there is a CUDA device")
def test_without_a_gpu_it_opens_and_says_what_is_missing():
    model = target("gpu-torch")
    assert model.key.startswith("gpu-torch@") and model.device == "gpu" and "no NVIDIA GPU" in model.missing()
    for ask in (model.freeze, lambda dense: model.predict(dense, dense.example)):
        with pytest.raises(InputError, match=r"no NVIDIA GPU.*CUDA") as caught:
            ask(sample_deployable())
        assert "\n" not in str(caught.value)


# A real card

card = pytest.mark.skipif(not HERE, reason="no CUDA device on this machine")


@card
@pytest.mark.parametrize("options", ["", ":cache=cold", ":precision=fp16", ":image=64x48"])
def test_the_contract_on_a_card(options, monkeypatch):
    model = target(f"gpu-torch{options}")
    model.effort = model.throughput_effort = QUICK
    monkeypatch.setattr(type(model), "_meter", lambda _: NoMeter("takes half a minute"))
    check_cost_model(model)


@card
@pytest.mark.parametrize(("precision", "error"), [("fp32", 1e-4), ("tf32", 1e-2), ("fp16", 1e-2), ("bf16", 5e-2)])
def test_predict_on_a_card(precision, error, module, deploy):
    if precision in gpu_torch.LEAST_CAPABILITY and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip(f"this card has no {precision}")
    deployable = deploy(module)
    images = torch.randn(70, 3, 16, 16)
    with torch.no_grad():
        expected = module(images).numpy()
    found = target(f"gpu-torch:precision={precision}").predict(deployable, images)
    assert abs(found - expected).max() <= error * abs(expected).max()


@card
def test_work_that_cannot_be_captured_leaves_the_card_as_it_was():
    accelerator, given = gpu.cuda(), torch.ones(4, device="cuda")

    def waits():
        return given * given.sum().item()

    def waits_unseen():
        # torch watches its own operations, not this call, which breaks a capture off halfway.
        if torch.cuda.is_current_stream_capturing():
            torch.cuda.synchronize()
        return given * 2

    before = torch.cuda.current_stream(), torch.cuda.get_sync_debug_mode()
    for work, told in ((waits, "synchronizing"), (waits_unseen, "captur")):
        with pytest.raises(RuntimeError, match=told):
            accelerator.captured(work)
        assert (torch.cuda.current_stream(), torch.cuda.get_sync_debug_mode()) == before
        replay, output = accelerator.captured(lambda: given * 3)
        replay()
        assert output.tolist() == [3.0] * 4


@card
def test_a_compressed_network_computes_the_same_on_a_card(deploy):
    if torch.cuda.get_device_capability() < (8, 0) or not torch.backends.cusparselt.is_available():
        pytest.skip("no kernel for 2:4 here")
    dense = deploy(sparse_network())
    found, expected = (
        target(f"gpu-torch:precision=fp16,sparsity={sparsity}").predict(dense, dense.calibration[0])
        for sparsity in ("2:4", "none")
    )
    np.testing.assert_allclose(found, expected, atol=1e-2 * abs(expected).max())


@card
def test_the_clock_on_a_card_is_within_the_wall_clock(network, deploy):
    session_of, clock = target("gpu-torch"), time.perf_counter
    session = session_of._program(deploy(network("plain"))).session(1, 1)
    timer = session_of._clock().seconds
    before, start = timer(), clock()
    for _ in range(100):
        session.run()
    assert 0 < timer() - before < clock() - start
