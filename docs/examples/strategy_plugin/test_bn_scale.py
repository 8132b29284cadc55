"""The contract that every strategy keeps, and what is special about this one."""

import pytest
import torch
from bn_scale import BatchNormScale
from torch import nn

import shrinkboard as sb


@pytest.fixture(scope="module")
def dense() -> sb.Dense:
    return sb.dense(sb.workload("digits/cnn"), seed=0)


def test_the_contract(dense: sb.Dense) -> None:
    sb.check_strategy(BatchNormScale(), dense)


def test_the_channels_of_the_largest_scales_stay(dense: sb.Dense) -> None:
    method = BatchNormScale()
    small = method.compress(dense, method.plan(dense, {"keep": 0.5})).module
    kept = torch.cat([layer.weight for layer in small.modules() if isinstance(layer, nn.BatchNorm2d)]).abs()
    whole = torch.cat([layer.weight for layer in dense.module.modules() if isinstance(layer, nn.BatchNorm2d)]).abs()
    assert len(kept) == round(0.5 * len(whole))
    assert torch.equal(kept.sort().values, whole.sort().values[-len(kept) :])
