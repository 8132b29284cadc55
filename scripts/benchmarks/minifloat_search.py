"""How much faster than quantising and summing is the exact minifloat search, and how long does a whole network take?

    python scripts/benchmarks/minifloat_search.py --out docs/results/minifloat_search

For every output channel of ResNet-20 (random weights: they do not decide how long it takes) the exponent width and the
clip of the least squared error are found over all widths and 111 clips, once by prefix sums, once by brute force:
quantise the layer for every width and clip, and sum the squared errors. The search hardly depends on how many weights a
channel has, brute force is proportional to it: the largest layer of VGG-16 stands beside ResNet-20's small ones. Both
run in this process, one after the other; printed are the seconds of each (of the search the median of five), their
ratio, and whether the errors agree. One thread by default: layers are small, so that a second one gains little and
waits where the other core is busy.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cost_models import processor
from strategies.ops.minifloat import RATIOS, best_split, exponents, quantise
from workloads import initial, workload

REPEATS = 5
GOAL = 2.0
"""Seconds for ResNet-20 at 8 bits on two cores."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=("smoke", "full"), default="full", help="smoke: the digits CNN at 4 bits")
    parser.add_argument("--threads", type=int, default=1, help="threads that PyTorch may use (default 1)")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    smoke = arguments.scale == "smoke"
    network, widths = ("digits/cnn", (4,)) if smoke else ("cifar10/resnet20", (8, 6, 4))
    module = initial(workload(network), 0)
    layers = [part.weight.detach() for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    rows = [measured(network, layers, bits) for bits in widths]
    if not smoke:
        rows.append(measured("VGG-16's largest layer", [torch.randn(512, 512, 3, 3)], 8))
    results = {
        "machine": f"{processor().model}, {os.cpu_count()} cores, {arguments.threads} used",
        "torch": torch.__version__,
        "rows": rows,
    }
    table = markdown(results)
    print(table)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
        arguments.out.with_suffix(".md").write_text(
            "# Seconds of the minifloat search\n\n"
            f"Made by `python scripts/benchmarks/minifloat_search.py`.\n\n{table}\n"
        )


def measured(name: str, layers: Sequence[Tensor], bits: int) -> dict[str, Any]:
    """Seconds of both ways, and the largest relative difference of the squared errors that they reach."""
    best_split(layers[0], bits)  # the first call loads kernels
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        splits = [best_split(weight, bits) for weight in layers]
        seconds.append(time.perf_counter() - started)
    started = time.perf_counter()
    least = [brute_force(weight, bits) for weight in layers]
    brute = time.perf_counter() - started
    reached = [
        errors(weight.double().flatten(1), bits, exponent[:, None], clip[:, None])
        for weight, (exponent, clip) in zip(layers, splits, strict=True)
    ]
    difference = max(float((ours / theirs - 1).abs().max()) for ours, theirs in zip(reached, least, strict=True))
    return {
        "weights": name,
        "channels": sum(len(weight) for weight in layers),
        "bits": bits,
        "seconds": statistics.median(seconds),
        "brute": brute,
        "difference": difference,
    }


def brute_force(weight: Tensor, bits: int) -> Tensor:
    """Least squared error of every channel over all widths and clips, (channels,)."""
    values = weight.double().flatten(1)
    largest = values.abs().amax(1, keepdim=True)
    tried = [errors(values, bits, exponent, ratio * largest) for exponent in exponents(bits) for ratio in RATIOS]
    return torch.stack(tried).amin(0)


def errors(values: Tensor, bits: int, exponent: Tensor | int, clip: Tensor) -> Tensor:
    """Σ(x − Q(x))² of every channel, (channels,)."""
    return (values - quantise(values, bits, exponent, clip)).square().sum(1)


def markdown(results: dict[str, Any]) -> str:
    """The table of seconds and ratios."""
    lines = [
        f"On {results['machine']}, torch {results['torch']}. The goal is {GOAL:g} seconds for ResNet-20 at 8 bits.",
        "",
        "| weights | channels | bits | search, s | brute force, s | brute force ÷ search "
        "| largest difference of the errors |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['weights']} | {row['channels']} | {row['bits']} "
        f"| {row['seconds']:.2f} | {row['brute']:.1f} | **{row['brute'] / row['seconds']:.0f}** "
        f"| {row['difference']:.0e} |"
        for row in results["rows"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
