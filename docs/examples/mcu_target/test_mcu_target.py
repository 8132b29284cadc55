"""The contract, and what Silicon Labs measured on the same board beside what the target says."""

import pytest
import torch
from mcu_target import Efr32xg24
from torch import nn

import shrinkboard as sb


def test_the_contract() -> None:
    sb.check_cost_model(Efr32xg24())


def seconds(module: nn.Module, *shape: int) -> float:
    example = torch.zeros(1, *shape)
    network = sb.trace(module.eval(), example)
    latency = Efr32xg24().freeze(sb.Deployable(module, example, [], network)).latency
    assert latency is not None
    return latency


def test_a_network_that_is_not_in_the_table_is_within_ten_percent() -> None:
    """DS-CNN of MLPerf Tiny: 36.5 ms in all, of which 0.2 ms to quantise its input ("keyword_spotting")."""
    blocks = [
        layer
        for _ in range(4)
        for layer in (nn.Conv2d(64, 64, 3, padding=1, groups=64), nn.ReLU(), nn.Conv2d(64, 64, 1), nn.ReLU())
    ]
    stem = nn.Conv2d(1, 64, (10, 4), stride=2, padding=(4, 1))
    ds_cnn = nn.Sequential(stem, nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 12))
    assert seconds(ds_cnn, 1, 50, 10) == pytest.approx(36.5e-3, rel=0.1)


def test_a_network_that_does_not_fit_is_refused() -> None:
    for what, module, side in (("flash", nn.Conv2d(64, 1024, 6), 6), ("RAM", nn.Conv2d(64, 64, 1), 64)):
        example = torch.zeros(1, 64, side, side)
        large, model = sb.Deployable(module, example, [], sb.trace(nn.Sequential(module), example)), Efr32xg24()
        with pytest.raises(sb.InputError, match=f"bytes of {what}"):
            model.cost(large, model.freeze(large))
