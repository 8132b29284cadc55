"""Every target of ours keeps the contract; models that break one promise each are found out, by that promise."""

import itertools
from dataclasses import replace

import pytest

from cost_models import (
    ContractViolation,
    CostModel,
    Counts,
    CpuOnnxRuntime,
    Figure,
    Reference,
    check_cost_model,
    registry,
    target,
    target_names,
)
from cost_models.timing import Effort
from workloads import FP32, Format

QUICK = Effort(goal=0.05, budget=1.0, pairs=30)


@pytest.mark.parametrize("name", [name for name in target_names() if name not in registry.MEASURED])
def test_our_modelled_targets_keep_the_contract(name):
    check_cost_model(target(name))


def test_our_measured_target_keeps_the_contract():
    check_cost_model(CpuOnnxRuntime(QUICK, QUICK))


class Toy(CostModel):
    """A target that keeps the contract: a nanosecond a MAC."""

    name, kind, summary, figures = "toy", "modelled", "a toy", ("latency", "energy", "memory")

    def _latency(self, deployable):
        return max(layer.macs for layer in deployable.network.layers) * 1e-9 if deployable.network.layers else 0.0

    def _cost(self, candidate, reference):
        base = Counts().cost(candidate, Reference(reference.deployable, None))
        latency = self._latency(candidate)
        return replace(
            base,
            target=self.key,
            figures={
                "latency": Figure(latency, self.kind),
                "energy": Figure(None, self.kind, reason="nobody knows"),
                "memory": Figure(1000.0, self.kind),
            },
            speedup=Figure(reference.latency / latency, self.kind)
            if latency
            else Figure(None, self.kind, reason="empty"),
        )


COUNTER = itertools.count(1)


class Nameless(Toy):
    name = ""


class TwoLines(Toy):
    summary = "a\ntoy"


class OddKind(Toy):
    kind = "guessed"


class UnknownFigure(Toy):
    figures = ("latency", "colour")


class NoObjective(Toy):
    objective = "throughput"


class MeasuredWithoutFingerprint(Toy):
    kind = "measured"


class ModelledWithFingerprint(Toy):
    key = "toy@12345678"


class RestlessFormats(Toy):
    def executed(self, weight, activation):
        return (Format("int", weight.bits - 1) if weight.kind == "int" and weight.bits > 1 else FP32), FP32


class HalvedReference(Toy):
    def executed(self, weight, activation):
        return Format("float", 16), Format("float", 16)


class NoLatency(Toy):
    def _latency(self, deployable):
        return None


class LatencyNobodyAskedFor(Counts):
    def _latency(self, deployable):
        return 1.0


class Changed(Toy):
    """Answers as `Toy`, with one thing changed."""

    def change(self, cost):
        raise NotImplementedError

    def _cost(self, candidate, reference):
        return self.change(super()._cost(candidate, reference))


class MissingFigure(Changed):
    def change(self, cost):
        return replace(cost, figures={name: cost.figures[name] for name in ("latency", "memory")})


class NegativeMemory(Changed):
    def change(self, cost):
        return replace(cost, figures={**cost.figures, "memory": Figure(-1.0, self.kind)})


class AbsentObjective(Changed):
    def change(self, cost):
        return replace(cost, figures={**cost.figures, "latency": Figure(None, self.kind, reason="tired")})


class OutsideItsInterval(Changed):
    def change(self, cost):
        return replace(cost, figures={**cost.figures, "memory": Figure(1.0, self.kind, 2.0, 3.0)})


class ReasonWithoutWords(Changed):
    def change(self, cost):
        return replace(cost, figures={**cost.figures, "energy": Figure(None, self.kind, reason="")})


class OtherKind(Changed):
    def change(self, cost):
        return replace(cost, figures={**cost.figures, "memory": Figure(1.0, "measured")})


class FiledElsewhere(Changed):
    def change(self, cost):
        return replace(cost, target="elsewhere")


class NoSpeedup(Changed):
    def change(self, cost):
        return replace(cost, speedup=None)


class SpeedupOfItsOwn(Changed):
    def change(self, cost):
        return replace(cost, speedup=Figure(2.0, self.kind))


class Random(Changed):
    def change(self, cost):
        return replace(cost, figures={**cost.figures, "memory": Figure(float(next(COUNTER)), self.kind)})


class FreshRandom(Changed):
    """Constant within one instance, but another constant in the next."""

    def __init__(self):
        self.constant = float(next(COUNTER))

    def __setstate__(self, state):
        self.constant = float(next(COUNTER))

    def change(self, cost):
        return replace(cost, figures={**cost.figures, "memory": Figure(self.constant, self.kind)})


class BiggerIsCheaper(Changed):
    def change(self, cost):
        return replace(cost, figures={**cost.figures, "memory": Figure(1 / cost.figures["latency"].value, self.kind)})


class Unpicklable(Toy):
    def __init__(self):
        self.run = lambda: None


class WrongOutputs(Toy):
    def predict(self, candidate, images):
        return candidate.module(images).detach().numpy() + 1.0


class WrongShape(Toy):
    def predict(self, candidate, images):
        return candidate.module(images).detach().numpy()[:1]


class RaisesAnything(Toy):
    def _cost(self, candidate, reference):
        if not candidate.network.compute_layers:
            raise KeyError("conv1")
        return super()._cost(candidate, reference)


def test_the_toy_keeps_the_contract():
    check_cost_model(Toy())


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (Nameless, "has no name"),
        (TwoLines, "more than one line"),
        (OddKind, "kind is 'guessed'"),
        (UnknownFigure, "'colour'"),
        (NoObjective, "objective 'throughput'"),
        (MeasuredWithoutFingerprint, "FINGERPRINT"),
        (ModelledWithFingerprint, "modelled target is its name"),
        (RestlessFormats, "not idempotent"),
        (HalvedReference, "fp32"),
        (NoLatency, "latency of None"),
        (LatencyNobodyAskedFor, "not one of its figures"),
        (MissingFigure, "energy"),
        (NegativeMemory, "negative"),
        (AbsentObjective, "has no value"),
        (OutsideItsInterval, "outside its interval"),
        (ReasonWithoutWords, "without a reason"),
        (OtherKind, "measured on a modelled"),
        (FiledElsewhere, "filed under 'elsewhere'"),
        (NoSpeedup, "speedup None"),
        (SpeedupOfItsOwn, "speedup of the dense network is 2"),
        (Random, "deterministic"),
        (FreshRandom, "deterministic"),
        (BiggerIsCheaper, "four times the width"),
        (Unpicklable, "pickle"),
        (WrongOutputs, "is off by"),
        (WrongShape, "shape"),
        (RaisesAnything, "KeyError"),
    ],
)
def test_each_promise_that_is_broken_is_found(broken, told):
    with pytest.raises(ContractViolation, match=told) as caught:
        check_cost_model(broken())
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2
