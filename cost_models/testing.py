"""The contract test that every cost model passes: ours in our own tests, a plug-in author's in theirs.

    from cost_models.testing import check_cost_model

    def test_contract():
        check_cost_model(MyTarget())

`shrinkboard targets check NAME` runs the same. It needs no test framework.
"""

from __future__ import annotations

import itertools
import math
import pickle
import re
from typing import Any, NoReturn

import torch
from torch import nn

from workloads import FP32, Format, InputError, LayerFormats, trace

from .base import UNITS, Cost, CostModel, Deployable, Figure, Reference

SPEEDUP_TOLERANCE = 0.25
"""How far the reference's own speedup may lie from 1 on a measured target, a noisy machine allowed for."""
FORMATS = tuple(
    Format.parse(text)
    for text in ("fp32", "fp16", "bf16", "int1", "int4", "int8", "int9", "int16", "mf3", "mf8", "mf16")
)


_NO_COST = ("power", "lut", "ff", "dsp", "bram18", "uram")
"""Figures that may fall for a bigger network: what a slower design draws, and what it takes of a device."""


class ContractViolation(Exception):
    """A cost model breaks a promise of `CostModel`: one line of which model, which promise, what came instead."""

    exit_code = 2


def check_cost_model(model: CostModel) -> None:
    """Runs `model` on small networks and raises `ContractViolation` at the first broken promise of `CostModel`.

    Takes seconds on a measured target, minutes where a meter reads its energy. The model must take CNNs of conv, batch
    norm, ReLU, pool and linear layers.
    """
    _check_description(model)
    _check_executed(model)
    dense, wide, int8 = sample_deployable(), sample_deployable(width=32), sample_deployable(form="int8")
    reference = _try(model, "freeze()", lambda: model.freeze(dense))
    _check_reference(model, reference)
    costs = {
        "the dense network": _cost(model, dense, reference),
        "a network of four times the width": _cost(model, wide, reference),
        "an int8 network": _cost(model, int8, reference),
    }
    for what, cost in costs.items():
        _check_cost(model, what, cost, reference)
    _check_own_speedup(model, costs["the dense network"])
    copy = _try(model, "pickle", lambda: pickle.loads(pickle.dumps(model)))
    if copy.key != model.key:
        _fail(
            model,
            f"key is {model.key!r}, after pickling {copy.key!r}; a target is filed under one key in every process",
        )
    if model.kind == "modelled":
        _check_deterministic(model, dense, costs["the dense network"])
        _check_deterministic(copy, dense, costs["the dense network"])
        _check_bigger_is_not_cheaper(model, costs["the dense network"], costs["a network of four times the width"])
    _check_predict(model, dense)
    _check_input(model, dense, reference)


def sample_deployable(width: int = 8, form: str = "fp32") -> Deployable:
    """A small untrained CNN on 3×16×16 images: conv, batch norm, ReLU, depthwise conv, conv, pool, linear.

    `width` channels a convolution; every layer in the number format `form`; always the same weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, groups=width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(2 * width, 10),
        ).eval()
        example = torch.randn(1, 3, 16, 16)
        calibration = [torch.randn(8, 3, 16, 16)]
    chosen = LayerFormats(Format.parse(form), Format.parse(form))
    layers = [layer.name for layer in trace(module, example).compute_layers]
    formats = {} if form == "fp32" else {layer: chosen for layer in layers}
    return Deployable(module, example, calibration, trace(module, example, formats))


def _fail(model: CostModel, what: str, cause: BaseException | None = None) -> NoReturn:
    name = getattr(model, "name", type(model).__name__)
    raise ContractViolation(f"target {name} breaks its contract: {what}") from cause


def _try(model: CostModel, what: str, call: Any) -> Any:
    try:
        return call()
    except ContractViolation:
        raise
    except Exception as error:
        line = (str(error).strip().splitlines() or [""])[0]
        _fail(model, f"{what} fails with {type(error).__name__}: {line}", error)


def _cost(model: CostModel, candidate: Deployable, reference: Reference) -> Cost:
    return _try(model, "cost()", lambda: model.cost(candidate, reference))


def _check_description(model: CostModel) -> None:
    for attribute in ("name", "kind", "summary", "figures"):
        if not getattr(model, attribute, None):
            _fail(model, f"it has no {attribute}")
    if model.kind not in ("measured", "modelled"):
        _fail(model, f"kind is {model.kind!r}; allowed: measured, modelled")
    if "\n" in model.summary:
        _fail(model, "summary has more than one line")
    unknown = sorted(set(model.figures) - set(UNITS))
    if unknown:
        _fail(model, f"figures names {unknown[0]!r}; allowed: {', '.join(UNITS)}")
    if model.objective not in model.figures:
        _fail(model, f"objective {model.objective!r} is not one of its figures {', '.join(model.figures)}")
    plain, fingerprinted = re.escape(model.name), re.escape(model.name) + r"@[0-9A-Za-z._-]+"
    key = _try(model, "key", lambda: model.key)
    if model.kind == "modelled" and not re.fullmatch(plain, key):
        _fail(model, f"key is {key!r}; that of a modelled target is its name")
    if model.kind == "measured" and not re.fullmatch(fingerprinted, key):
        _fail(model, f"key is {key!r}; that of a measured target is NAME@FINGERPRINT of machine and runtime")


def _check_executed(model: CostModel) -> None:
    for weight, activation in itertools.product(FORMATS, repeat=2):
        once = _try(model, "executed()", lambda pair=(weight, activation): model.executed(*pair))
        twice = _try(model, "executed()", lambda pair=once: model.executed(*pair))
        if once != twice:
            _fail(
                model,
                f"executed() is not idempotent: {weight}/{activation} runs as {once[0]}/{once[1]}, "
                f"which runs as {twice[0]}/{twice[1]}",
            )
    runs = model.executed(FP32, FP32)
    kinds = {form.kind for form in runs}
    allowed = {"int"} if model.kind == "modelled" else {"float", "bfloat", "tensorfloat"}
    if runs != (FP32, FP32) and not kinds <= allowed:
        _fail(
            model,
            "executed() runs fp32 as something else; the reference is fp32, another floating-point format where all of "
            "a measured target runs in it, or fixed point where a modelled target has no floating point",
        )


def _check_reference(model: CostModel, reference: Reference) -> None:
    latency = reference.latency
    if "latency" not in model.figures:
        if latency is not None:
            _fail(model, f"freeze() gives a latency of {latency} s, which is not one of its figures")
    elif latency is None or not math.isfinite(latency) or latency <= 0:
        _fail(model, f"freeze() gives a latency of {latency} s; expected a positive number of seconds")


def _check_cost(model: CostModel, what: str, cost: Cost, reference: Reference) -> None:
    if cost.target != model.key:
        _fail(model, f"the cost of {what} is filed under {cost.target!r}, the target under {model.key!r}")
    for name in model.figures:
        figure = cost.figures[name]
        _check_figure(model, f"{name} of {what}", figure)
        if figure.kind != model.kind:
            _fail(model, f"{name} of {what} is {figure.kind} on a {model.kind} target")
    if cost.figures[model.objective].value is None:
        _fail(model, f"{model.objective} of {what}, which a search minimises, has no value")
    if ("latency" in model.figures) != (cost.speedup is not None):
        _fail(model, f"the cost of {what} has speedup {cost.speedup}; a target with a latency gives one, others None")
    if cost.speedup is not None:
        _check_figure(model, f"speedup of {what}", cost.speedup)
        latency = cost.figures["latency"].value
        if latency and reference.latency and cost.speedup.value:
            expected = reference.latency / latency
            if abs(cost.speedup.value / expected - 1) > 0.01:
                _fail(
                    model,
                    f"speedup of {what} is {cost.speedup.value:.4g}, but its latency of {latency:.4g} s beside the "
                    f"frozen {reference.latency:.4g} s says {expected:.4g}",
                )


def _check_figure(model: CostModel, what: str, figure: Figure) -> None:
    if figure.value is None:
        if not figure.reason:
            _fail(model, f"{what} is absent without a reason")
        return
    bounds = [bound for bound in (figure.value, figure.low, figure.high) if bound is not None]
    if any(not math.isfinite(bound) or bound < 0 for bound in bounds):
        _fail(model, f"{what} is {figure.value} ({figure.low} to {figure.high}); figures are finite and not negative")
    if (figure.low is not None and figure.low > figure.value) or (
        figure.high is not None and figure.high < figure.value
    ):
        _fail(model, f"{what} is {figure.value}, outside its interval {figure.low} to {figure.high}")


def _check_own_speedup(model: CostModel, own: Cost) -> None:
    if own.speedup is None or own.speedup.value is None:
        return
    tolerance = 1e-9 if model.kind == "modelled" else SPEEDUP_TOLERANCE
    if abs(own.speedup.value - 1) > tolerance:
        _fail(model, f"the reference beside itself has a speedup of {own.speedup.value:.4g}, not 1")


def _check_deterministic(model: CostModel, dense: Deployable, before: Cost) -> None:
    again = _cost(model, dense, _try(model, "freeze()", lambda: model.freeze(dense)))
    for name in model.figures:
        if again.figures[name] != before.figures[name]:
            _fail(
                model,
                f"{name} of one network is {before.figures[name].value}, then {again.figures[name].value}; "
                "a modelled target is deterministic",
            )


def _check_bigger_is_not_cheaper(model: CostModel, small: Cost, big: Cost) -> None:
    for name in model.figures:
        less, more = small.figures[name].value, big.figures[name].value
        if less is None or more is None or name in _NO_COST:
            continue
        if (more > less) if name == "throughput" else (more < less):
            _fail(model, f"{name} is {less:.4g} for a network and {more:.4g} for one of four times the width")


def _check_predict(model: CostModel, dense: Deployable) -> None:
    images = torch.cat([dense.example, -dense.example])
    outputs = _try(model, "predict()", lambda: model.predict(dense, images))
    if outputs is None:
        return
    with torch.no_grad():
        expected = dense.module(images).numpy()
    if outputs.shape != expected.shape:
        _fail(model, f"predict() gives outputs of shape {outputs.shape} where the network gives {expected.shape}")
    if abs(outputs - expected).max() > 1e-2 * max(1.0, abs(expected).max()):
        _fail(
            model,
            f"predict() of the fp32 network is off by {abs(outputs - expected).max():.3g} from the network itself",
        )


class _Branching(nn.Module):
    """Cannot be traced: which way it goes depends on the values that it is given."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)) if images.sum() > 0 else images.amax((2, 3))


def _check_input(model: CostModel, dense: Deployable, reference: Reference) -> None:
    """A network without layers whose module cannot be traced: a target that reads only the table may cost it."""
    table = trace(nn.Sequential(nn.Flatten()), dense.example)
    odd = Deployable(_Branching().eval(), dense.example, dense.calibration, table)
    try:
        model.cost(odd, reference)
    except InputError as error:
        if "\n" in str(error):
            _fail(model, f"an InputError has more than one line: {str(error).splitlines()[0]!r}")
    except Exception as error:
        _fail(
            model,
            f"a network that it cannot take raises {type(error).__name__} ({(str(error).splitlines() or [''])[0]}), "
            "not InputError",
            error,
        )
