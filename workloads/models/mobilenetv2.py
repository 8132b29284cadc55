"""MobileNetV2 (Sandler et al., arXiv:1801.04381), named as in torchvision: for 224 pixels and for CIFAR."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

# Table 2 of the paper: expansion, output channels, blocks; the strides are the variant's.
_STAGES = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))


class InvertedResidual(nn.Module):
    """1×1 expansion, 3×3 depthwise convolution, 1×1 projection without activation; a shortcut where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [_conv_bn_relu(inputs, hidden, 1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *expand,
            _conv_bn_relu(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.use_res_connect = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        if self.use_res_connect:
            return x + self.conv(x)
        return self.conv(x)


class MobileNetV2(nn.Module):
    """Width 1. `strides` are those of the stem and of the seven stages."""

    def __init__(self, classes: int, strides: Sequence[int]) -> None:
        super().__init__()
        stem_stride, *stage_strides = strides
        layers: list[nn.Module] = [_conv_bn_relu(3, 32, 3, stem_stride)]
        inputs = 32
        for (expansion, outputs, blocks), stage_stride in zip(_STAGES, stage_strides, strict=True):
            for block in range(blocks):
                layers.append(InvertedResidual(inputs, outputs, stage_stride if block == 0 else 1, expansion))
                inputs = outputs
        layers.append(_conv_bn_relu(inputs, 1280, 1))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.flatten(self.pool(self.features(x))))


def _conv_bn_relu(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


def mobilenetv2(classes: int) -> MobileNetV2:
    """The paper's network for (N, 3, 224, 224): 3.50 M parameters and 301 MMAC with 1,000 classes."""
    return MobileNetV2(classes, strides=(2, 1, 2, 2, 2, 1, 2, 1))


def mobilenetv2_cifar(classes: int) -> MobileNetV2:
    """The variant for (N, 3, 32, 32): stem and 24-channel stage keep the resolution; the last maps are 4×4."""
    return MobileNetV2(classes, strides=(1, 1, 1, 2, 2, 1, 2, 1))
