"""Which frequencies matter: channels ranked by the spectrum of their maps, at one keep ratio.

    python scripts/reproduce/frequency_ablation.py --scale cpu --data-dir DIR

The energy of the low band for bands of several widths κ (κ = 1 is the spatial energy), the count of significant
coefficients, and the uniqueness of the spectrum, beside L1 norms and chance: the same widths in all, only the channels
differ. Each network is judged untuned, with its batch norm re-estimated, and after a short tuning.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from harness import Row, Run, evaluate, start

import shrinkboard as sb

WORKLOAD = {"smoke": "digits/cnn", "cpu": "cifar10/resnet8", "full": "cifar10/vgg16_bn"}
SEEDS = {"smoke": (0,), "cpu": (0,), "full": (0, 1, 2)}
KEEP = 0.5
KAPPA = (0.1, 0.25, 0.5, 0.75, 1.0)


def main() -> None:
    run = start(__doc__, "frequency_ablation", WORKLOAD)
    rows: list[Row] = []
    for seed in SEEDS[run.scale]:
        dense = run.dense(seed)
        for name, strategy, knobs in methods(dense):
            key = {"method": name, "kappa": knobs.get("kappa"), "seed": seed}
            untuned = run.cell({**key, "epochs": 0.0}, partial(evaluate, dense, strategy, knobs, epochs=0.0))
            tuned = run.cell({**key, "epochs": "recipe"}, partial(evaluate, dense, strategy, knobs))
            rows.append({**tuned, "untuned_test_top1": untuned["test_top1"]})
    run.write(
        "Channels by frequency: bands and scores",
        text(run),
        {"Top-1 on the test set, mean over seeds": compared(rows), "Every network": rows},
        lambda plt: plot(plt, rows),
    )


def methods(dense: Any) -> list[tuple[str, str, dict[str, Any]]]:
    """Name in the table, strategy, knobs: the same keep ratio in every group."""
    keep = {"keep": {group.name: KEEP for group in sb.channel_groups(dense)}}
    energies = [("energy", "frequency", {**keep, "score": "energy", "kappa": kappa}) for kappa in KAPPA]
    others = [(score, "frequency", {**keep, "score": score}) for score in ("count", "uniqueness")]
    return [*energies, *others, ("l1", "l1", keep), ("random", "random", {"keep": KEEP})]


def compared(rows: list[Row]) -> list[Row]:
    found: dict[tuple[str, float | None], list[Row]] = {}
    for row in rows:
        found.setdefault((row["method"], row["kappa"]), []).append(row)
    return [
        {
            "method": method,
            "κ": kappa,
            "untuned": sum(row["untuned_test_top1"] for row in same) / len(same),
            "tuned": sum(row["test_top1"] for row in same) / len(same),
        }
        for (method, kappa), same in found.items()
    ]


def text(run: Run) -> str:
    recipe = run.workload().recipe
    return (
        f"{WORKLOAD[run.scale]}, seeds {', '.join(map(str, SEEDS[run.scale]))}: {KEEP:g} of the channels of every "
        f"group are kept; tuned for {recipe.tune_epochs:g} epochs from the trained network. Nothing was published to "
        "set beside these figures: the source has one sentence on frequency-domain features, the scores are our "
        "reconstruction."
    )


def plot(plt: Any, rows: list[Row]) -> None:
    found = compared(rows)
    for colour, state in enumerate(("untuned", "tuned")):
        energies = [(row["κ"], row[state]) for row in found if row["method"] == "energy"]
        plt.plot(*zip(*energies, strict=True), marker="o", color=f"C{colour}", label=f"energy, {state}")
        for style, method in zip(("--", "-.", ":", (0, (1, 5))), ("count", "uniqueness", "l1", "random"), strict=True):
            value = next(row[state] for row in found if row["method"] == method)
            plt.axhline(value, linestyle=style, color=f"C{colour}", linewidth=1, label=f"{method}, {state}")
    plt.xlabel("κ: part of the band that counts")
    plt.ylabel("top-1 on the test set, %")
    plt.legend(fontsize=8)
    plt.grid(alpha=0.3)


if __name__ == "__main__":
    main()
