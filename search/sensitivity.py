"""What the loss suffers from shrinking one part of a trained network, before any training: the table a guide reads.

Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, section 3.2 (sensitivity of each layer to its pruning).
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter, model_validator
from sklearn.isotonic import IsotonicRegression
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from strategies import (
    ChannelGroup,
    Plan,
    Simulated,
    channel_groups,
    formats_of,
    l1_scores,
    quantised,
    shrink,
    weight_quantiser,
)
from workloads import (
    VOID,
    Dense,
    Format,
    LayerFormats,
    Progress,
    fold_batch_norm,
    kept,
    normalise,
)

from .rerun import Rerun

RATIOS = (0.1, 0.25, 0.4, 0.6, 0.8)
"""Keep ratios that are tried; those between are interpolated."""
BITS = (2, 3, 4, 6, 8)
"""Widths that are tried, as far as they are asked for; those between are interpolated."""
IMAGES, PIXELS = 1024, 2**20
"""Pictures of the calibration subset; of large pictures as many as have so many pixels, but `FEWEST`."""
FEWEST = 8
BATCH_PIXELS = 2**17
"""Of a batch: networks at 32×32 run twice as fast in batches of 128 as in larger ones, by the caches."""
NORM_PART = 4
"""One batch in so many is what batch-norm statistics are taken from: 256 pictures of 1,024."""
_VERSION = 1
"""Of the method; raise it when equal inputs give other figures, and the cache starts anew."""

Side = Literal["weight", "activation"]


class Curve(BaseModel):
    """The change of loss and accuracy over the levels of one part of a network, all else untouched."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    levels: tuple[float, ...]
    """Keep ratios that resulted, or bits; ascending."""
    loss: tuple[float, ...]
    """Increase of the mean cross-entropy in nats, not negative, falling with the level."""
    accuracy: tuple[float, ...]
    """Change of the fraction of right pictures (of pixels where they are segmented), as it was measured."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not 0 < len(self.levels) == len(self.loss) == len(self.accuracy) or list(self.levels) != sorted(self.levels):
            raise ValueError("a curve has ascending levels with a loss and an accuracy each")
        return self

    def loss_at(self, levels: Sequence[float] | np.ndarray) -> np.ndarray:
        """Increase of the loss at any levels, (n,): between two measured ones on the straight line, beyond as there."""
        return np.interp(np.asarray(levels, dtype=float), self.levels, self.loss)


@dataclass(frozen=True)
class Sensitivity:
    """The curves of one network; what is in none of them is taken to cost no accuracy."""

    channels: Mapping[str, Curve] = field(default_factory=dict)
    """Prune group → curve over the keep ratio."""
    weights: Mapping[str, Curve] = field(default_factory=dict)
    """Layer → curve over the bits of its weights."""
    activations: Mapping[str, Curve] = field(default_factory=dict)
    """Layer → curve over the bits of its input activations."""

    def loss(self, plan: Plan) -> float:
        """Predicted increase of the loss under a plan, in nats, before training: the sum over all that it changes."""
        formats = formats_of(plan)
        changes = [
            *((self.channels.get(name), ratio) for name, ratio in plan.channels.items()),
            *((self.weights.get(name), form.weight.bits) for name, form in formats.items()),
            *((self.activations.get(name), form.activation.bits) for name, form in formats.items()),
        ]
        return float(sum(curve.loss_at([level])[0] for curve, level in changes if curve is not None))


def width_sensitivity(
    dense: Dense, ratios: Sequence[float] = RATIOS, progress: Progress | None = None
) -> dict[str, Curve]:
    """Prune group → its curve over the keep ratio: the group cut alone, channels of the largest L1 norm kept.

    Batch norm is re-estimated after every cut, and for the uncut network that it is compared with. Deterministic, and
    kept below `cache_folder()`. Takes 22 s for ResNet-20 on CIFAR-10 (12 groups, 5 ratios, one thread), less than a
    training epoch for the networks that we know. A network with dropped branches is a `Dense` of its own.
    """
    groups, subset = channel_groups(dense), _Subset.of(dense)
    content = {"groups": [(group.name, group.channels) for group in groups], "ratios": sorted(ratios)}
    measure = partial(_measure_widths, dense, groups, sorted(ratios), subset, progress)
    return _kept_curves(dense, subset, "width", content, measure)


def format_sensitivity(
    dense: Dense, side: Side, formats: Mapping[str, Sequence[Format]], progress: Progress | None = None
) -> dict[str, Curve]:
    """Layer → its curve over the bits of its weights, or of its input activations, all else in fp32.

    `formats` gives every layer its formats, all of one kind. Weights are those of the network with batch norm folded.
    Deterministic, kept as `width_sensitivity` is. For ResNet-20 weights of 2 to 8 bits take 25 s on one thread,
    activations of 4 to 8 bits 20 s.
    """
    subset = _Subset.of(dense)
    tried = {layer: _tried(forms) for layer, forms in formats.items()}
    content = {layer: [str(form) for form in forms] for layer, forms in sorted(tried.items())}
    measure = partial(_measure_formats, dense, side, tried, subset, progress)
    return _kept_curves(dense, subset, side, content, measure)


@dataclass(frozen=True)
class _Subset:
    """The calibration subset, in batches."""

    images: list[Tensor]
    """Normalised, (N, C, H, W), channels last."""
    targets: list[Tensor]
    key: str
    """Digest of pictures and targets."""

    @classmethod
    def of(cls, dense: Dense) -> _Subset:
        workload, split = dense.workload, dense.splits.train
        pixels = math.prod(workload.input_shape[1:])
        size = max(1, min(256, BATCH_PIXELS // pixels))
        chosen = np.random.default_rng(0).permutation(len(split))[: min(IMAGES, max(FEWEST, PIXELS // pixels))]
        parts = [split.batch(chosen[start : start + size]) for start in range(0, len(chosen), size)]
        whole = hashlib.sha256()
        for images, targets in parts:
            whole.update(images.contiguous().numpy().tobytes())
            whole.update(targets.contiguous().numpy().tobytes())
        device = torch.device(workload.device)
        return cls(
            [normalise(images.to(device), workload) for images, _ in parts],
            [targets.to(device) for _, targets in parts],
            whole.hexdigest(),
        )

    @property
    def norm_batches(self) -> int:
        """Batches that batch-norm statistics are taken from."""
        return max(1, len(self.images) // NORM_PART)


@dataclass(frozen=True)
class _Score:
    loss: float
    accuracy: float


def _measure_widths(
    dense: Dense, groups: Sequence[ChannelGroup], ratios: Sequence[float], subset: _Subset, progress: Progress | None
) -> dict[str, Curve]:
    base = _placed(copy.deepcopy(dense.module), dense)
    rerun = Rerun(base, subset.images)
    untouched = _score(rerun, base, subset, renew_norms=True)
    scores = {group.name: l1_scores(dense.module, group) for group in groups}
    places = {group.name: rerun.place([part.layer for part in group.slices]) for group in groups}
    curves, done = {}, 0
    for group in sorted(groups, key=lambda group: places[group.name]):
        rerun.advance(places[group.name])
        found = {group.channels: untouched}
        for ratio in ratios:
            width = group.width(ratio)
            if width not in found:
                keep = {group.name: group.keep(scores[group.name], width)}
                small = _placed(shrink(dense.module, groups, keep), dense)
                found[width] = _score(rerun, small, subset, renew_norms=True)
            done += 1
            if progress:
                progress(done, len(groups) * len(ratios))
        widths = sorted(found)
        levels = [width / group.channels for width in widths]
        curves[group.name] = curve(levels, [found[width] for width in widths], untouched)
    return curves


def _measure_formats(
    dense: Dense, side: Side, formats: Mapping[str, Sequence[Format]], subset: _Subset, progress: Progress | None
) -> dict[str, Curve]:
    base = _placed(fold_batch_norm(dense.module), dense)
    rerun = Rerun(base, subset.images)
    untouched = _score(rerun, base, subset)
    places = {layer: rerun.place([layer]) for layer in formats}
    curves, done, total = {}, 0, sum(map(len, formats.values()))
    for layer in sorted(formats, key=lambda layer: places[layer]):
        rerun.advance(places[layer])
        found = []
        for form in formats[layer]:
            if side == "weight":
                changed = quantised(base, {layer: weight_quantiser(str(form))})
            else:
                changed = Simulated(base, {layer: LayerFormats(activation=form)}, subset.images[:1]).module
            found.append(_score(rerun, changed, subset))
            done += 1
            if progress:
                progress(done, total)
        curves[layer] = curve([form.bits for form in formats[layer]], found, untouched)
    return curves


def curve(levels: Sequence[float], found: Sequence[_Score], untouched: _Score) -> Curve:
    """The curve through what was found at ascending levels: losses made to fall with the level, least squares."""
    # A network that computes NaN or inf is worse than any other: as bad as ten times guessing.
    worst = 10.0 * max(1.0, untouched.loss)
    rises = [score.loss - untouched.loss if math.isfinite(score.loss) else worst for score in found]
    falling = IsotonicRegression(y_min=0.0, increasing=False).fit_transform(np.asarray(levels, dtype=float), rises)
    return Curve(
        levels=tuple(map(float, levels)),
        loss=tuple(map(float, falling)),
        accuracy=tuple(score.accuracy - untouched.accuracy for score in found),
    )


def _score(rerun: Rerun, module: nn.Module, subset: _Subset, renew_norms: bool = False) -> _Score:
    """Mean cross-entropy and accuracy of `module` on the subset; `renew_norms` changes its statistics in place."""
    if renew_norms:
        with _renewing(module):
            for _ in rerun.outputs(module, subset.norm_batches):
                pass
    loss = right = counted = 0.0
    for logits, targets in zip(rerun.outputs(module), subset.targets, strict=True):
        loss += float(functional.cross_entropy(logits, targets, ignore_index=VOID, reduction="sum"))
        right += float((logits.argmax(1) == targets).sum())
        counted += float((targets != VOID).sum())
    return _Score(loss / counted, right / counted)


@contextmanager
def _renewing(module: nn.Module) -> Iterator[None]:
    """Inside, batch norms replace their statistics by averages over what they see; those that see nothing keep them."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    modes = [(norm.training, norm.momentum) for norm in norms]

    for norm in norms:
        norm.train()
        norm.momentum = None  # cumulative average: from the first batch after zero on, nothing of before is left
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.zero_()
    try:
        yield
    finally:
        for norm, (training, momentum) in zip(norms, modes, strict=True):
            norm.train(training)
            norm.momentum = momentum


def _placed(module: nn.Module, dense: Dense) -> nn.Module:
    """In eval mode, where and as the pictures lie."""
    module = module.eval().to(dense.workload.device)
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs


def _tried(formats: Sequence[Format]) -> list[Format]:
    """Those of the formats that are measured: of the widths in `BITS`, and the narrowest and the widest."""
    ordered = sorted(formats, key=lambda form: form.bits)
    return [form for form in ordered if form.bits in BITS or form in (ordered[0], ordered[-1])]


_CURVES = TypeAdapter(dict[str, Curve])


def _kept_curves(
    dense: Dense, subset: _Subset, what: str, content: Mapping[str, Any], measure: Callable[[], dict[str, Curve]]
) -> dict[str, Curve]:
    """The curves from the cache, else measured and put there; named by everything that they depend on."""
    key = {
        "version": _VERSION,
        "torch": torch.__version__,
        "dense": dense.digest,
        "structure": repr(dense.module),
        "data": subset.key,
        "what": what,
        "content": content,
    }
    return kept("sensitivity", key, _CURVES, measure)
