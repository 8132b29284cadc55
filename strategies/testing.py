"""The contract test that every strategy passes; plug-in authors run it on theirs."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from workloads import Dense, trace, untrained, workload

from .base import Compressed, Strategy
from .ops.blocks import without
from .ops.weights import filters_first
from .plan import Plan


class ContractViolation(AssertionError):
    """What a strategy does against its contract, in one line."""

    exit_code = 2


def check_strategy(strategy: Strategy, subject: Dense | None = None) -> None:
    """Runs `strategy` on `subject` (a small residual network for digits unless given).

    Checked: the space decodes and its plans are resolved, deterministic and survive JSON; compressing is deterministic,
    leaves the dense network alone, runs, agrees with the plan, and has no layer of a dropped branch; tuning in two
    parts equals tuning at once; stages lie in order inside the training; masks hold, and the last stage leaves the
    sparsity that the plan says. Raises `ContractViolation` at a breach.
    """
    subject = subject or untrained(replace(workload("digits/cnn"), name="digits/residual", build=_Residual), seed=0)
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
    gone = _layers(subject.module) - _layers(without(subject, compressed.plan.dropped).module)
    left = sorted(gone & _layers(compressed.module))
    _demand(not left, strategy, f"layer {left[0]!r} belongs to a dropped branch and is still there" if left else "")
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


def _layers(module: nn.Module) -> set[str]:
    """Names of the modules that hold parameters."""
    return {name for name, part in module.named_modules() if any(True for _ in part.parameters(recurse=False))}


class _Residual(nn.Module):
    """Three residual blocks for pictures of 8×8, so that channels are coupled and branches can be dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.block1, self.block2, self.block3 = _Block(8, 8), _Block(8, 16), _Block(16, 16)
        self.pool, self.flatten, self.linear = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.linear(self.flatten(self.pool(self.block3(self.block2(self.block1(x))))))


class _Block(nn.Module):
    """Halves the map where it widens it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = outputs // inputs
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


def _same(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _digest(module: nn.Module) -> tuple[float, ...]:
    return tuple(float(tensor.double().sum()) for tensor in module.state_dict().values())


def _demand(holds: bool, strategy: Strategy, breach: str) -> None:
    if not holds:
        raise ContractViolation(f"strategy {strategy.name!r} breaks its contract: {breach}")
