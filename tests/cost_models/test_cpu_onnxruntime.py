"""`cpu-onnxruntime` on small networks: what it runs, what it keeps, what it says. No absolute times."""

import pickle
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cost_models import CpuOnnxRuntime, Reference, cpu, measured
from cost_models import cpu_onnxruntime as room
from cost_models.calm import CalmLevels
from cost_models.power.meter import NoMeter
from cost_models.timing import Effort, calm_pairs
from workloads import Format, InputError, LayerFormats, trace

QUICK = Effort(goal=0.5, budget=0.4, pairs=20)


@pytest.fixture
def model():
    return CpuOnnxRuntime(QUICK, QUICK, energy="off")


def test_predict_is_the_network(model, module, deploy):
    deployable = deploy(module)
    images = torch.randn(70, 3, 16, 16)  # more than one batch
    with torch.no_grad():
        expected = module(images).numpy()
    np.testing.assert_allclose(model.predict(deployable, images), expected, rtol=1e-4, atol=1e-5)


def test_the_latency_is_the_ratio_times_the_frozen_figure(model, network, deploy):
    dense = deploy(network("plain"))
    reference = Reference(dense, 123.0)
    cost = model.cost(dense, reference)
    latency, speedup = cost.figures["latency"], cost.speedup
    assert latency.value == pytest.approx(123.0 / speedup.value)
    assert latency.low == pytest.approx(123.0 / speedup.high) and latency.low <= latency.value <= latency.high
    candidate, beside = np.array(cost.samples["latency"]), np.array(cost.samples["latency_reference"])
    calm, _ = calm_pairs(candidate, beside, 123.0)
    assert np.median((candidate / beside)[calm]) * 123.0 == pytest.approx(latency.value)
    assert cost.telemetry["throughput_batch"] == 1  # 123 s an image leave no room for a larger batch


def test_energy_is_absent_with_a_reason(network, deploy, monkeypatch):
    model, dense = CpuOnnxRuntime(QUICK, QUICK), deploy(network("plain"))
    monkeypatch.setattr(cpu, "rapl_meter", lambda: NoMeter("no RAPL here"))
    figures = model.cost(dense, model.freeze(dense)).figures
    assert figures["energy"].value is None and "RAPL" in figures["energy"].reason
    assert figures["memory"].value >= 4 * sum(p.numel() for p in dense.module[0].parameters())


@pytest.mark.parametrize(
    ("weight", "activation", "runs_in"),
    [("int8", "int8", "int8"), ("int2", "int7", "int8"), ("int9", "int8", "fp32"), ("int8", "fp32", "fp32"),
     ("mf4", "mf4", "fp32"), ("fp16", "fp16", "fp32")],
)  # fmt: skip
def test_executed_formats(model, weight, activation, runs_in):
    form = Format.parse(runs_in)
    assert model.executed(Format.parse(weight), Format.parse(activation)) == (form, form)


def test_what_ran_is_read_off_the_optimised_graph(model, network, deploy):
    deployable = deploy(network("unet"), "int8")
    cost = model.cost(deployable, Reference(deploy(network("unet")), 1.0))
    ran = {layer: str(weight) for layer, (weight, _) in cost.executed.items()}
    assert ran == {"down": "int8", "middle": "int8", "up": "fp32", "out": "int8"}


def test_one_layer_in_another_format(model, network, deploy):
    deployable = deploy(network("residual"))
    int4 = LayerFormats(Format("int", 4), Format("int", 8))
    mixed = replace(deployable, network=trace(deployable.module, deployable.example, {"conv1": int4, "conv2": int4}))
    cost = model.cost(mixed, Reference(deployable, 1.0))
    ran = {layer: str(weight) for layer, (weight, _) in cost.executed.items()}
    assert ran == {"stem": "fp32", "conv1": "int8", "conv2": "int8", "head": "fp32"}
    assert cost.figures["memory"].value < model.cost(deployable, Reference(deployable, 1.0)).figures["memory"].value


def test_a_network_is_exported_once_until_it_changes(model, network, deploy, monkeypatch):
    exported = []
    export = room.export_onnx
    monkeypatch.setattr(room, "export_onnx", lambda *given: exported.append(given) or export(*given))
    dense = deploy(network("plain"))
    candidate = deploy(network("depthwise"))
    reference = model.freeze(dense)
    model.cost(candidate, reference)
    before = model.predict(candidate, candidate.calibration[0])
    model.cost(candidate, reference)
    assert len(exported) == 2
    with torch.no_grad():
        candidate.module[8].weight.mul_(2.0)
    assert not np.allclose(model.predict(candidate, candidate.calibration[0]), before)
    assert len(exported) == 3


def test_it_travels_between_processes_without_its_exports(model, network, deploy):
    dense = deploy(network("plain"))
    model.predict(dense, dense.example)
    copy = pickle.loads(pickle.dumps(model))
    assert copy.key == model.key and copy.effort == QUICK
    np.testing.assert_array_equal(copy.predict(dense, dense.example), model.predict(dense, dense.example))


def test_nothing_but_the_lock_is_left_on_disk(model, network, deploy, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(tmp_path)
    dense = deploy(network("plain"))
    model.cost(deploy(network("plain"), "int8"), model.freeze(dense))
    assert all(Path(path).suffix == ".lock" for path in tmp_path.iterdir())


def test_a_noisy_machine_is_tried_twice_and_then_marked(network, deploy, monkeypatch):
    model, dense, read = CpuOnnxRuntime(QUICK, QUICK), deploy(network("plain")), []

    def stolen(telemetry):
        read.append(telemetry)
        return {"seconds": 1.0, "steal": 0.5, "switches": None, "pressure": None, "cpus": None, "frequency": None}

    monkeypatch.setattr(measured.Telemetry, "read", stolen)
    cost = model.cost(dense, Reference(dense, 1.0))
    assert cost.unstable and len(read) == 2
    assert cost.telemetry["attempts"] == 2 and {"latency_first", "latency_first_reference"} <= set(cost.samples)


def test_a_network_that_does_not_export_is_one_line(model, deploy, network):
    class Branching(torch.nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))

    dense = deploy(network("plain"))
    with pytest.raises(InputError) as caught:
        model.cost(replace(dense, module=Branching().eval()), Reference(dense, 1.0))
    assert "\n" not in str(caught.value)


def test_a_linear_layer_on_maps_runs_in_int8_wherever_it_stands(model, deploy):
    class Deep(torch.nn.Module):
        def __init__(self):
            super().__init__()
            inner = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU())
            self.body = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Sequential(inner))

        def forward(self, x):
            return self.body(x)

    deployable = deploy(Deep().eval(), "int8")
    cost = model.cost(deployable, Reference(deploy(Deep().eval()), 1.0))
    ran = {layer: str(weight) for layer, (weight, _) in cost.executed.items()}
    assert ran == {"body.0": "int8", "body.1.0.0": "int8"}


def test_energy_can_be_left_out(network, deploy):
    dense = deploy(network("plain"))
    model = CpuOnnxRuntime(QUICK, QUICK, energy="off")
    figure = model.cost(dense, Reference(dense, 1.0)).figures["energy"]
    assert model.name == "cpu-onnxruntime:energy=off" and figure.value is None and "energy=off" in figure.reason


def test_throughput_is_the_ratio_of_batches_times_the_frozen_figure(model, network, deploy, monkeypatch):
    dense = deploy(network("plain"))
    frozen = model.freeze(dense)
    assert frozen.throughput > 0
    # What was calm is judged by the frozen figure alone, not by what a calmer moment may have left behind.
    monkeypatch.setattr(CalmLevels, "known", lambda self: None)
    cost = model.cost(dense, replace(frozen, throughput=1000.0))
    batch = {name: np.array(samples) for name, samples in cost.samples.items() if name.startswith("throughput")}
    calm, _ = calm_pairs(batch["throughput"], batch["throughput_reference"], 1 / 1000.0)
    ratio = np.median((batch["throughput"] / batch["throughput_reference"])[calm])
    assert cost.figures["throughput"].value == pytest.approx(1000.0 / ratio)
    figure = model.cost(dense, replace(frozen, throughput=None)).figures["throughput"]
    assert figure.value is None and "not frozen" in figure.reason
