"""Records how a shared machine disturbs the timing of a network: the trace that tests replay.

    python scripts/benchmarks/record_trace.py --out tests/cost_models/traces/resnet20_int8.npz

The int8 network and its dense fp32 reference are timed pair by pair in ONNX Runtime, each sample on the wall clock and
in the thread's own time, on one CPU and without any choice of samples, in rounds: without company, with a process that
keeps the other CPU busy, and with one that keeps the same CPU busy. Both networks are set up anew every ten pairs. Run
it on a machine that others disturb, too. By how often the reference was near its fastest, three recordings without
company are kept: the calmest (`quiet`), one that was calm for nearest to 30 % of the time (`natural`), and the one
that was calm least often (`buried`). Of those with company the calmest are kept, which show the company best.

The file holds for each of these states, `hog_on_the_other_core` and `hog_on_the_same_core` an array of uint32, shape
(pairs, 5): the pair's start in units of 10 µs; then seconds of one inference in units of 10 ns, of the candidate on the
wall clock and in thread time, and of the reference likewise.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cost_models import CpuOnnxRuntime, Deployable
from cost_models.machine import exclusive, pinned
from workloads import Format, LayerFormats, trace, workload

HOG = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
BLOCK = 10
"""Pairs after which both networks are set up anew, so that the trace has many placements in memory."""

Prepare = Callable[[], Callable[[], object]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="cifar10/resnet20", help="workload whose network is timed")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of a recording (default 6)")
    parser.add_argument("--rounds", type=int, default=12, help="recordings to choose from, at least 3 (default 12)")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    candidate, reference = networks(arguments.network)
    alone: list[np.ndarray] = []
    beside: list[np.ndarray] = []
    below: list[np.ndarray] = []
    with exclusive("cpu"), pinned() as pin:
        here = pin.cpus[0]
        elsewhere = min(pin.allowed - {here}, default=here)
        for _ in range(arguments.rounds):
            alone.append(record(candidate, reference, arguments.seconds))
            for cpu, recordings in ((elsewhere, beside), (here, below)):
                with hog(cpu):
                    recordings.append(record(candidate, reference, arguments.seconds))
    calm = float(np.quantile(np.concatenate(alone)[:, 4], 0.05))
    quiet, buried = (nearest(alone, calm, share) for share in (1.0, 0.0))
    others = [rows for rows in alone if rows is not quiet and rows is not buried]
    states = {
        "quiet": quiet,
        "natural": nearest(others, calm, 0.3),
        "buried": buried,
        "hog_on_the_other_core": nearest(beside, calm, 1.0),
        "hog_on_the_same_core": nearest(below, calm, 1.0),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {state: packed(rows) for state, rows in states.items()}
    np.savez_compressed(arguments.out, **arrays)
    for state, rows in states.items():
        share = np.mean(rows[:, 4] <= 1.06 * calm)
        ratio = np.median(rows[:, 2] / rows[:, 4])
        print(f"{state}: {len(rows)} pairs, {share:.0%} calm, {np.median(rows[:, 1]):.3g} s on the wall, {ratio:.4f}")


def networks(name: str) -> list[Prepare]:
    """Ways to set up the int8 network and the dense fp32 one: each gives a session's inference."""
    torch.manual_seed(0)
    chosen = workload(name)
    module, example = chosen.build().eval(), torch.randn(1, *chosen.input_shape)
    table = trace(module, example)
    int8 = LayerFormats(Format("int", 8), Format("int", 8))
    formats = {layer.name: int8 for layer in table.compute_layers}
    calibration = [torch.randn(32, *chosen.input_shape)]
    return [
        set_up(Deployable(module, example, calibration, network))
        for network in (trace(module, example, formats), table)
    ]


def set_up(deployable: Deployable) -> Prepare:
    program = CpuOnnxRuntime()._program(deployable)

    def prepare() -> Callable[[], object]:
        session = program.session(1, 1)
        session.feed(deployable.example.numpy())
        return session.run

    return prepare


def record(candidate: Prepare, reference: Prepare, seconds: float) -> np.ndarray:
    """Pairs in random order for so many seconds: shape (pairs, 5), start and four durations in seconds."""
    rng, rows = np.random.default_rng(), []
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        runs = candidate(), reference()
        repetitions = [once(run) for run in runs]
        for _ in range(BLOCK):
            row = np.zeros(5)
            row[0] = time.perf_counter() - start
            for side in rng.permutation(2):
                wall, thread = time.perf_counter(), time.thread_time()
                for _ in range(repetitions[side]):
                    runs[side]()
                row[1 + 2 * side] = (time.perf_counter() - wall) / repetitions[side]
                row[2 + 2 * side] = (time.thread_time() - thread) / repetitions[side]
            rows.append(row)
    return np.array(rows)


def once(run: Callable[[], object]) -> int:
    """Warms up; inferences that a sample of 0.3 ms takes."""
    seconds = []
    for _ in range(5):
        start = time.thread_time()
        run()
        seconds.append(time.thread_time() - start)
    return int(np.ceil(3e-4 / min(seconds)))


def nearest(recordings: list[np.ndarray], calm: float, share: float) -> np.ndarray:
    """The recording in which the reference was within 6 % of `calm` for nearest to that share of the pairs."""
    return min(recordings, key=lambda rows: abs(np.mean(rows[:, 4] <= 1.06 * calm) - share))


def packed(rows: np.ndarray) -> np.ndarray:
    units = np.array([1e-5, 1e-8, 1e-8, 1e-8, 1e-8])
    return np.rint((rows - rows[0] * [1, 0, 0, 0, 0]) / units).astype(np.uint32)


@contextlib.contextmanager
def hog(cpu: int) -> Iterator[None]:
    """A process that keeps that CPU busy."""
    process = subprocess.Popen([sys.executable, "-c", HOG, str(cpu)])
    try:
        time.sleep(0.3)  # until it is up
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
