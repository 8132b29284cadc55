"""Low rank then pruning beside conventional pruning, each to one point of validation accuracy.

    python scripts/reproduce/low_rank_vs_conventional.py --scale cpu --data-dir DIR

Every method runs the same loop: factor (conventional pruning does not) and tune, then prune two fifths of the weights
that are left and tune, until the validation accuracy is more than a point below the dense network's; the last network
within the point counts. The share of energy τ that the factors keep is the smallest of a ladder whose network is within
the point after its first tuning. Compared are the measured speed of the network in ONNX Runtime, the fine-tunes, and
the bytes of its weights as compressed sparse rows.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from typing import Any

from harness import Row, Run, accuracy, size, start

import shrinkboard as sb

WORKLOAD = {"smoke": "digits/cnn", "cpu": "cifar10/vgg16_quarter", "full": "cifar10/vgg16_bn"}
TAU = {"smoke": (0.9, 0.98), "cpu": (0.9, 0.95, 0.98), "full": (0.7, 0.8, 0.9, 0.95, 0.98)}
DROP, STEP, SEED = 0.01, 0.4, 0
TUNE_EPOCHS = 1.0
MOST_FINE_TUNES = {"smoke": 2, "cpu": 5, "full": 20}

CONVENTIONAL = "conventional"
METHODS: dict[str, tuple[str, Row]] = {
    CONVENTIONAL: ("conventional", {}),
    "A: reconstruction": ("low_rank", {"scheme": "A"}),
    "B: channels": ("low_rank", {"scheme": "B"}),
    "B, data-aware": ("low_rank", {"scheme": "B", "data_aware": True}),
    "spatial": ("low_rank", {"scheme": "spatial"}),
    "Tucker-2": ("low_rank", {"scheme": "tucker"}),
}
SMOKE_METHODS = (CONVENTIONAL, "B: channels")
PUBLISHED = {"speed": 1.65, "fine-tunes": 1.5, "memory": 2.0}
"""Low rank against conventional pruning at equal accuracy; the networks are not named."""


def main() -> None:
    run = start(__doc__, "low_rank_vs_conventional", WORKLOAD)
    dense = run.dense(SEED)
    model, reference = _target(run, dense)
    names = SMOKE_METHODS if run.scale == "smoke" else tuple(METHODS)
    found = {
        name: run.cell({"method": name, "seed": SEED}, partial(_loop, run, dense, name, model, reference))
        for name in names
    }
    run.write(
        "Low rank against conventional pruning",
        text(run, dense),
        {
            "Against conventional pruning, a point below the dense network": compared(found),
            "The networks": [network(name, row) for name, row in found.items()],
            "Every fine-tune": [
                {"method": name, **told, "validation": 100 * told["validation"]}
                for name, row in found.items()
                for told in row["history"]
            ],
        },
        lambda plt: plot(plt, found, 100 * dense.validation.primary),
    )


def _loop(run: Run, dense: Any, name: str, model: Any, reference: Any) -> Row:
    """The loop at the first τ that bears it, and what its network costs. τ that failed cost a fine-tune each."""
    strategy, knobs = METHODS[name]
    failed = 0
    for tau in (None,) if name == CONVENTIONAL else TAU[run.scale]:
        result = sb.prune_to_drop(
            sb.strategy(strategy),
            dense,
            knobs if tau is None else {**knobs, "tau": tau},
            drop=DROP,
            step=STEP,
            tune_epochs=TUNE_EPOCHS,
            max_fine_tunes=MOST_FINE_TUNES[run.scale],
        )
        if result.last is not None:
            break
        failed += result.fine_tunes
    history = [asdict(told) for told in result.history]
    row = {"tau": tau, "failed": failed, "fine_tunes": result.fine_tunes, "history": history, "reached": None}
    if result.last is None:
        return row
    cost = model.cost(_deployable(result.last, dense), reference)
    return row | {
        "reached": asdict(result.reached),
        "speed": cost.speedup.value,
        "speed_low": cost.speedup.low,
        "speed_high": cost.speedup.high,
        "unstable": cost.unstable,
        **accuracy(result.last.module, dense, "test"),
        **size(result.last, dense),
    }


def _target(run: Run, dense: Any) -> tuple[Any, Any]:
    """The CPU target, and the dense network as its reference with a latency that a continued run takes over."""
    model = sb.target("cpu-onnxruntime")
    if run.scale == "smoke":
        model.effort = replace(model.effort, pairs=15, budget=0.5)
    whole = _deployable(sb.Compressed(dense.module, sb.Plan(strategy="dense"), dense.seed), dense)
    latency = run.cell({"reference": "dense", "target": model.key}, lambda: {"latency": model.freeze(whole).latency})
    return model, sb.Reference(whole, latency["latency"])


def _deployable(compressed: Any, dense: Any) -> Any:
    workload = dense.workload
    calibration = sb.calibration_batches(workload, dense.splits.train, 8, batch_size=8)
    return sb.Deployable(
        sb.fold_batch_norm(compressed.module),
        calibration[0][:1].contiguous(),
        calibration,
        sb.trace(compressed.module, workload.example, {}, compressed.nonzeros()),
    )


def compared(found: dict[str, Row]) -> list[Row]:
    """Ratios over conventional pruning, larger is better; a field is empty where no network stayed within the point."""
    base = found[CONVENTIONAL]
    rows: list[Row] = [
        {
            "method": "published",
            "speed": PUBLISHED["speed"],
            "fine-tunes of the loop": PUBLISHED["fine-tunes"],
            "memory": PUBLISHED["memory"],
        }
    ]
    for name, row in found.items():
        if name == CONVENTIONAL or row["reached"] is None or base["reached"] is None:
            continue
        small = [told["fine_tunes"] for told in row["history"] if told["bytes"] <= base["reached"]["bytes"]]
        within = small and small[0] <= row["reached"]["fine_tunes"]
        rows.append(
            {
                "method": name,
                "speed": row["speed"] / base["speed"],
                "fine-tunes of the loop": base["fine_tunes"] / row["fine_tunes"],
                "fine-tunes to conventional's bytes": base["reached"]["fine_tunes"] / small[0] if within else None,
                "memory": base["reached"]["bytes"] / row["reached"]["bytes"],
            }
        )
    return rows


def network(name: str, row: Row) -> Row:
    """One row of the table of networks."""
    line: Row = {"method": name, "τ": row["tau"], "fine-tunes": row["fine_tunes"], "for τ that failed": row["failed"]}
    if row["reached"] is None:
        return line
    reached = row["reached"]
    return line | {
        "validation, %": 100 * reached["validation"],
        "test, %": row["test_top1"],
        "weights": reached["weights"],
        "sparsity": reached["sparsity"],
        "CSR bytes": reached["bytes"],
        "MACs": row["macs"],
        "speed over dense": row["speed"],
        "95 %": f"{row['speed_low']:.2f}–{row['speed_high']:.2f}{' (noisy)' if row['unstable'] else ''}",
    }


def text(run: Run, dense: Any) -> str:
    return (
        f"{dense.workload.name}, seed {SEED}, {dense.cost.epochs:g} epochs: {100 * dense.validation.primary:.2f} % on "
        f"validation. Every fine-tune is {TUNE_EPOCHS:g} epoch(s) with a learning-rate schedule of its own, "
        f"at most {MOST_FINE_TUNES[run.scale]} a loop. A prune step takes {100 * STEP:g} % of the weights left. "
        f"τ is the smallest of {', '.join(map(str, TAU[run.scale]))} whose network is within "
        "the point after its first fine-tune; those that were not cost a fine-tune each, counted apart. "
        "Conventional pruning has nothing to repair and begins with a prune step. By method the loops stop by "
        "validation accuracy; the test accuracy beside it decides nothing.\n\n"
        "Speed is measured in ONNX Runtime on one core, each network interleaved with the dense one; the runtime "
        "multiplies zeros like any other weight, so that masks bring nothing and factors bring what they save. Memory "
        "is that of the weights of convolutions and linear layers, every layer as compressed sparse rows (4 bytes a "
        "value, 4 a column, and the row pointers) or dense where that is smaller. Ratios are conventional ÷ ours, "
        "larger is better. What was published says neither its networks nor its steps."
    )


def plot(plt: Any, found: dict[str, Row], dense: float) -> None:
    for name, row in found.items():
        points = [(told["bytes"] / 1e3, 100 * told["validation"]) for told in row["history"]]
        plt.plot(*zip(*points, strict=True), marker="o", label=name)
    plt.axhline(dense, color="black", linewidth=1, label="dense")
    plt.axhline(dense - 100 * DROP, color="black", linewidth=1, linestyle="--", label="a point below")
    plt.xscale("log")
    plt.xlabel("weights as compressed sparse rows, kB")
    plt.ylabel("validation accuracy after a fine-tune, %")
    plt.legend()
    plt.grid(alpha=0.3)


if __name__ == "__main__":
    main()
