"""A slim U-Net for segmentation: Ronneberger et al. (arXiv:1505.04597) with padding, batch norm and base width 16."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class UNet(nn.Module):
    """Input (N, 3, H, W) with H and W multiples of 8, output (N, classes, H, W). 0.49 M parameters.

    Three poolings; the way up doubles the resolution by nearest neighbour and joins the map of the same size.
    """

    def __init__(self, classes: int = 11, width: int = 16) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.up = nn.Upsample(scale_factor=2)
        self.down1 = _double_conv(3, width)
        self.down2 = _double_conv(width, 2 * width)
        self.down3 = _double_conv(2 * width, 4 * width)
        self.bottom = _double_conv(4 * width, 8 * width)
        self.up3 = _double_conv(12 * width, 4 * width)
        self.up2 = _double_conv(6 * width, 2 * width)
        self.up1 = _double_conv(3 * width, width)
        self.head = nn.Conv2d(width, classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(self.pool(first))
        third = self.down3(self.pool(second))
        x = self.up(self.bottom(self.pool(third)))
        x = self.up(self.up3(torch.cat((x, third), 1)))
        x = self.up(self.up2(torch.cat((x, second), 1)))
        return self.head(self.up1(torch.cat((x, first), 1)))


def _double_conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
