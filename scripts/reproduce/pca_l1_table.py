"""PCA + L1 beside the comparison method: the same structure from scratch, for the whole and for a tenth of the epochs.

    python scripts/reproduce/pca_l1_table.py --scale cpu --data-dir DIR

For every reduction of parameters ρ the widths are those that PCA + L1 finds by bisecting its contribution ratio. P
tunes the trained network's channels for a tenth of the epochs; C trains the same structure from fresh weights, for all
the epochs and for a tenth. Beside them two controls tuned like P: random channels, and one keep ratio for all layers.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from harness import Run, evaluate, start

RATES = {"smoke": (0.43,), "cpu": (0.43, 0.56, 0.65), "full": (0.43, 0.47, 0.56, 0.65)}
SEEDS = {"smoke": (0,), "cpu": (0,), "full": (0, 1, 2)}
WORKLOAD = {"smoke": "digits/cnn", "cpu": "cifar10/resnet8", "full": "cifar10/vgg16_bn"}

PUBLISHED = {
    0.43: {"C": 93.13, "C tenth": 89.37, "P": 93.25, "C seconds": 2442.1, "P seconds": 243.8},
    0.47: {"C": 93.04, "C tenth": 88.75, "P": 93.30, "C seconds": 2382.8, "P seconds": 243.0},
    0.56: {"C": 92.99, "C tenth": 88.88, "P": 93.17, "C seconds": 2454.0, "P seconds": 240.9},
    0.65: {"C": 93.14, "C tenth": 89.12, "P": 92.83, "C seconds": 2380.6, "P seconds": 241.8},
}
"""CIFAR-10, VGG-16 with batch norm, top-1 in %; 200 and 20 epochs."""


def main() -> None:
    run = start(__doc__, "pca_l1_table", WORKLOAD)
    recipe = run.workload().recipe
    whole = float(recipe.epochs)
    rows: list[dict[str, Any]] = []
    for seed in SEEDS[run.scale]:
        dense = run.dense(seed)
        untouched = run.cell({"method": "dense", "seed": seed}, partial(evaluate, dense, "dense", {}, epochs=0.0))
        rows.append({**untouched, "epochs": dense.cost.epochs, "seconds": dense.cost.seconds})
        for rho in RATES[run.scale]:
            rows += [_cell(run, dense, seed, rho, *method) for method in methods(whole)]
    run.write(
        "PCA + L1 against the same structure from scratch",
        text(run, whole),
        {"Top-1 on the test set, beside what was published": compared(rows), "Every network": rows},
        lambda plt: plot(plt, rows),
    )


def methods(whole: float) -> list[tuple[str, str, float]]:
    """Name in the table, strategy, epochs."""
    return [
        ("P", "pca_l1", whole / 10),
        ("C tenth", "pca_l1@scratch-e", whole / 10),
        ("C", "pca_l1@scratch-e", whole),
        ("random channels", "pca_l1@shuffle", whole / 10),
        ("uniform widths", "uniform", whole / 10),
    ]


def _cell(run: Run, dense: Any, seed: int, rho: float, name: str, strategy: str, epochs: float) -> dict[str, Any]:
    # One keep ratio k leaves about k² of the parameters; the row says the reduction that came of it.
    knobs = {"keep": (1 - rho) ** 0.5} if strategy == "uniform" else {"rho": rho}
    key = {"method": name, "rho_wanted": rho, "seed": seed, "epochs": epochs}
    return run.cell(key, lambda: evaluate(dense, strategy, knobs, epochs=epochs))


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a rate: ours (mean over seeds) beside the published ones, and what P loses against C."""
    found = []
    for rho in sorted({row["rho_wanted"] for row in rows if "rho_wanted" in row}):
        of_rate = [row for row in rows if row.get("rho_wanted") == rho]
        line: dict[str, Any] = {"ρ": f"{100 * rho:.0f} %"}
        for name in ("C", "C tenth", "P", "random channels", "uniform widths"):
            line[name] = _mean([row["test_top1"] for row in of_rate if row["method"] == name])
        line["P − C"] = line["P"] - line["C"]
        line["C s ÷ P s"] = _mean([r["seconds"] for r in of_rate if r["method"] == "C"]) / _mean(
            [r["seconds"] for r in of_rate if r["method"] == "P"]
        )
        if published := PUBLISHED.get(rho):
            line |= {f"{name}, published": published[name] for name in ("C", "C tenth", "P")}
            line["P − C, published"] = published["P"] - published["C"]
            line["C s ÷ P s, published"] = published["C seconds"] / published["P seconds"]
        found.append(line)
    return found


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def text(run: Run, whole: float) -> str:
    return (
        f"{run.workloads[run.scale]}, seeds {', '.join(map(str, SEEDS[run.scale]))}: C for {whole:g} epochs, C tenth, "
        f"P and the controls for {whole / 10:g}. Accuracies are those of the last epoch. P starts from the trained "
        "dense network, whose own training is not in its seconds, neither here nor in what was published. The "
        "published figures are of VGG-16 with batch norm on CIFAR-10, 200 and 20 epochs; no dense accuracy, seeds or "
        "hardware were given."
    )


def plot(plt: Any, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["method"] == "dense":
            plt.axhline(row["test_top1"], color="black", linewidth=1, label="dense")
    for name, _, epochs in methods(rows[0]["epochs"]):
        points = sorted((row["rho"], row["test_top1"]) for row in rows if row["method"] == name)
        plt.plot(*zip(*points, strict=True), marker="o", label=f"{name}, {epochs:g} epochs")
    plt.xlabel("reduction of parameters ρ")
    plt.ylabel("top-1 on the test set, %")
    plt.legend()
    plt.grid(alpha=0.3)


if __name__ == "__main__":
    main()
