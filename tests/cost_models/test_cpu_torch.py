"""`cpu-torch` on small networks: what the compiled code computes, runs and says. No absolute times.

Compiling takes seconds, so one target with its compiled networks serves most tests.
"""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cost_models import CpuTorch, Deployable, Reference, target
from cost_models.testing import check_cost_model, sample_deployable
from cost_models.timing import Effort
from workloads import Format, InputError, LayerFormats, trace

QUICK = Effort(goal=0.5, budget=0.4, pairs=20)
INT8 = LayerFormats(Format("int", 8), Format("int", 8))
THREADS = 2

needs_compiler = pytest.mark.skipif(
    CpuTorch()._runtime()["compiler"] == "none", reason="inductor needs a C++ compiler: install g++"
)
needs_int8 = pytest.mark.skipif(
    CpuTorch().executed(INT8.weight, INT8.activation)[0] != INT8.weight,
    reason="int8 needs an x86 and torchao: pip install 'shrinkboard[torchao]'",
)


@pytest.fixture(scope="module")
def model():
    return CpuTorch(QUICK, QUICK)


class Mixed(nn.Module):
    """A residual network whose layers are of all kinds that a workload has."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.body = nn.Conv2d(8, 8, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(self.depthwise(x))
        x = self.up(torch.relu(x + self.norm(self.body(x))))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def mixed():
    """All but `body` asked for in int8."""
    torch.manual_seed(0)
    module = Mixed().eval()
    nn.init.normal_(module.norm.running_mean)
    nn.init.uniform_(module.norm.running_var, 0.5, 2.0)
    example, calibration = torch.randn(1, 3, 16, 16), [torch.randn(16, 3, 16, 16) for _ in range(2)]
    names = [layer.name for layer in trace(module, example).compute_layers if layer.name != "body"]
    return Deployable(module, example, calibration, trace(module, example, dict.fromkeys(names, INT8)))


@needs_compiler
def test_contract(model):
    check_cost_model(model)


@needs_compiler
@pytest.mark.parametrize("count", [1, 3, 70])
def test_predict_is_the_network(model, count):
    dense = sample_deployable()
    images = torch.randn(count, 3, 16, 16)
    with torch.no_grad():
        expected = dense.module(images).numpy()
    np.testing.assert_allclose(model.predict(dense, images), expected, atol=1e-4)


@needs_compiler
@needs_int8
def test_layers_run_in_the_format_that_they_say(model, mixed):
    cost = model.cost(mixed, Reference(sample_deployable(), 1e-3))
    ran = {layer: str(weight) for layer, (weight, _) in cost.executed.items()}
    # There is no int8 kernel for a transposed convolution; a small linear layer is computed in the code itself.
    assert ran == {"stem": "int8", "depthwise": "int8", "body": "fp32", "up": "fp32", "head": "fp32"}
    images = mixed.calibration[0]
    with torch.no_grad():
        expected = mixed.module(images).numpy()
    error = np.abs(model.predict(mixed, images) - expected).max()
    assert 0 < error < 0.1 * np.abs(expected).max()


@needs_compiler
@needs_int8
def test_integers_take_a_byte(model):
    dense, int8 = sample_deployable(), sample_deployable(form="int8")
    stored = [model.cost(given, Reference(dense, 1e-3)).figures["memory"].value for given in (dense, int8)]
    layers = [layer for layer in dense.module if hasattr(layer, "weight") and not isinstance(layer, nn.BatchNorm2d)]
    weights, filters = sum(layer.weight.numel() for layer in layers), sum(len(layer.weight) for layer in layers)
    # A bias for every filter, for the folded batch norm leaves one; in int8 a scale and a zero point besides.
    assert stored == [4 * weights + 4 * filters, weights + (4 + 4 + 1) * filters]


@needs_compiler
def test_the_work_is_done_in_the_thread_that_is_timed(model):
    """Or else the thread's own time, which `cpu-torch` counts, would miss it."""
    dense, before = sample_deployable(), torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        with model._quiet():
            assert torch.get_num_threads() == 1
            session = model._program(dense).session(1, 1)
            session.feed(dense.example.numpy())
            session.run()
            process, thread = time.process_time(), time.thread_time()
            for _ in range(200):
                session.run()
            process, thread = time.process_time() - process, time.thread_time() - thread
        assert torch.get_num_threads() == THREADS
        assert thread >= 0.95 * process
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("weight", "activation", "runs_in"),
    [("int2", "int7", "int8"), ("int9", "int8", "fp32"), ("int8", "fp32", "fp32"), ("mf4", "mf4", "fp32"),
     ("fp16", "fp16", "fp32")],
)  # fmt: skip
def test_executed_formats(model, weight, activation, runs_in):
    form = Format.parse(runs_in)
    pair = Format.parse(weight), Format.parse(activation)
    fp32 = Format.parse("fp32")
    has_int8 = model._runtime()["int8"] != "none"
    assert model.executed(*pair) == ((form, form) if has_int8 else (fp32, fp32))


def test_a_machine_without_a_compiler_is_one_line():
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        model = target("cpu-torch")
        assert model.key.startswith("cpu-torch@") and model.key != CpuTorch(threads=2).key
        with pytest.raises(InputError, match="install g") as caught:
            model.predict(sample_deployable(), sample_deployable().example)
    assert "\n" not in str(caught.value)


@needs_compiler
def test_a_network_that_does_not_compile_is_one_line(model):
    class Sparse(nn.Module):
        def forward(self, x):
            return torch.sparse.mm(x.flatten(1).to_sparse(), x.flatten(1).t())

    dense = sample_deployable()
    network = trace(nn.Sequential(nn.Flatten()), dense.example)
    with pytest.raises(InputError, match="cannot be compiled") as caught:
        model.predict(Deployable(Sparse().eval(), dense.example, dense.calibration, network), dense.example)
    assert "\n" not in str(caught.value)


@needs_compiler
def test_nothing_is_left_on_disk(tmp_path, monkeypatch):
    shared = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or torch._inductor.runtime.cache_dir_utils.cache_dir()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", shared)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(tmp_path)
    model, dense = CpuTorch(QUICK, QUICK), sample_deployable()
    model.predict(dense, dense.example)
    del model
    assert not [path for path in Path(tmp_path).iterdir() if path.suffix != ".lock"]
