"""The evaluation of a candidate, at once or in stages: compress, cost on every target, tune, accuracy, entry."""

from __future__ import annotations

import copy
import hashlib
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn

from cost_models import UNITS, Cost, CostModel, Deployable, Figure, Frozen, Reference, processor, target
from leaderboard import Entry, Origin
from strategies import Compressed, Plan, Simulated, Strategy, strategy
from workloads import (
    FP32,
    Accuracy,
    Dense,
    InputError,
    Layer,
    Network,
    Progress,
    Split,
    TrainingCost,
    TrainingState,
    Workload,
    calibration_batches,
    custom_workload,
    dense,
    epoch_seconds,
    evaluate,
    reestimate_batch_norm,
    trace,
    workload,
)

from .checkpoints import checkpoint_path, forget, pause, resume
from .networks import keep_network
from .objectives import Known, Limit
from .screening import IMAGES

Part = Literal["validation", "test"]
"""Of the data: searches see the first only, the second is read once for every finalist."""
CALIBRATION_IMAGES = 128
CALIBRATION_PIXELS = 2**21
"""Large pictures need fewer: ranges are taken over pixels, and calibrating holds every activation in memory."""
PROXY_BATCHES = 8
"""From which an untrained candidate's batch norm is estimated: with 100 its accuracy differs by less than its error."""
EPOCH_STEPS, EPOCH_LIMIT = 5, 3.0
"""Steps and seconds to measure a training epoch with: little beside the training itself."""


@dataclass(frozen=True)
class Subject:
    """What is searched over, as plain data that another process can open: a catalogue name, or a user's own network."""

    workload: str
    model: str | None = None
    dataset: str | None = None
    data_dir: str | None = None
    checkpoint: str | None = None
    seed: int = 0
    learning_rate: float | None = None
    """The highest of tuning; None is the recipe's."""

    def open(self) -> Workload:
        """The workload; raises `InputError` where it is unknown or its data folder, checkpoint or factory is wrong."""
        opened = self._opened()
        if self.learning_rate is None:
            return opened
        return replace(opened, recipe=replace(opened.recipe, tune_learning_rate=self.learning_rate))

    def _opened(self) -> Workload:
        data_dir = Path(self.data_dir) if self.data_dir else None
        checkpoint = Path(self.checkpoint) if self.checkpoint else None
        if self.model is not None:
            if self.dataset is None:
                raise InputError("--model needs --dataset, the data set that the network is trained and judged on")
            return custom_workload(self.model, self.dataset, data_dir=data_dir, checkpoint=checkpoint)
        return workload(self.workload, data_dir=data_dir, checkpoint=checkpoint)


@dataclass(frozen=True)
class Job:
    """One evaluation to be done, as plain data."""

    study: str
    strategy: str
    trial: int
    role: str
    plan: Mapping[str, Any]
    """`Plan.to_json`."""
    knobs: Mapping[str, int]
    """The sampler's values by parameter name."""
    epochs: float
    """Of the full evaluation."""
    until: float | None = None
    """Epochs at which the candidate is paused and reported on; None to evaluate it in full."""
    final: bool = False
    """Whether the test split is read, once, when all is done."""
    origin: Origin | None = None
    """The searched candidate that is trained again here on another seed."""
    limits: Sequence[Limit] = ()
    """A network that exceeds one of them by its cost is not looked at any further; those of accuracy are not judged."""
    costed: Costed | None = None
    """What an earlier stage has found out."""
    seconds: float | None = None
    """After which it is taken to hang, and its worker is ended."""
    paused: bytes | None = None
    """The paused candidate, for a worker that does not see the driver's cache folder."""


@dataclass(frozen=True)
class Costed:
    """The costs of a network, as entries have them, and a digest of the network that they are of."""

    network: str
    costs: Sequence[Mapping[str, Any]]
    bytes: float
    """Of the network as it is stored."""


@dataclass(frozen=True)
class Report:
    """A candidate that is not evaluated in full yet."""

    epochs: float
    """That it has been trained for."""
    known: Known
    """Its accuracy is simulated: of the untrained network on part of the validation split, of a trained one on all."""
    exceeded: Mapping[str, float] = field(default_factory=dict)
    """Limit → how far it is exceeded, relative to its bound; what was not known by then is left out."""
    costed: Costed | None = None
    """None where a limit was exceeded before all targets were asked."""
    paused: bytes | None = None
    """As in a job: from a worker whose cache folder the driver does not see."""


@runtime_checkable
class Judge(Protocol):
    """A target that judges networks where it runs them, for the pictures lie there already."""

    def accuracy(self, candidate: Deployable, part: Part) -> Accuracy | None:
        """On one part of the data, as the target runs the network; None where it runs nothing."""
        ...


class Evaluator:
    """Evaluates jobs of one subject on some targets; opens data, dense network and targets once."""

    def __init__(
        self,
        subject: Subject,
        targets: Sequence[str | CostModel],
        frozen: Mapping[str, Frozen] | None = None,
        dense: Dense | None = None,
    ) -> None:
        """`targets` are as the command takes them, device files too, or opened; `frozen` as `freeze` returns them.

        `dense` is the subject's, where it is at hand. Raises `InputError` for a target that cannot be opened, and for
        two of one name.
        """
        self.subject = subject
        self.models = _open(targets)
        """By `CostModel.name`, which is what entries, frozen figures and the board call a target."""
        self.frozen = dict(frozen) if frozen is not None else None
        self._dense = dense

    @property
    def dense(self) -> Dense:
        """The trained dense network; trains it where no cache holds it."""
        return self.open_dense()

    def open_dense(self, progress: Progress | None = None) -> Dense:
        """As `dense`, telling how far the training is: (steps done, steps)."""
        if self._dense is None:
            self._dense = dense(self.subject.open(), self.subject.seed, progress=progress)
        return self._dense

    def freeze(self, known: Mapping[str, Frozen]) -> dict[str, Frozen]:
        """Frozen figures of the dense network by target name; measured for targets that `known` lacks."""
        self.frozen = {
            name: known[name] if name in known else model.freeze(self.reference_network).frozen
            for name, model in self.models.items()
        }
        return self.frozen

    @cached_property
    def reference_network(self) -> Deployable:
        """The dense fp32 network as it is deployed."""
        return self.deployable(Compressed(self.dense.module, Plan(strategy="dense"), self.dense.seed))

    def run(self, job: Job) -> Entry | Report:
        """The entry of one job, or where the candidate stands once it was trained for `job.until` epochs.

        A paused candidate lies in the cache folder until it is evaluated in full; where it is gone it is made again.
        """
        began = time.monotonic()
        method, plan = strategy(job.strategy), Plan.from_json(job.plan)
        path, compressed = self.paused_file(job), method.compress(self.dense, plan)
        state = resume(path, compressed, job.epochs if job.until is None else job.until)
        if job.until is None:
            cost = self.finish(method, compressed, job.epochs, state)
            entry = self.entry(job, compressed, cost, keep_network(compressed, self.dense, job.study), began)
            forget(path)
            return entry
        costed = job.costed
        if costed is None:
            found = self._costed(compressed, job.limits)
            if isinstance(found, Report):
                return found
            costed = found
        if job.until > 0:
            left = job.until - (state.epochs_done if state else 0.0)
            if left > 0:
                state = method.tune(compressed, self.dense, left, total_epochs=job.epochs, state=state)
            assert state is not None
            pause(path, compressed, state)
            accuracy = self._simulated(compressed, self.dense.splits.validation)
        else:
            accuracy = self._proxy(method, compressed)
        known = Known(accuracy, _figures(costed.costs), costed.bytes)
        return Report(job.until, known, costed=costed)

    def drop(self, job: Job) -> None:
        """Forgets a paused candidate that is not trained on."""
        forget(self.paused_file(job))

    def paused_file(self, job: Job) -> Path:
        """Where the job's candidate lies while it is paused."""
        digest = Plan.from_json(job.plan).digest
        return checkpoint_path(job.study, job.strategy, job.trial, digest, self.dense.digest, job.epochs)

    def _costed(self, compressed: Compressed, limits: Sequence[Limit]) -> Costed | Report:
        """Costs on all targets, what is modelled first; a report where a limit is exceeded before the end."""
        deployed = self.deployable(compressed)
        counts = self._counts(deployed)
        costs: dict[str, dict[str, Any]] = {}
        known = Known(0.0, {}, counts["memory"])
        exceeded = exceeded_limits(known, limits)
        for model in sorted(self.models.values(), key=lambda model: model.kind == "measured"):
            if exceeded:
                break
            costs[model.name] = self._cost(model, deployed)
            known = Known(0.0, _figures(list(costs.values())), counts["memory"])
            exceeded = exceeded_limits(known, limits)
        if exceeded:
            return Report(0.0, known, exceeded)
        return Costed(_digest(deployed.network), [costs[name] for name in self.models], counts["memory"])

    def _counts(self, deployed: Deployable) -> dict[str, float]:
        return _values(target("counts").cost(deployed, Reference(self.reference_network, None)))

    @cached_property
    def _dense_counts(self) -> dict[str, float]:
        return self._counts(self.reference_network)

    def _simulated(self, compressed: Compressed, split: Split) -> float:
        """Accuracy on a split with the number formats simulated."""
        calibration = self._calibration
        simulated = Simulated(compressed.deployed(calibration), compressed.formats, calibration)
        return evaluate(simulated, split, self.dense.workload).primary

    def _proxy(self, method: Strategy, compressed: Compressed) -> float:
        """Accuracy without any training, on part of the validation split."""
        tried = copy.deepcopy(compressed)
        reestimate_batch_norm(tried.module, self.dense.workload, self.dense.splits.train, batches=PROXY_BATCHES)
        return self._simulated(tried, _Sample(self.dense.splits.validation, IMAGES))

    def finish(
        self,
        method: Strategy,
        compressed: Compressed,
        epochs: float,
        state: TrainingState | None = None,
        progress: Progress | None = None,
    ) -> TrainingCost:
        """Trains a compressed network to the end of `epochs`; one that is not trained is made fit to be evaluated."""
        if epochs == 0:
            method.recalibrate(compressed, self.dense)
            return TrainingCost(0.0, 0.0, 0)
        begun = state.epochs_done if state else 0.0
        left = epochs - begun
        return method.tune(compressed, self.dense, left, total_epochs=epochs, state=state, progress=progress).cost

    def entry(
        self, job: Job, compressed: Compressed, cost: TrainingCost, weights: str | None, began: float | None = None
    ) -> Entry:
        """The entry of a network that is trained to its end; `weights` is the digest that it is kept under.

        `began` is when its full evaluation did, in seconds of `time.monotonic`.
        """
        subject, method, plan = self.dense, strategy(job.strategy), Plan.from_json(job.plan)
        deployed = self.deployable(compressed)
        simulated = Simulated(deployed.module, compressed.formats, deployed.calibration)
        parts: tuple[Part, ...] = ("validation", "test") if job.final else ("validation",)
        accuracy: dict[str, Any] = {"dense_validation": subject.validation.primary}
        accuracy |= {part: _scores(evaluate(simulated, self._split(part), subject.workload)) for part in parts}
        if job.final:
            accuracy["dense_test"] = self._dense_test.primary
        counts, dense_counts = self._counts(deployed), self._dense_counts
        known = job.costed if job.costed and job.costed.network == _digest(deployed.network) else None
        costs = (
            [dict(cost) for cost in known.costs] if known else [self._cost(m, deployed) for m in self.models.values()]
        )
        for told, model in zip(costs, self.models.values(), strict=True):
            for part in parts:
                found = self.accuracy(model, deployed, part)
                told[_RUNTIME[part]] = None if found is None else _scores(found)
        return Entry.create(
            workload=subject.workload.name,
            strategy=job.strategy,
            study=job.study,
            trial=job.trial,
            role=job.role,
            seed=self.subject.seed,
            plan=_as_it_ended(plan, self.reference_network.network, deployed.network).to_json(),
            plan_digest=plan.digest,
            weights=weights,
            knobs=dict(job.knobs),
            epochs=float(job.epochs),
            accuracy=accuracy,
            parameters=round(counts["parameters"]),
            macs=round(counts["macs"]),
            bytes=round(counts["memory"]),
            dense_parameters=round(dense_counts["parameters"]),
            dense_macs=round(dense_counts["macs"]),
            costs=costs,
            training={
                "epochs": float(cost.epochs),
                "seconds": cost.seconds,
                "images": cost.images,
                "dense_epochs": float(subject.cost.epochs),
                "dense_seconds": subject.cost.seconds,
                # A teacher has to be trained first, whatever weights the student starts from.
                "starts_from": "trained" if plan.settings.get("distillation") else method.start,
                **(self._epoch_seconds(compressed.module) if job.epochs > 0 else {}),
            },
            environment=_environment(),
            dense_digest=subject.digest,
            method={"summary": _line(method.summary), "source": _line(method.source)},
            subject={
                "model": self.subject.model,
                "dataset": self.subject.dataset,
                "learning_rate": self.subject.learning_rate,
                "checkpoint": subject.workload.checkpoint is not None,
            },
            layers=layer_shapes(self.reference_network.network, deployed.network),
            evaluation_seconds=None if began is None else time.monotonic() - began,
            origin=job.origin,
        )

    def _split(self, part: Part) -> Split:
        return self.dense.splits.validation if part == "validation" else self.dense.splits.test

    @cached_property
    def _dense_test(self) -> Accuracy:
        return evaluate(self.dense.module, self.dense.splits.test, self.dense.workload)

    def _epoch_seconds(self, module: nn.Module) -> dict[str, float | None]:
        """What a training epoch takes `module` and the dense network, in an entry's fields."""
        subject, found = self.dense, dict[str, float | None]()
        precisions: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
        for precision in precisions:
            seconds = epoch_seconds(
                {"": module, "dense_": subject.module},
                subject.workload,
                subject.splits.train,
                precision,
                steps=EPOCH_STEPS,
                limit=EPOCH_LIMIT,
            )
            found |= {f"{network}epoch_{precision}": value for network, value in seconds.items()}
        return found

    def deployable(self, compressed: Compressed) -> Deployable:
        """A compressed network as it is deployed."""
        module = compressed.deployed(self._calibration)
        network = trace(compressed.module, self.dense.workload.example, compressed.formats, compressed.nonzeros())
        return self.with_images(module, network)

    def with_images(self, module: nn.Module, network: Network) -> Deployable:
        """A network with the example and the calibration images that every one of the subject is deployed with."""
        return Deployable(module, self._calibration[0][:1].contiguous(), self._calibration, network)

    @cached_property
    def _calibration(self) -> list[torch.Tensor]:
        """Normalised batches of training images."""
        workload = self.dense.workload
        _, height, width = workload.input_shape
        images = min(CALIBRATION_IMAGES, max(8, CALIBRATION_PIXELS // (height * width)))
        return calibration_batches(workload, self.dense.splits.train, images, batch_size=max(1, images // 4))

    def cost(self, model: CostModel, deployed: Deployable) -> Cost:
        """On one of the targets, beside the frozen reference."""
        assert self.frozen is not None
        frozen = self.frozen[model.name]
        return model.cost(deployed, Reference(self.reference_network, frozen.latency, frozen.throughput))

    def accuracy(self, model: CostModel, deployed: Deployable, part: Part = "validation") -> Accuracy | None:
        """On one part of the data, as the target runs the network; None for a target that runs nothing."""
        if isinstance(model, Judge):
            return model.accuracy(deployed, part)
        if model.predict(deployed, deployed.example) is None:
            return None
        return evaluate(lambda images: _outputs(model, deployed, images), self._split(part), self.dense.workload)

    def _cost(self, model: CostModel, deployed: Deployable) -> dict[str, Any]:
        cost = self.cost(model, deployed)
        return {
            "target": model.name,
            "key": cost.target,
            "kind": model.kind,
            "figures": {name: _figure(figure) | {"unit": UNITS[name]} for name, figure in cost.figures.items()},
            "speedup": _figure(cost.speedup) if cost.speedup else None,
            "executed": {layer: tuple(map(str, formats)) for layer, formats in cost.executed.items()},
            "unstable": cost.unstable,
            "telemetry": dict(cost.telemetry),
            "samples": {name: [list(block) for block in blocks] for name, blocks in cost.samples.items()},
            "runtime": dict(cost.runtime),
        }


class _Sample:
    """At most `count` images of a split, spread evenly over it."""

    def __init__(self, split: Split, count: int) -> None:
        self._split = split
        self._chosen = np.unique(np.linspace(0, len(split) - 1, min(count, len(split))).astype(np.int64))

    def __len__(self) -> int:
        return len(self._chosen)

    def batch(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        return self._split.batch(self._chosen[indices])


def layer_shapes(dense: Network, deployed: Network) -> list[dict[str, Any]]:
    """What became of every layer with weights, in network order, as entries have it: those that are gone too."""
    left = {layer.name: layer for layer in deployed.compute_layers if "#" not in layer.name}
    shapes = []
    for before in dense.compute_layers:
        if "#" in before.name:
            continue
        found = [name for name in left if name == before.name or name.startswith(f"{before.name}.")]
        for name in found:
            shapes.append(_shape(left.pop(name), before))
        if not found:
            gone = {"channels": 0, "density": 0.0, "weights": str(FP32), "activations": str(FP32), "macs": 0}
            whole = {"dense_channels": before.out_channels, "dense_macs": before.effective_macs}
            shapes.append({"name": before.name, "part_of": None} | gone | whole)
    return [*shapes, *(_shape(layer, None) for layer in left.values())]


def _shape(layer: Layer, before: Layer | None) -> dict[str, Any]:
    same = before is not None and before.name == layer.name
    return {
        "name": layer.name,
        "part_of": None if same or before is None else before.name,
        "channels": layer.out_channels,
        "dense_channels": before.out_channels if same and before else None,
        "density": float(layer.nonzeros.sum() / layer.weights),
        "weights": str(layer.weight_format),
        "activations": str(layer.activation_format),
        "macs": layer.effective_macs,
        "dense_macs": before.effective_macs if same and before else None,
    }


def exceeded_limits(known: Known, limits: Sequence[Limit]) -> dict[str, float]:
    """Limits of cost that what is known exceeds already, and how far; those of accuracy are left out."""
    found = {str(limit): limit.violation(known, 0.0) for limit in limits if limit.objective is not None}
    return {name: beyond for name, beyond in found.items() if beyond is not None and beyond > 0}


def _open(targets: Sequence[str | CostModel]) -> dict[str, CostModel]:
    """Name → cost model, in the order given."""
    models, given = dict[str, CostModel](), dict[str, str]()
    for asked in targets:
        model, text = (target(asked), asked) if isinstance(asked, str) else (asked, asked.name)
        if model.name in models:
            raise InputError(
                f"targets {given[model.name]!r} and {text!r} are both named {model.name!r}; "
                "give one of them only, or its device file another name"
            )
        missing = model.missing() if isinstance(asked, str) else None
        if missing:
            raise InputError(f"target {model.name} cannot be measured on this machine: {missing}")
        models[model.name], given[model.name] = model, text
    return models


def _as_it_ended(plan: Plan, dense: Network, deployed: Network) -> Plan:
    """The plan; where stages have changed the widths since, the final ones are in its notes."""
    rows = {layer.name: layer.out_channels for layer in deployed.layers}
    final = {
        f"width.{name}": rows[name]
        for name, ratio in plan.channels.items()
        if rows[name] != round(ratio * dense[name].out_channels)
    }
    return plan.model_copy(update={"notes": {**plan.notes, **final}})


def _outputs(model: CostModel, deployed: Deployable, images: torch.Tensor) -> torch.Tensor:
    outputs = model.predict(deployed, images.contiguous())
    assert outputs is not None
    return torch.from_numpy(outputs)


def _figures(costs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    return {cost["target"]: {name: told["value"] for name, told in cost["figures"].items()} for cost in costs}


def _digest(network: Network) -> str:
    """Of all that a cost follows from."""
    told = hashlib.sha256()
    for layer in network.layers:
        for name, value in vars(layer).items():
            told.update(value.tobytes() if isinstance(value, np.ndarray) else f"{name} {value}".encode())
    return told.hexdigest()


_RUNTIME: Mapping[Part, str] = {"validation": "runtime_accuracy", "test": "runtime_test"}


def _line(text: str) -> str:
    return " ".join(text.split())[:2000]


def _scores(accuracy: Accuracy) -> dict[str, float | None]:
    return {"top1": accuracy.top1, "top5": accuracy.top5, "miou": accuracy.miou}


def _figure(figure: Figure) -> dict[str, Any]:
    return {"value": figure.value, "low": figure.low, "high": figure.high, "reason": figure.reason}


def _values(cost: Cost) -> dict[str, float]:
    return {name: figure.value for name, figure in cost.figures.items() if figure.value is not None}


def _environment() -> dict[str, str | None]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": _installed("onnxruntime"),
        "shrinkboard": _installed("shrinkboard") or "not installed",
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": processor().model,
    }


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
