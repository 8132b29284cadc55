"""QONNX as its own package executes it, against our simulation of the number formats."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx
import pytest
import qonnx.core.onnx_exec
import torch
from onnx import numpy_helper
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.util.cleanup import cleanup_model
from torch import nn

from cost_models import export_qonnx
from strategies import Compressed, Plan, Simulated, strategy
from tests.strategies.subjects import decoder, residual, segmenter
from workloads import (
    Dense,
    Format,
    Grids,
    InputError,
    IntegerGrid,
    LayerFormats,
    LayerGrids,
    calibration_batches,
    fold_batch_norm,
    network_from_onnx,
    trace,
)

SUBJECTS: dict[str, Callable[[], Dense]] = {"residual": residual, "decoder": decoder, "segmenter": segmenter}


@pytest.fixture(autouse=True)
def old_enough_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """qonnx makes a model of every node, by default of the newest version, which onnxruntime does not read yet."""
    made = partial(qonnx.core.onnx_exec.qonnx_make_model, ir_version=10)
    monkeypatch.setattr(qonnx.core.onnx_exec, "qonnx_make_model", made)


def executed(model: onnx.ModelProto | ModelWrapper, images: torch.Tensor) -> np.ndarray:
    wrapped = model if isinstance(model, ModelWrapper) else ModelWrapper(model.SerializeToString())
    run = partial(qonnx.core.onnx_exec.execute_onnx, wrapped)
    return np.concatenate([next(iter(run({"image": image[None].numpy()}).values())) for image in images])


def compressed(dense: Dense, method: str, weights: str, activations: str) -> Compressed:
    """With widths such as "8", or "3456" for one layer after the other and from the start again."""
    layers = [layer.name for layer in trace(dense.module, dense.workload.example).compute_layers]
    widths = {
        family: {name: int(bits[i % len(bits)]) for i, name in enumerate(layers)}
        for family, bits in (("weight_bits", weights), ("activation_bits", activations))
    }
    chosen = strategy(method)
    made = chosen.compress(dense, chosen.plan(dense, widths | {"bias_correction": False}))
    chosen.recalibrate(made, dense)
    return made


CASES = [
    *((name, "int", *bits) for name in SUBJECTS for bits in (("8", "8"), ("4", "4"), ("3456782", "45678"))),
    *((name, "minifloat", "345678", "4567") for name in SUBJECTS),
    ("residual", "l1+int", "4", "6"),
    ("residual", "low_rank+int", "4", "6"),
    ("residual", "low_rank+minifloat", "5", "6"),
]


@pytest.mark.parametrize(("subject", "method", "weights", "activations"), CASES)
def test_qonnx_computes_what_we_simulate(subject: str, method: str, weights: str, activations: str) -> None:
    dense = SUBJECTS[subject]()
    made = compressed(dense, method, weights, activations)
    calibration = calibration_batches(dense.workload, dense.splits.train, 16, batch_size=8)
    deployed, grids = made.deployed(calibration), made.grids(calibration)
    images = calibration[0][:2]
    with torch.no_grad():
        expected = Simulated(deployed, made.formats, calibration)(images).numpy()
    # Weights in fp32 show that the quantisers put them on the very grid that we put them on.
    for module in (deployed, fold_batch_norm(made.module)):
        model = export_qonnx(module, images[:1], grids)
        onnx.checker.check_model(model)
        np.testing.assert_allclose(executed(model, images), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


class Awkward(nn.Module):
    """A layer that is called twice, a linear layer on maps and a grouped transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 3, padding=1)
        self.mixing = nn.Linear(6, 8)
        self.grouped = nn.ConvTranspose2d(3, 6, 2, stride=2, groups=3)
        self.flatten, self.head = nn.Flatten(), nn.Linear(6 * 12 * 16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.mixing(self.twice(torch.relu(self.twice(x))))
        return self.head(self.flatten(self.grouped(torch.relu(x))))


@pytest.mark.parametrize("kind", ["int", "mf"])
def test_filters_have_their_grids_wherever_a_layer_keeps_them(kind: str) -> None:
    torch.manual_seed(0)
    module = Awkward().eval()
    form = LayerFormats(Format.parse(f"{kind}5"), Format.parse(f"{kind}6"))
    made = Compressed(module, Plan(strategy="dense"), 0, formats=dict.fromkeys(("twice", "mixing", "grouped"), form))
    calibration = [torch.randn(4, 3, 6, 6)]
    with torch.no_grad():
        expected = Simulated(made.deployed(calibration), made.formats, calibration)(calibration[0]).numpy()
    model = export_qonnx(module, calibration[0][:1], made.grids(calibration))
    np.testing.assert_allclose(executed(model, calibration[0]), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("subject", SUBJECTS)
def test_it_is_read_back_with_the_formats_and_zeros_that_it_was_written_with(subject: str) -> None:
    dense = SUBJECTS[subject]()
    made = compressed(dense, "sentei+int", "3456782", "45678")
    calibration = calibration_batches(dense.workload, dense.splits.train, 16, batch_size=8)
    written = trace(made.module, dense.workload.example, made.formats).compute_layers
    read = network_from_onnx(export_qonnx(made.deployed(calibration), calibration[0][:1], made.grids(calibration)))
    assert [layer.name for layer in read.compute_layers] == [layer.name for layer in written]
    formats = [(layer.weight_format, layer.activation_format) for layer in written]
    assert [(layer.weight_format, layer.activation_format) for layer in read.compute_layers] == formats
    for layer in read.compute_layers:
        if layer.name in made.masks:  # rounding makes more zeros, never fewer
            assert (layer.nonzeros <= made.nonzeros()[layer.name]).all()


def test_the_cleaning_that_flows_begin_with_changes_nothing() -> None:
    dense = residual()
    made = compressed(dense, "int", "4", "4")
    calibration = calibration_batches(dense.workload, dense.splits.train, 16, batch_size=8)
    model = export_qonnx(made.deployed(calibration), calibration[0][:1], made.grids(calibration))
    cleaned = cleanup_model(ModelWrapper(model.SerializeToString()))
    kinds = [node.op_type for node in cleaned.graph.node]
    assert kinds.count("Quant") == 2 * len(made.formats) - 1  # two layers read the same tensor on the same grid
    [name] = [value.name for value in cleaned.graph.input]
    images = calibration[0][:2]
    got = [qonnx.core.onnx_exec.execute_onnx(cleaned, {name: image[None].numpy()}) for image in images]
    expected = executed(model, images)
    np.testing.assert_allclose(np.concatenate([next(iter(one.values())) for one in got]), expected, atol=1e-5)


def test_what_comes_out_of_a_relu_has_no_zero_point() -> None:
    """FINN takes no other activations."""
    dense = residual()
    made = compressed(dense, "int", "4", "4")
    calibration = calibration_batches(dense.workload, dense.splits.train, 16, batch_size=8)
    model = export_qonnx(made.deployed(calibration), calibration[0][:1], made.grids(calibration))
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    zeros = {node.name: float(stored[node.input[2]]) for node in model.graph.node if node.op_type == "Quant"}
    assert sum(zero != 0 for zero in zeros.values()) == 2  # the image, and what a convolution without ReLU gives
    assert all(zero == 0 for name, zero in zeros.items() if name.endswith("_quantised"))


def test_a_network_without_number_formats_is_refused() -> None:
    dense = residual()
    with pytest.raises(InputError, match="export it as onnx"):
        export_qonnx(dense.module, dense.workload.example, {"stem": LayerGrids()})
    one_bit: Grids = {"stem": LayerGrids(IntegerGrid(1, np.ones(8)))}
    with pytest.raises(InputError, match="no integers of one bit"):
        export_qonnx(dense.module, dense.workload.example, one_bit)
    with pytest.raises(InputError, match="'stam' has a number format"):
        export_qonnx(dense.module, dense.workload.example, {"stam": LayerGrids(IntegerGrid(4, np.ones(8)))})
