"""What executors cost beside the evaluations that they run, and what a second worker brings.

    python scripts/benchmarks/executor_overhead.py --out docs/results/executor_overhead

Everything runs on this machine, one executor after another, each begun and warm before the clock starts. The first
table is of jobs that a worker answers at once (their strategy does not exist), and of real evaluations of digits
without training, from which the time of the same jobs in this process is taken off. The second is of trainings on one
thread each, given to two workers in pairs: one after the other, then both at once; each pair is set against itself. In
every round bare processes do the same trainings without any executor: what they gain is what the machine had to give at
the time, and rounds in which they gain less than 1.7 say nothing of executors. The last table tells what travels once,
and what with every trial.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

INSTANT, EVALUATED, WITHOUT_REUSE = 300, 100, 8
ROUNDS, EPOCHS, CALM = 20, 30.0, 1.7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of trainings (default {ROUNDS})")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    overhead, shipped = overheads()
    found = {
        "overhead": overhead,
        "without_reuse": without_reuse(),
        "two_workers": two_workers(arguments.rounds),
        "bytes": shipped,
        "cores": os.cpu_count(),
        "load_before": LOAD,
    }
    text = report(found)
    print(text)
    if arguments.out:
        arguments.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
        arguments.out.with_suffix(".md").write_text(
            f"# Overhead of executors\n\nMade by `python scripts/benchmarks/executor_overhead.py --rounds "
            f"{arguments.rounds}` on {os.cpu_count()} cores. The load of the minute before it was {LOAD:.2f}, that of "
            f"the last {os.getloadavg()[0]:.2f}, of which two are its own.\n\n{text}\n"
        )


LOAD = os.getloadavg()[0]


def report(found: dict[str, Any]) -> str:
    here = found["overhead"]["in process"]
    lines = [
        "| executor, one worker | ms an instant trial | ms an evaluation | ms beside the evaluation |",
        "|---|---:|---:|---:|",
    ]
    for name, row in found["overhead"].items():
        instant, whole = 1e3 * row["instant"] / INSTANT, 1e3 * row["evaluated"] / EVALUATED
        lines.append(f"| {name} | {instant:.1f} | {whole:.1f} | {whole - 1e3 * here['evaluated'] / EVALUATED:.1f} |")
    lines += [
        f"| ray, actors not reused | {1e3 * found['without_reuse'] / WITHOUT_REUSE:.0f} | | |",
        "",
        f"Pairs of trainings of {EPOCHS:g} epochs, one thread each",
        "",
        "| two workers | calm rounds | s one by one | s at once | times as fast | quartiles | all rounds |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    gains = {
        name: [pair["one_by_one"] / pair["at_once"] for pair in pairs] for name, pairs in found["two_workers"].items()
    }
    calm = [number for number, gain in enumerate(gains["bare processes"]) if gain >= CALM]
    for name, pairs in found["two_workers"].items():
        told = ["–"] * 4
        if len(calm) > 1:
            low, median, high = statistics.quantiles([gains[name][number] for number in calm], n=4)
            seconds = (statistics.median(pairs[n][how] for n in calm) for how in ("one_by_one", "at_once"))
            told = [*(f"{value:.2f}" for value in (*seconds, median)), f"{low:.2f}–{high:.2f}"]
        lines.append(
            f"| {name} | {len(calm)} of {len(pairs)} | {' | '.join(told)} | {statistics.median(gains[name]):.2f} |"
        )
    lines += ["", "| what travels under Ray | bytes |", "|---|---:|"]
    lines += [f"| {name} | {count:,} |" for name, count in found["bytes"].items()]
    return "\n".join(lines)


def evaluator() -> Any:
    from cost_models import Frozen
    from search import Evaluator, Subject

    return Evaluator(Subject("digits/cnn"), ["counts"], {"counts": Frozen(None)})


def job(dense: Any, trial: int, epochs: float, name: str = "uniform") -> Any:
    from search import Job
    from strategies import strategy

    plan = strategy("uniform").plan(dense, {"keep": 0.3 + 0.05 * (trial % 12)}).to_json()
    return Job("overhead", name, trial, "candidate", plan, {"keep": trial}, epochs)


def begun(kind: str, workers: int, subject: Any, stack: ExitStack) -> Any:
    """An executor all of whose workers have done a job."""
    from search.executors import InProcess, LocalProcesses
    from search.workers import Workers, start

    if kind == "in process":
        executor: Any = InProcess(subject)
    elif kind == "local processes":
        with patch("os.cpu_count", return_value=workers):  # one thread each
            executor = LocalProcesses(subject.subject, ["counts"], subject.frozen, workers)
    else:
        executor = start(Workers(workers, "ray", cpus=1.0), subject, ["counts"], may_end=True)
    stack.callback(executor.close)
    timed(executor, [job(subject.dense, number, 5.0) for number in range(2 * workers)])
    return executor


def timed(executor: Any, jobs: list[Any]) -> float:
    """Seconds until all jobs have come back, as the campaign's loop gives them out."""
    waiting, out = list(jobs), 0
    began = time.perf_counter()
    while waiting or out:
        while waiting and out < executor.workers:
            executor.submit(waiting.pop(0))
            out += 1
        if executor.next(1.0) is not None:
            out -= 1
    return time.perf_counter() - began


def overheads() -> tuple[dict[str, dict[str, float]], dict[str, int]]:
    """Seconds of all instant trials and of all evaluations by executor; and bytes by what travels under Ray."""
    from search.executors import sent

    subject = evaluator()
    instant = [job(subject.dense, number, 0.0, "none") for number in range(INSTANT)]
    evaluated = [job(subject.dense, number, 0.0) for number in range(EVALUATED)]
    found = {}
    shipped: dict[str, int] = {}
    for kind in ("in process", "local processes", "ray"):
        with ExitStack() as stack:
            executor = begun(kind, 1, subject, stack)
            found[kind] = {"instant": timed(executor, instant), "evaluated": timed(executor, evaluated)}
            if kind == "ray":
                code = [path for path in (executor._folder / "code").rglob("*") if path.is_file()]
                shipped = {
                    "once to a machine: dense network and data": (executor._folder / "setup.pickle").stat().st_size,
                    "once to a machine: code, before it is zipped": sum(path.stat().st_size for path in code),
                    "with a trial: the job": len(pickle.dumps(evaluated[0])),
                    "with a trial: its entry": len(pickle.dumps(sent(subject.run(evaluated[0])))),
                }
    return found, shipped


def two_workers(rounds: int) -> dict[str, list[dict[str, float]]]:
    """Seconds of every pair of trainings by executor, one after the other and both at once."""
    subject = evaluator()
    pair = [job(subject.dense, number, EPOCHS) for number in (0, 12)]  # of one plan
    with ExitStack() as stack:
        executors = {"bare processes": Bare(stack)} | {
            kind: begun(kind, 2, subject, stack) for kind in ("local processes", "ray")
        }
        timed(executors["bare processes"], pair)
        found: dict[str, list[dict[str, float]]] = {kind: [] for kind in executors}
        for _ in range(rounds):
            for kind, executor in executors.items():
                one_by_one = timed(executor, pair[:1]) + timed(executor, pair[1:])
                found[kind].append({"one_by_one": one_by_one, "at_once": timed(executor, pair)})
    return found


class Bare:
    """Two processes that are only told when to begin."""

    workers = 2

    def __init__(self, stack: ExitStack) -> None:
        import multiprocessing

        self._pools = [stack.enter_context(multiprocessing.get_context("spawn").Pool(1)) for _ in range(2)]
        self._out: list[Any] = []

    def submit(self, asked: Any) -> None:
        self._out.append(self._pools[len(self._out)].apply_async(_evaluated, (asked,)))

    def next(self, timeout: float) -> Any:
        self._out.pop().get()
        return True


_kept: list[Any] = []


def _evaluated(asked: Any) -> None:
    import torch

    if not _kept:
        torch.set_num_threads(1)
        _kept.append(evaluator())
    _kept[0].run(asked)


def without_reuse() -> float:
    """Seconds of trials that do nothing but import what ours import, where Tune starts an actor for each."""
    import multiprocessing

    with multiprocessing.get_context("spawn").Pool(1) as pool:  # Ray stays out of this process
        return pool.apply(_without_reuse)


def _without_reuse() -> float:
    import tempfile

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}
    os.environ |= {"RAY_AIR_NEW_OUTPUT": "0"}
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    import ray
    from ray import tune

    class Nothing(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            import search.ray_trials  # noqa: F401

        def step(self) -> dict[str, Any]:
            return {"done": True}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            return None

    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR", runtime_env={"env_vars": {"PYTHONPATH": path}})
    try:
        with tempfile.TemporaryDirectory() as folder:
            _fit(tune, Nothing, folder, 1)
            return _fit(tune, Nothing, folder, WITHOUT_REUSE)
    finally:
        ray.shutdown()


def _fit(tune: Any, trainable: Any, folder: str, trials: int) -> float:
    began = time.perf_counter()
    tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(num_samples=trials, reuse_actors=False, max_concurrent_trials=1),
        run_config=tune.RunConfig(name=str(trials), storage_path=folder, verbose=0),
    ).fit()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
