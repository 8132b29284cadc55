"""ResNet-20 and ResNet-56 for CIFAR: He et al., Deep Residual Learning (arXiv:1512.03385), §4.2, shortcut option A.

Parameters are named as in akamaster/pytorch_resnet_cifar10, so that its checkpoints load strictly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError


class PadShortcut(nn.Module):
    """Option A's shortcut without parameters: every `stride`-th pixel, channels moved and filled up with zeros.

    `source` says for each output channel which input channel it copies, or −1 for zeros; `keep` slices it when channels
    before or after are removed. Input (N, in_channels, H, W), output (N, out_channels, ⌈H/stride⌉, ⌈W/stride⌉).
    """

    layer_kind = "pad"
    index: Tensor

    def __init__(self, in_channels: int, source: Sequence[int], stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.register_buffer("index", torch.zeros(0, dtype=torch.long), persistent=False)
        self._set(in_channels, source)

    @classmethod
    def centred(cls, in_channels: int, out_channels: int, stride: int) -> PadShortcut:
        """The input's channels in the middle, as many zeros before as behind."""
        before = (out_channels - in_channels) // 2
        behind = out_channels - in_channels - before
        return cls(in_channels, [-1] * before + list(range(in_channels)) + [-1] * behind, stride)

    @property
    def out_channels(self) -> int:
        return len(self.source)

    def keep(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Leave only these input and output channels, in this order; an output whose input is gone becomes zeros."""
        position = {channel: place for place, channel in enumerate(inputs)}
        self._set(len(inputs), [position.get(self.source[channel], -1) for channel in outputs])

    def _set(self, in_channels: int, source: Sequence[int]) -> None:
        self.in_channels = in_channels
        self.source = [int(channel) for channel in source]
        if any(not -1 <= channel < in_channels for channel in self.source):
            raise ValueError(f"source channels must be −1…{in_channels - 1}, not {self.source}")
        # Shifted by one: forward puts a channel of zeros in front, which −1 then means.
        self.index = torch.tensor(self.source, dtype=torch.long, device=self.index.device) + 1
        before = next((place for place, channel in enumerate(self.source) if channel >= 0), 0)
        behind = self.out_channels - before - in_channels
        self._zeros_around = (before, behind)
        self._contiguous = self.source == [-1] * before + list(range(in_channels)) + [-1] * behind

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        if self._contiguous:
            return functional.pad(x, (0, 0, 0, 0, *self._zeros_around))
        return functional.pad(x, (0, 0, 0, 0, 1, 0)).index_select(1, self.index)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.source}, stride={self.stride}"


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else PadShortcut.centred(inputs, outputs, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + self.shortcut(x))


class ResNetCifar(nn.Module):
    """Input (N, 3, 32, 32), output (N, classes); three stages of 16, 32 and 64 channels."""

    def __init__(self, blocks: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu1 = nn.ReLU()
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.flatten(self.pool(x)))


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))


def resnet_cifar(classes: int, depth: int) -> ResNetCifar:
    """The network of `depth` = 6n + 2 weighted layers: 0.27 M parameters, 41 MMAC at 20; 0.85 M, 125 MMAC at 56."""
    if depth < 8 or (depth - 2) % 6:
        raise InputError(f"a CIFAR ResNet has 6n + 2 layers, such as 20 or 56; {depth} was given")
    return ResNetCifar((depth - 2) // 6, classes)
