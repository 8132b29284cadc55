"""`low_rank`: layers become products of smaller ones by singular value decomposition, and small weights are pruned."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from workloads import Dense, Formats, InputError, LayerFormats, calibration_batches

from .base import Compressed, check_names, formats_of
from .conventional import SPARSITY, STEPS, Conventional, prune_at_once, pruning
from .ops.low_rank import (
    SCHEMES,
    Basis,
    Ranks,
    Scheme,
    bases,
    break_even,
    can_factor,
    factor,
    full_ranks,
    output_covariances,
    pays,
    ranks_of,
)
from .ops.spectrum import Covariance
from .plan import LayerPlan, Plan
from .space import Choice, Family, Space

TAU = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
BY_TAU, SKIP = "tau", "skip"
RANK: tuple[float | str, ...] = (0.1, 0.25, 0.5, BY_TAU, 0.75, 1.0, SKIP)
"""Of one layer: what `tau` says, a share of the break-even rank, or no factoring."""
_IMAGES, _PIXELS = 512, 2**22
"""Training images behind a data-aware decomposition: of large pictures fewer, as many as have so many pixels."""


class LowRank(Conventional):
    """SVD concentrates a layer's information in few weights, then the weights that matter least are pruned.

    Every layer gets the least rank that keeps the share `tau` of its weight's energy Σσ², or the share of its
    break-even rank that the knob `rank` gives for it; a layer whose factors would cost as much as it does stays as it
    is. `scheme` says what a layer becomes (`ops/low_rank.py`): `B`, the default, `spatial`, `tucker`, or `A`, the same
    layer with its low-rank approximation as weight. With `data_aware` the decomposition is that of W·E[xxᵀ]^{1/2}, x
    being the layer's inputs on training images: the least error of the output instead of the weight. It exists for `A`
    and `B`; the other two schemes decompose the weight alone.

    Pruning is that of `conventional`: `sparsity` of all weights after factoring, in `steps` steps during the tuning.
    """

    name = "low_rank"
    summary = "layers factored by SVD, then the smallest weights pruned in steps"
    source = (
        "low-rank approximation that concentrates the information in few weights, then pruning; schemes: Zhang et al. "
        "2016, Jaderberg et al. 2014, Kim et al. 2016; threshold, steps and defaults [our reconstruction]"
    )

    def _space(self, dense: Dense, widths: frozenset[int] = frozenset(range(2, 9))) -> Space:
        by_tau = RANK.index(BY_TAU)
        return Space(
            choices=(
                Choice("tau", TAU, default=TAU.index(0.9)),
                Choice("scheme", ("B", "spatial", "tucker", "A"), default=0),
                Choice("data_aware", (False, True), default=0),
                SPARSITY,
                STEPS,
            ),
            families=(Family("rank", RANK, tuple(_layers(dense)), default=by_tau, reach=3, base=by_tau),),
            ladder_knob="tau",
        )

    def _resolve(self, dense: Dense, knobs: Mapping[str, Any]) -> Plan:
        layers, settings = _layers(dense), pruning(knobs)
        scheme, tau = _scheme(knobs.get("scheme", "B")), float(knobs.get("tau", 0.9))
        if not 0 < tau <= 1:
            raise InputError(f"the share of energy tau is {tau:g}; it must lie in (0, 1]")
        asked: Mapping[str, float | str] = knobs.get("rank", {})
        unknown = sorted(asked.keys() - layers.keys())
        if unknown:
            raise InputError(f"rank: {unknown[0]!r} is no layer that can be factored; those are {', '.join(layers)}")
        data_aware = bool(knobs.get("data_aware", False)) and scheme in ("A", "B")
        found = _bases(dense, scheme, data_aware)
        plans: dict[str, LayerPlan] = {}
        for name, layer in layers.items():
            ranks = _ranks(layer, name, scheme, found[name], tau, asked.get(name, BY_TAU))
            if ranks is not None and pays(layer, scheme, ranks):
                plans[name] = LayerPlan(rank=ranks[0])
                if ranks != ranks_of(layer, scheme, ranks[0]):
                    settings[_inner(name)] = ranks[1]
        if plans:
            settings["scheme"] = scheme
            if data_aware:
                settings["data_aware"] = True
        return Plan(strategy=self.name, layers=plans, settings=settings, notes={"tau": tau})

    def _compress(self, dense: Dense, plan: Plan) -> Compressed:
        check_names(dense, plan)
        wanted = {name: layer.rank for name, layer in plan.layers.items() if layer.rank is not None}
        scheme = _scheme(plan.settings.get("scheme", "B"))
        module = copy.deepcopy(dense.module)
        found = _bases(dense, scheme, bool(plan.settings.get("data_aware", False))) if wanted else {}
        for name, rank in wanted.items():
            layer = module.get_submodule(name)
            if name not in found:
                raise InputError(f"plan: layer {name!r} cannot be factored; those that can are {', '.join(found)}")
            module.set_submodule(name, factor(layer, scheme, _planned(plan, name, rank, layer, scheme), found[name]))
        compressed = Compressed(module, plan, dense.seed, formats=_spread(formats_of(plan), module))
        prune_at_once(compressed)
        return compressed


def _ranks(
    layer: nn.Module, name: str, scheme: Scheme, found: tuple[Basis, ...], tau: float, asked: float | str
) -> Ranks | None:
    """The ranks of one layer, or None where it is to stay as it is."""
    if asked == SKIP:
        return None
    if asked == BY_TAU:
        return tuple(basis.rank(tau) for basis in found)
    if isinstance(asked, str) or not 0 < asked <= 1:
        raise InputError(
            f"the rank of layer {name!r} is {asked!r}; it must be a share of the break-even rank in (0, 1], "
            f"{BY_TAU!r} or {SKIP!r}"
        )
    rank = max(int(asked * break_even(layer, scheme)), 1)
    # The break-even rank itself, where it is whole, saves nothing.
    while rank > 1 and not pays(layer, scheme, ranks_of(layer, scheme, rank)):
        rank -= 1
    return ranks_of(layer, scheme, rank)


def _planned(plan: Plan, name: str, rank: int, layer: nn.Module, scheme: Scheme) -> Ranks:
    """The ranks that a plan gives one layer; raises `InputError` where the layer has not as many."""
    full = full_ranks(layer, scheme)
    ranks = ranks_of(layer, scheme, rank)
    if _inner(name) in plan.settings:
        ranks = ranks[0], int(plan.settings[_inner(name)])
    if rank > full[0] or any(given > most for given, most in zip(ranks, full, strict=True)):
        raise InputError(
            f"plan: layer {name!r} is to have rank {rank}; scheme {scheme} allows at most {', '.join(map(str, full))}"
        )
    return ranks


def _layers(dense: Dense) -> dict[str, nn.Module]:
    """The layers that can be factored, by name; raises `InputError` where there is none."""
    layers = {name: layer for name, layer in dense.module.named_modules() if name and can_factor(layer)}
    if not layers:
        raise InputError(
            f"network {dense.workload.name} has no layer that low_rank can factor: it needs linear layers or "
            "convolutions of one group with more than one input and output"
        )
    return layers


def _bases(dense: Dense, scheme: Scheme, data_aware: bool) -> dict[str, tuple[Basis, ...]]:
    """The decompositions of all layers; made once for `A` and `B` (and once data-aware), `spatial`, and `tucker`."""
    kind = f"{'matrix' if scheme in ('A', 'B') else scheme}{', data-aware' if data_aware else ''}"
    key = f"low_rank bases, {kind}"
    if key not in dense.memo:
        layers = _layers(dense)
        outputs = _outputs(dense, list(layers)) if data_aware else {}
        dense.memo[key] = {name: bases(layer, scheme, outputs.get(name)) for name, layer in layers.items()}
    found: dict[str, tuple[Basis, ...]] = dense.memo[key]
    return found


def _outputs(dense: Dense, layers: list[str]) -> dict[str, Covariance]:
    workload = dense.workload
    images = min(_IMAGES, max(1, _PIXELS // (workload.input_shape[1] * workload.input_shape[2])))
    batches = calibration_batches(workload, dense.splits.train, images, batch_size=max(1, images // 8))
    return output_covariances(dense.module, layers, batches)


def _spread(formats: Formats, module: nn.Module) -> dict[str, LayerFormats]:
    """The formats of a factored layer for each of its factors."""
    spread: dict[str, LayerFormats] = {}
    for name, chosen in formats.items():
        factors = [f"{name}.{child}" for child, _ in module.get_submodule(name).named_children()]
        spread |= dict.fromkeys(factors or [name], chosen)
    return spread


def _scheme(given: Any) -> Scheme:
    if given not in SCHEMES:
        raise InputError(f"low-rank scheme {given!r} is unknown; allowed: {', '.join(SCHEMES)}")
    return cast(Scheme, given)


def _inner(layer: str) -> str:
    """The setting that holds r_in of Tucker-2, where it is not the same share of the channels as r_out, the rank."""
    return f"rank_in.{layer}"
