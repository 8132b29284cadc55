"""ResNet-8 of MLPerf Tiny's image classification benchmark (mlcommons/tiny, `keras_model.py`, `resnet_v1_eembc`)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

# Keras numbers its layers in the order of their making; the shortcut's convolution is made last in a stack.
_KERAS_NAMES = {
    "conv1": "conv2d",
    "bn1": "batch_normalization",
    "stack1.conv1": "conv2d_1",
    "stack1.bn1": "batch_normalization_1",
    "stack1.conv2": "conv2d_2",
    "stack1.bn2": "batch_normalization_2",
    "stack2.conv1": "conv2d_3",
    "stack2.bn1": "batch_normalization_3",
    "stack2.conv2": "conv2d_4",
    "stack2.bn2": "batch_normalization_4",
    "stack2.shortcut": "conv2d_5",
    "stack3.conv1": "conv2d_6",
    "stack3.bn1": "batch_normalization_5",
    "stack3.conv2": "conv2d_7",
    "stack3.bn2": "batch_normalization_6",
    "stack3.shortcut": "conv2d_8",
    "linear": "dense",
}
_PIXEL_RANGE = 255.0


class ResNet8(nn.Module):
    """Input (N, 3, 32, 32) in 0…1, output (N, classes). 78 k parameters with 10 classes, 12.5 MMAC.

    As in the benchmark: convolutions with bias, batch-norm epsilon 1e-3, shortcuts of a bare 1×1 convolution, and
    TensorFlow's "same" padding, which for a stride of 2 pads right and bottom only.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16, eps=1e-3)
        self.relu1 = nn.ReLU()
        self.stack1 = _Stack(16, 16, stride=1)
        self.stack2 = _Stack(16, 32, stride=2)
        self.stack3 = _Stack(32, 64, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.stack3(self.stack2(self.stack1(x)))
        return self.linear(self.flatten(self.pool(x)))


class _Stack(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d((0, 1, 0, 1)) if stride == 2 else nn.Identity()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=0 if stride == 2 else 1)
        self.bn1 = nn.BatchNorm2d(outputs, eps=1e-3)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(outputs, eps=1e-3)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if stride == 2 else nn.Identity()
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(self.pad(x))))
        return self.relu2(self.bn2(self.conv2(y)) + self.shortcut(x))


def from_keras(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The benchmark's weights under the names of `ResNet8`; weights that already have them pass through.

    The benchmark's network sees raw pixels 0…255, ours sees 0…1: the first convolution takes up the factor.
    """
    if "conv2d.weight" not in weights:
        return dict(weights)
    ours_of = {keras: ours for ours, keras in _KERAS_NAMES.items()}
    renamed = {}
    for name, tensor in weights.items():
        layer, _, parameter = name.rpartition(".")
        renamed[f"{ours_of.get(layer, layer)}.{parameter}"] = tensor
    renamed["conv1.weight"] = torch.mul(renamed["conv1.weight"], _PIXEL_RANGE)
    return renamed
