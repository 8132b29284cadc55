"""Accuracy against density for pruning at initialisation: six scores, their shuffles, and `pai_pat`.

    python scripts/reproduce/pai_curves.py --scale cpu --data-dir DIR

Every method masks the untrained network to a density d (kept ÷ all convolution and linear weights), which is then
trained from its initial weights. A shuffle keeps as many weights in every layer, drawn at random: what a method does
not gain over its shuffle is no merit of its score. `cpu` shuffles the method that is best on validation, `full`
all of them. `pai_pat` cuts channels instead, to a reduction of parameters ρ = 1 − d. The dense network is trained as
long as the others.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from harness import Row, Run, evaluate, start

import shrinkboard as sb

METHODS = ("random_mask", "magnitude", "snip", "grasp", "synflow", "ntk_sap")
DENSITIES = {
    "smoke": (0.178,),
    "cpu": (0.316, 0.1, 0.032),
    "full": (0.562, 0.316, 0.178, 0.1, 0.032, 0.01),
}
SEEDS = {"smoke": (0,), "cpu": (0,), "full": (0, 1, 2)}
EPOCHS = {"smoke": 1.0, "cpu": 1.5, "full": 200.0}
SHUFFLED = {"smoke": 1, "cpu": 1, "full": 5}
WORKLOAD = {"smoke": "digits/cnn", "cpu": "cifar10/resnet8", "full": "cifar100/vgg16_bn"}

PUBLISHED = {
    0.562: (72.4, 73.0, 73.1, 72.1, 72.9),
    0.316: (71.9, 72.9, 72.9, 72.6, 73.2),
    0.178: (70.8, 72.6, 71.8, 71.6, 72.7),
    0.1: (68.6, 71.8, 70.5, 70.2, 71.7),
    0.032: (62.3, 67.6, 67.9, 66.9, 68.2),
    0.01: (52.1, 60.5, 60.9, 60.8, 63.0),
}
"""Top-1 in % of the first five `METHODS`: CIFAR-100, VGG-16 with batch norm, final epoch, mean of three runs."""
PUBLISHED_DENSE = 72.8


def main() -> None:
    run = start(__doc__, "pai_curves", WORKLOAD)
    rows = [row for seed in SEEDS[run.scale] for row in of_methods(run, seed, METHODS)]
    shuffles = [f"{name}@shuffle" for name in best(rows, SHUFFLED[run.scale])]
    others = [*shuffles, "pai_pat"]
    rows += [row for seed in SEEDS[run.scale] for row in of_methods(run, seed, others)]
    rows += [dense_row(run, seed) for seed in SEEDS[run.scale]]
    methods = [*METHODS, *others]
    run.write(
        "Pruning at initialisation: accuracy against density",
        text(run),
        {
            "Top-1 on the test set, in %": by_density(run, rows, methods),
            "What the score adds to the widths of its layers, in points": over_shuffle(run, rows, shuffles),
            "Published beside ours: what is lost against dense, in points": losses(run, rows),
            "Every network": rows,
        },
        lambda plt: plot(plt, run, rows, methods),
    )


def of_methods(run: Run, seed: int, methods: tuple[str, ...] | list[str]) -> list[Row]:
    """One row a method and density."""
    subject = sb.untrained(run.workload(), seed)
    return [
        run.cell(
            {"method": name, "density_wanted": density, "seed": seed, "epochs": EPOCHS[run.scale]},
            partial(one, subject, name, density, EPOCHS[run.scale]),
        )
        for density in DENSITIES[run.scale]
        for name in methods
    ]


def one(subject: Any, name: str, density: float, epochs: float) -> Row:
    """The final accuracies of one network, or why there is none."""
    knobs = {"rho": 1 - density} if name == "pai_pat" else {"density": density}
    try:
        return evaluate(subject, name, knobs, epochs=epochs)
    except sb.InputError as refusal:
        return {"refused": str(refusal)}


def dense_row(run: Run, seed: int) -> Row:
    """The network with nothing pruned, from the same initial weights."""
    epochs = EPOCHS[run.scale]
    return run.cell(
        {"method": "dense", "density_wanted": 1.0, "seed": seed, "epochs": epochs},
        partial(one, sb.untrained(run.workload(), seed), "magnitude", 1.0, epochs),
    )


def best(rows: list[Row], number: int) -> list[str]:
    """The methods of the highest mean accuracy on validation, without the random one: its shuffle is itself."""
    means = {
        name: mean([row["validation_top1"] for row in rows if row["method"] == name and "validation_top1" in row])
        for name in METHODS
        if name != "random_mask"
    }
    return sorted(means, key=lambda name: -(means[name] or 0.0))[:number]


def mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def top1(rows: list[Row], method: str, density: float) -> float | None:
    """Mean over the seeds on the test set; None where a network was refused."""
    chosen = [row for row in rows if (row["method"], row["density_wanted"]) == (method, density)]
    return mean([row["test_top1"] for row in chosen if "test_top1" in row])


def by_density(run: Run, rows: list[Row], methods: list[str]) -> list[Row]:
    whole = {"density": 1.0, "dense": top1(rows, "dense", 1.0)}
    return [whole] + [{"density": d, **{m: top1(rows, m, d) for m in methods}} for d in DENSITIES[run.scale]]


def over_shuffle(run: Run, rows: list[Row], shuffles: list[str]) -> list[Row]:
    """One row a density: a method less its shuffle."""
    found: list[Row] = []
    for density in DENSITIES[run.scale]:
        line: Row = {"density": density}
        for shuffle in shuffles:
            name = shuffle.removesuffix("@shuffle")
            line[name] = difference(top1(rows, name, density), top1(rows, shuffle, density))
        found.append(line)
    return found


def losses(run: Run, rows: list[Row]) -> list[Row]:
    """One row a density: dense less method, ours and published."""
    dense = top1(rows, "dense", 1.0)
    found: list[Row] = []
    for density in DENSITIES[run.scale]:
        line: Row = {"density": density}
        for place, name in enumerate(METHODS):
            line[name] = difference(dense, top1(rows, name, density))
            if place < len(PUBLISHED[density]):
                line[f"{name}, published"] = PUBLISHED_DENSE - PUBLISHED[density][place]
        found.append(line)
    return found


def difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def text(run: Run) -> str:
    return (
        f"{run.workloads[run.scale]}, {EPOCHS[run.scale]:g} epochs, seeds {', '.join(map(str, SEEDS[run.scale]))}. "
        "Accuracies are those of the last epoch; methods are compared on validation, the test set is read once a "
        "network. The published figures are of VGG-16 with batch norm on CIFAR-100: final epoch, three runs, dense "
        f"about {PUBLISHED_DENSE:g} %; they have none of NTK-SAP. `pai_pat` cuts channels to a reduction of parameters "
        "of 1 − density; the density that came of it stands in the last table."
    )


def plot(plt: Any, run: Run, rows: list[Row], methods: list[str]) -> None:
    whole = top1(rows, "dense", 1.0)
    if whole is not None:
        plt.axhline(whole, color="black", linewidth=1, label="dense")
    for name in methods:
        points = []
        for wanted in DENSITIES[run.scale]:
            reached = [
                r["density"] for r in rows if (r["method"], r["density_wanted"]) == (name, wanted) and "density" in r
            ]
            value = top1(rows, name, wanted)
            if reached and value is not None:
                points.append((sum(reached) / len(reached), value))
        if points:
            style = "--" if name.endswith("@shuffle") else ":" if name == "pai_pat" else "-"
            plt.plot(*zip(*sorted(points), strict=True), style, marker="o", label=name)
    plt.xscale("log")
    plt.xlabel("density: weights kept ÷ all")
    plt.ylabel("top-1 on the test set, %")
    plt.legend()
    plt.grid(alpha=0.3)


if __name__ == "__main__":
    main()
