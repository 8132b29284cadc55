"""The contract test that every strategy passes; plug-in authors run it on theirs."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from workloads import Dense, dense, trace, workload

from .base import Compressed, Strategy
from .ops.weights import filters_first
from .plan import Plan


class ContractViolation(AssertionError):
    """What a strategy does against its contract, in one line."""

    exit_code = 2


def check_strategy(strategy: Strategy, subject: Dense | None = None) -> None:
    """Runs `strategy` on `subject` (the dense `digits/cnn` unless given); raises `ContractViolation` at a breach.

    Checked: the space decodes and its plans are resolved, deterministic and survive JSON; compressing is deterministic,
    leaves the dense network alone, runs, and agrees with the plan; tuning in two parts equals tuning at once; stages
    lie in order inside the training; masks hold, and the last stage leaves the sparsity that the plan says.
    """
    subject = subject or dense(workload("digits/cnn"), seed=0)
    before = _digest(subject.module)
    space = strategy.space(subject)
    for params in [
        space.ladder(3)[-1] if space.ladder(3) else {},
        {name: low for name, (low, _) in space.ranges().items()},
    ]:
        knobs = space.decode(params)
        plan = strategy.plan(subject, knobs)
        _demand(plan == strategy.plan(subject, knobs), strategy, "plan() is not deterministic")
        _demand(plan.strategy == strategy.name, strategy, f"plan() names strategy {plan.strategy!r}")
        _demand(Plan.from_json(plan.to_json()).digest == plan.digest, strategy, "a plan does not survive JSON")
        compressed = strategy.compress(subject, plan)
        _demand(_digest(subject.module) == before, strategy, "compress() changed the dense network")
        again = strategy.compress(subject, plan)
        _demand(_same(compressed.module, again.module), strategy, "compress() is not deterministic")
        _check_masks(strategy, compressed)
        _check_structure(strategy, subject, compressed, final=not strategy.stages(plan, 1000))
        stages = list(strategy.stages(plan, 1000))
        _demand(
            stages == sorted(set(stages)) and all(0 < step <= 1000 for step in stages),
            strategy,
            f"stages() of 1000 steps are {stages}, not ascending within 1…1000",
        )
    at_once, in_parts = copy.deepcopy(compressed), copy.deepcopy(compressed)
    strategy.tune(at_once, subject, 2.0, total_epochs=2.0)
    state = strategy.tune(in_parts, subject, 1.0, total_epochs=2.0)
    strategy.tune(in_parts, subject, 1.0, total_epochs=2.0, state=state)
    _demand(_same(at_once.module, in_parts.module), strategy, "tune() in two parts differs from tune() at once")
    _check_masks(strategy, at_once)
    _check_structure(strategy, subject, at_once, final=True, widths=not strategy.stages(plan, 1000))
    _demand(_digest(subject.module) == before, strategy, "tune() changed the dense network")


def _check_masks(strategy: Strategy, compressed: Compressed) -> None:
    for name, mask in compressed.masks.items():
        weight = filters_first(compressed.module.get_submodule(name))
        _demand(bool((weight[~mask] == 0).all()), strategy, f"masked weights of layer {name!r} are not zero")


def _check_structure(
    strategy: Strategy, subject: Dense, compressed: Compressed, *, final: bool, widths: bool = True
) -> None:
    """`final`: no stage is to come, the sparsity is the plan's. `widths`: no stage has been, the widths are."""
    example = torch.zeros(2, *subject.workload.input_shape)
    with torch.no_grad():
        outputs = compressed.module.eval()(example)
        wanted = subject.module(example)
    _demand(
        outputs.shape == wanted.shape,
        strategy,
        f"outputs are {tuple(outputs.shape)}, of the dense {tuple(wanted.shape)}",
    )
    _demand(bool(torch.isfinite(outputs).all()), strategy, "outputs are not finite")
    network = trace(compressed.module, example[:1], compressed.formats, compressed.nonzeros())
    for name, ratio in compressed.plan.channels.items() if widths else ():
        original = len(filters_first(subject.module.get_submodule(name)))
        _demand(
            network[name].out_channels == round(ratio * original),
            strategy,
            f"layer {name!r} has {network[name].out_channels} channels, the plan says {ratio * original:g}",
        )
    for name, layer in compressed.plan.layers.items() if final else ():
        if layer.sparsity is not None:
            kept = network[name].nonzeros.sum() / network[name].weights
            _demand(
                np.isclose(1 - kept, layer.sparsity),
                strategy,
                f"layer {name!r} is {1 - kept:.4f} sparse, not as planned",
            )


def _same(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _digest(module: nn.Module) -> tuple[float, ...]:
    return tuple(float(tensor.double().sum()) for tensor in module.state_dict().values())


def _demand(holds: bool, strategy: Strategy, breach: str) -> None:
    if not holds:
        raise ContractViolation(f"strategy {strategy.name!r} breaks its contract: {breach}")
