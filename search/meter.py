"""One measurement at a time while training goes on: an actor that holds a device, and the target as workers see it."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import nn

from cost_models import Cost, CostModel, Deployable, Frozen, Reference
from workloads import Accuracy, Dense, Network

from .evaluation import Evaluator, Part, Subject

RETRIES = 2
"""Times that a call is made anew where the Meter dies of it; then the job is lost."""


class Meter:
    """Costs and runs networks on the targets of one device, in the order in which workers ask.

    Lives on the machine that the campaign was started on, so figures are of the device whose key stands on the board.
    """

    def __init__(self, subject: Subject, models: Mapping[str, CostModel], frozen: Mapping[str, Frozen], dense: Dense):
        torch.set_num_threads(1)  # the other cores train meanwhile
        self._evaluator = Evaluator(subject, list(models.values()), frozen, own_module(dense))

    def cost(self, name: str, module: nn.Module, network: Network) -> Cost:
        return self._evaluator.cost(self._evaluator.models[name], self._evaluator.with_images(module, network))

    def accuracy(self, name: str, module: nn.Module, network: Network, part: Part) -> Accuracy | None:
        deployed = self._evaluator.with_images(module, network)
        return self._evaluator.accuracy(self._evaluator.models[name], deployed, part)


class Metered(CostModel):
    """A measured target as a worker sees it, which needs neither its runtime nor its device."""

    kind = "measured"
    summary = "asks the Meter of its device"

    def __init__(self, model: CostModel, meter: Any) -> None:
        """`meter` is the handle of the actor."""
        self.name, self.figures, self.objective = model.name, model.figures, model.objective
        self._key, self._meter = model.key, meter

    @property
    def key(self) -> str:
        return self._key

    def accuracy(self, candidate: Deployable, part: Part) -> Accuracy | None:
        return self._ask("accuracy", candidate, part)

    def _cost(self, candidate: Deployable, reference: Reference) -> Cost:
        # The Meter holds the reference, and the images of every candidate.
        return self._ask("cost", candidate)

    def _latency(self, deployable: Deployable) -> float | None:
        raise NotImplementedError(f"the reference on {self.name} was frozen before workers began")

    def _ask(self, what: str, candidate: Deployable, *more: Any) -> Any:
        try:
            return ray.get(getattr(self._meter, what).remote(self.name, candidate.module, candidate.network, *more))
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from error
        except RayActorError as error:
            raise OSError(f"the Meter of {self.name} died: {' '.join(str(error).split())}") from error


def own_module(dense: Dense) -> Dense:
    """The same, out of the object store: its pictures stay there and are shared, its network can be worked on.

    What lies in the object store cannot be written to; a write ends the process.
    """
    return replace(dense, module=copy.deepcopy(dense.module), memo={})


def device_of(model: CostModel) -> str:
    """What is measured on; a plug-in that does not say has a device of its own."""
    return str(getattr(model, "device", model.name))


def open_meters(
    subject: Subject, models: Mapping[str, CostModel], frozen: Mapping[str, Frozen], dense: Any, campaign: str
) -> tuple[dict[str, CostModel], list[Any]]:
    """The models as workers see them, and handles of the Meters: one on this machine for every device measured on.

    `dense` is a reference to the dense network in the object store; `campaign` tells the actors of several apart, which
    exclude each other like any two processes that measure.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    meters: dict[str, Any] = {}
    measured = {name: model for name, model in models.items() if model.kind == "measured"}
    # It takes none of the GPUs that are handed out to trials, and sees those that the driver sees.
    names = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
    sight = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"} | {n: os.environ[n] for n in names if n in os.environ}
    for device in {device_of(model) for model in measured.values()}:
        held = {name: model for name, model in measured.items() if device_of(model) == device}
        meters[device] = (
            ray.remote(Meter)
            .options(
                name=f"shrinkboard-meter-{device}-{campaign}",
                num_cpus=0,
                max_restarts=-1,
                max_task_retries=RETRIES,
                scheduling_strategy=here,
                runtime_env={"env_vars": sight},
            )
            .remote(subject, held, {name: frozen[name] for name in held}, dense)
        )
    seen = {
        name: Metered(model, meters[device_of(model)]) if name in measured else model for name, model in models.items()
    }
    return seen, list(meters.values())
