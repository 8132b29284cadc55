"""Networks for digits that a user could have written: `tests.search.own_networks:FACTORY`."""

from __future__ import annotations

from torch import Tensor, nn

from workloads.models.resnet_cifar import BasicBlock


class Residual(nn.Module):
    """Four residual blocks; the third pads its shortcut with channels of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        self.block1, self.block2 = BasicBlock(8, 8, 1), BasicBlock(8, 8, 1)
        self.block3, self.block4 = BasicBlock(8, 16, 2), BasicBlock(16, 16, 1)
        self.pool, self.flatten, self.linear = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(self.relu(self.norm(self.conv(x)))))
        return self.linear(self.flatten(self.pool(self.block4(self.block3(x)))))


class Plain(nn.Module):
    """None of the above."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.pool, self.flatten, self.linear = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.flatten(self.pool(self.conv(x))))
