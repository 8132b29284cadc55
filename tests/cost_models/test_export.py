"""Exported networks against torch, in the runtime that would deploy them."""

import logging

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cost_models import export_onnx, quantise_onnx
from cost_models.cpu_onnxruntime import quantised_onnx
from cost_models.export import copying_shortcuts, layer_of
from workloads import Format, InputError, LayerFormats, PadShortcut
from workloads.models.resnet_cifar import resnet_cifar

INT8 = LayerFormats(Format("int", 8), Format("int", 8))


def run(model, images):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images.numpy()})[0]


def all_int8(deployable):
    return {layer.name: INT8 for layer in deployable.network.compute_layers}


def test_fp32_agrees_with_torch_at_any_batch(module, deploy):
    model = export_onnx(module, deploy(module).example)
    onnx.checker.check_model(model)
    for batch in (1, 5):
        images = torch.randn(batch, 3, 16, 16)
        with torch.no_grad():
            expected = module(images).numpy()
        np.testing.assert_allclose(run(model, images), expected, rtol=1e-4, atol=1e-5)


def test_every_layer_keeps_its_name(module, deploy):
    deployable = deploy(module)
    model = export_onnx(module, deployable.example)
    named = [layer_of(node) for node in model.graph.node]
    assert {name for name in named if name} == {layer.name for layer in deployable.network.compute_layers}


def test_int8_stays_close(module, deploy):
    deployable = deploy(module, "int8")
    model = export_onnx(module, deployable.example)
    int8 = quantise_onnx(model, deployable.calibration, all_int8(deployable))
    images = torch.cat(list(deployable.calibration))
    exact, rough = run(model, images), run(int8, images)
    assert np.abs(rough - exact).max() < 0.1 * np.abs(exact).max()
    assert np.corrcoef(rough.ravel(), exact.ravel())[0, 1] > 0.995


def test_weights_of_few_bits_survive_int8_storage(network, deploy):
    """Each filter's grid of 15 values is kept to half a step of the int8 grid."""
    module = network("plain")
    with torch.no_grad():
        for layer in (module[0], module[4]):
            step = layer.weight.abs().amax((1, 2, 3), keepdim=True) / 7
            layer.weight.copy_((layer.weight / step).round() * step)
    deployable = deploy(module, "int4")
    model = export_onnx(module, deployable.example)
    int8 = quantise_onnx(model, deployable.calibration, {"4": INT8})
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in int8.graph.initializer}
    recovered = stored["4.weight_quantized"] * stored["4.weight_scale"].reshape(-1, 1, 1, 1)
    scale = stored["4.weight_scale"].reshape(-1, 1, 1, 1)
    assert (np.abs(recovered - module[4].weight.detach().numpy()) <= 0.5001 * scale).all()


def test_only_the_layers_asked_for_are_quantised(network, deploy):
    module = network("plain")
    deployable = deploy(module)
    model = export_onnx(module, deployable.example)
    int9 = LayerFormats(Format("int", 9), Format("int", 8))
    mixed = quantise_onnx(model, deployable.calibration, {"0": INT8, "4": int9})
    stored = {tensor.name: tensor.data_type for tensor in mixed.graph.initializer}
    assert stored["0.weight_quantized"] == onnx.TensorProto.INT8
    assert stored["4.weight"] == stored["8.weight"] == onnx.TensorProto.FLOAT
    assert quantise_onnx(model, deployable.calibration, {}) is model


def test_equal_weights_keep_their_own_names():
    """Two layers of equal weights, which the exporter stores once."""
    module = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1)).eval()
    module[2].load_state_dict(module[0].state_dict())
    images = torch.randn(2, 3, 8, 8)
    model = export_onnx(module, images[:1])
    assert [layer_of(node) for node in model.graph.node if node.op_type == "Conv"] == ["0", "2"]
    int8 = quantise_onnx(model, [images], {"0": INT8, "2": INT8})
    assert np.abs(run(int8, images) - run(model, images)).max() < 0.1


def test_a_pad_shortcut_goes_through_in_int8(deploy):
    module = resnet_cifar(classes=10, depth=8).eval()
    deployable = deploy(module, "int8", side=32)
    model = export_onnx(module, deployable.example)
    int8 = quantise_onnx(model, deployable.calibration, all_int8(deployable))
    images = deployable.calibration[0]
    with torch.no_grad():
        expected = module(images).numpy()
    np.testing.assert_allclose(run(model, images), expected, rtol=1e-4, atol=1e-5)
    assert np.corrcoef(run(int8, images).ravel(), expected.ravel())[0, 1] > 0.99


@given(st.integers(1, 3), st.lists(st.integers(-1, 4), min_size=1, max_size=9), st.integers(4, 9))
def test_copying_shortcuts_compute_the_same(stride: int, source: list[int], side: int) -> None:
    module = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), PadShortcut(5, source, stride)).eval()
    images = torch.randn(2, 3, side, side)
    assert torch.equal(copying_shortcuts(module)(images), module(images))


def test_a_residual_network_runs_in_int8_throughout(deploy, tmp_path):
    """Between the first conversion and the last nothing is in fp32: no shortcut, no addition, no pooling."""
    deployable = deploy(resnet_cifar(classes=10, depth=14).eval(), "int8", side=32)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimised.onnx"), 3
    onnxruntime.InferenceSession(quantised_onnx(deployable).SerializeToString(), options, ["CPUExecutionProvider"])
    nodes = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert nodes.count("QLinearConv") == 15  # 13 layers and two shortcuts
    assert nodes.count("QuantizeLinear") == nodes.count("DequantizeLinear") == 1
    assert set(nodes) - {"Transpose", "Flatten"} == {
        *("QuantizeLinear", "QLinearConv", "QLinearAdd", "QLinearGlobalAveragePool", "QGemm", "DequantizeLinear"),
    }


def test_the_module_and_the_logging_are_left_as_they_were(network, deploy):
    module = network("residual")
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    handlers, deployable = list(logging.getLogger().handlers), deploy(module)
    model = export_onnx(module, deployable.example)
    data = model.SerializeToString()
    quantise_onnx(model, deployable.calibration, all_int8(deployable))
    assert model.SerializeToString() == data
    assert logging.getLogger().handlers == handlers and logging.getLogger().isEnabledFor(logging.WARNING)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_int8_without_images_is_one_line(network, deploy):
    module = network("plain")
    with pytest.raises(InputError, match="calibration"):
        quantise_onnx(export_onnx(module, deploy(module).example), [], {"0": INT8})
