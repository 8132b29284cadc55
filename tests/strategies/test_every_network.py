"""Every strategy goes the whole way on a residual and on a segmentation network: plan, compress, train, trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from strategies import strategy, strategy_names
from workloads import Dense, InputError, trace

from .subjects import residual, segmenter, untrained


@pytest.fixture(scope="module", params=[residual, segmenter], ids=["residual", "segmentation"])
def network(request: pytest.FixtureRequest) -> Dense:
    return request.param()


@pytest.mark.parametrize("name", [*strategy_names(), "pca_l1+minifloat", "sentei+int", "low_rank+int", "snip@shuffle"])
def test_the_whole_way(network: Dense, name: str) -> None:
    method = strategy(name)
    if method.drop_share and network.workload.task == "segmentation":
        with pytest.raises(InputError, match="no residual branch"):
            method.space(network)
        return
    space = method.space(network)
    rung = space.ladder(3)[0] if space.ladder(3) else {}
    plan = method.plan(network, space.decode(rung))
    compressed = method.compress(network, plan)
    state = method.tune(compressed, network, 1.0, total_epochs=1.0)
    assert state.epochs_done == pytest.approx(1.0)
    after = trace(compressed.module, network.workload.example, compressed.formats, compressed.nonzeros())
    before = trace(network.module, network.workload.example)
    stored = sum(int(layer.nonzeros.sum()) for layer in after.compute_layers)
    if name not in ("dense", "int", "minifloat"):
        assert stored < sum(layer.weights for layer in before.compute_layers)
    with torch.no_grad():
        outputs = compressed.module(torch.randn(2, *network.workload.input_shape))
    assert outputs.shape == network.module(torch.randn(2, *network.workload.input_shape)).shape
    assert bool(torch.isfinite(outputs).all())


def test_a_network_of_linear_layers_only_is_refused_in_one_line_where_maps_are_needed() -> None:
    flat = untrained(lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 4)), 4, classes=4)
    with pytest.raises(InputError) as refusal:
        strategy("frequency").plan(flat, {})
    assert "\n" not in str(refusal.value)
    plan = strategy("l1").plan(flat, {})
    assert np.isclose(plan.channels["1"], 0.5)
