"""How many candidates a second can the FPGA model allocate and estimate? Beside a loop of plain Python.

    python scripts/benchmarks/fpga_throughput.py --out docs/results/fpga_throughput

The network is ResNet-20 (20 layers with weights, 33 blocks), every convolution with each of eight sparsities at weights
of 4 and of 8 bits; a candidate draws one of them for every layer. Timed are: full allocation under the device's budget;
interval and resources of a given folding; and the recurrence of the latency, apart. A loop that takes one
candidate after the other, in Python's own numbers, does the same for a sample, and must find the same. All are timed in
turn, several times over; medians are shown. Last, how far allocation lies above the optimum that integer programming
proves, on every device.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cost_models import processor
from cost_models.fpga import (
    Allocation,
    Stage,
    Table,
    allocate,
    blocks,
    build_table,
    fpga_names,
    given,
    latency,
    named_fpga,
    refine,
    stages,
)
from workloads import Format, Layer, Network, trace, workload

SPARSITIES = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
WEIGHT_BITS = (4, 8)
DEVICE = "zcu104"
GOALS = {"allocation": 20_000, "given folding": 1_000_000}
SAMPLE = {"allocation": 12, "given folding": 400, "latency": 4}
"""Candidates that the loop goes through."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=12_288)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2, help="threads, or processes, to share the candidates")
    parser.add_argument("--gaps", type=int, default=50, help="candidates of every device that are proved")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    arguments = parser.parse_args()
    variants = network_variants()
    work = [blocks(network) for network in variants]
    table = build_table(rows_of(work), named_fpga(DEVICE))
    candidates = drawn(table, arguments.candidates)
    results = {
        "machine": f"{processor().model}, {os.cpu_count()} cores",
        "numpy": np.__version__,
        "device": DEVICE,
        "blocks": len(table.layers),
        "layers with weights": len(variants[0].compute_layers),
        "variants of a convolution": len(SPARSITIES) * len(WEIGHT_BITS),
        "candidates": arguments.candidates,
        "repetitions": arguments.repetitions,
        "workers": arguments.workers,
        "rows": speeds(table, stages(work[0]), candidates, arguments.repetitions, arguments.workers),
        "gaps": [gaps(name, rows_of(work), arguments.gaps) for name in fpga_names()],
    }
    page = markdown(results)
    print(page)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
        arguments.out.with_suffix(".md").write_text(
            "# Speed of the FPGA model\n\nMade by `python scripts/benchmarks/fpga_throughput.py --out "
            f"docs/results/{arguments.out.name}`; the same figures stand in `{arguments.out.name}.json`.\n\n{page}\n"
        )


def network_variants() -> list[Network]:
    """ResNet-20 in int8, once for every pair of sparsity and weight bits; each filter's nonzeros are binomial."""
    import torch

    chosen = workload("cifar10/resnet20")
    traced = trace(chosen.build().eval(), torch.zeros(1, *chosen.input_shape))
    draw = np.random.default_rng(0)

    def variant(layer: Layer, sparsity: float, bits: int) -> Layer:
        if layer.kind not in ("conv", "linear"):
            return layer
        size = layer.weights // layer.out_channels
        return replace(
            layer,
            weight_format=Format("int", bits if layer.kind == "conv" else 8),
            activation_format=Format("int", 8),
            nonzeros=draw.binomial(size, 1 - sparsity, layer.out_channels) if layer.kind == "conv" else layer.nonzeros,
        )

    return [
        Network(tuple(variant(layer, sparsity, bits) for layer in traced.layers), traced.parameters)
        for sparsity in SPARSITIES
        for bits in WEIGHT_BITS
    ]


def rows_of(work: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Blocks of every layer by variant; layers that are the same in all variants have one."""
    return [list(same) if same[0].layer.kind == "conv" else [same[0]] for same in zip(*work, strict=True)]


def drawn(table: Table, count: int) -> np.ndarray:
    """Random candidates, shape (count, layers)."""
    draw = np.random.default_rng(1)
    return np.stack([draw.integers(len(variants), size=count) for variants in table.layers], 1)


def speeds(
    table: Table, pipeline: Sequence[Stage], candidates: np.ndarray, repetitions: int, workers: int
) -> list[dict[str, Any]]:
    """Candidates a second of everything that is timed, each repetition in turn; rows of medians."""
    found = allocate(table, candidates)
    cycles = table.figures[table.first + candidates, found.chosen, 0]
    loop = Loop(table, pipeline)
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else None)
    with ProcessPoolExecutor(workers, context, initializer=_keep, initargs=(table,)) as pool:
        parts = np.array_split(np.arange(len(candidates)), 4 * workers)

        def processes(task: Callable[..., Any], *arrays: np.ndarray) -> None:
            list(pool.map(task, *([array[part] for part in parts] for array in arrays)))

        def threads(task: Callable[..., Any], *arrays: np.ndarray) -> None:
            with ThreadPoolExecutor(workers) as crew:
                list(crew.map(task, *([array[part] for part in parts] for array in arrays)))

        mean = partial(_latency, pipeline)
        timed: dict[tuple[str, str], tuple[int, Callable[[], Any]]] = {
            ("allocation", "one thread"): (len(candidates), lambda: allocate(table, candidates)),
            ("allocation", "threads"): (len(candidates), lambda: allocate(table, candidates, workers)),
            ("allocation", "processes"): (len(candidates), lambda: processes(_allocate, candidates)),
            ("given folding", "one thread"): (len(candidates), lambda: given(table, candidates, found.chosen)),
            ("given folding", "threads"): (
                len(candidates),
                lambda: threads(partial(given, table), candidates, found.chosen),
            ),
            ("latency", "one thread"): (len(candidates), lambda: mean(cycles)),
            ("latency", "threads"): (len(candidates), lambda: threads(mean, cycles)),
        }
        few = {what: slice(count) for what, count in SAMPLE.items()}
        looped = {
            "allocation": lambda: [loop.allocate(one) for one in candidates[few["allocation"]].tolist()],
            "given folding": lambda: [
                loop.given(one, chosen)
                for one, chosen in zip(
                    candidates[few["given folding"]].tolist(), found.chosen[few["given folding"]].tolist(), strict=True
                )
            ],
            "latency": lambda: [loop.latency(one) for one in cycles[few["latency"]].tolist()],
        }
        same = {
            "allocation": found.interval[few["allocation"]],
            "given folding": found.interval[few["given folding"]],
            "latency": mean(cycles[few["latency"]]),
        }
        for what, run in looped.items():
            assert np.allclose(np.asarray(run(), dtype=float), same[what], rtol=1e-12), (
                f"the loop finds other figures: {what}"
            )
        taken: dict[tuple[str, str], list[float]] = {}
        for _ in range(repetitions):
            for key, (count, run) in timed.items():
                taken.setdefault(key, []).append(count / _seconds(run))
            for what, run in looped.items():
                taken.setdefault((what, "loop"), []).append(SAMPLE[what] / _seconds(run))
    return [
        {
            "what": what,
            "how": how,
            "a second": float(np.median(rates)),
            "ratio to the loop": float(np.median(np.divide(rates, taken[what, "loop"]))),
        }
        for (what, how), rates in taken.items()
    ]


def _seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _latency(pipeline: Sequence[Stage], cycles: np.ndarray) -> np.ndarray:
    """Mean of the bracket for candidates whose blocks take `cycles`, shape (N, L)."""
    return np.asarray(latency(pipeline, list(cycles.T)).mean)


_TABLE: list[Table] = []


def _keep(table: Table) -> None:
    """What a process is given once."""
    _TABLE.append(table)


def _allocate(candidates: np.ndarray) -> np.ndarray:
    return allocate(_TABLE[0], candidates).interval


class Loop:
    """The same equations for one candidate after the other, on lists of Python's numbers."""

    def __init__(self, table: Table, pipeline: Sequence[Stage]) -> None:
        self.pipeline = pipeline
        self.first = table.first.tolist()
        self.figures = table.figures.tolist()
        self.offers = table.offers.tolist()
        self.uses = table.uses.swapaxes(-1, -2).tolist()
        self.least = table.least.tolist()
        self.order = table.order.tolist()
        self.levels = len(table.levels)

    def allocate(self, candidate: list[int]) -> int:
        """II of one candidate."""
        rows = [first + variant for first, variant in zip(self.first, candidate, strict=True)]
        bounds = [self.bound(least, rows) for least in self.least]
        level, picked, attempt = max(bounds), [0] * len(rows), 0
        uses, offers_of = self.uses[bounds.index(level)], self.offers[bounds.index(level)]
        while level < self.levels:
            total = [0.0] * 6
            for layer, row in enumerate(rows):
                total = [a + b for a, b in zip(total, uses[row][level][picked[layer]], strict=True)]
            for layer in self.order:
                offers = uses[rows[layer]][level]
                rest = [a - b for a, b in zip(total, offers[picked[layer]], strict=True)]
                worst = [max(a + b for a, b in zip(rest, offer, strict=True)) for offer in offers]
                picked[layer] = worst.index(min(worst))
                total = [a + b for a, b in zip(rest, offers[picked[layer]], strict=True)]
            if max(total) <= 1 - 1e-5:
                return self.given(candidate, [offers_of[row][level][k] for row, k in zip(rows, picked, strict=True)])
            if level == self.levels - 1:
                break
            level = min(level + 1 + attempt // 8, self.levels - 1)
            attempt += 1
        return 0

    def bound(self, least: list[list[float]], rows: list[int]) -> int:
        """The first level that the least costs do not rule out."""
        low, high = 0, self.levels
        while low < high:
            middle = (low + high) // 2
            if sum(least[row][middle] for row in rows) <= 1 + 1e-5:
                high = middle
            else:
                low = middle + 1
        return high

    def given(self, candidate: list[int], chosen: list[int]) -> int:
        """II of one candidate under a given folding; its resources are added up on the way."""
        slowest, total = 0.0, [0.0] * 7
        for first, variant, option in zip(self.first, candidate, chosen, strict=True):
            found = self.figures[first + variant][option]
            slowest = max(slowest, found[0])
            total = [a + b for a, b in zip(total, found, strict=True)]
        return int(max(slowest, -(-(total[6] - 1e-6) // 1)))

    def latency(self, cycles: list[float]) -> float:
        """Mean of the bracket of one candidate."""
        return float(latency(self.pipeline, cycles).mean)


def gaps(name: str, rows: Sequence[Sequence[Any]], count: int) -> dict[str, Any]:
    """II found ÷ least II, over random candidates on one device."""
    table = build_table(rows, named_fpga(name))
    candidates = drawn(table, count)
    found = allocate(table, candidates)
    ratios, started = [], time.perf_counter()
    for i, candidate in enumerate(candidates):
        one = Allocation(found.interval[i : i + 1], found.chosen[i : i + 1], found.shares[i : i + 1])
        ratios.append(float(found.interval[i] / refine(table, candidate.tolist(), one).interval[0]))
    seconds = time.perf_counter() - started
    quantiles = dict(
        zip(("least", "median", "90 %", "largest"), np.quantile(ratios, [0, 0.5, 0.9, 1]).tolist(), strict=True)
    )
    return {
        "device": name,
        "candidates": count,
        "fit": int(found.fits.sum()),
        "mean": float(np.mean(ratios)),
        **quantiles,
        "seconds a proof": seconds / count,
        "ratios": ratios,
    }


def markdown(results: dict[str, Any]) -> str:
    """Two tables: speeds, and gaps to the optimum."""
    lines = [
        f"ResNet-20: {results['layers with weights']} layers with weights among {results['blocks']} blocks, "
        f"{results['variants of a convolution']} variants of every convolution; {results['candidates']:,} random "
        f"candidates on `fpga-{results['device']}`; {results['machine']}, NumPy {results['numpy']}; medians of "
        f"{results['repetitions']} repetitions in turn; threads and processes: {results['workers']}.",
        "",
        "Allocation chooses a folding for every block; a given folding is looked up and added up (interval, resources, "
        "traffic); the latency is the mean of both recurrences, apart from either. The loop takes one candidate after "
        "the other and finds the same: in Python's own numbers, the latency by the same function.",
        "",
        "| what | how | candidates a second | ÷ loop | goal |",
        "|---|---|---:|---:|---|",
    ]
    for row in results["rows"]:
        goal = GOALS.get(row["what"]) if row["how"] == "threads" else None
        verdict = "" if goal is None else f"{goal:,}: {'met' if row['a second'] >= goal else 'missed'}"
        lines.append(
            f"| {row['what']} | {row['how']} | {row['a second']:,.0f} | {row['ratio to the loop']:,.1f} | {verdict} |"
        )
    lines += [
        "",
        "## How far above the optimum",
        "",
        "Interval that allocation finds ÷ the least that integer programming proves, on random candidates.",
        "",
        "| device | candidates | median | mean | 90 % | largest | s a proof |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in results["gaps"]:
        figures = " | ".join(f"{row[name]:.3f}" for name in ("median", "mean", "90 %", "largest"))
        lines.append(f"| {row['device']} | {row['candidates']} | {figures} | {row['seconds a proof']:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
