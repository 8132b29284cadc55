"""SENTEI on street scenes: mIoU of equal filters beside unstructured pruning at the same sparsity.

    python scripts/reproduce/sentei_segmentation.py --scale cpu --data-dir DIR

Every filter of a layer keeps the same number of weights (`sentei`), or the smallest weights of the whole network go
wherever they are (`conventional`, at once): at the same sparsity of the whole network, tuned for as many epochs, each
with and without distillation. Beside them masks that grow during tuning, and two of every four inputs.

Hardware that skips zeros runs the filters of a block side by side and waits for the longest. The column `waiting` says
how long that takes, blocks of 16 filters, beside lanes that never wait: 1 is ideal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Row, Run, accuracy, size, start
from torch.nn import functional

import shrinkboard as sb

SPARSITY = {"smoke": (0.75,), "cpu": (0.5, 0.75, 0.9), "full": (0.5, 0.75, 0.9)}
GRADUAL_AT = 0.75
SEEDS = {"smoke": (0,), "cpu": (0,), "full": (0, 1, 2)}
WIDTH = {"smoke": 4, "cpu": 8, "full": 32}
"""Channels of the U-Net's first map."""
REDUCTION = {"cpu": 3, "full": 1}
"""The pictures of 480×360 are made smaller by this factor."""
RECIPE: dict[str, dict[str, float]] = {
    "smoke": {"epochs": 2, "tune_epochs": 1},
    "cpu": {"epochs": 50, "tune_epochs": 8},
    "full": {"epochs": 200, "tune_epochs": 40},
}
PUBLISHED_LOSS = 0.4
"""Points of mIoU that SENTEI states to lose; sparsity, network and pictures were not given."""
LANES = 16


def main() -> None:
    run = start(__doc__, "sentei_segmentation", dict.fromkeys(SPARSITY, "camvid/unet"))
    described = segmentation(run)
    rows: list[Row] = []
    for seed in SEEDS[run.scale]:
        dense = run.dense(seed, described)
        for method, strategy, knobs, tune in methods(run, dense):
            key = {"method": method, "distillation": knobs.get("distillation", 0.0), "seed": seed}
            if "sparsity of layers" in knobs:
                key["sparsity of layers"] = knobs["sparsity of layers"]
            given = {name: value for name, value in knobs.items() if name != "sparsity of layers"}
            rows.append(run.cell(key, partial(cell, dense, strategy, given, tune)))
    for row in rows:
        untouched = next(r for r in rows if r["method"] == "dense" and r["seed"] == row["seed"])
        row["loss, points"] = untouched["test_miou"] - row["test_miou"]
    layers = [{"layer": name, **_by_method(rows, name)} for name in rows[-1]["longest ÷ mean"]]
    shown = [{name: value for name, value in row.items() if name != "longest ÷ mean"} for row in rows]
    run.write(
        "SENTEI: equal filters beside unstructured pruning",
        text(run),
        {
            "Loss of mIoU on the test set, points": compared(run, rows),
            f"Longest filter ÷ mean filter, at {_middle(run):g} of every layer": layers,
            "Every network": shown,
        },
        lambda plt: plot(plt, rows),
    )


def segmentation(run: Run) -> Any:
    """The U-Net of the scale on its pictures: CamVid, smaller ones, or noise."""
    base = run.workload(**RECIPE[run.scale])
    build = partial(base.build, width=WIDTH[run.scale])
    if run.scale == "smoke":
        return replace(base, name="noise/unet", build=build, input_shape=(3, 16, 24), load=_noise)
    factor = REDUCTION[run.scale]
    _, height, width = base.input_shape
    shape = (3, height // factor, width // factor)
    name = f"camvid/unet{WIDTH[run.scale]}-{shape[2]}x{shape[1]}"
    return replace(base, name=name, build=build, input_shape=shape, load=partial(_reduced, base.load, factor))


def methods(run: Run, dense: Any) -> list[tuple[str, str, dict[str, Any], bool]]:
    """Name in the table, strategy, knobs, whether it is tuned."""
    found: list[tuple[str, str, dict[str, Any], bool]] = [
        ("dense", "dense", {}, False),
        ("dense, tuned", "dense", {"distillation": 0.0}, True),
    ]
    sentei = sb.strategy("sentei")
    members = sentei.space(dense).families[0].members
    for sparsity in SPARSITY[run.scale]:
        layers = dict.fromkeys(members, sparsity)
        density = size(sentei.compress(dense, sentei.plan(dense, {"sparsity": layers})), dense)["density"]
        for weight in (0.0, 1.0):
            at = {"sparsity of layers": sparsity, "distillation": weight}
            found.append(("sentei", "sentei", {**at, "sparsity": layers}, True))
            found.append(("unstructured", "conventional", {**at, "sparsity": 1 - density, "steps": 0}, True))
            if sparsity == GRADUAL_AT:
                found.append(("sentei, gradual", "sentei", {**at, "sparsity": layers, "gradual": True}, True))
    found += [("sentei, 2:4", "sentei", {"distillation": weight, "pattern": "2:4"}, True) for weight in (0.0, 1.0)]
    return found


def cell(dense: Any, strategy: str, knobs: dict[str, Any], tune: bool) -> Row:
    """One network, tuned by the recipe or left as it is: mIoU in %, density, and how long lanes wait."""
    method = sb.strategy(strategy)
    compressed = method.compress(dense, method.plan(dense, knobs))
    epochs = dense.workload.recipe.tune_epochs if tune else 0
    seconds = method.tune(compressed, dense, epochs).cost.seconds if tune else 0.0
    network = sb.trace(compressed.module, dense.workload.example, {}, compressed.nonzeros())
    return {
        **accuracy(compressed.module, dense, "validation"),
        **accuracy(compressed.module, dense, "test"),
        "density": size(compressed, dense)["density"],
        "waiting": waiting(network.compute_layers),
        "longest ÷ mean": {row.name: waiting([row], len(row.nonzeros)) for row in network.compute_layers},
        "epochs": epochs,
        "seconds": seconds,
    }


def waiting(layers: Any, lanes: int = LANES) -> float:
    """Steps of lanes that wait for the longest filter of their block ÷ those of lanes that never wait, over layers."""
    taken = needed = 0.0
    for layer in layers:
        positions = layer.macs / layer.weights
        for start_of_block in range(0, len(layer.nonzeros), lanes):
            block: np.ndarray = layer.nonzeros[start_of_block : start_of_block + lanes]
            taken += positions * len(block) * float(block.max())
            needed += positions * float(block.sum())
    return taken / needed


def compared(run: Run, rows: list[Row]) -> list[Row]:
    """One row a sparsity and method: loss against the dense network, mean over seeds, without and with distillation."""
    found = []
    masked = [(m, s) for s in SPARSITY[run.scale] for m in ("sentei", "sentei, gradual", "unstructured")]
    for method, sparsity in [("dense, tuned", None), *masked, ("sentei, 2:4", None)]:
        chosen = [row for row in rows if row["method"] == method and row.get("sparsity of layers") == sparsity]
        if not chosen:
            continue
        found.append(
            {
                "method": method,
                "sparsity of the network": 1 - chosen[0]["density"],
                "waiting": _mean(chosen, "waiting"),
                "without distillation": _mean([row for row in chosen if not row["distillation"]], "loss, points"),
                "with distillation": _mean([row for row in chosen if row["distillation"]], "loss, points"),
                "published": PUBLISHED_LOSS if method == "sentei" else None,
            }
        )
    return found


def _by_method(rows: list[Row], layer: str) -> Row:
    """Of the middle sparsity: the method's ratio in this layer."""
    levels = sorted({row["sparsity of layers"] for row in rows if "sparsity of layers" in row})
    middle = [row for row in rows if row.get("sparsity of layers") == levels[len(levels) // 2] and row["distillation"]]
    return {row["method"]: row["longest ÷ mean"][layer] for row in middle}


def _middle(run: Run) -> float:
    return SPARSITY[run.scale][len(SPARSITY[run.scale]) // 2]


def _mean(rows: list[Row], column: str) -> float | None:
    return sum(row[column] for row in rows) / len(rows) if rows else None


def _reduced(load: Callable[[Path | None], Any], factor: int, data_dir: Path | None) -> Any:
    """The splits with pictures averaged over factor×factor pixels; labels are those in the middle."""

    def reduced(part: Any) -> Any:
        if factor == 1:
            return part
        # A few at a time: as floats all pictures would take gigabytes.
        chunks = [functional.avg_pool2d(some.float(), factor).round().to(torch.uint8) for some in part.images.split(32)]
        middle = slice(factor // 2, None, factor)
        return sb.ArraySplit(torch.cat(chunks), part.targets[:, middle, middle].contiguous())

    splits = load(data_dir)
    return sb.Splits(reduced(splits.train), reduced(splits.validation), reduced(splits.test))


def _noise(data_dir: Path | None) -> Any:
    """Coarse noise, labelled by its brightness; a tenth is void."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (40, 3, 4, 6), generator=draw)
    images = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)
    labels = images[:, 0] * 11 // 256
    labels[torch.rand(labels.shape, generator=draw) < 0.1] = 255
    parts = [slice(0, 24), slice(24, 32), slice(32, 40)]
    return sb.Splits(*(sb.ArraySplit(images[part].to(torch.uint8), labels[part]) for part in parts))


def text(run: Run) -> str:
    described = segmentation(run)
    _, height, width = described.input_shape
    recipe = described.recipe
    return (
        f"{described.name}: a U-Net of base width {WIDTH[run.scale]} on pictures of {width}×{height}, seeds "
        f"{', '.join(map(str, SEEDS[run.scale]))}; the dense network trained for {recipe.epochs} epochs, every other "
        f"tuned for {recipe.tune_epochs:g} from it. Distillation: λ = 1, T = 2. Unstructured pruning has as many "
        "weights in the whole network as `sentei` beside it, the first layer and the classifier not spared. "
        f"SENTEI states a loss of {PUBLISHED_LOSS} points of mIoU without the sparsity, network and pictures."
    )


def plot(plt: Any, rows: list[Row]) -> None:
    plt.axhline(rows[0]["test_miou"], color="black", linewidth=1, label="dense")
    for method, colour in (("sentei", "C0"), ("unstructured", "C1"), ("sentei, gradual", "C2"), ("sentei, 2:4", "C3")):
        for weight, style in ((0.0, "x--"), (1.0, "o-")):
            of_seeds: dict[float, list[float]] = {}
            for row in rows:
                if row["method"] == method and row["distillation"] == weight:
                    of_seeds.setdefault(1 - row["density"], []).append(row["test_miou"])
            points = sorted((sparsity, sum(values) / len(values)) for sparsity, values in of_seeds.items())
            label = f"{method}, {'with' if weight else 'without'} distillation"
            plt.plot(*zip(*points, strict=True), style, color=colour, label=label)
    plt.xlabel("sparsity of the whole network")
    plt.ylabel("mIoU on the test set, %")
    plt.legend(fontsize=8)
    plt.grid(alpha=0.3)


if __name__ == "__main__":
    main()
