"""`cpu-openvino` on small networks: what it computes, what it runs, in whose time, what it says. No absolute times."""

import pickle
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from cost_models import CpuOnnxRuntime, Reference, check_cost_model, target
from cost_models.timing import Effort
from workloads import Format, InputError, LayerFormats, trace

QUICK = Effort(goal=0.5, budget=0.1, pairs=5)
INT8 = LayerFormats(Format("int", 8), Format("int", 8))


@pytest.fixture(scope="module")
def model():
    pytest.importorskip("openvino")
    from cost_models import CpuOpenVino

    return CpuOpenVino(QUICK, QUICK)


def executed(model, deployable):
    cost = model.cost(deployable, Reference(deployable, 1.0))
    return {layer: (str(weight), str(activation)) for layer, (weight, activation) in cost.executed.items()}


def test_it_keeps_the_contract(model):
    effort = Effort(goal=0.05, budget=1.0, pairs=30)
    check_cost_model(type(model)(effort, effort))


def test_predict_is_the_network(model, module, deploy):
    """Also where the processor has bf16, which OpenVINO would take by itself and which is off by 1e-2."""
    images = torch.randn(70, 3, 16, 16)  # more than one batch
    with torch.no_grad():
        expected = module(images).numpy()
    np.testing.assert_allclose(model.predict(deploy(module), images), expected, rtol=1e-4, atol=1e-5)


def test_int8_is_that_of_onnxruntime(model, module, deploy):
    deployable = deploy(module, "int8")
    images = torch.cat(list(deployable.calibration))
    other = CpuOnnxRuntime().predict(deployable, images)
    with torch.no_grad():
        exact = module(images).numpy()
    found = model.predict(deployable, images)
    scale = np.abs(exact).max()
    assert np.abs(found - other).max() < 0.02 * scale
    assert np.abs(found - exact).max() > 1e-4 * scale  # or else nothing was quantised


class Twice(nn.Module):
    """One layer called twice, one without bias at the end."""

    def __init__(self):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4, bias=False)

    def forward(self, x):
        x = torch.relu(self.body(torch.relu(self.body(torch.relu(self.stem(x))))))
        return self.head(x.mean((2, 3)))


ODD = {
    "activations": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Conv2d(8, 8, 3, groups=4), nn.Hardswish(),
        nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.ReLU6(), nn.Conv2d(8, 4, 1), nn.SiLU(),
    ),
    "low rank": lambda: nn.Sequential(
        nn.Conv2d(3, 4, (3, 1), bias=False), nn.Conv2d(4, 8, (1, 3)), nn.ReLU(), nn.Flatten(),
        nn.Linear(1568, 4, bias=False), nn.Linear(4, 10),
    ),
    "transposed at the end": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, 2)),
    "transposed, no bias": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 8, 2, 2, groups=8, bias=False), nn.Conv2d(8, 4, 1)
    ),
    "nested": lambda: nn.Sequential(nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)), nn.ReLU()), nn.Conv2d(4, 4, 1)),
    "linear on maps": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3, bias=False)
    ),
    "twice": Twice,
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("form", ["fp32", "int8"])
def test_odd_networks(model, deploy, name, form):
    torch.manual_seed(3)
    module = ODD[name]().eval()
    deployable = deploy(module, form)
    with torch.no_grad():
        expected = module(deployable.example).numpy()
    near = {"rtol": 1e-4, "atol": 1e-5} if form == "fp32" else {"atol": 0.1 * np.abs(expected).max()}
    np.testing.assert_allclose(model.predict(deployable, deployable.example), expected, **near)
    transposed = {layer.name for layer in deployable.network.compute_layers if layer.transposed}
    ran = executed(model, deployable)
    assert ran == {layer: ("fp32", "fp32") if layer in transposed else (form, form) for layer in ran}


def test_masked_weights(model, network, deploy):
    module = network("plain")
    with torch.no_grad():
        module[0].weight[2:5] = 0
        module[4].weight.mul_(torch.rand_like(module[4].weight) > 0.95)
        module[8].weight.zero_()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = module(images).numpy()
    np.testing.assert_allclose(model.predict(deploy(module), images), expected, rtol=1e-4, atol=1e-5)
    assert set(executed(model, deploy(module, "int8")).values()) == {("int8", "int8")}


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_ran_is_what_was_asked_for_layer_by_layer(model, network, deploy, data):
    """Read from the runtime model: the formats of one layer say nothing of its neighbours'."""
    deployable = deploy(network(data.draw(st.sampled_from(["plain", "residual", "concat", "depthwise", "unet"]))))
    layers = deployable.network.compute_layers
    chosen = {layer.name for layer in layers if data.draw(st.booleans())}
    table = trace(deployable.module, deployable.example, dict.fromkeys(chosen, INT8))
    quantised = {layer.name for layer in layers if layer.name in chosen and not layer.transposed}
    ran = executed(model, replace(deployable, network=table))
    assert ran == {layer.name: ("int8", "int8") if layer.name in quantised else ("fp32", "fp32") for layer in layers}


def test_the_memory_is_that_of_the_graph(model, network, deploy):
    dense, int8 = deploy(network("plain")), deploy(network("plain"), "int8")
    held = [model.cost(d, Reference(d, 1.0)).figures["memory"].value for d in (dense, int8)]
    weights = sum(layer.weights for layer in dense.network.compute_layers)
    assert held[0] >= 4 * weights and held[1] < held[0] - 2 * weights


@pytest.mark.parametrize(
    ("weight", "activation", "runs_in"),
    [("int8", "int8", "int8"), ("int2", "int7", "int8"), ("int9", "int8", "fp32"), ("int8", "fp32", "fp32"),
     ("mf4", "mf4", "fp32"), ("fp16", "fp16", "fp32"), ("bf16", "bf16", "fp32")],
)  # fmt: skip
def test_executed_formats(model, weight, activation, runs_in):
    form = Format.parse(runs_in)
    assert model.executed(Format.parse(weight), Format.parse(activation)) == (form, form)


def test_an_inference_runs_in_the_thread_that_calls_it(model, network, deploy):
    """The timer counts the calling thread's own time, and only that thread is pinned."""
    dense = deploy(network("unet"), side=64)
    images = dense.example.repeat(64 * 8, 1, 1, 1)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # predict takes as many
    try:
        model.predict(dense, images[:64])  # compiling uses threads of its own
        own, all_of_it = time.thread_time(), time.process_time()
        model.predict(dense, images)
    finally:
        torch.set_num_threads(before)
    assert time.thread_time() - own > 0.8 * (time.process_time() - all_of_it)


def test_any_number_of_images(model, network, deploy):
    """More batch sizes than are kept compiled, some that come back, and two of one size in one go."""
    dense = deploy(network("residual"))
    images = torch.randn(140, 3, 16, 16)
    with torch.no_grad():
        expected = dense.module(images).numpy()
    for count in (1, 2, 3, 2, 140, 1):
        np.testing.assert_allclose(model.predict(dense, images[:count]), expected[:count], rtol=1e-4, atol=1e-5)


def test_single_images_are_compiled_once(model, network, deploy, monkeypatch):
    """They are timed from fresh sessions again and again, whatever batches come between."""
    import openvino

    batches, compile_model = [], openvino.Core.compile_model

    def counted(core, network, *settings):
        batches.append(network.input().shape[0])
        return compile_model(core, network, *settings)

    monkeypatch.setattr(openvino.Core, "compile_model", counted)
    dense = deploy(network("plain"))
    fresh = type(model)(QUICK, QUICK)
    fresh.predict(dense, torch.randn(69, 3, 16, 16))
    fresh.cost(dense, Reference(dense, 1.0))
    assert batches == [1, 64, 5]


def test_threads_and_pictures_are_options(model, network, deploy):
    assert target("cpu-openvino:threads=2").key != target("cpu-openvino").key
    with_pictures = type(model)(QUICK, QUICK, image=(32, 24))
    dense = deploy(network("plain"))
    assert 0 < with_pictures.cost(dense, Reference(dense, 1.0)).telemetry["input_share"] <= 1
    with pytest.raises(InputError, match="this machine has"):
        type(model)(QUICK, QUICK, threads=1024).predict(dense, dense.example)


def test_it_travels_between_processes_without_its_programs(model, network, deploy):
    dense = deploy(network("plain"))
    model.predict(dense, dense.example)
    copy = pickle.loads(pickle.dumps(model))
    assert copy.key == model.key
    np.testing.assert_array_equal(copy.predict(dense, dense.example), model.predict(dense, dense.example))


def test_what_openvino_cannot_take_is_one_line(model, deploy):
    class OneImage(nn.Module):
        """Takes a batch of one only, which the export cannot tell."""

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            x = self.conv(x)
            return torch.flatten(x, 1)[:, :5] + x.reshape(1, 784)[:, :5]

    dense = deploy(OneImage().eval())
    model.predict(dense, dense.example)
    with pytest.raises(InputError, match=r"OpenVINO cannot take this network: .*\[1,784\]") as caught:
        model.predict(dense, torch.cat([dense.example, dense.example]))
    assert "\n" not in str(caught.value)


def test_without_the_package_it_is_one_line_and_the_list_of_targets_goes_on():
    code = """
import sys
sys.modules["openvino"] = None
from cost_models import target
from workloads import InputError
for name in ("cpu-openvino", "cpu-openvino:threads=2"):
    try:
        target(name)
    except InputError as error:
        print(error)
from shrinkboard import main
sys.argv = ["shrinkboard", "targets", "--format", "json"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    first, second, listed = done.stdout.split("\n", 2)
    assert first == second and first.endswith("pip install 'shrinkboard[openvino]'")
    assert done.returncode == 0 and f'"summary": "{first}"' in listed and '"target": "counts"' in listed
