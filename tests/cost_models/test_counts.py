"""`counts` against torch itself and by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cost_models import Counts, bit_operations, scale_bits, stored_bits
from workloads import Format, Layer, trace


def counted(deployable):
    model = Counts()
    return {name: figure.value for name, figure in model.cost(deployable, model.freeze(deployable)).figures.items()}


def macs_seen_by_hooks(module, example):
    """Multiply–accumulates from the shapes that really flow, one kernel window an output (or input, transposed)."""
    total = 0

    def hook(layer, inputs, output):
        nonlocal total
        maps = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
        positions = maps[0, 0].numel() if maps.ndim == 4 else 1
        total += layer.weight.numel() * positions

    handles = [
        layer.register_forward_hook(hook)
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    ]
    module(example)
    for handle in handles:
        handle.remove()
    return total


def test_counts_agree_with_torch(module, deploy):
    deployable = deploy(module)
    figures = counted(deployable)
    weights = [m.weight for m in module.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
    macs = macs_seen_by_hooks(module, deployable.example)
    assert figures["parameters"] == sum(p.numel() for p in module.parameters())
    assert figures["macs"] == macs
    assert figures["memory"] == sum(w.numel() * w.element_size() for w in weights)
    assert figures["bit_operations"] == macs * 32 * 32


def test_masked_weights_cost_nothing(network, deploy):
    module = network("plain")
    deployable = deploy(module)
    kept = np.array([0, 3, 7, 27, 1, 2, 3, 4])  # of 27 in each of the first layer's eight filters
    masked = replace(deployable, network=trace(module, deployable.example, nonzeros={"0": kept}))
    dense, sparse = counted(deployable), counted(masked)
    gone = 8 * 27 - kept.sum()
    assert dense["parameters"] - sparse["parameters"] == gone
    assert dense["macs"] - sparse["macs"] == gone * 16 * 16
    assert dense["memory"] - sparse["memory"] == gone * 4


def test_no_latency_and_no_speedup(network, deploy):
    model, deployable = Counts(), deploy(network("plain"))
    reference = model.freeze(deployable)
    cost = model.cost(deployable, reference)
    assert reference.latency is None and cost.speedup is None and "latency" not in cost.figures


@pytest.mark.parametrize(("text", "expected"), [("fp32", 0), ("bf16", 0), ("int4", 32), ("mf5", 19)])
def test_scale_of_a_channel(text, expected):
    assert scale_bits(Format.parse(text)) == expected


@given(
    filters=st.lists(st.integers(0, 18), min_size=1, max_size=12),
    weight=st.integers(1, 16),
    activation=st.integers(1, 16),
    side=st.integers(1, 9),
)
def test_bits_by_hand(filters, weight, activation, side):
    layer = Layer(
        "conv", "conv", ("x",), 2, len(filters), side, side, side, side, (3, 3), padding=(1, 1, 1, 1),
        weight_format=Format("int", weight), activation_format=Format("int", activation), nonzeros=np.array(filters),
    )  # fmt: skip
    assert stored_bits(layer) == sum(filters) * weight + 32 * len(filters)
    assert bit_operations(layer) == sum(filters) * side**2 * weight * activation
