"""What runs inside Ray: the experiment, its trials, and the cluster that they run on. Only `ray_tune` imports it."""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import pickle
import queue
import re
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search.optuna import OptunaSearch

from workloads import InputError

from .checkpoints import fetch, forget, put
from .evaluation import Evaluator, Job, Report
from .executors import attempt, death, read_log, sent, watched
from .meter import open_meters, own_module
from .ray_tune import ZERO_COPY
from .workers import Workers, await_answer

LOOK_UP = 0.02
"""Seconds that Tune waits for a job while others run."""
AGAIN = 5.0
"""Seconds between attempts to connect."""
LAST_WORDS = 2.0
"""Seconds in which what a dead worker wrote is waited for."""
SENT = ("SHRINKBOARD_CACHE",)
"""Variables of the driver's environment that workers get."""


_IN_METER = "search/meter.py"
"""Stands in the stacks of a worker that waits for a Meter."""


class Posted:
    """A job on its way to a worker, one object in all the copies that Tune makes of a trial's configuration."""

    def __init__(self, number: int, job: Job) -> None:
        self.number = number
        self.job: Job | None = job
        """None when it has come back, for Tune keeps every trial."""

    def __deepcopy__(self, memo: Any) -> Posted:
        return self

    def __repr__(self) -> str:
        return str(self.number)


class JobSearch(OptunaSearch):
    """Every Tune trial is one job of the campaign, which owns asking and telling for all executors.

    Ray's own `OptunaSearch` leaves a trial RUNNING for ever where a metric is missing or NaN with several objectives,
    never writes constraints, and knows nothing of leases or plans that were seen before. So this one neither asks nor
    tells: it hands on what `bridge` has asked for, and outcomes go back by `Post`.
    """

    def __init__(self, jobs: queue.SimpleQueue[Posted]) -> None:
        super().__init__(metric=None, mode=None)
        self._jobs = jobs
        self._out: set[str] = set()

    def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Posted] | None:
        # Tune would sleep for a second where it has nothing to do, so then the wait is here.
        with contextlib.suppress(queue.Empty):
            job = self._jobs.get(timeout=LOOK_UP if self._out else None)
            self._out.add(trial_id)
            return {"job": job}
        return None

    def on_trial_result(self, trial_id: str, result: Any) -> None:
        return None

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self._out.discard(trial_id)

    def __getstate__(self) -> dict[str, Any]:
        # Tune writes the experiment down, with a queue that cannot be and jobs that need not be.
        return {}

    def save(self, checkpoint_path: str) -> None:
        return None

    def restore(self, checkpoint_path: str) -> None:
        return None


class InOrder(FIFOScheduler):
    """Jobs run in the order in which they came, and actors wait for the next one."""

    def __init__(self, workers: int) -> None:
        super().__init__()
        self._workers = workers
        self._kept = False

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        # Tune takes the first that waits by itself, without looking through all that have ended.
        return None

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Any) -> None:
        if not self._kept:
            # Tune ends all idle actors but one, where the next trials are not known yet.
            tune_controller._actor_cache.increase_max(trial.placement_group_factory, by=self._workers)
            self._kept = True


class Post(tune.Callback):
    """Sends outcomes back, and leaves nothing of them with Tune."""

    def __init__(self, connection: Connection, log: Path, meters: Sequence[Any]) -> None:
        self._connection, self._log, self._meters = connection, log, meters

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        self._connection.send((trial.config["job"].number, result.pop("outcome")))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        trial.config["job"].job = None
        shutil.rmtree(trial.local_path, ignore_errors=True)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        error = read_log(Path(trial.error_file)).partition("\n")[2]  # the first line counts failures
        failure = death(_how(error), last_words(self._log, error))
        if _IN_METER in failure.details:
            # It was ended while it waited for a measurement, which may be what hangs.
            for meter in self._meters:
                ray.kill(meter, no_restart=False)
        self._connection.send((trial.config["job"].number, failure))
        self.on_trial_complete(iteration, trials, trial)


class OneJob(tune.Trainable):
    """An actor that does one job a trial; it opens data and dense network once."""

    config: dict[str, Any]

    def setup(self, config: dict[str, Any], worker: tuple[Any, ...]) -> None:
        subject, models, frozen, threads, device, dense = worker
        faulthandler.enable()
        torch.set_num_threads(threads)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that its pictures cannot be written to is meant
            own = own_module(ray.get(dense))
        own = replace(own, workload=replace(own.workload, device=device))
        self.evaluator = Evaluator(subject, list(models.values()), frozen, own)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True

    def step(self) -> dict[str, Any]:
        job = self.config["job"].job
        self.config = {}  # it would travel back with the result
        path = self.evaluator.paused_file(job)
        if job.paused is not None:
            put(path, job.paused)
        with watched(job):
            outcome = attempt(self.evaluator, job)
        if isinstance(outcome, Report) and outcome.epochs > 0:
            outcome = replace(outcome, paused=fetch(path))
        forget(path)  # the driver keeps it
        shutil.rmtree(self.logdir, ignore_errors=True)
        return {"outcome": sent(outcome), "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        return None

    def load_checkpoint(self, checkpoint: Any) -> None:
        return None


def run(connection: Connection, folder: Path, workers: Workers, patience: float) -> None:
    """Does jobs until the driver hangs up; then this process ends, whatever it is doing."""
    with (folder / "setup.pickle").open("rb") as file:
        subject, models, frozen, dense = pickle.load(file)
    # Ours is the large object that workers only read; what they send is theirs to write to.
    del os.environ[ZERO_COPY]
    _connect(workers, folder, patience)
    cpus = _room(workers, check=patience == 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the same
        held = ray.put(dense)
    threads, device = max(1, int(cpus)), "cuda" if workers.gpus > 0 else dense.workload.device
    models, meters = open_meters(subject, models, frozen, held, folder.name)
    del dense
    jobs: queue.SimpleQueue[Posted] = queue.SimpleQueue()
    ending = threading.Event()
    ours = (connection, jobs, ending, folder, workers.address is None)
    taking = threading.Thread(target=_take, args=ours, daemon=True)
    taking.start()
    connection.send(None)
    trainable = tune.with_parameters(OneJob, worker=(subject, models, frozen, threads, device, held))
    trainable = tune.with_resources(trainable, {"cpu": cpus, "gpu": workers.gpus})
    trainable.__name__ = trainable.__qualname__ = OneJob.__name__  # as processes and lines of logs are called
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=JobSearch(jobs),
            scheduler=InOrder(workers.count),
            num_samples=-1,
            reuse_actors=True,
            max_concurrent_trials=workers.count,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name="jobs",
            storage_path=str(folder / "tune"),
            verbose=0,
            callbacks=[Post(connection, folder / "tune.log", meters)],
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    try:
        tuner.fit()
    except Exception:
        if ending.is_set():
            taking.join()  # it ends this process
        raise


def _name(trial: Any) -> str:
    return str(trial.trial_id)


def _take(
    connection: Connection, jobs: queue.SimpleQueue[Posted], ending: threading.Event, folder: Path, own: bool
) -> None:
    """Jobs from the driver, until it hangs up or dies; then nothing is left of Ray where the cluster is our `own`."""
    with contextlib.suppress(EOFError, OSError):
        while (message := connection.recv()) is not None:
            jobs.put(Posted(*message))
    ending.set()
    if not own:  # what Ray does at the end of a connection may end this process
        shutil.rmtree(folder, ignore_errors=True)
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)  # this process, and what a cluster of its own has left behind


def _connect(workers: Workers, folder: Path, patience: float) -> None:
    """Starts a cluster on this machine, or finds the one that runs, for at most `patience` seconds.

    Raises `InputError` where there is none.
    """
    variables = {"RAY_CHDIR_TO_TRIAL_DIR": "0"} | {name: os.environ[name] for name in SENT if name in os.environ}
    runtime = {"working_dir": str(folder / "code"), "env_vars": variables}
    common: dict[str, Any] = {"runtime_env": runtime, "logging_level": "ERROR", "log_to_driver": True}
    if workers.address is None:
        needed = workers.count * (workers.cpus or share([os.cpu_count() or 1], workers.count))
        ray.init("local", num_cpus=math.ceil(needed), include_dashboard=False, _temp_dir=str(folder), **common)
        return
    end = time.monotonic() + patience
    while True:
        try:
            await_answer(workers.address)
            ray.init(address=workers.address, **common)
            return
        except (OSError, RuntimeError, ValueError) as error:
            ray.shutdown()
            if time.monotonic() > end:
                told = " ".join(str(error).split()) or type(error).__name__
                raise InputError(
                    f"no Ray cluster can be used at {workers.address}: {told}; the command must run on a machine of "
                    "the cluster"
                ) from error
            time.sleep(AGAIN)


def _room(workers: Workers, check: bool) -> float:
    """CPUs of a job; raises `InputError` where the cluster has no room for all workers and that is to be checked."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = [float(node.get("CPU", 0)) for node in nodes]
    gpus = [float(node.get("GPU", 0)) for node in nodes]
    each = workers.cpus or share(cpus, workers.count)
    fits = [
        min(cpu // each, gpu // workers.gpus if workers.gpus else math.inf) for cpu, gpu in zip(cpus, gpus, strict=True)
    ]
    if check and sum(fits) < workers.count:
        wanted = f"{each:g} CPUs" + (f" and {workers.gpus:g} GPUs" if workers.gpus else "")
        raise InputError(
            f"{workers.count} jobs of {wanted} do not fit: the cluster has room for {sum(fits):g} at a time "
            f"({sum(cpus):g} CPUs, {sum(gpus):g} GPUs); ask for fewer --workers, --trial-cpus or --trial-gpus"
        )
    return each


def share(cpus: Sequence[float], workers: int) -> float:
    """The most whole CPUs that each of the workers can have on machines of so many; 1 where there are too few."""
    for each in range(int(max(cpus, default=1)), 1, -1):
        if sum(cpu // each for cpu in cpus) >= workers:
            return float(each)
    return 1.0


def _how(error: str) -> str:
    """What Ray says of a death, in one line."""
    _, _, reason = error.partition("The actor is dead because ")
    return " ".join((reason or error).partition("Some common causes")[0].split())[:300]


def last_words(log: Path, error: str) -> str:
    """What Ray says of a worker's death, and what the worker wrote, as far as it has come here."""
    found = re.search(r"\bpid: (\d+)", error)
    if found is None:
        return error
    own = re.compile(rf"^(?:\x1b\[\d+m)?\(\w+ pid={found[1]}\b[^)]*\)(?:\x1b\[0m)? ?", re.MULTILINE)
    end, lines = time.monotonic() + LAST_WORDS, [""]
    while time.monotonic() < end:
        new = [line[match.end() :] for line in read_log(log).splitlines() if (match := own.match(line))]
        if new and new == lines:
            break
        lines = new
        time.sleep(0.3)
    return error.strip() + "\n" + "\n".join(lines)
