"""Cost models without a device and an evaluator without training: search logic is tested in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cost_models import Cost, CostModel, Deployable, Figure, Reference
from leaderboard import Entry
from search import Evaluator, Job, Known, Subject
from search.evaluation import Costed, Report, exceeded_limits
from workloads import FP32, Dense, Format, Network

FACTS: dict = {
    "plan_digest": "0" * 64,
    "environment": {
        "python": "3.11",
        "torch": "2.13",
        "onnxruntime": None,
        "shrinkboard": "0",
        "platform": "Linux",
        "cpu": "none",
    },
    "training": {"epochs": 1.0, "seconds": 0.0, "images": 1, "dense_epochs": 1.0, "dense_seconds": 0.0},
}


class FakeLatency(CostModel):
    """A device of known time for a layer, a multiply–accumulate and a byte, that runs integers of any width in int8."""

    name, kind, summary, figures = "fake", "modelled", "a formula", ("latency",)

    def __init__(self) -> None:
        self.costed = 0

    def executed(self, weight: Format, activation: Format) -> tuple[Format, Format]:
        integer = weight.kind == activation.kind == "int"
        return (Format("int", 8), Format("int", 8)) if integer else (FP32, FP32)

    def seconds(self, network: Network) -> float:
        total = 0.0
        for row in network.compute_layers:
            form, _ = self.executed(row.weight_format, row.activation_format)
            total += 1e-6 + row.macs * (3e-11 if form == FP32 else 1e-11) + row.weights * form.bits / 8 * 2e-11
        return total

    def _latency(self, deployable: Deployable) -> float:
        return self.seconds(deployable.network)

    def _cost(self, candidate: Deployable, reference: Reference) -> Cost:
        self.costed += 1
        seconds = self.seconds(candidate.network)
        assert reference.latency is not None
        return Cost(
            self.key,
            {"latency": Figure(seconds, "modelled")},
            speedup=Figure(reference.latency / seconds, "modelled"),
        )


class FakeEvaluator(Evaluator):
    """Accuracy and cost are functions of the plan; counts its calls and can be told to fail or be interrupted."""

    def __init__(self, dense: Dense, seed: int = 0) -> None:
        super().__init__(Subject("digits/cnn", seed=seed), ["counts"])
        self._dense = replace(dense, seed=seed)
        self.jobs: list[Job] = []
        self.fail: Mapping[int, Exception | type[BaseException]] = {}
        """Call number → what is raised then."""

    def run(self, job: Job) -> Entry | Report:
        self.jobs.append(job)
        problem = self.fail.get(len(self.jobs))
        if problem is not None:
            raise problem
        plan = dict(job.plan)
        ratios = list(plan["channels"].values()) or [1.0]
        size = sum(ratios) / len(ratios)
        if job.until is not None:
            figures = {"counts": {"parameters": 1000 * size, "macs": 1000 * size, "bit_operations": 1024000 * size}}
            known = Known(self.accuracy(size, job.until / job.epochs), figures, 4000 * size)
            exceeded = exceeded_limits(known, job.limits)
            return Report(job.until, known, exceeded, None if exceeded else Costed("", [], 4000 * size))
        return Entry.create(
            workload="digits/cnn",
            strategy=job.strategy,
            study=job.study,
            trial=job.trial,
            role=job.role,
            seed=self.subject.seed,
            plan=plan,
            knobs=dict(job.knobs),
            epochs=float(job.epochs),
            accuracy={"validation": {"top1": self.accuracy(size, 1.0)}, "dense_validation": 1.0},
            parameters=round(1000 * size),
            macs=round(1000 * size),
            bytes=round(4000 * size),
            dense_parameters=1000,
            dense_macs=1000,
            costs=[
                {
                    "target": "counts",
                    "key": "counts",
                    "kind": "modelled",
                    "figures": {
                        name: {"value": 1000 * size * unit, "unit": "1"}
                        for name, unit in {"parameters": 1, "macs": 1, "memory": 4, "bit_operations": 1024}.items()
                    },
                }
            ],
            dense_digest=self.dense.digest,
            **(FACTS | {"plan_digest": _digest(job)}),
        )

    def accuracy(self, size: float, trained: float) -> float:
        """Of a network of that size after a share of its training."""
        return min(1.0, 0.5 + size / 2) * (0.5 + trained / 2)


def _digest(job: Job) -> str:
    from strategies import Plan

    return Plan.from_json(job.plan).digest
