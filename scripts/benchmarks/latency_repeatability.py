"""How far apart do fresh processes measure the same latency, and do their intervals hold the long-run value?

    python scripts/benchmarks/latency_repeatability.py --out docs/results/latency_repeatability

Every network is measured beside its dense fp32 reference by `cpu-onnxruntime` in fresh processes: with the machine as
it is, with a process that keeps the other CPU busy, and with one that keeps the CPU busy to which the measurement is
pinned first. Printed is the coefficient of variation (CV, standard deviation ÷ mean) over processes of the normalised
latency, beside that of a plain median on the wall clock: 10 inferences to warm up, 300 that count, as is usual.

The long-run value of a network is the geometric mean of its latency over all quiet processes. "Holds" is the share of
95 % intervals that hold it. "Beyond the blocks" is the standard deviation of the latency about that value, less what
the bootstrap over blocks explains, each scaled by the share of calm pairs: `cost_models.timing.DRIFT` stands for it.

Finished cells are kept in OUT.json; the same command goes on where it was cut off.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

Cell = dict[str, Any]

LOADS = ("quiet", "hog on the other core", "hog on the same core")
HOG = (
    "import os, sys\nif hasattr(os, 'sched_setaffinity'): os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
)
NETWORKS = (
    *("digits/cnn int8", "cifar10/resnet8 int8", "cifar10/resnet20 int8"),
    *("plain cnn fp32, half of the widths", "plain cnn fp32, three quarters of the widths"),
)
PLAIN = {"half": 0.5, "three quarters": 0.75}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=16, help="fresh processes per network and load (default 16)")
    parser.add_argument("--scale", choices=("smoke", "full"), default="full", help="smoke: one network, two processes")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    parser.add_argument("--measure", nargs="+", metavar="NETWORK [LATENCY THROUGHPUT]", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        network, *frozen = arguments.measure
        print(json.dumps(measured(network, *map(float, frozen)) if frozen else frozen_figures(network)))
        return
    smoke = arguments.scale == "smoke"
    out = arguments.out and arguments.out.with_suffix(".json")
    kept = Kept(out, {"scale": arguments.scale, "target": target_key()})
    fill(kept, NETWORKS[:1] if smoke else NETWORKS, 2 if smoke else arguments.processes)
    table = markdown(kept.target, list(kept.cells.values()))
    print(table)
    if arguments.out:
        arguments.out.with_suffix(".md").write_text(
            "# Repeatability of the latency between processes\n\n"
            f"Made by `python scripts/benchmarks/latency_repeatability.py --processes {arguments.processes} "
            f"--scale {arguments.scale}`; the figures of every process stand in `{arguments.out.name}.json`.\n\n"
            f"{table}\n"
        )


class Kept:
    """Finished cells by name, in a file where one is given; those of another scale or machine are not taken up."""

    def __init__(self, path: Path | None, about: dict[str, str]) -> None:
        self._path, self._about = path, about
        self.target = about["target"]
        self.cells: dict[str, Cell] = {}
        if path is not None and path.exists():
            found = json.loads(path.read_text())
            if all(found.get(name) == value for name, value in about.items()):
                self.cells = found["cells"]

    def get(self, name: str, make: Callable[[], Cell]) -> Cell:
        """The cell of that name, made and written where it is not there."""
        if name not in self.cells:
            self.cells[name] = make()
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                fresh = self._path.with_suffix(".part")
                fresh.write_text(json.dumps(self._about | {"cells": self.cells}, indent=1) + "\n")
                fresh.replace(self._path)
        return self.cells[name]


def fill(kept: Kept, networks: Sequence[str], processes: int) -> None:
    """Measures all cells; loads and networks by turns, so that no hour of the machine falls on one of them."""
    frozen = {network: kept.get(f"frozen {network}", partial(child, "--measure", network)) for network in networks}
    for turn in range(processes):
        for load in LOADS:
            for network in networks:
                found = kept.get(f"{network}, {load}, {turn}", partial(cell, network, load, frozen[network]))
                print(f"{turn} {load}: {network} {found['latency']:.4g} s", file=sys.stderr)


def cell(network: str, load: str, frozen: Cell) -> Cell:
    """One measurement in a fresh process under that load."""
    figures = repr(frozen["latency"]), repr(frozen["throughput"])
    with company(load):
        return {"network": network, "load": load, **child("--measure", network, *figures)}


def child(*arguments: str, script: str = __file__) -> Cell:
    """What one fresh process prints."""
    start = time.monotonic()
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, timeout=180)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed: {done.stderr.strip().splitlines()[-1:]}")
    return {**json.loads(done.stdout), "process_seconds": time.monotonic() - start}


@contextlib.contextmanager
def company(load: str) -> Iterator[None]:
    """A process that keeps the first allowed CPU busy, or the last, to which the meter pins itself first."""
    if load == "quiet":
        yield
        return
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {0}
    cpu = max(allowed) if load == "hog on the same core" else min(allowed)
    process = subprocess.Popen([sys.executable, "-c", HOG, str(cpu)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def target_key() -> str:
    from cost_models import target

    return target("cpu-onnxruntime:energy=off").key


def plain_cnn(channels: Sequence[int]) -> nn.Sequential:
    """3×3 convolutions with batch norm and ReLU on 32×32, the first of stride 2, and a linear layer of 10 classes."""
    layers: list[nn.Module] = []
    for place, (before, after) in enumerate(zip((3, *channels), channels, strict=False)):
        layers += [nn.Conv2d(before, after, 3, 2 if place == 0 else 1, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], 10)).eval()


def subjects(network: str) -> tuple[Any, Any]:
    """Candidate and dense reference as `Deployable`, on noise with a fixed seed."""
    import torch

    from cost_models import Deployable
    from workloads import Format, LayerFormats, trace, workload

    torch.manual_seed(0)
    if network.startswith("plain"):
        (width,) = (value for words, value in PLAIN.items() if words in network)
        example, calibration = torch.randn(1, 3, 32, 32), [torch.randn(32, 3, 32, 32)]
        modules = [plain_cnn([int(64 * factor)] * 4) for factor in (width, 1.0)]
        candidate, dense = (Deployable(m, example, calibration, trace(m, example)) for m in modules)
        return candidate, dense
    chosen = workload(network.split()[0])
    module, example = chosen.build().eval(), torch.randn(1, *chosen.input_shape)
    calibration = [torch.randn(32, *chosen.input_shape)]
    dense = Deployable(module, example, calibration, trace(module, example))
    int8 = LayerFormats(Format("int", 8), Format("int", 8))
    formats = {layer.name: int8 for layer in dense.network.compute_layers}
    return Deployable(module, example, calibration, trace(module, example, formats)), dense


def frozen_figures(network: str) -> Cell:
    """Latency and throughput of the network's reference."""
    from cost_models import target

    frozen = target("cpu-onnxruntime:energy=off").freeze(subjects(network)[1])
    return {"latency": frozen.latency, "throughput": frozen.throughput}


def measured(network: str, frozen: float, frozen_throughput: float) -> Cell:
    """The network's figures beside its reference's frozen ones."""
    from cost_models import Reference, target
    from cost_models.timing import calm_pairs, median_ratio

    candidate, dense = subjects(network)
    model = target("cpu-onnxruntime:energy=off")
    start = time.monotonic()
    model.predict(candidate, candidate.example)  # the parts of a cost that come once: export, calibration, quantisation
    model.predict(dense, dense.example)
    ready = time.monotonic()
    cost = model.cost(candidate, Reference(dense, frozen, frozen_throughput))
    end = time.monotonic()
    latency = cost.figures["latency"]
    own, beside = (np.asarray(cost.samples[name]) for name in ("latency", "latency_reference"))
    ratio, low, high = median_ratio(own, beside, calm_pairs(own, beside, frozen)[0])
    plain, plain_seconds = plain_median(candidate)
    return {
        "latency": latency.value,
        "low": latency.low,
        "high": latency.high,
        "block_error": (high - low) / 2 / 1.96 / ratio,
        "median_of_samples": float(np.median(own)),
        "pairs": own.size,
        "plain_median": plain,
        "plain_seconds": plain_seconds,
        "throughput": cost.figures["throughput"].value,
        "unstable": cost.unstable,
        "telemetry": dict(cost.telemetry),
        "setup_seconds": ready - start,
        "cost_seconds": end - ready,
    }


def plain_median(candidate: Any) -> tuple[float, float]:
    """Median of 300 inferences on the wall clock after 10 to warm up, and the seconds that it took with the session."""
    import onnxruntime

    from cost_models.cpu_onnxruntime import quantised_onnx
    from cost_models.export import INPUT

    data = quantised_onnx(candidate).SerializeToString()
    begin = time.monotonic()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    feed, seconds = {INPUT: candidate.example.numpy()}, []
    for _ in range(310):
        start = time.perf_counter()
        session.run(None, feed)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[10:])), time.monotonic() - begin


def markdown(target: str, cells: list[Cell]) -> str:
    """The table of coefficients of variation, and what all intervals say together."""
    seen = [cell for cell in cells if "load" in cell]
    long_run = {
        network: float(np.exp(np.mean([np.log(c["latency"]) for c in select(seen, network, "quiet")])))
        for network in dict.fromkeys(cell["network"] for cell in seen)
    }
    lines = [
        f"Target `{target}`.",
        "",
        "| network | load | processes | normalised latency, CV | plain median, CV | throughput, CV "
        "| mean half interval | holds the long-run value | marked unstable | calm pairs "
        "| s a measurement | s of a plain median | s of export and calibration | s a process |",
        "|---|---|" + "---:|" * 12,
    ]
    for network in long_run:
        for load in LOADS:
            row = select(seen, network, load)
            half = np.mean([(c["high"] - c["low"]) / 2 / c["latency"] for c in row])
            lines.append(
                f"| {network} | {load} | {len(row)} | **{variation(row, 'latency'):.1%}** "
                f"| {variation(row, 'plain_median'):.1%} | {variation(row, 'throughput'):.1%} | {half:.1%} "
                f"| {held(row, long_run):.0%} | {sum(c['unstable'] for c in row)} "
                f"| {np.mean([c['telemetry']['calm'] for c in row]):.0%} | {mean(row, 'cost_seconds'):.1f} "
                f"| {mean(row, 'plain_seconds'):.2f} | {mean(row, 'setup_seconds'):.1f} "
                f"| {mean(row, 'process_seconds'):.1f} |"
            )
    stable = [cell for cell in seen if not cell["unstable"]]
    lines += [
        "",
        f"Of {len(seen)} intervals {held(seen, long_run):.1%} hold the long-run value; of the {len(stable)} of "
        f"measurements that are not marked unstable {held(stable, long_run):.1%}.",
        f"Beyond the blocks: {beyond_blocks(stable, long_run):.2%} ({beyond_blocks(seen, long_run):.2%} with those "
        "marked unstable).",
    ]
    return "\n".join(lines)


def select(cells: list[Cell], network: str, load: str) -> list[Cell]:
    return [cell for cell in cells if (cell["network"], cell["load"]) == (network, load)]


def mean(cells: list[Cell], name: str) -> float:
    return float(np.mean([cell[name] for cell in cells]))


def variation(cells: list[Cell], name: str) -> float:
    """Sample standard deviation ÷ mean of one figure over processes."""
    values = np.array([cell[name] for cell in cells])
    return float(values.std(ddof=1) / values.mean())


def held(cells: list[Cell], long_run: dict[str, float]) -> float:
    """Share of the intervals that hold their network's long-run value."""
    return float(np.mean([cell["low"] <= long_run[cell["network"]] <= cell["high"] for cell in cells]))


def beyond_blocks(cells: list[Cell], long_run: dict[str, float]) -> float:
    """Relative standard deviation that the blocks do not explain, for a measurement with calm pairs only."""
    excess = [
        (np.log(cell["latency"] / long_run[cell["network"]]) ** 2 - cell["block_error"] ** 2)
        * cell["telemetry"]["calm"] ** 2
        for cell in cells
    ]
    return float(np.sqrt(max(np.mean(excess), 0.0)))


if __name__ == "__main__":
    main()
