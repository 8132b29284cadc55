"""Networks of the catalogue: sizes as published, and what the rooms above need of every one."""

from __future__ import annotations

import copy

import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn import functional

from workloads import InputError, PadShortcut, trace, workload
from workloads.models.mobilenetv2 import mobilenetv2
from workloads.models.resnet_cifar import resnet_cifar
from workloads.models.resnet_mlperf_tiny import ResNet8, from_keras

# Parameters and MACs. MLPerf Tiny: 78 k, 12.5 M; He et al., Table 6: 0.27 M, 0.85 M; VGG-16: 14.73 M, 313 M.
PUBLISHED = {
    "digits/cnn": (94_186, 1.494e6),
    "fashion_mnist/cnn": (94_186, 18.29e6),
    "cifar10/resnet8": (78_186, 12.50e6),
    "cifar10/resnet20": (269_722, 40.55e6),
    "cifar10/resnet56": (853_018, 125.5e6),
    "cifar10/vgg16_bn": (14_728_266, 313.2e6),
    "cifar100/vgg16_bn": (14_774_436, 313.2e6),
    "cifar10/mobilenetv2": (2_236_682, 87.98e6),
    "camvid/unet": (488_171, 7.072e9),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_size_and_output(name: str) -> None:
    described = workload(name)
    network = described.build().eval()
    parameters, macs = PUBLISHED[name]
    example = torch.zeros(1, *described.input_shape)
    table = trace(network, example)
    assert table.parameters == parameters
    assert sum(layer.macs for layer in table.layers) == pytest.approx(macs, rel=1e-3)
    assert {layer.kind for layer in table.layers} <= {
        "input",
        "conv",
        "linear",
        "pool",
        "add",
        "concat",
        "upsample",
        "pad",
    }
    per_pixel = described.input_shape[1:] if described.task == "segmentation" else ()
    assert network(example).shape == (1, described.classes, *per_pixel)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if "100" not in name])
def test_torch_fx_reads_it_and_gradients_reach_every_parameter(name: str) -> None:
    described = workload(name)
    network = described.build().eval()
    channels, height, width = described.input_shape
    size = (height, width) if described.task == "classification" else (height // 5, width // 5)
    example = torch.randn(2, channels, *size)
    again = torch.fx.symbolic_trace(copy.deepcopy(network))
    torch.testing.assert_close(again(example), network(example))
    network.train()(example).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_mobilenetv2_at_224_pixels_is_the_published_one() -> None:
    table = trace(mobilenetv2(1000).eval(), torch.zeros(1, 3, 224, 224))
    assert table.parameters == 3_504_872
    assert sum(layer.macs for layer in table.layers) == pytest.approx(300.8e6, rel=1e-3)


def test_resnet8_pads_as_tensorflow_does() -> None:
    # 'same' padding of a stride-2 3×3 convolution on an even size: the first window starts at the first pixel.
    stack = ResNet8().stack2
    image = torch.randn(1, 16, 32, 32)
    expected = functional.conv2d(functional.pad(image, (0, 1, 0, 1)), stack.conv1.weight, stack.conv1.bias, stride=2)
    torch.testing.assert_close(stack.conv1(stack.pad(image)), expected)


def test_keras_weights_on_raw_pixels_equal_ours_on_scaled_pixels() -> None:
    network = ResNet8().eval()
    pixels = torch.randint(0, 256, (2, 3, 32, 32)).float()
    on_raw = network(pixels)
    keras = {"conv2d.weight": network.conv1.weight.detach(), "conv2d.bias": network.conv1.bias.detach()}
    network.load_state_dict(from_keras(keras), strict=False)
    torch.testing.assert_close(network(pixels / 255), on_raw)


def test_resnet_of_an_impossible_depth_is_refused() -> None:
    with pytest.raises(InputError, match="6n \\+ 2"):
        resnet_cifar(10, depth=21)


def _reference(shortcut: PadShortcut, x: torch.Tensor) -> torch.Tensor:
    small = x[:, :, :: shortcut.stride, :: shortcut.stride]
    zero = torch.zeros_like(small[:, 0])
    return torch.stack([zero if channel < 0 else small[:, channel] for channel in shortcut.source], 1)


def test_shortcut_is_option_a() -> None:
    x = torch.randn(2, 16, 8, 8)
    expected = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))
    assert torch.equal(PadShortcut.centred(16, 32, stride=2)(x), expected)


def test_sliced_shortcut_is_the_slice_of_the_whole_one() -> None:
    random = np.random.default_rng(0)
    for _ in range(30):
        whole = PadShortcut.centred(6, 10, stride=2)
        x = torch.randn(2, 6, 5, 7)
        inputs = sorted(random.choice(6, random.integers(1, 7), replace=False).tolist())
        outputs = sorted(random.choice(10, random.integers(1, 11), replace=False).tolist())
        masked = torch.zeros_like(x)
        masked[:, inputs] = x[:, inputs]
        expected = whole(masked)[:, outputs]
        whole.keep(inputs, outputs)
        assert torch.equal(whole(x[:, inputs]), expected)
        assert torch.equal(expected, _reference(whole, x[:, inputs]))
        assert whole.in_channels == len(inputs) and whole.out_channels == len(outputs)


def test_shortcut_refuses_channels_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="source channels"):
        PadShortcut(2, [0, 2], stride=1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Constant folding")
@pytest.mark.parametrize("sliced", [False, True])
def test_resnet_with_shortcuts_runs_the_same_in_onnx(sliced: bool, tmp_path) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), PadShortcut.centred(4, 8, stride=2)).eval()
    if sliced:
        network[1].keep([0, 1, 2, 3], [1, 3, 5, 7])
    x = torch.randn(2, 3, 8, 8)
    torch.onnx.export(network, (x,), tmp_path / "net.onnx", dynamo=False, input_names=["x"])
    (output,) = onnxruntime.InferenceSession(tmp_path / "net.onnx").run(None, {"x": x.numpy()})
    np.testing.assert_allclose(output, network(x).detach().numpy(), atol=1e-6)
