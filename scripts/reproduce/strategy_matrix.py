"""Every strategy on every network: does it go the whole way, what does it leave, and how long do plan and cut take?

    python scripts/reproduce/strategy_matrix.py --scale cpu

The networks have their initial weights (nothing is trained: the question is what runs) and the data set's own shapes
with made-up pictures. Every strategy takes its own setting; then a step of training, and one picture through the
result. What a strategy refuses stands in the table with its reason.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from harness import Row, Run, size, start

import shrinkboard as sb

NETWORKS = {
    "smoke": ("digits/cnn",),
    "cpu": (
        "digits/cnn",
        "cifar10/resnet8",
        "cifar10/resnet20",
        "cifar10/resnet56",
        "cifar10/vgg16_bn",
        "cifar10/mobilenetv2",
        "camvid/unet",
    ),
}
NETWORKS["full"] = NETWORKS["cpu"]
PICTURES = {"classification": 512, "segmentation": 8}


def main() -> None:
    run = start(__doc__, "strategy_matrix", {scale: names[0] for scale, names in NETWORKS.items()})
    rows: list[Row] = []
    for network in NETWORKS[run.scale]:
        dense = None
        for name in [*sb.strategy_names(), "pca_l1+minifloat", "sentei+int", "low_rank+int", "snip@shuffle"]:

            def cell(name: str = name, network: str = network) -> Row:
                nonlocal dense
                dense = dense or untrained(run, network)
                return whole_way(dense, name)

            rows.append(run.cell({"network": network, "strategy": name}, cell))
    run.write(
        "Every strategy on every network",
        "Density: weights left ÷ weights of the dense network. The first plan of a network includes what all later "
        "ones share, such as its prune groups and the spectra of its feature maps; training is in neither column. "
        "Scores that are taken in rounds (SynFlow, NTK-SAP) have one round here.",
        {
            network: [without(row, "network") for row in rows if row["network"] == network]
            for network in NETWORKS[run.scale]
        },
    )


def untrained(run: Run, name: str) -> Any:
    """The network of a workload at its initial weights, on pictures of noise of its shape."""
    workload = sb.workload(name, data_dir=run.data_dir)
    draw = torch.Generator().manual_seed(0)
    count, (channels, height, width) = PICTURES[workload.task], workload.input_shape
    images = torch.randint(0, 256, (count, channels, height, width), generator=draw, dtype=torch.uint8)
    if workload.task == "classification":
        targets = torch.arange(count) % workload.classes
    else:
        targets = torch.randint(0, workload.classes, (count, height, width), generator=draw, dtype=torch.uint8)
    split = sb.ArraySplit(images, targets)
    recipe = replace(workload.recipe, batch_size=min(workload.recipe.batch_size, count // 4))
    workload = replace(workload, recipe=recipe, load=lambda _: sb.Splits(split, split, split), device=run.device)
    return sb.untrained(workload, 0)


def whole_way(dense: Any, name: str) -> Row:
    """One strategy from plan to outputs; what it refuses is a row with the reason."""
    method = sb.strategy(name)
    try:
        knobs = setting(method, dense)
        started = time.perf_counter()
        plan = method.plan(dense, knobs)
        planned = time.perf_counter()
        compressed = method.compress(dense, plan)
        cut = time.perf_counter()
    except sb.InputError as refusal:
        return {"refused": str(refusal)}
    steps = len(dense.splits.train) // dense.workload.recipe.batch_size
    method.tune(compressed, dense, 1 / steps, total_epochs=1 / steps)
    with torch.no_grad():
        outputs = compressed.module(dense.workload.example)
    if not torch.isfinite(outputs).all():
        raise SystemExit(f"{name} on {dense.workload.name}: outputs are not finite")
    found = size(compressed, dense)
    return {
        "parameters": found["parameters"],
        "MMAC": found["macs"] / 1e6,
        "density": found["density"],
        "plan, s": planned - started,
        "cut, s": cut - planned,
    }


def setting(method: Any, dense: Any) -> dict[str, Any]:
    """The defaults of a strategy's own space; scores that are taken in rounds have one, which shows as much."""
    space = method.space(dense)
    knobs = space.decode(space.ladder(1)[0] if space.ladder(1) else {})
    return knobs | ({"iterations": 1} if "iterations" in knobs else {})


def without(row: Row, name: str) -> Row:
    return {key: value for key, value in row.items() if key != name}


if __name__ == "__main__":
    main()
