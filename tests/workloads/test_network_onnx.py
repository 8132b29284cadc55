"""Networks from ONNX: the same rows as `trace` reads from the module, formats, and what is refused."""

import random

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional

from cost_models.export import export_onnx, quantise_onnx
from tests.cost_models.conftest import NETWORKS, build
from workloads import (
    Format,
    InputError,
    LayerFormats,
    fold_batch_norm,
    network_from_onnx,
    network_to_json,
    trace,
    workload,
    workload_names,
)

INT8 = LayerFormats(Format("int", 8), Format("int", 8))


def counted(module):
    """Nonzeros of every filter of every layer."""
    found = {}
    for name, layer in module.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            found[name] = (layer.weight != 0).flatten(1).sum(1).numpy()
        elif isinstance(layer, nn.ConvTranspose2d):
            per_group = layer.weight.unflatten(0, (layer.groups, -1))
            found[name] = (per_group != 0).sum((1, 3, 4)).flatten().numpy()
    return found


def rows(network, without=()):
    """The table with places for names, nonzeros as lists."""
    place = {layer.name: at for at, layer in enumerate(network.layers)}
    table = []
    for layer in network.layers:
        row = {**vars(layer), "inputs": [place[name] for name in layer.inputs], "nonzeros": layer.nonzeros.tolist()}
        del row["name"]
        table.append({name: value for name, value in row.items() if name not in without})
    return table


def check_same(module, example):
    module = module.eval()
    folded = fold_batch_norm(module)
    expected = trace(folded, example, nonzeros=counted(folded))
    network = network_from_onnx(export_onnx(module, example))
    assert network.parameters == expected.parameters
    for given_row, row, layer in zip(rows(network), rows(expected), expected.layers, strict=True):
        assert given_row == row, layer.name
    assert [layer.name for layer in network.compute_layers] == [layer.name for layer in expected.compute_layers]
    network_to_json(network)


def pruned(module, seed=0):
    """Half of all weights of all layers zeroed at random, another share in every filter."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear, nn.ConvTranspose2d)):
                layer.weight *= torch.rand_like(layer.weight) < 0.5
    return module


@pytest.mark.parametrize("name", [name for name in workload_names() if not name.startswith("folder/")])
def test_networks_of_the_catalogue_are_read_as_traced(name):
    chosen = workload(name)
    torch.manual_seed(0)
    check_same(pruned(chosen.build()), torch.zeros(1, *chosen.input_shape))


@pytest.mark.parametrize("name", NETWORKS)
def test_small_networks_are_read_as_traced(name):
    check_same(build(name), torch.zeros(1, 3, 16, 16))
    check_same(pruned(build(name)), torch.zeros(1, 3, 16, 16))


class Unusual(nn.Module):
    """Second calls, grouped transposed convolution, dilation, borders, activations of several nodes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(6, 6, (3, 1), padding=(1, 0), groups=3)
        self.up = nn.ConvTranspose2d(6, 4, 3, 2, 1, output_padding=1, groups=2, bias=False)
        self.pad = nn.ZeroPad2d((1, 0, 2, 0))
        self.far = nn.Conv2d(4, 5, 3, dilation=2)
        self.pool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        self.silu, self.gelu, self.swish = nn.SiLU(), nn.GELU(), nn.Hardswish()
        self.grow = nn.Upsample(scale_factor=2, mode="bilinear")
        self.flatten = nn.Flatten()
        self.head = nn.Linear(5, 3, bias=False)
        self.average = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        x = self.silu(self.conv(self.gelu(self.conv(x))))
        x = self.far(self.pad(self.swish(self.up(x))))
        return self.head(self.flatten(self.average(self.grow(self.pool(functional.leaky_relu(x))))))


def test_an_unusual_network_is_read_as_traced():
    torch.manual_seed(1)
    check_same(pruned(Unusual()), torch.zeros(1, 6, 9, 12))


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "unet"])
def test_quantised_layers_are_int8(name):
    torch.manual_seed(0)
    module = build(name)
    exported = export_onnx(module, torch.zeros(1, 3, 16, 16))
    layers = [layer.name for layer in network_from_onnx(exported).compute_layers]
    images = [torch.randn(8, 3, 16, 16)]
    model = quantise_onnx(exported, images, dict.fromkeys(layers, INT8))
    network = network_from_onnx(model)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert [layer.name for layer in network.compute_layers] == layers
    for layer in network.compute_layers:
        assert str(layer.weight_format) == str(layer.activation_format) == "int8"
        integers = stored[f"{layer.name}.weight_quantized"]
        filters = integers.reshape(layer.out_channels, -1)
        assert layer.nonzeros.tolist() == (filters != 0).sum(1).tolist()
    unformatted = {"weight_format", "activation_format", "nonzeros"}
    assert rows(network, unformatted) == rows(network_from_onnx(exported), unformatted)


def test_only_the_quantised_layers_are_int8():
    exported = export_onnx(build("plain"), torch.zeros(1, 3, 16, 16))
    model = quantise_onnx(exported, [torch.randn(8, 3, 16, 16)], {"4": INT8})
    formats = {layer.name: str(layer.weight_format) for layer in network_from_onnx(model).compute_layers}
    assert formats == {"0": "fp32", "4": "int8", "8": "fp32"}


def model_of(nodes, tensors=(), shape=("N", 4, 6, 6), opset=21, kind=TensorProto.FLOAT, domains=()):
    """A model of these nodes from `x` to `y`; tensors by name."""
    initializers = [
        tensor if isinstance(tensor, TensorProto) else numpy_helper.from_array(np.asarray(tensor), name)
        for name, tensor in dict(tensors).items()
    ]
    graph = helper.make_graph(
        list(nodes),
        "made",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, ["N", "a", "b", "c"])],
        initializers,
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def weight(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_four_bit_integers():
    packed = helper.make_tensor("w", TensorProto.INT4, [2, 4, 1, 1], [1, -8, 0, 7, 0, 0, 0, 2])
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["dw"]),
        helper.make_node("Conv", ["d", "dw"], ["y"], name="conv"),
    ]
    tensors = {"s": np.float32(0.5), "z": np.uint16(3), "w": packed}
    layer = network_from_onnx(model_of(nodes, tensors)).compute_layers[0]
    assert (str(layer.weight_format), str(layer.activation_format)) == ("int4", "int16")
    assert layer.nonzeros.tolist() == [3, 1]


def quant(source, target, bits, **attributes):
    inputs = [source, "scale", "zero", bits]
    return helper.make_node("Quant", inputs, [target], domain="qonnx.custom_op.general", **attributes)


def test_qonnx_quantisers():
    bipolar = helper.make_node("BipolarQuant", ["v", "scale"], ["bv"], domain="qonnx.custom_op.general")
    nodes = [
        quant("x", "qx", "five", signed=0),
        quant("w", "qw", "three", signed=1, narrow=1),
        helper.make_node("Conv", ["qx", "qw"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["r"]),
        quant("r", "qr", "two", signed=0),
        helper.make_node("MaxPool", ["qr"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        bipolar,
        helper.make_node("Conv", ["p", "bv"], ["y"], name="last"),
    ]
    values = np.array([[0.24, 0.26, -0.26, 0.0], [-9.0, 9.0, 1.0, 0.2]], np.float32).reshape(2, 4, 1, 1)
    tensors = {
        "w": values, "v": np.array([[0.0, -1.0]], np.float32).reshape(1, 2, 1, 1), "scale": np.float32(0.5),
        "zero": np.float32(0), "two": np.float32(2), "three": np.float32(3), "five": np.float32(5),
    }  # fmt: skip
    network = network_from_onnx(model_of(nodes, tensors, domains=["qonnx.custom_op.general"]))
    conv, last = network.compute_layers
    assert (str(conv.weight_format), str(conv.activation_format)) == ("int3", "int5")
    assert conv.nonzeros.tolist() == [2, 3]  # 0.24 and 0.2 are nearer to 0 than to 0.5
    assert (str(last.weight_format), str(last.activation_format)) == ("int1", "int2")
    assert last.nonzeros.tolist() == [2]  # a binary weight is never zero


def test_types_of_tensors_are_formats():
    half, kind = weight(2, 4, 3, 3).astype(np.float16), TensorProto.FLOAT16
    model = model_of([helper.make_node("Conv", ["x", "w"], ["y"])], {"w": half}, kind=kind)
    layer = network_from_onnx(model).compute_layers[0]
    assert str(layer.weight_format) == str(layer.activation_format) == "fp16"


@pytest.mark.parametrize("automatic", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_automatic_padding_gives_the_size_that_onnx_infers(automatic, stride):
    fields = {"auto_pad": automatic, "strides": [stride, stride], "kernel_shape": [4, 3]}
    model = model_of([helper.make_node("Conv", ["x", "w"], ["y"], **fields)], {"w": weight(2, 4, 4, 3)})
    layer = network_from_onnx(model).compute_layers[0]
    top, bottom, left, right = layer.padding
    assert layer.out_height == (6 + top + bottom - 4) // stride + 1
    assert layer.out_width == (6 + left + right - 3) // stride + 1
    assert (top < bottom or top == bottom) if automatic == "SAME_UPPER" else top >= bottom


def test_a_linear_layer_as_product_and_sum_and_sizes_computed_in_the_graph():
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["b"], axis=0),
        helper.make_node("Concat", ["b", "rest"], ["t"], axis=0),
        helper.make_node("Reshape", ["x", "t"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["m"], name="/head/MatMul"),
        helper.make_node("Add", ["bias", "m"], ["y"]),
    ]
    tensors = {"zero": np.array([0]), "rest": np.array([-1]), "w": weight(144, 3), "bias": weight(3)}
    model = model_of(nodes, tensors)
    del model.graph.output[0].type.tensor_type.shape.dim[2:]
    network = network_from_onnx(model)
    (layer,) = network.compute_layers
    assert (layer.kind, layer.in_channels, layer.out_channels, layer.bias) == ("linear", 144, 3, True)
    assert network.parameters == 144 * 3 + 3 and layer.name == "head"


def test_a_gate_is_a_row_of_its_own():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["g"]),
        helper.make_node("Sigmoid", ["g"], ["s"]),
        helper.make_node("Mul", ["c", "s"], ["y"], name="gate"),
    ]
    network = network_from_onnx(model_of(nodes, {"w": weight(4, 4, 1, 1)}))
    assert [layer.kind for layer in network.layers] == ["input", "conv", "pool", "other"]
    assert len(network["gate"].inputs) == 2


def test_a_weight_that_is_used_twice_is_a_second_call():
    nodes = [helper.make_node("Conv", ["x", "a.weight"], ["c"]), helper.make_node("Conv", ["c", "a.weight"], ["y"])]
    network = network_from_onnx(model_of(nodes, {"a.weight": weight(4, 4, 1, 1)}))
    assert [layer.name for layer in network.layers] == ["x", "a", "a#2"] and network.parameters == 16


def conv_with(**fields):
    return [helper.make_node("Conv", ["x", "w"], ["y"], name="c", **fields)], {"w": weight(4, 4, 3, 3)}


def external():
    tensor = numpy_helper.from_array(weight(4, 4, 3, 3), "w")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    tensor.ClearField("raw_data")
    return model_of([helper.make_node("Conv", ["x", "w"], ["y"])], {"w": tensor})


def with_function():
    model = model_of(*conv_with())
    opsets = [helper.make_opsetid("", 21)]
    model.functions.append(
        helper.make_function("own", "F", ["a"], ["b"], [helper.make_node("F", ["a"], ["b"])], opsets)
    )
    return model


def op(name, *tensors, **fields):
    inputs = {f"t{place}": tensor for place, tensor in enumerate(tensors)}
    return model_of([helper.make_node(name, ["x", *inputs], ["y"], name="n", **fields)], inputs)


REFUSED = {
    "transpose": (op("Transpose", perm=[0, 2, 3, 1]), r"'n' \(Transpose\)"),
    "operator": (op("LRN", size=3), "'n' has the operator LRN"),
    "domain": (op("Conv", weight(4, 4, 1, 1), domain="com.acme"), "com.acme.Conv"),
    "external": (external(), "'w' in another file"),
    "function": (with_function(), "local functions"),
    "dynamic height": (model_of(*conv_with(), shape=("N", 4, "H", 6)), "input 'x' has axis 2 of size 'H'"),
    "dynamic channels": (model_of(*conv_with(), shape=("N", None, 6, 6)), "input 'x' has axis 1 of size open"),
    "three axes": (model_of(*conv_with(), shape=(1, 4, 6)), "input 'x' has 3 axes"),
    "another kernel": (model_of(*conv_with(kernel_shape=[5, 5])), "'c'.*kernel"),
    "groups": (model_of(*conv_with(group=3)), "'c'.*4 channels in 3 groups"),
    "no groups": (model_of(*conv_with(group=0)), "'c'.*in 0 groups"),
    "no stride": (model_of(*conv_with(strides=[0, 0])), "sizes do not follow"),
    "huge borders": (model_of(*conv_with(pads=[2**40] * 4)), "'c'"),
    "padding to be found": (
        op("ConvTranspose", weight(4, 2, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
        "leaves its padding",
    ),
    "product of activations": (
        model_of([helper.make_node("MatMul", ["x", "x"], ["y"], name="m")]),
        r"'m' \(MatMul\) multiplies two activations",
    ),
    "product on maps": (op("MatMul", weight(6, 2)), r"'n' \(MatMul\) works on 4 axes"),
    "channels joined with a constant": (op("Concat", weight(1, 2, 6, 6), axis=1), r"'n' \(Concat\)"),
    "rows joined": (
        model_of([helper.make_node("Concat", ["x", "x"], ["y"], axis=2, name="n")]),
        r"'n' \(Concat\) joins",
    ),
    "mean over channels": (op("ReduceMean", np.array([1])), r"'n' \(ReduceMean\) reduces axes \[1\]"),
    "smaller maps": (op("Resize", weight(0), np.float32([1, 1, 0.5, 0.5])), r"'n' \(Resize\)"),
    "double": (
        model_of([helper.make_node("Relu", ["x"], ["y"])], kind=TensorProto.DOUBLE),
        "'x' in double; allowed: fp32",
    ),
    "part of a bit": (
        model_of(
            [quant("x", "y", "bits")],
            {"scale": np.float32(1), "zero": np.float32(0), "bits": np.float32(2.5)},
            domains=["qonnx.custom_op.general"],
        ),
        r"\(Quant\) has no constant whole bit width",
    ),
    "bomb": (
        model_of(
            [*conv_with()[0], helper.make_node("ConstantOfShape", ["n"], ["big"], name="bomb")],
            {**conv_with()[1], "n": np.array([2**20, 2**20])},
        ),
        r"'bomb' \(ConstantOfShape\) makes the constants more than",
    ),
    "nothing": (onnx.ModelProto(), "not a valid ONNX"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_one_line(case, tmp_path):
    model, told = REFUSED[case]
    path = tmp_path / "refused.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=told) as caught:
        network_from_onnx(path)
    assert "\n" not in str(caught.value) and "refused.onnx" in str(caught.value) and len(str(caught.value)) < 400


def test_the_model_that_was_given_stays_as_it_was():
    model = export_onnx(build("residual"), torch.zeros(1, 3, 16, 16))
    before = model.SerializeToString()
    network_from_onnx(model)
    assert model.SerializeToString() == before


@pytest.mark.parametrize("place", ["/nowhere/network.onnx", "/"])
def test_a_file_that_is_not_there(place):
    with pytest.raises(InputError, match="cannot be read"):
        network_from_onnx(place)


@given(st.binary(max_size=100))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_bytes_make_the_reader_raise_anything_else(tmp_path, content):
    path = tmp_path / "fuzzed.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError):
        network_from_onnx(path)


@pytest.mark.parametrize("seed", range(4))
def test_no_damage_makes_the_reader_raise_anything_else(tmp_path, seed):
    whole = export_onnx(nn.Sequential(nn.Conv2d(3, 2, 3), nn.ZeroPad2d(1), nn.Flatten(), nn.Linear(72, 2)).eval(),
                        torch.zeros(1, 3, 6, 6)).SerializeToString()  # fmt: skip
    path = tmp_path / "damaged.onnx"
    dice = random.Random(seed)
    for _ in range(100):
        damaged = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        path.write_bytes(damaged)
        try:
            network_from_onnx(path)
        except InputError as error:
            assert "\n" not in str(error)
