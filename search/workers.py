"""How many jobs run at the same time, where, and with what: what a user asks for, and the executor that it means."""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from workloads import InputError

from .evaluation import Evaluator
from .executors import Executor, InProcess, LocalProcesses

Place = Literal["local", "ray"]
CONNECT = 10.0
"""Seconds that the head of a cluster may take to answer."""


@dataclass(frozen=True)
class Workers:
    """What runs a campaign's jobs."""

    count: int = 1
    """Jobs that run at the same time."""
    executor: Place = "local"
    address: str | None = None
    """HOST:PORT of a Ray cluster that runs, or `auto` for that of this machine; None starts one for the campaign."""
    cpus: float | None = None
    """That a job takes of its machine under Ray; None: an equal share, one at least."""
    gpus: float = 0.0
    """The same of GPUs; with any, training runs on one."""


def checked(workers: Workers) -> Workers:
    """As they are; raises `InputError` for what cannot be meant or had, as far as that is seen without starting Ray."""
    if workers.executor not in get_args(Place):
        raise InputError(f"unknown executor {workers.executor!r}; allowed: {', '.join(get_args(Place))}")
    if workers.executor == "local":
        if workers.address or workers.cpus is not None or workers.gpus:
            raise InputError("--ray-address, --trial-cpus and --trial-gpus need --executor ray")
        return workers
    if workers.cpus is not None and workers.cpus <= 0:
        raise InputError(f"--trial-cpus is {workers.cpus:g}; it must be more than 0")
    if workers.gpus < 0:
        raise InputError(f"--trial-gpus is {workers.gpus:g}; it must be at least 0")
    if importlib.util.find_spec("ray") is None:
        raise InputError("--executor ray needs Ray; install shrinkboard[ray]")
    cores = os.cpu_count() or 1
    if workers.address is None and (workers.cpus or 0) > cores:
        raise InputError(f"--trial-cpus is {workers.cpus:g}, but this machine has {cores}")
    if workers.address and workers.address.startswith("ray://"):
        raise InputError(
            f"--ray-address {workers.address} is that of a Ray client; start the command on a machine of the cluster "
            "with --ray-address auto, or hand it to `ray job submit`"
        )
    if workers.address:
        try:
            await_answer(workers.address)
        except OSError as error:
            raise InputError(f"no Ray cluster answers at {workers.address}: {error.strerror or error}") from error
    return workers


def await_answer(address: str) -> None:
    """Raises `OSError` where nobody listens at HOST:PORT, for which Ray itself would wait for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT).close()


def start(workers: Workers, evaluator: Evaluator, targets: Sequence[str], may_end: bool) -> Executor:
    """The executor, with its workers begun; `evaluator` holds the dense network and the frozen figures.

    `targets` are as the command takes them. `may_end` says whether jobs may have to be ended, which takes processes of
    their own. Raises `InputError` for what `checked` refuses, and where there is no Ray,
    no cluster at the address, or none with room for so many jobs.
    """
    checked(workers)
    if workers.executor == "ray":
        from .ray_tune import RayTune

        return RayTune(evaluator, workers)
    if workers.count == 1 and not may_end:
        return InProcess(evaluator)
    assert evaluator.frozen is not None
    return LocalProcesses(evaluator.subject, list(targets), evaluator.frozen, workers.count)
