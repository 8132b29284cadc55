"""Networks in number formats: weights on their grid, biases corrected, layers that see quantised inputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from workloads import Format, Formats, Grid, InputError, IntegerGrid, MinifloatGrid

from . import integers, minifloat
from .weights import filters_first

Quantiser = Callable[[Tensor], Tensor]
"""Weight (filters, …) → the same weight on a grid."""
TRAINING_RATIOS = minifloat.RATIOS[::10]
"""Clips of minifloats in straight-through training, every tenth of those that are tried otherwise: a step has no time
for all [our reconstruction]."""
_SAMPLES = 2**14
"""Of a layer's inputs in one calibration batch, for the split of a minifloat."""


def has_grid(form: Format) -> bool:
    """Whether numbers of this format are simulated on a grid; other formats stay as they are."""
    return form.kind in ("int", "minifloat")


def quantise_weight(weight: Tensor, form: Format, ratios: Tensor = minifloat.RATIOS) -> Tensor:
    """`weight` (filters, …) in `form`, an integer or minifloat; `ratios` are the clips that a minifloat tries."""
    if form.kind == "int":
        return integers.quantise_weight(weight, form.bits)
    return minifloat.quantise_weight(weight, form.bits, ratios)


def weight_quantiser(name: str) -> Quantiser:
    """The quantiser of a format (`int4`, `mf4`), or of one that it is compared with: `aciq4`, `e4m3`, `e5m2`.

    `aciq4` is `int4` with the clip of `laplace_clip`; the last two are FP8 as in `quantise_fp8`. Raises `InputError`
    for any other name.
    """
    if name in minifloat.FP8:
        return partial(minifloat.quantise_fp8, form=minifloat.FP8[name])
    form = Format.parse(name.replace("aciq", "int", 1))
    if not has_grid(form):
        raise InputError(f"weights in {name} lie on no grid; allowed: int, mf and aciq with their bits, e4m3, e5m2")
    if name.startswith("aciq"):
        return lambda weight: integers.quantise_weight(weight, form.bits, integers.laplace_clip(weight, form.bits))
    return partial(quantise_weight, form=form)


def on_grid(
    folded: nn.Module,
    formats: Formats,
    calibration: Sequence[Tensor] | None = None,
    ratios: Tensor = minifloat.RATIOS,
) -> nn.Module:
    """A copy of a network (batch norm folded) whose integer and minifloat weights lie on their grid.

    With `calibration` (batches, normalised) the biases are corrected as `quantised` says. `ratios` are the clips that
    minifloats try; a network that was trained straight-through lies on the grids that it has learnt to live with only
    with `TRAINING_RATIOS`.
    """
    chosen = {name: form.weight for name, form in formats.items() if has_grid(form.weight)}
    quantisers = {name: partial(quantise_weight, form=form, ratios=ratios) for name, form in chosen.items()}
    return quantised(folded, quantisers, calibration)


def quantised(
    folded: nn.Module, quantisers: Mapping[str, Quantiser], calibration: Sequence[Tensor] | None = None
) -> nn.Module:
    """A copy of a network (batch norm folded) with the weights that the layers' quantisers give.

    With `calibration` every layer's bias takes up what quantising moved its mean outputs by: E[Wx] − E[Q(W)x] for each
    output channel, with x the layer's inputs in the unquantised network (Nagel et al., Data-Free Quantization Through
    Weight Equalization and Bias Correction, ICCV 2019, section 4.2, with means of data in the place of those that batch
    norm tells).
    """
    module = copy.deepcopy(folded)
    for name, quantise in quantisers.items():
        weight = filters_first(module.get_submodule(name))
        weight.copy_(quantise(weight))
    for name, shift in (_mean_shifts(folded, module, list(quantisers), calibration) if calibration else {}).items():
        layer = module.get_submodule(name)
        assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
        layer.bias = nn.Parameter(shift if layer.bias is None else layer.bias.detach() + shift)
    return module


def _mean_shifts(
    folded: nn.Module, module: nn.Module, names: Sequence[str], calibration: Sequence[Tensor]
) -> dict[str, Tensor]:
    """E[(W − Q(W))x] of every output channel, (filters,), by layer."""
    folded = copy.deepcopy(folded).eval()
    sums: dict[str, Tensor] = {}
    counts = dict.fromkeys(names, 0)

    def listen(name: str) -> None:
        layer = folded.get_submodule(name)
        error = copy.deepcopy(layer)
        filters_first(error).sub_(filters_first(module.get_submodule(name)))
        error.register_parameter("bias", None)

        def hook(_: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> None:
            outputs = error(inputs[0])
            outputs = outputs.movedim(-1 if isinstance(layer, nn.Linear) else 1, -1).flatten(0, -2)
            sums[name] = sums.get(name, 0) + outputs.sum(0)
            counts[name] += len(outputs)

        layer.register_forward_hook(hook)

    for name in names:
        listen(name)
    with torch.no_grad():
        for batch in calibration:
            folded(batch)
    return {name: total / counts[name] for name, total in sums.items()}


@dataclass
class _Seen:
    """What calibration saw of a layer's inputs."""

    low: float = 0.0
    high: float = 0.0
    samples: list[Tensor] = field(default_factory=list)

    def add(self, values: Tensor) -> None:
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self.samples.append(sample(values, _SAMPLES))

    def grid(self, form: Format) -> Grid:
        if form.kind == "int":
            scale, zero = integers.activation_scale(self.low, self.high, form.bits)
            return IntegerGrid(form.bits, np.asarray(scale), zero, signed=False)
        exponent, clip = activation_split(torch.cat(self.samples), self.low, self.high, form.bits)
        return MinifloatGrid(form.bits, np.asarray(exponent), np.asarray(clip))


def _rounding(grid: Grid) -> Quantiser:
    """Rounds a layer's inputs to their grid."""
    if isinstance(grid, IntegerGrid):
        steps = 2**grid.bits - 1
        return lambda values: torch.fake_quantize_per_tensor_affine(values, float(grid.scale), grid.zero, 0, steps)
    return partial(minifloat.quantise, bits=grid.bits, exponent=int(grid.exponent), clip=float(grid.clip))


def weight_grids(folded: nn.Module, formats: Formats, ratios: Tensor = minifloat.RATIOS) -> dict[str, Grid]:
    """Layer → the grid that `on_grid` puts its weights on; layers whose format has no grid are left out."""
    found: dict[str, Grid] = {}
    for name, form in ((name, form.weight) for name, form in formats.items() if has_grid(form.weight)):
        weight = filters_first(folded.get_submodule(name))
        if form.kind == "int":
            found[name] = IntegerGrid(form.bits, integers.weight_scale(weight, form.bits).double().numpy())
        else:
            exponent, clip = minifloat.best_split(weight, form.bits, ratios)
            found[name] = MinifloatGrid(form.bits, exponent.numpy(), clip.numpy())
    return found


def sample(values: Tensor, count: int) -> Tensor:
    """About `count` of `values`, evenly spaced, (samples,)."""
    # An odd step meets every row and column of a map; one that divides its width would see a single column.
    return values.detach().flatten()[:: max(1, values.numel() // count) | 1]


def activation_split(
    samples: Tensor, low: float, high: float, bits: int, ratios: Tensor = minifloat.RATIOS
) -> tuple[int, float]:
    """E and c of the minifloat that fits `samples` (n,) best; clips are fractions of the larger of −`low`, `high`."""
    exponent, clip = minifloat.best_split(samples[None], bits, ratios, largest=torch.tensor([max(-low, high)]))
    return int(exponent), float(clip)


class Simulated(nn.Module):
    """A network whose layers see quantised inputs: what hardware for a plan's formats would compute.

    `module` has its weights on their grid already. The inputs of a layer have one grid, found on the calibration
    batches: integers between the least and the greatest value seen; a minifloat, sign included, with the E and c of the
    least squared error. Zero stays zero in both.
    """

    def __init__(self, module: nn.Module, formats: Formats, calibration: Sequence[Tensor]) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).eval()
        chosen = {name: form.activation for name, form in formats.items() if has_grid(form.activation)}
        seen = {name: _Seen() for name in chosen}
        watchers = [self._before(name, seen[name].add) for name in chosen]
        with torch.no_grad():
            for batch in calibration:
                self.module(batch)
        for watcher in watchers:
            watcher.remove()
        self.grids: dict[str, Grid] = {name: seen[name].grid(form) for name, form in chosen.items()}
        """Layer → the grid of its inputs."""
        for name, grid in self.grids.items():
            self._before(name, _rounding(grid))

    def forward(self, images: Tensor) -> Tensor:
        """Outputs for normalised images (N, C, H, W)."""
        outputs: Tensor = self.module(images)
        return outputs

    def _before(self, name: str, act: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        return self.module.get_submodule(name).register_forward_pre_hook(lambda _, inputs: act(inputs[0]))
