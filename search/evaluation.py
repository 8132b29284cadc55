"""One full evaluation: compress, tune, export, cost on every target, accuracy — and the entry that tells it all."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from cost_models import UNITS, Cost, CostModel, Deployable, Figure, Frozen, Reference, processor, target
from leaderboard import Entry
from strategies import Compressed, Plan, Simulated, strategy
from workloads import (
    Accuracy,
    Dense,
    InputError,
    Network,
    Progress,
    TrainingCost,
    Workload,
    calibration_batches,
    custom_workload,
    dense,
    epoch_seconds,
    evaluate,
    trace,
    workload,
)

CALIBRATION_IMAGES = 128
CALIBRATION_PIXELS = 2**21
"""Large pictures need fewer: ranges are taken over pixels, and calibrating holds every activation in memory."""
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

    def open(self) -> Workload:
        """The workload; raises `InputError` where it is unknown or its data folder, checkpoint or factory is wrong."""
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


class Evaluator:
    """Evaluates jobs of one subject on some targets; opens data, dense network and targets once."""

    def __init__(self, subject: Subject, targets: Sequence[str], frozen: Mapping[str, Frozen] | None = None) -> None:
        """`targets` are as the command takes them, device files too; `frozen` as `freeze` returns them.

        Raises `InputError` for a target that cannot be opened, and for two of one name.
        """
        self.subject = subject
        self.models = _open(targets)
        """By `CostModel.name`, which is what entries, frozen figures and the board call a target."""
        self.frozen = dict(frozen) if frozen is not None else None
        self._dense: Dense | None = None

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
        return self._deployable(Compressed(self.dense.module, Plan(strategy="dense"), self.dense.seed))

    def run(self, job: Job) -> Entry:
        """The entry of one job."""
        subject, plan = self.dense, Plan.from_json(job.plan)
        method = strategy(job.strategy)
        compressed = method.compress(subject, plan)
        cost = TrainingCost(0.0, 0.0, 0)
        if job.epochs > 0:
            cost = method.tune(compressed, subject, job.epochs, total_epochs=job.epochs).cost
        else:
            method.recalibrate(compressed, subject)
        deployed = self._deployable(compressed)
        simulated = Simulated(deployed.module, compressed.formats, deployed.calibration)
        validation = evaluate(simulated, subject.splits.validation, subject.workload)
        counts = _values(target("counts").cost(deployed, Reference(self.reference_network, None)))
        dense_counts = _values(target("counts").cost(self.reference_network, Reference(self.reference_network, None)))
        return Entry.create(
            workload=subject.workload.name,
            strategy=job.strategy,
            study=job.study,
            trial=job.trial,
            role=job.role,
            seed=self.subject.seed,
            plan=_as_it_ended(plan, self.reference_network.network, deployed.network).to_json(),
            plan_digest=plan.digest,
            knobs=dict(job.knobs),
            epochs=float(job.epochs),
            accuracy={"validation": _scores(validation), "dense_validation": subject.validation.primary},
            parameters=round(counts["parameters"]),
            macs=round(counts["macs"]),
            bytes=round(counts["memory"]),
            dense_parameters=round(dense_counts["parameters"]),
            dense_macs=round(dense_counts["macs"]),
            costs=[self._cost(model, deployed) for model in self.models.values()],
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
        )

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

    def _deployable(self, compressed: Compressed) -> Deployable:
        subject = self.dense
        _, height, width = subject.workload.input_shape
        images = min(CALIBRATION_IMAGES, max(8, CALIBRATION_PIXELS // (height * width)))
        calibration = calibration_batches(
            subject.workload, subject.splits.train, images, batch_size=max(1, images // 4)
        )
        module = compressed.deployed(calibration)
        network = trace(compressed.module, subject.workload.example, compressed.formats, compressed.nonzeros())
        return Deployable(module, calibration[0][:1].contiguous(), calibration, network)

    def _cost(self, model: CostModel, deployed: Deployable) -> dict[str, Any]:
        assert self.frozen is not None
        frozen = self.frozen[model.name]
        cost = model.cost(deployed, Reference(self.reference_network, frozen.latency, frozen.throughput))
        runs = model.predict(deployed, deployed.example) is not None
        accuracy = None
        if runs:
            accuracy = evaluate(
                lambda images: _outputs(model, deployed, images), self.dense.splits.validation, self.dense.workload
            )
        return {
            "target": model.name,
            "key": cost.target,
            "kind": model.kind,
            "figures": {name: _figure(figure) | {"unit": UNITS[name]} for name, figure in cost.figures.items()},
            "speedup": _figure(cost.speedup) if cost.speedup else None,
            "executed": {layer: tuple(map(str, formats)) for layer, formats in cost.executed.items()},
            "runtime_accuracy": _scores(accuracy) if accuracy else None,
            "unstable": cost.unstable,
            "telemetry": dict(cost.telemetry),
            "samples": {name: [list(block) for block in blocks] for name, blocks in cost.samples.items()},
            "runtime": dict(cost.runtime),
        }


def _open(targets: Sequence[str]) -> dict[str, CostModel]:
    """Name → cost model, in the order given."""
    models, given = dict[str, CostModel](), dict[str, str]()
    for text in targets:
        model = target(text)
        if model.name in models:
            raise InputError(
                f"targets {given[model.name]!r} and {text!r} are both named {model.name!r}; "
                "give one of them only, or its device file another name"
            )
        missing = model.missing()
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


def objectives(entry: Entry, models: Sequence[CostModel]) -> tuple[float, ...]:
    """What a search optimises: accuracy (larger is better), then the objective figure of every target (smaller is).

    The accuracy is that of the first target that runs the network, so that int8 counts as it is executed.
    """
    costs = {cost.target: cost for cost in entry.costs}
    figures = [costs[model.name].figures[model.objective].value for model in models]
    if any(value is None for value in figures):
        raise ValueError(f"entry {entry.id} lacks the objective of one of {[model.name for model in models]}")
    return (ranking_accuracy(entry), *(float(value) for value in figures if value is not None))


def ranking_accuracy(entry: Entry) -> float:
    """Accuracy in the first runtime that ran the network, else in simulation."""
    executed = [cost.runtime_accuracy for cost in entry.costs if cost.runtime_accuracy is not None]
    return (executed[0] if executed else entry.accuracy.validation).primary


def _outputs(model: CostModel, deployed: Deployable, images: torch.Tensor) -> torch.Tensor:
    outputs = model.predict(deployed, images.contiguous())
    assert outputs is not None
    return torch.from_numpy(outputs)


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
