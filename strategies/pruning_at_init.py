"""Pruning at initialisation: `snip`, `grasp`, `synflow`, `ntk_sap`, and `magnitude` and random beside them.

Each one scores every weight of the untrained network (`ops/saliency.py`) and exists twice. Unstructured (`snip`), one
threshold on all scores masks all but a fraction `density` of the convolution and linear weights, exact to one weight.
Structured (`snip_structured`), one threshold on the sums of the scores over channels decides the widths, and channels
are cut out until the same fraction of the weights is left, or the nearest that whole channels reach; every prune group
keeps one channel at least. The network is then trained from its initial weights as long as a dense one would be.

Iterated, round k of T scores what is left and prunes to density^(k/T).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from workloads import Dense, InputError, Workload, initial

from .base import Compressed, Strategy, check_names, formats_of
from .ops import saliency
from .ops.channels import ratios
from .ops.groups import channel_groups, shrink
from .ops.masks import prune_in_steps, top_global
from .ops.thresholds import channel_sums, weight_counter, widths_for, without_channels
from .ops.weights import filters_first
from .plan import LayerPlan, Plan, Setting
from .space import Choice, Space

DENSITY = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Kept ÷ all weights that a search chooses from; the knob takes any value in (0, 1]."""

Score = Callable[[Mapping[str, Tensor], int], saliency.Scores]
"""(masks, round from 1) → scores, both filters first by layer."""


@dataclass(frozen=True)
class Saliency:
    """One score, and how often it is taken."""

    of: Callable[[Dense], Score]
    published: Callable[[Workload], int] = lambda workload: 1
    """Rounds of scoring and pruning in the paper."""
    fewer: tuple[int, ...] = ()
    """Numbers of rounds that a search may try instead."""
    blind: bool = False
    """The score of a weight does not depend on the others' masks, so that more rounds change nothing."""


class _AtInitialisation(Strategy):
    """What the structured and the unstructured form share: knobs, and scores taken once for plan and network."""

    start = "initial"
    saliency: Saliency

    def _space(self, dense: Dense, widths: frozenset[int] = frozenset(range(2, 9))) -> Space:
        published = self.saliency.published(dense.workload)
        rounds = tuple(sorted({*self.saliency.fewer, published}))
        return Space(
            choices=(
                Choice("density", DENSITY, default=DENSITY.index(0.2)),
                *([Choice("iterations", rounds, default=rounds.index(published))] if len(rounds) > 1 else []),
            ),
            ladder_knob="density",
        )

    def _density(self, knobs: Mapping[str, Any]) -> float:
        density = float(knobs.get("density", 0.2))
        if not 0 < density <= 1:
            raise InputError(
                f"strategy {self.name!r}: density is {density:g}; it must lie in (0, 1]: kept ÷ all weights"
            )
        return density

    def _iterations(self, dense: Dense, asked: Mapping[str, Any]) -> int:
        """The rounds that knobs or settings ask for."""
        rounds = int(asked.get("iterations", self.saliency.published(dense.workload)))
        if rounds < 1 or (rounds > 1 and self.saliency.blind):
            allowed = "1: its scores do not depend on what is pruned" if self.saliency.blind else "1 or more"
            raise InputError(f"strategy {self.name!r}: iterations is {rounds}; allowed is {allowed}")
        return rounds

    def _remembered(self, dense: Dense, key: tuple[Any, ...], compute: Callable[[], Any]) -> Any:
        """The result for `key` (all that it depends on), from the last call where that had the same key.

        Only one is kept: scores are as large as the network.
        """
        known = dense.memo.get("pruning_at_init")
        if known is None or known[0] != (self.name, *key):
            known = (self.name, *key), compute()
            dense.memo["pruning_at_init"] = known
        return known[1]


class MasksAtInit(_AtInitialisation):
    """One threshold on the scores of all weights. Knobs: `density`, `iterations`, and `floor`.

    With `floor` (off by default) every filter keeps one weight at least. Without it a score may take all weights of a
    layer, so that nothing passes it (layer collapse, which SynFlow was made to avoid); the plan's notes name the layer.
    """

    def _resolve(self, dense: Dense, knobs: Mapping[str, Any]) -> Plan:
        sizes = _sizes(dense)
        total, density, floor = sum(sizes.values()), self._density(knobs), bool(knobs.get("floor", False))
        kept, iterations = max(1, round(density * total)), self._iterations(dense, knobs)
        filters = sum(len(filters_first(layer)) for layer in saliency.scored_layers(dense.module).values())
        if floor and kept < filters:
            raise InputError(
                f"strategy {self.name!r}: density {density:g} keeps {kept} weights, fewer than the {filters} filters "
                f"that floor gives one each; ask for {filters / total:.4f} or more"
            )
        masks = top_global(self._scores(dense, kept, iterations, floor), kept)
        left = {name: int(mask.sum()) for name, mask in masks.items()}
        layers = {name: LayerPlan(sparsity=1 - n / sizes[name]) for name, n in left.items() if n < sizes[name]}
        collapsed = [name for name, n in left.items() if n == 0]
        notes: dict[str, Setting] = {"collapsed": ", ".join(collapsed)} if collapsed else {}
        # Of the density what really results, so that equal masks have equal plans.
        settings: dict[str, Setting] = {"density": kept / total, "iterations": iterations, "floor": floor}
        return Plan(strategy=self.name, layers=layers, settings=settings, notes=notes)

    def _compress(self, dense: Dense, plan: Plan) -> Compressed:
        check_names(dense, plan)
        left = {
            name: round((1 - (plan.layers[name].sparsity or 0.0 if name in plan.layers else 0.0)) * size)
            for name, size in _sizes(dense).items()
        }
        iterations, floor = self._iterations(dense, plan.settings), bool(plan.settings.get("floor", False))
        scores = self._scores(dense, sum(left.values()), iterations, floor)
        # One threshold takes the best of every layer, so that the numbers in the plan say which weights stay.
        masks = {
            name: top_global({name: score}, left[name])[name]
            for name, score in scores.items()
            if left[name] < score.numel()
        }
        compressed = Compressed(initial(dense.workload, dense.seed), plan, dense.seed, masks, formats_of(plan))
        compressed.apply_masks(compressed.module)
        return compressed

    def _scores(self, dense: Dense, kept: int, iterations: int, floor: bool) -> Mapping[str, Tensor]:
        def compute() -> Mapping[str, Tensor]:
            everything = saliency.everything(dense.module)
            return prune_in_steps(self.saliency.of(dense), everything, kept, iterations, floor)

        # The density plays no part in a single round.
        return self._remembered(dense, (iterations, floor, kept if iterations > 1 else None), compute)


class ChannelsAtInit(_AtInitialisation):
    """One threshold on the scores of all channels, each the sum over its weights. Knobs: `density`, `iterations`.

    The density counts the same weights as the unstructured form does, so that both compare at equal ones; the nearest
    that whole channels reach is in the plan's notes. Sums are not normalised, so that a score that does not balance the
    layers itself (`magnitude`, `random`) cuts channels of few weights first; SynFlow's sums are those that it
    conserves.
    """

    def _resolve(self, dense: Dense, knobs: Mapping[str, Any]) -> Plan:
        groups = channel_groups(dense)
        if not groups:
            raise InputError(
                f"strategy {self.name!r}: no channels of {dense.workload.name} can be cut; use "
                f"{self.name.removesuffix('_structured')}, which masks weights"
            )
        total, density = sum(_sizes(dense).values()), self._density(knobs)
        iterations = self._iterations(dense, knobs)
        count = weight_counter(dense.module, groups)
        widths = widths_for(count, groups, self._sums(dense, density, iterations), round(density * total))
        settings: dict[str, Setting] = {"iterations": iterations}
        if iterations > 1:  # of a single round the widths say all
            settings["density"] = density
        notes: dict[str, Setting] = {"wanted_density": density, "density": count(widths) / total}
        return Plan(strategy=self.name, channels=ratios(groups, widths), settings=settings, notes=notes)

    def _compress(self, dense: Dense, plan: Plan) -> Compressed:
        check_names(dense, plan)
        groups, iterations = channel_groups(dense), self._iterations(dense, plan.settings)
        sums = self._sums(dense, self._density(plan.settings), iterations)
        keep = {g.name: g.keep(sums[g.name], g.width(plan.channels[g.name])) for g in groups if g.name in plan.channels}
        module = shrink(initial(dense.workload, dense.seed), groups, keep)
        return Compressed(module, plan, dense.seed, formats=formats_of(plan))

    def _sums(self, dense: Dense, density: float, iterations: int) -> Mapping[str, np.ndarray]:
        """Score of every channel in the last round, group → (channels,); those pruned before have −∞."""

        def compute() -> Mapping[str, np.ndarray]:
            groups, masks, score = channel_groups(dense), saliency.everything(dense.module), self.saliency.of(dense)
            total, count = sum(_sizes(dense).values()), weight_counter(dense.module, groups)
            alive = {g.name: np.ones(g.channels, dtype=bool) for g in groups}
            for k in range(1, iterations + 1):
                scores = score(masks, k)
                sums = {g.name: np.where(alive[g.name], channel_sums(scores, g), -np.inf) for g in groups}
                if k < iterations:
                    widths = widths_for(count, groups, sums, round(total * density ** (k / iterations)))
                    keep = {g.name: g.keep(sums[g.name], widths[g.name]) for g in groups}
                    alive = {g.name: np.isin(np.arange(g.channels), keep[g.name]) for g in groups}
                    masks = without_channels(masks, groups, keep)
            return sums

        return self._remembered(dense, (iterations, density if iterations > 1 else None), compute)


def _sizes(dense: Dense) -> dict[str, int]:
    """Weights of every layer that is scored."""
    return {name: filters_first(layer).numel() for name, layer in saliency.scored_layers(dense.module).items()}


def _untrained(dense: Dense, seed: int | None = None) -> nn.Module:
    return initial(dense.workload, dense.seed if seed is None else seed).to(dense.workload.device)


def _random(dense: Dense) -> Score:
    return lambda masks, k: saliency.random(dense.module, dense.seed)


def _magnitude(dense: Dense) -> Score:
    module = _untrained(dense)
    return lambda masks, k: saliency.magnitude(module)


def _snip(dense: Dense) -> Score:
    module, batches = _untrained(dense), saliency.balanced_batches(dense.workload, dense.splits.train, dense.seed)
    return lambda masks, k: saliency.snip(module, masks, batches)


def _grasp(dense: Dense) -> Score:
    module, batches = _untrained(dense), saliency.balanced_batches(dense.workload, dense.splits.train, dense.seed)
    return lambda masks, k: saliency.grasp(module, masks, batches)


def _synflow(dense: Dense) -> Score:
    module = _untrained(dense)
    return lambda masks, k: saliency.synflow(module, masks, dense.workload.input_shape)


def _ntk_sap(dense: Dense) -> Score:
    def draws(k: int) -> Iterator[tuple[nn.Module, Tensor, Mapping[str, Tensor]]]:
        for repeat in range(_ntk_sap_schedule(dense.workload)[1]):
            draw = torch.Generator().manual_seed(saliency.stream(dense.seed, "ntk_sap", k, repeat))
            for place, inputs in enumerate(saliency.noise_batches(dense.workload, draw)):
                module = _untrained(dense, saliency.stream(dense.seed, "ntk_sap weights", k, repeat, place))
                yield module, inputs.to(dense.workload.device), saliency.normal_like(module, draw)

    return lambda masks, k: saliency.ntk_sap(draws(k), masks)


def _ntk_sap_schedule(workload: Workload) -> tuple[int, int]:
    """Rounds T and repeats R a round: published for 10 and for 100 classes, the former for up to 20 [ours]."""
    return (20, 5) if workload.classes <= 20 else (100, 1)


RANDOM = Saliency(_random, blind=True)
MAGNITUDE = Saliency(_magnitude, blind=True)
SNIP = Saliency(_snip, fewer=(1, 10))
GRASP = Saliency(_grasp)
SYNFLOW = Saliency(_synflow, published=lambda workload: 100, fewer=(1, 10))
NTK_SAP = Saliency(_ntk_sap, published=lambda workload: _ntk_sap_schedule(workload)[0], fewer=(1, 5))

_STRUCTURED = "; structured by the sum of the scores over a channel [our reconstruction]"
_LEE = "Lee, Ajanthan and Torr, SNIP, ICLR 2019, section 4"
_WANG = "Wang, Zhang and Grosse, GraSP, ICLR 2020, section 4"
_TANAKA = "Tanaka, Kunin, Yamins and Ganguli, SynFlow, NeurIPS 2020, section 6"
_NTK = "Wang, Li and Sun, NTK-SAP, ICLR 2023, algorithm 1"


class RandomMask(MasksAtInit):
    name = "random_mask"
    saliency = RANDOM
    summary = "control: weights masked at random before training"
    source = "control (random weights, one threshold for the whole network)"


class RandomStructured(ChannelsAtInit):
    name = "random_structured"
    saliency = RANDOM
    summary = "control: channels cut by random scores before training"
    source = RandomMask.source + _STRUCTURED


class Magnitude(MasksAtInit):
    name = "magnitude"
    saliency = MAGNITUDE
    summary = "masks the smallest initial weights before training"
    source = "magnitude pruning at initialisation, as in Frankle et al., Pruning Neural Networks at Init, ICLR 2021"


class MagnitudeStructured(ChannelsAtInit):
    name = "magnitude_structured"
    saliency = MAGNITUDE
    summary = "cuts channels of the smallest initial weights before training"
    source = Magnitude.source + _STRUCTURED


class Snip(MasksAtInit):
    name = "snip"
    saliency = SNIP
    summary = "masks the weights whose removal changes the loss least, before training"
    source = _LEE


class SnipStructured(ChannelsAtInit):
    name = "snip_structured"
    saliency = SNIP
    summary = "cuts the channels whose removal changes the loss least, before training"
    source = _LEE + _STRUCTURED


class Grasp(MasksAtInit):
    name = "grasp"
    saliency = GRASP
    summary = "masks the weights whose removal keeps the gradient's flow, before training"
    source = _WANG


class GraspStructured(ChannelsAtInit):
    name = "grasp_structured"
    saliency = GRASP
    summary = "cuts the channels whose removal keeps the gradient's flow, before training"
    source = _WANG + _STRUCTURED


class SynFlow(MasksAtInit):
    name = "synflow"
    saliency = SYNFLOW
    summary = "masks the weights on the weakest paths, in rounds and without data, before training"
    source = _TANAKA


class SynFlowStructured(ChannelsAtInit):
    name = "synflow_structured"
    saliency = SYNFLOW
    summary = "cuts the channels on the weakest paths, in rounds and without data, before training"
    source = _TANAKA + _STRUCTURED


class NtkSap(MasksAtInit):
    name = "ntk_sap"
    saliency = NTK_SAP
    summary = "masks the weights that the spectrum of the neural tangent kernel misses least, before training"
    source = _NTK


class NtkSapStructured(ChannelsAtInit):
    name = "ntk_sap_structured"
    saliency = NTK_SAP
    summary = "cuts the channels that the spectrum of the neural tangent kernel misses least, before training"
    source = _NTK + _STRUCTURED


PRUNING_AT_INIT: tuple[type[Strategy], ...] = (
    RandomMask,
    Magnitude,
    Snip,
    Grasp,
    SynFlow,
    NtkSap,
    RandomStructured,
    MagnitudeStructured,
    SnipStructured,
    GraspStructured,
    SynFlowStructured,
    NtkSapStructured,
)
