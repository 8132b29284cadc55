"""Do two independent measurements rank networks alike that differ by 5 % in speed?

    python scripts/benchmarks/latency_ranking.py --out docs/results/latency_ranking

Plain CNNs in fp32 of equal layers, whose numbers are 5 % apart, are measured twice by `cpu-onnxruntime`, each time in a
fresh process beside the same frozen reference, the deepest of them. Printed is Kendall's τ between both
orders (`scipy.stats.kendalltau`), and how many pairs are ties: their intervals overlap in either of the measurements.
Pairs that are no tie must be ordered alike.

Finished cells are kept in OUT.json; the same command goes on where it was cut off.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from latency_repeatability import Cell, Kept, child, plain_cnn, target_key
from scipy.stats import kendalltau

ROUNDS = ("first", "second")
STEP = 1.05
DEEPEST = 64
CHANNELS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=20, help="how many networks (default 20)")
    parser.add_argument("--scale", choices=("smoke", "full"), default="full", help="smoke: four networks")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    parser.add_argument("--measure", nargs=2, metavar=("LAYERS", "FROZEN"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        layers, frozen = arguments.measure
        print(json.dumps(measured(int(layers), float(frozen))))
        return
    networks = depths(4 if arguments.scale == "smoke" else arguments.networks)
    path = arguments.out and arguments.out.with_suffix(".json")
    kept = Kept(path, {"scale": arguments.scale, "target": target_key()})
    start = partial(child, script=__file__)
    frozen = kept.get("frozen", partial(start, "--measure", str(DEEPEST), "0"))["frozen"]
    for turn in ROUNDS:
        for layers in networks:
            found = kept.get(f"{layers} layers, {turn}", partial(start, "--measure", str(layers), repr(frozen)))
            print(f"{turn}: {layers} layers {found['latency']:.4g} s", file=sys.stderr)
    rounds = [[kept.cells[f"{layers} layers, {turn}"] for layers in networks] for turn in ROUNDS]
    table = markdown(kept.target, rounds, networks)
    print(table)
    if arguments.out:
        arguments.out.with_suffix(".md").write_text(
            "# Two measurements of networks 5 % apart\n\n"
            f"Made by `python scripts/benchmarks/latency_ranking.py --networks {arguments.networks} "
            f"--scale {arguments.scale}`; all figures stand in `{arguments.out.name}.json`.\n\n{table}\n"
        )


def depths(count: int) -> list[int]:
    """Numbers of layers from the deepest network down, each about 5 % less than the one before."""
    return [round(DEEPEST / STEP**place) for place in range(count)]


def measured(layers: int, frozen: float) -> Cell:
    """Latency with its interval; the frozen latency of the reference instead where `frozen` is 0."""
    import torch

    from cost_models import Deployable, Reference, target
    from workloads import trace

    torch.manual_seed(0)
    example = torch.randn(1, 3, 32, 32)
    modules = plain_cnn([CHANNELS] * layers), plain_cnn([CHANNELS] * DEEPEST)
    candidate, dense = (Deployable(module, example, [], trace(module, example)) for module in modules)
    model = target("cpu-onnxruntime:energy=off")
    if not frozen:
        return {"frozen": model.freeze(dense).latency}
    cost = model.cost(candidate, Reference(dense, frozen))
    latency = cost.figures["latency"]
    figures: dict[str, Any] = {"latency": latency.value, "low": latency.low, "high": latency.high}
    return figures | {"unstable": cost.unstable, "telemetry": dict(cost.telemetry)}


def markdown(target: str, rounds: list[list[Cell]], networks: list[int]) -> str:
    """Kendall's τ, the ties, and the networks with both measurements."""
    first, second = (np.array([cell["latency"] for cell in cells]) for cells in rounds)
    pairs = list(itertools.combinations(range(len(networks)), 2))
    ties = {pair for pair in pairs if any(overlap(cells[pair[0]], cells[pair[1]]) for cells in rounds)}
    swapped = [(i, j) for i, j in pairs if (first[i] - first[j]) * (second[i] - second[j]) < 0]
    ordered = np.sort(first)
    lines = [
        f"Target `{target}`. Kendall's τ between both measurements: **{kendalltau(first, second).statistic:.3f}**. "
        f"Of {len(pairs)} pairs {len(ties)} are ties; {len(swapped)} are ordered differently, "
        f"{len(set(swapped) - ties)} of them no ties. Neighbours lie {np.median(ordered[1:] / ordered[:-1]) - 1:.1%} "
        "apart in the median.",
        "",
        "| layers | first, µs | second, µs | second ÷ first | ties with | unstable |",
        "|---|---:|---:|---:|---|---|",
    ]
    for place in np.argsort(first)[::-1]:
        one, two = (cells[place] for cells in rounds)
        rivals = [str(networks[sum(pair) - place]) for pair in sorted(ties) if place in pair]
        lines.append(
            f"| {networks[place]} | {interval(one)} | {interval(two)} | {two['latency'] / one['latency']:.3f} "
            f"| {', '.join(rivals) or '–'} | {'yes' if one['unstable'] or two['unstable'] else 'no'} |"
        )
    return "\n".join(lines)


def overlap(one: Cell, other: Cell) -> bool:
    return bool(one["low"] <= other["high"] and other["low"] <= one["high"])


def interval(cell: Cell) -> str:
    return f"{cell['latency'] * 1e6:.1f} ({cell['low'] * 1e6:.1f}–{cell['high'] * 1e6:.1f})"


if __name__ == "__main__":
    main()
