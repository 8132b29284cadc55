"""`gpu-tensorrt`: what is handed to TensorRT and what is read of it, without it; and the contract where it is."""

import importlib.util
import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from cost_models import GpuTensorrt, check_cost_model, gpu_tensorrt, target
from cost_models.power.meter import NoMeter
from cost_models.testing import sample_deployable
from workloads import FP32, Format, InputError, LayerFormats, trace

INT8, FP16 = Format("int", 8), Format("float", 16)
HERE = importlib.util.find_spec("tensorrt") is not None and torch.cuda.is_available()


def outputs(model, images):
    """As onnxruntime computes them, node by node: its optimiser is wrong on scales in fp16."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images})[0]


def expected(deployable, images):
    with torch.no_grad():
        return deployable.module(torch.from_numpy(images)).numpy()


@pytest.mark.parametrize(("form", "error"), [("fp32", 1e-5), ("int8", 0.05)])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_what_is_handed_over_is_the_network(form, error, precision, module, deploy):
    deployable = deploy(module, form)
    model, nodes = gpu_tensorrt.tensorrt_onnx(deployable, precision)
    onnx.checker.check_model(model, full_check=True)
    assert sorted(nodes.values()) == sorted(layer.name for layer in deployable.network.compute_layers)
    assert set(nodes) <= {node.name for node in model.graph.node}
    kind = {"fp32": np.float32, "fp16": np.float16}[precision]
    images = deployable.calibration[0].numpy()
    found = outputs(model, images.astype(kind))
    wanted = expected(deployable, images)
    assert found.dtype == kind
    assert abs(found - wanted).max() <= max(error, 5e-3 if precision == "fp16" else 0) * abs(wanted).max()


def test_int8_is_symmetric_as_tensorrt_takes_it(network, deploy):
    model, nodes = gpu_tensorrt.tensorrt_onnx(deploy(network("residual"), "int8"), "fp32")
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    by_output = {name: node for node in model.graph.node for name in node.output}
    quantisers = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert quantisers
    for node in quantisers:
        zero = stored[node.input[2]]
        assert zero.dtype == np.int8 and not zero.any()
    for name in nodes:
        weighted = next(node for node in model.graph.node if node.name == name)
        data, weight = (by_output[tensor] for tensor in weighted.input[:2])
        assert data.op_type == weight.op_type == "DequantizeLinear" and stored[weight.input[0]].dtype == np.int8
        assert stored[weighted.input[2]].dtype == np.float32  # the bias
        after = [node.op_type for node in model.graph.node if weighted.output[0] in node.input]
        assert "Relu" in after or name == "/conv2/Conv" or name == "/head/Gemm"


def test_layers_of_other_formats_stay_in_floating_point(network, deploy):
    deployable = deploy(network("residual"))
    int4 = LayerFormats(Format("int", 4), INT8)
    mixed = replace(deployable, network=trace(deployable.module, deployable.example, {"conv1": int4}))
    model, nodes = gpu_tensorrt.tensorrt_onnx(mixed, "fp16")
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    kinds = {nodes[node.name]: stored.get(node.input[1]) for node in model.graph.node if node.name in nodes}
    half = TensorProto.FLOAT16
    assert kinds == {"stem": half, "conv1": None, "conv2": half, "head": half}
    assert stored["conv1.weight_quantized"] == TensorProto.INT8 and stored["conv1.weight_scale"] == half


def test_in_half_nothing_is_single_but_what_must_be(network, deploy):
    model, _ = gpu_tensorrt.tensorrt_onnx(deploy(network("unet"), "int8"), "fp16")
    resize = next(node for node in model.graph.node if node.op_type == "Resize")
    single = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    assert single == {resize.input[2]}
    assert not [node for node in model.graph.node if node.op_type == "Cast"]


def test_half_agrees_with_the_standard_itself(network, deploy):
    deployable = deploy(network("plain"), "int8")
    model, _ = gpu_tensorrt.tensorrt_onnx(deployable, "fp16")
    images = deployable.example.numpy().astype(np.float16)
    np.testing.assert_allclose(
        ReferenceEvaluator(model).run(None, {"image": images})[0], outputs(model, images), atol=5e-3
    )


def test_a_batch_is_fixed(network, deploy):
    deployable = deploy(network("plain"), "int8")
    free, _ = gpu_tensorrt.tensorrt_onnx(deployable, "fp32")
    fixed = gpu_tensorrt.with_batch(free, 3)
    onnx.checker.check_model(fixed, full_check=True)
    for size in (3, 4):
        assert len(outputs(free, deployable.calibration[0][:size].numpy())) == size
    assert len(outputs(fixed, deployable.calibration[0][:3].numpy())) == 3
    with pytest.raises(Exception, match="invalid dimensions"):
        outputs(fixed, deployable.calibration[0][:4].numpy())


# The inspector's answer, in the form of NVIDIA's documentation (Engine Inspector, and its migration notes for 11)

NODES = {"/stem/Conv": "stem", "/conv1/Conv": "conv1", "/conv2/Conv": "conv2", "/head/Gemm": "head"}


def row(name, kind, reads, weights=None, metadata="", key="Format/Datatype"):
    told = {
        "Name": name,
        "LayerType": kind,
        "Inputs": [{"Name": "x", key: text} for text in reads],
        "Metadata": metadata,
    }
    return told | ({"Weights": {"Type": weights, "Count": 9}} if weights else {})


def told(*rows):
    return gpu_tensorrt.executed_formats(json.dumps({"Layers": list(rows)}), NODES)


def test_formats_are_read_of_the_rows_with_weights():
    int8 = "Thirty-two wide channel vectorized row major Int8 format."
    assert told(
        row(
            "Reformatting CopyNode for /stem/Conv",
            "Reformat",
            ["Row major linear FP32"],
            None,
            "[ONNX Layer: /stem/Conv]",
        ),
        row("/stem/Conv + /Relu", "CaskConvolution", ["Row major linear FP32 format"], "Float"),
        row(
            "conv1.weight + QuantizeLinear + /conv1/Conv",
            "CaskConvolution",
            [int8, "Channel major FP16 format where channel % 8 == 0"],
            "Int8",
            "[ONNX Layer: /conv1/Conv]\x1f[ONNX Layer: /Relu_1]",
        ),
        row("fused", "kgen", ["Row major linear FP32"], None, "[ONNX Layer: /conv1/Conv]\x1e[ONNX Layer: /Add]"),
        row("copy of x", "Reformat", ["Float"], None, "[ONNX Layer: /head/Gemm]", key="Datatype"),
        row("gemm", "gemm", ["Half", "Half"], None, "[ONNX Layer: /head/Gemm]", key="Datatype"),
    ) == {"stem": (FP32, FP32), "conv1": (INT8, INT8), "head": (FP16, FP16)}


def test_weights_and_activations_may_differ():
    assert told(row("/conv2/Conv", "CaskConvolution", ["Channel major FP16 format"], "Int8")) == {"conv2": (INT8, FP16)}


def test_layers_that_the_inspector_does_not_tell_are_left_out():
    assert told(row("/conv2/Conv", "CaskConvolution", ["N/A due to dynamic shapes"])) == {}
    assert told() == {}


# The target


@pytest.mark.parametrize(("precision", "form"), [("fp32", FP32), ("fp16", FP16)])
def test_small_integers_run_in_int8_and_the_rest_in_the_precision(precision, form):
    model = GpuTensorrt(precision=precision)
    assert model.executed(Format("int", 4), Format("int", 8)) == (INT8, INT8)
    for weight, activation in ((FP32, FP32), (INT8, FP32), (Format("int", 9), INT8), (FP16, FP16)):
        assert model.executed(weight, activation) == (form, form)


def test_a_name_with_options_is_read_again():
    for name in ("gpu-tensorrt:precision=fp16", "gpu-tensorrt:cache=cold,precision=fp16", "gpu-tensorrt:image=64x48"):
        model = target(name)
        assert isinstance(model, GpuTensorrt) and model.name == name and model.key != target("gpu-tensorrt").key
    with pytest.raises(InputError, match="fp32, fp16"):
        target("gpu-tensorrt:precision=bf16")


@pytest.mark.skipif(HERE, reason="TensorRT and a CUDA device are here")
def test_without_tensorrt_or_a_gpu_it_opens_and_says_what_is_missing():
    model = target("gpu-tensorrt")
    wanted = "no NVIDIA GPU" if importlib.util.find_spec("tensorrt") else "pip install tensorrt"
    assert model._runtime()["runtime"] == "tensorrt"
    assert wanted in model.missing() and model.key.startswith("gpu-tensorrt@")
    with pytest.raises(InputError, match=wanted) as caught:
        model.freeze(sample_deployable())
    assert "\n" not in str(caught.value)


# TensorRT itself, on a card. Neither was at hand when these were written.

card = pytest.mark.skipif(not HERE, reason="no TensorRT with a CUDA device on this machine")


@card
@pytest.mark.parametrize("options", ["", ":cache=cold,precision=fp16"])
def test_the_contract_on_a_card(options, monkeypatch):
    model = target(f"gpu-tensorrt{options}")
    monkeypatch.setattr(type(model), "_meter", lambda _: NoMeter("takes half a minute"))
    check_cost_model(model)


@card
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("form", "error"), [("fp32", 1e-2), ("int8", 0.05)])
def test_predict_on_a_card(form, error, precision, network, deploy):
    deployable = deploy(network("residual"), form)
    images = deployable.calibration[0]
    found = target(f"gpu-tensorrt:precision={precision}").predict(deployable, images)
    wanted = expected(deployable, images.numpy())
    assert abs(found - wanted).max() <= error * abs(wanted).max()
