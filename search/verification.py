"""Whether an entry holds: its network is made again, judged and measured again, and compared field by field."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cost_models import CostModel, Frozen, target
from leaderboard import Entry, Environment, Scores, TargetCost
from strategies import Plan
from workloads import InputError, Progress, TrainingCost

from .evaluation import Evaluator, Job
from .networks import digest_of
from .recreation import Own, check_checkpoint, find_weights, from_weights, subject_of, trained_again

Verdict = Literal["same", "within interval", "differs", "changed", "cannot be had"]
"""`differs` speaks against the entry; `changed` does not: other versions, another machine, other bits of a training."""
OTHER_BITS = "a training repeats to the bit only on the same processor, versions and number of threads"
TWO_MACHINES = "figures of two machines do not compare"
APART = "the 95 % intervals do not overlap"
MEASUREMENTS = 3
"""At most: a busy machine may be off by more than an interval once, which the next measurement shows."""
_EXACT = 1e-9
"""Relative difference that sums in another order make."""


@dataclass(frozen=True)
class Check:
    """One field of an entry, as it was recorded and as it is found now."""

    field: str
    recorded: str
    now: str
    verdict: Verdict
    why: str = ""


@dataclass(frozen=True)
class Verified:
    """All checks of an entry."""

    entry: Entry
    source: str
    """Where the network came from, in words."""
    checks: Sequence[Check]

    @property
    def holds(self) -> bool:
        """Whether nothing that can be checked speaks against it."""
        return all(check.verdict != "differs" for check in self.checks)


def verify(
    entry: Entry,
    *,
    weights: Path | str | None = None,
    retrain: bool = False,
    own: Own | None = None,
    targets: Sequence[str] = (),
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Verified:
    """Makes the network of an entry again, as `recreate` does, and checks all that the entry says of it.

    It is measured on those of the entry's targets that this machine has; `targets` opens more, such as device files,
    which an entry cannot. The dense network is trained where it is not in the cache, for the entry speaks of it too.
    Raises `InputError` for weights that are not the entry's, and for what it takes and is not at hand.
    """
    own = own or Own()
    plan = Plan.from_json(entry.plan)
    checks = [_equal("plan", entry.plan_digest, plan.digest), _equal("strategy", entry.strategy, plan.strategy)]
    if any(check.verdict == "differs" for check in checks):
        return Verified(entry, "nothing was made: the plan is not the entry's", checks)
    subject = subject_of(entry, own)
    check_checkpoint(entry, subject)
    kept = None if retrain else find_weights(entry, weights, say)
    models, missing = open_targets(entry, targets)
    evaluator = Evaluator(subject, list(models.values()))
    dense = evaluator.open_dense(progress)
    if own.checkpoint is not None and dense.digest != entry.dense_digest:
        raise InputError(
            f"checkpoint {own.checkpoint} is not of the dense network of entry {entry.id}: it is {dense.digest[:12]}, "
            f"the entry's is {entry.dense_digest[:12]}"
        )
    evaluator.freeze(_frozen(entry, models))
    compressed, cost = None if kept is None else from_weights(entry, kept, dense, weights, say), None
    source = "its kept weights" if weights is None else f"the weights in {weights}"
    if compressed is None:
        say(f"the network is trained again, for {entry.epochs:g} epochs")
        compressed, cost = trained_again(entry, evaluator, progress)
        source = "training it again from plan and seed"
    # Without epochs, for how long an epoch takes is no claim that another day could check.
    job = Job(entry.study, entry.strategy, entry.trial, "candidate", entry.plan, entry.knobs, 0.0, final=entry.final)
    images = {"validation": len(dense.splits.validation), "test": len(dense.splits.test)}
    for _ in range(MEASUREMENTS):
        now = evaluator.entry(job, compressed, cost or TrainingCost(0.0, 0.0, 0), digest_of(compressed))
        found = compare(entry, now, images, missing)
        if not any(check.why == APART for check in found):
            break
    if cost is not None:
        checks.append(_equal("training.epochs", f"{entry.training.epochs:g}", f"{cost.epochs:g}"))
        checks.append(_equal("training.images", f"{entry.training.images:,}", f"{cost.images:,}"))
    return Verified(entry, source, [*checks, *found])


def open_targets(entry: Entry, more: Sequence[str] = ()) -> tuple[dict[str, CostModel], dict[str, str]]:
    """Those of the entry's targets that this machine has, by name; and why it has not the others."""
    given = {model.name: model for model in map(target, more)}
    unknown = [name for name in given if name not in {cost.target for cost in entry.costs}]
    if unknown:
        told = ", ".join(cost.target for cost in entry.costs) or "no target"
        raise InputError(f"target {unknown[0]!r} is none of entry {entry.id}: it was scored on {told}")
    models, missing = dict[str, CostModel](), dict[str, str]()
    for name in (cost.target for cost in entry.costs):
        try:
            # A file would be one that the entry names, and the entry may be anybody's.
            if name.startswith(("roofline:", "fpga:")) and name not in given:
                raise InputError("a device file is not opened on an entry's word; give it with --target")
            model = given.get(name) or target(name)
            reason = model.missing()
        except InputError as error:
            reason = str(error)
        if reason is None:
            models[name] = model
        else:
            missing[name] = reason
    return models, missing


def _frozen(entry: Entry, models: Mapping[str, CostModel]) -> dict[str, Frozen]:
    """What the entry's measured costs were relative to; modelled references are computed anew."""
    found = {}
    for cost in entry.costs:
        latency, speedup = cost.value("latency"), cost.speedup and cost.speedup.value
        if cost.kind == "measured" and cost.target in models and latency and speedup:
            found[cost.target] = Frozen(latency * speedup)
    return found


def compare(
    recorded: Entry, now: Entry, images: Mapping[str, int], missing: Mapping[str, str] | None = None
) -> list[Check]:
    """What an entry says beside what the same network, made again, comes to.

    `images` counts those of each split, for intervals of accuracies; `missing` says why targets have no cost now.
    """
    alike = _environment_is_alike(recorded.environment, now.environment)
    bits = recorded.weights is not None and recorded.weights == now.weights
    dense_bits = recorded.dense_digest == now.dense_digest
    checks = [
        _bits("weights", recorded.weights, now.weights),
        _bits("dense network", recorded.dense_digest, now.dense_digest),
        *(
            _equal(name, f"{getattr(recorded, name):,}", f"{getattr(now, name):,}")
            for name in ("parameters", "macs", "bytes", "dense_parameters", "dense_macs")
        ),
    ]
    if recorded.layers:
        made = {layer.name: layer for layer in now.layers}
        wrong = [layer.name for layer in recorded.layers if made.get(layer.name) != layer]
        verdict: Verdict = "differs" if wrong or len(recorded.layers) != len(now.layers) else "same"
        checks.append(Check("layers", f"{len(recorded.layers)}", f"{len(now.layers)}", verdict, ", ".join(wrong)))
    for split in ("validation", "test"):
        one, other = getattr(recorded.accuracy, split), getattr(now.accuracy, split)
        checks += _scores(f"accuracy.{split}", one, other, images[split], bits and alike)
        one, other = getattr(recorded.accuracy, f"dense_{split}"), getattr(now.accuracy, f"dense_{split}")
        if one is not None:
            checks.append(_accuracy(f"accuracy.dense_{split}", one, other, images[split], dense_bits and alike))
    found = {cost.target: cost for cost in now.costs}
    for cost in recorded.costs:
        if cost.target in found:
            checks += _cost(cost, found[cost.target], images, bits and alike)
        else:
            why = (missing or {}).get(cost.target, "it was not measured")
            checks.append(Check(cost.target, _speedup(cost), "–", "cannot be had", why))
    for name in Environment.model_fields:
        one, other = (str(getattr(entry.environment, name)) for entry in (recorded, now))
        checks.append(Check(f"environment.{name}", one, other, "same" if one == other else "changed"))
    return checks


def _environment_is_alike(one: Environment, other: Environment) -> bool:
    """Whether equal weights must give equal outputs."""
    return (one.torch, one.onnxruntime, one.cpu) == (other.torch, other.onnxruntime, other.cpu)


def _equal(field: str, recorded: str, now: str) -> Check:
    return Check(field, _short(recorded), _short(now), "same" if recorded == now else "differs")


def _bits(field: str, recorded: str | None, now: str | None) -> Check:
    if recorded is None:
        return Check(field, "–", _short(now or "–"), "cannot be had", "the entry does not say which they were")
    if recorded == now:
        return Check(field, _short(recorded), _short(now), "same", "bit for bit")
    return Check(field, _short(recorded), _short(now or "–"), "changed", OTHER_BITS)


def _scores(field: str, recorded: Scores | None, now: Scores | None, images: int, exact: bool) -> Iterator[Check]:
    if recorded is None:
        return
    for name in ("top1", "top5", "miou"):
        one, other = getattr(recorded, name), getattr(now, name, None)
        if one is not None:
            yield _accuracy(f"{field}.{name}", one, other, images, exact)


def _accuracy(field: str, recorded: float, now: float | None, images: int, exact: bool) -> Check:
    """`exact` where nothing but the entry can be the reason for a difference.

    Otherwise accuracies may differ by what the choice of the images makes: 1.96 standard errors of a difference between
    two shares of so many, which errs to the wide side where both are of the same images.
    """
    if now is None:
        return Check(field, _percent(recorded), "–", "cannot be had", "it was not judged again")
    if math.isclose(recorded, now, rel_tol=_EXACT, abs_tol=_EXACT):
        return Check(field, _percent(recorded), _percent(now), "same")
    mean = (recorded + now) / 2
    within = abs(recorded - now) <= 1.96 * math.sqrt(2 * mean * (1 - mean) / max(images, 1))
    if exact or not within:
        why = "the same weights on the same processor and versions" if exact else f"more than {images} images explain"
        return Check(field, _percent(recorded), _percent(now), "differs", why)
    return Check(field, _percent(recorded), _percent(now), "within interval", f"of {images} images")


def _cost(recorded: TargetCost, now: TargetCost, images: Mapping[str, int], exact: bool) -> Iterator[Check]:
    """A target's figures and what it executes; those of another machine are shown and not judged."""
    name, same = recorded.target, recorded.key == now.key
    if not same:
        yield Check(f"{name}: machine", recorded.key, now.key, "changed", TWO_MACHINES)
    elif recorded.kind == "measured":
        yield Check(f"{name}: machine", recorded.key, now.key, "same")
    if recorded.speedup is not None and recorded.speedup.value is not None:
        yield _figure(f"{name}: speed-up", recorded, now, "speedup", same)
    for figure in recorded.figures:
        # Of a measured target latency and throughput say once more what the speed-up says.
        tells = recorded.kind == "modelled" or figure not in ("latency", "throughput", "power")
        if tells and recorded.value(figure) is not None:
            yield _figure(f"{name}: {figure}", recorded, now, figure, same)
    if recorded.executed:
        one, other = (
            ", ".join(sorted({"/".join(pair) for pair in cost.executed.values()})) for cost in (recorded, now)
        )
        equal = dict(recorded.executed) == dict(now.executed)
        yield Check(f"{name}: executes", one, other, "same" if equal else "differs" if same else "changed")
    for field, split in (("runtime_accuracy", "validation"), ("runtime_test", "test")):
        for check in _scores(f"{name}: {split}", getattr(recorded, field), getattr(now, field), images[split], exact):
            if check.verdict == "differs" and not same:
                check = Check(check.field, check.recorded, check.now, "changed", TWO_MACHINES)
            yield check


def _figure(field: str, recorded: TargetCost, now: TargetCost, name: str, same: bool) -> Check:
    one = recorded.speedup if name == "speedup" else recorded.figures[name]
    other = now.speedup if name == "speedup" else now.figures.get(name)
    unit = "×" if name == "speedup" else f" {recorded.figures[name].unit}".removesuffix(" 1")
    assert one is not None and one.value is not None
    told = _interval(one.value, one.low, one.high, unit)
    if other is None or other.value is None:
        return Check(field, told, "–", "cannot be had", (other.reason if other else None) or "it is not answered now")
    found = _interval(other.value, other.low, other.high, unit)
    if math.isclose(one.value, other.value, rel_tol=_EXACT):
        return Check(field, told, found, "same")
    if not same:
        return Check(field, told, found, "changed", TWO_MACHINES)
    if recorded.kind == "measured" and one.low is not None and other.low is not None:
        assert one.high is not None and other.high is not None
        if one.low <= other.high and other.low <= one.high:
            return Check(field, told, found, "within interval", "the 95 % intervals overlap")
        if recorded.unstable or now.unstable:
            return Check(field, told, found, "changed", "the machine was too noisy for a judgement")
        return Check(field, told, found, "differs", APART)
    return Check(field, told, found, "differs")


def _speedup(cost: TargetCost) -> str:
    found = cost.speedup
    return "–" if found is None or found.value is None else _interval(found.value, found.low, found.high, "×")


def _interval(value: float, low: float | None, high: float | None, unit: str) -> str:
    around = "" if low is None or high is None or low == high else f" ({low:.4g}–{high:.4g})"
    return f"{value:.6g}{unit}{around}"


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _short(text: str) -> str:
    """Digests by their first digits, as everywhere."""
    return text[:12] if len(text) == 64 else text
