"""How long does one candidate take before it is trained? Scoring and shrinking, beside a training step of the network.

    python scripts/benchmarks/scoring_speed.py --out docs/results/scoring_speed

For every one-shot method, a plan is made and the network compressed by it: a candidate. What is known of the dense
network after the first candidate (channel groups, spectra, gradients) is kept for the next, so its seconds are told
apart, as "once". Network and pictures are random: neither decides how long this takes. Last, the search for the best
minifloat of 8 bits of every channel of ResNet-20. The goal is two seconds each, on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cost_models import processor
from strategies import Strategy, strategy, strategy_names
from strategies.ops.minifloat import best_split
from workloads import ArraySplit, Dense, Splits, epoch_seconds, initial, untrained, workload

ONE_SHOT = (
    *("uniform", "random", "l1", "global_l1", "pca_l1", "frequency", "sentei", "low_rank", "pai_pat"),
    *("random_mask", "magnitude", "snip", "grasp"),
    *("random_structured", "magnitude_structured", "snip_structured", "grasp_structured"),
)
"""Methods that look at the network once; those that score again and again (`synflow`, `ntk_sap`) are not meant."""
GOAL = 2.0
PICTURES = 10_000
"""Enough for the covariance of 512 channels in maps of 2×2."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=("smoke", "full"), default="full", help="smoke: digits instead of VGG-16")
    parser.add_argument("--threads", type=int, default=2, help="threads that PyTorch may use (default 2)")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    network = "digits/cnn" if arguments.scale == "smoke" else "cifar10/vgg16_bn"
    subject = on_noise(network)
    rows = []
    for name in (name for name in ONE_SHOT if name in strategy_names()):
        rows.append({"method": name, **measured(strategy(name), subject)})
        print(json.dumps(rows[-1]), flush=True)
    results = {
        "network": network,
        "machine": f"{processor().model}, {os.cpu_count()} cores, {arguments.threads} threads",
        "torch": torch.__version__,
        "rows": rows,
        "minifloat": minifloat_seconds("cifar10/resnet20"),
    }
    table = markdown(results)
    print(table)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
        arguments.out.with_suffix(".md").write_text(
            "# Speed of scoring and shrinking\n\nMade by `python scripts/benchmarks/scoring_speed.py`; the same "
            f"figures stand in `{arguments.out.name}.json`.\n\n{table}\n"
        )


def on_noise(name: str) -> Dense:
    """A network with its first weights as if it were trained, on random pictures."""
    chosen = workload(name)
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (PICTURES, *chosen.input_shape), generator=random, dtype=torch.uint8)
    labels = torch.arange(PICTURES) % chosen.classes
    few = ArraySplit(images[:64], labels[:64])
    splits = Splits(ArraySplit(images, labels), few, few)
    return untrained(replace(chosen, load=lambda folder: splits), 0)


def measured(method: Strategy, subject: Dense) -> dict[str, Any]:
    """Seconds of a candidate (the mean of two), of what is done once, and of a training step in between."""
    space = method.space(fresh(subject))
    first, *others = ({**space.decode(params), **method.one_shot} for params in space.ladder(3))
    one, other = others[0], others[-1]
    warm = fresh(subject)
    candidate_seconds(method, warm, first)
    before = candidate_seconds(method, warm, one)
    step = step_seconds(subject)
    after = candidate_seconds(method, warm, other)
    cold = candidate_seconds(method, fresh(subject), other)
    return {"candidate": (before + after) / 2, "once": max(0.0, cold - after), "step": step}


def fresh(subject: Dense) -> Dense:
    """The same network, of which nothing is known yet."""
    return replace(subject, memo={})


def candidate_seconds(method: Strategy, subject: Dense, knobs: dict[str, Any]) -> float:
    """From knob values to the compressed network."""
    started = time.perf_counter()
    method.compress(subject, method.plan(subject, knobs))
    return time.perf_counter() - started


def step_seconds(subject: Dense) -> float:
    """One step of the recipe on the dense network, in fp32."""
    split = subject.splits.train
    (seconds,) = epoch_seconds({"dense": subject.module}, subject.workload, split, "fp32", steps=2).values()
    assert seconds is not None
    return seconds / (len(split) // subject.workload.recipe.batch_size)


def minifloat_seconds(name: str) -> dict[str, Any]:
    """The exact search for exponent width and clip, for every channel of every layer."""
    module = initial(workload(name), 0)
    weights = [layer.weight.detach() for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        for weight in weights:
            best_split(weight, 8)
        taken.append(time.perf_counter() - started)
    return {"network": name, "channels": sum(map(len, weights)), "seconds": float(np.median(taken))}


def markdown(results: dict[str, Any]) -> str:
    """The table of methods, and the line on minifloats."""
    lines = [
        f"{results['network']} on {results['machine']}, torch {results['torch']}. Goal: {GOAL:g} s a candidate.",
        "",
        "| method | s a candidate | ÷ training step | s once | s a training step | goal |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for row in results["rows"]:
        lines.append(
            f"| {row['method']} | **{row['candidate']:.2f}** | {row['candidate'] / row['step']:.1f} "
            f"| {row['once']:.2f} | {row['step']:.2f} | {verdict(row['candidate'])} |"
        )
    found = results["minifloat"]
    lines += [
        "",
        f"The best minifloat of 8 bits for each of the {found['channels']} channels of {found['network']}: "
        f"**{found['seconds']:.2f} s** ({verdict(found['seconds'])}).",
    ]
    return "\n".join(lines)


def verdict(seconds: float) -> str:
    """Whether the goal is met."""
    return "met" if seconds <= GOAL else "missed"


if __name__ == "__main__":
    main()
