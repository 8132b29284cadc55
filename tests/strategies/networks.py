"""Small networks whose graphs are awkward to prune."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DenseConcat(nn.Module):
    """DenseNet's pattern: every layer reads the concatenation of all before it, batch norm comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm1, self.conv1 = nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3, padding=1)
        self.norm2, self.conv2 = nn.BatchNorm2d(12), nn.Conv2d(12, 6, 3, padding=1)
        self.norm3 = nn.BatchNorm2d(18)
        self.pool, self.flatten, self.linear = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(18, 5)

    def forward(self, x: Tensor) -> Tensor:
        a = self.stem(x)
        b = self.conv1(torch.relu(self.norm1(a)))
        c = self.conv2(torch.relu(self.norm2(torch.cat([a, b], 1))))
        whole = torch.relu(self.norm3(torch.cat([a, b, c], 1)))
        return self.linear(self.flatten(self.pool(whole)))


class Grouped(nn.Module):
    """A grouped convolution with more outputs than inputs, and a flattened map of 4×4 before the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.grouped = nn.Conv2d(16, 24, 3, padding=1, groups=4)
        self.norm = nn.BatchNorm2d(24)
        self.conv = nn.Conv2d(24, 8, 1)
        self.pool, self.flatten, self.linear = nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.grouped(torch.relu(self.stem(x)))))
        return self.linear(self.flatten(self.pool(self.conv(y))))


class Decoder(nn.Module):
    """A transposed convolution and a skip connection by concatenation: a U-Net in small."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(12, 6, 2, stride=2)
        self.join = nn.Conv2d(14, 10, 3, padding=1)
        self.head = nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = torch.relu(self.down(x))
        return self.head(torch.relu(self.join(torch.cat([self.up(torch.relu(self.deep(skip))), skip], 1))))


class PixelShuffled(nn.Module):
    """Moves channels into space: its channels cannot be cut one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.shuffle, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(2, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.shuffle(self.conv(x)))


class ChannelShuffled(nn.Module):
    """ShuffleNet's shuffle, written as its authors do: view, transpose, view."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.grouped, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.grouped(self.conv(x))
        y = y.view(-1, 2, 4, 6, 6).transpose(1, 2).reshape(-1, 8, 6, 6)
        return self.head(y)


class ConcatThenFlatten(nn.Module):
    """A concatenation read by a linear layer over flattened maps: torch-pruning 1.6 loses the offsets here."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.flatten, self.linear = nn.Flatten(), nn.Linear(12 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.flatten(torch.cat([self.a(x), self.b(x)], 1)))


class Branching(nn.Module):
    """Does not trace: its forward looks at values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.sum() > 0 else self.conv(-x)
