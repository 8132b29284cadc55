"""Training that sees number formats: forward and backward with quantised weights and inputs (straight-through).

Bengio et al., Estimating or Propagating Gradients Through Stochastic Neurons, 2013, section 4; Jacob et al.,
Quantization and Training of Neural Networks for Integer-Arithmetic-Only Inference, CVPR 2018, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from torch import Tensor, nn

from workloads import Format, Formats

from . import integers, minifloat
from .grids import TRAINING_RATIOS, activation_split, has_grid, quantise_weight, sample
from .weights import filters_first

_SAMPLES = 2**12
"""Of a layer's inputs, for the split of a minifloat at every step [our reconstruction]."""


def quantised_pass(formats: Formats) -> Callable[[nn.Module], AbstractContextManager[None]]:
    """Enters a forward and backward pass of a network in `formats`, for `workloads.train(during_pass=…)`.

    Inside, weights lie on their grid: the gradient is the one there. On leaving they take their own values again, so
    that the optimiser applies it to these. The inputs of layers are rounded in the forward pass, and gradients pass
    them unchanged where they are not clipped. The range of an integer input is that of the batch; E and c of minifloats
    are solved anew at every step, for weights and for a sample of the inputs, over every tenth of the clips that
    deployment tries. So a pass depends on the weights and the batch alone, and tuning in two parts equals tuning at
    once.

    Weights are quantised as they are, before batch norm is folded into them: folding scales whole filters, and so their
    grids.
    """

    @contextmanager
    def entered(module: nn.Module) -> Iterator[None]:
        own: list[tuple[Tensor, Tensor]] = []
        hooks = []
        try:
            for name, chosen in formats.items():
                layer = module.get_submodule(name)
                if has_grid(chosen.weight):
                    weight = filters_first(layer)
                    own.append((weight, weight.clone()))
                    weight.copy_(quantise_weight(weight, chosen.weight, TRAINING_RATIOS))
                if has_grid(chosen.activation):
                    hooks.append(layer.register_forward_pre_hook(_rounding(chosen.activation)))
            yield
        finally:
            for weight, before in own:
                weight.copy_(before)
            for hook in hooks:
                hook.remove()

    return entered


def _rounding(form: Format) -> Callable[[nn.Module, tuple[Tensor, ...]], Tensor]:
    return lambda _, inputs: straight_through(inputs[0], form)


def straight_through(values: Tensor, form: Format) -> Tensor:
    """`values` rounded to `form`, fitted to these values; the gradient is 1, and 0 where they are clipped."""
    low, high = (float(end) for end in values.detach().aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        return values  # the loss is going to say so
    # Autocast may hand over bf16, whose own rounding is as coarse as an 8-bit grid.
    exact = values.float()
    if form.kind == "int":
        rounded = integers.quantise_activation(exact.detach(), low, high, form.bits)
    else:
        exponent, clip = activation_split(sample(exact, _SAMPLES), low, high, form.bits, TRAINING_RATIOS)
        exact = exact.clamp(-clip, clip)
        rounded = minifloat.quantise(exact.detach(), form.bits, exponent, clip)
    return (exact + (rounded - exact).detach()).to(values.dtype)
