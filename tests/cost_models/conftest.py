"""Small networks of the shapes that export and counting must get right, and ways to make a Deployable of one."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cost_models import Deployable
from workloads import Format, LayerFormats, trace


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))
        return self.head(x.mean((2, 3)))


class Concat(nn.Module):
    """Batch norm before convolution, as in a DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.grow = nn.Conv2d(6, 4, 3, padding=1, bias=False)
        self.pool = nn.AvgPool2d(2)
        self.head = nn.Linear(10 * 8 * 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.grow(torch.relu(self.norm(x)))], 1)
        return self.head(torch.flatten(self.pool(x), 1))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.norm = nn.BatchNorm2d(8)
        self.upsample = nn.Upsample(scale_factor=2)
        self.out = nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        across = torch.relu(self.down(x))
        x = torch.relu(self.middle(self.pool(across)))
        return self.out(torch.cat([across, self.norm(self.up(x)), self.upsample(x)], 1))


def _plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


def _depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.Conv2d(8, 12, 1, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": _plain,
    "residual": Residual,
    "concat": Concat,
    "depthwise": _depthwise,
    "unet": UNet,
}


@pytest.fixture(params=NETWORKS)
def module(request: pytest.FixtureRequest) -> nn.Module:
    """Each of the networks in turn, with batch norm that does something."""
    return build(request.param)


@pytest.fixture
def network() -> Callable[[str], nn.Module]:
    """A network by name."""
    return build


def build(name: str) -> nn.Module:
    torch.manual_seed(1)
    module = NETWORKS[name]()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return module.eval()


@pytest.fixture
def deploy() -> Callable[..., Deployable]:
    """deploy(module, "int8") → Deployable with every layer in that format."""

    def make(module: nn.Module, form: str = "fp32", side: int = 16) -> Deployable:
        torch.manual_seed(2)
        example = torch.randn(1, 3, side, side)
        chosen = LayerFormats(Format.parse(form), Format.parse(form))
        layers = trace(module, example).compute_layers if form != "fp32" else ()
        table = trace(module, example, {layer.name: chosen for layer in layers})
        return Deployable(module, example, [torch.randn(16, 3, side, side) for _ in range(2)], table)

    return make
