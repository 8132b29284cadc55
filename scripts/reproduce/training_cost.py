"""Whose training really gets faster? Seconds an epoch of shrunk networks beside the dense one, in fp32 and bf16.

    python scripts/reproduce/training_cost.py --scale cpu --data-dir DIR

PCA + L1 was published with its training time: a tenth of the epochs took a tenth of the seconds, and an epoch took the
same 12.2 s at every reduction of parameters ρ. Here the networks of those reductions are physically shrunk, and steps
of their training are timed in turns with those of the dense network. Networks that only carry masks stand beside them.

Nothing is trained but ResNet-8, whose widths PCA + L1 takes from its feature maps: what an epoch takes does not depend
on the weights. VGG-16 is cut by one keep ratio that gives the published reduction; `full` takes PCA + L1's own widths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness import Row, Run, size, start

import shrinkboard as sb

PUBLISHED = {
    0.43: (2442.1 / 200, 243.8 / 20),
    0.47: (2382.8 / 200, 243.0 / 20),
    0.56: (2454.0 / 200, 240.9 / 20),
    0.65: (2380.6 / 200, 241.8 / 20),
}
"""ρ → seconds an epoch of the comparison method (200 epochs) and of PCA + L1 (20 epochs); VGG-16, CIFAR-10."""
KEEP = {0.43: 0.755, 0.47: 0.728, 0.56: 0.663, 0.65: 0.599}
"""The uniform keep ratio that reduces the parameters of our VGG-16 by ρ."""
VGG = "VGG-16, CIFAR-10"


@dataclass(frozen=True)
class Network:
    """One row of the table: a strategy's network, `rho` where it stands for a published one."""

    name: str
    strategy: str
    knobs: Mapping[str, Any]
    rho: float | None = None


UNIFORM = [Network(f"uniform, ρ {100 * rho:.0f} %", "uniform", {"keep": keep}, rho) for rho, keep in KEEP.items()]
PCA = [Network(f"pca_l1, ρ {100 * rho:.0f} %", "pca_l1", {"rho": rho}, rho) for rho in PUBLISHED]
MASKS = [
    Network("snip, masks only", "snip", {"density": 0.2}),
    Network("sentei, masks only", "sentei", {}),
]
SUBJECTS: dict[str, list[tuple[str, str, bool, list[Network]]]] = {
    "smoke": [("digits CNN", "digits/cnn", True, [UNIFORM[0], UNIFORM[-1], *MASKS])],
    "cpu": [
        (VGG, "cifar10/vgg16_bn", False, [*UNIFORM, *MASKS]),
        ("ResNet-8, CIFAR-10", "cifar10/resnet8", True, [PCA[0], *PCA[2:], *MASKS]),
    ],
    "full": [(VGG, "cifar10/vgg16_bn", True, [*PCA, *MASKS])],
}
"""Scale → (heading, workload, whether the dense network is trained, its networks)."""
STEPS = {"smoke": 3, "cpu": 8, "full": 50}
LIMIT = 90.0
"""Seconds for the steps of all networks of one workload, in one precision."""


def main() -> None:
    run = start(__doc__, "training_cost", {scale: subjects[0][1] for scale, subjects in SUBJECTS.items()})
    tables = {
        f"{heading}: an epoch": measured(run, name, trained, networks)
        for heading, name, trained, networks in SUBJECTS[run.scale]
    }
    if VGG + ": an epoch" in tables:
        tables["Published beside ours"] = beside(tables[VGG + ": an epoch"])
    run.write("What a training epoch takes", text(run, tables), tables, lambda plt: plot(plt, tables))


def measured(run: Run, name: str, trained: bool, networks: list[Network]) -> list[Row]:
    """One row a network, the dense one first."""
    chosen = run.workload(name)
    dense = run.dense(0, chosen) if trained else sb.untrained(chosen, 0)
    rows: list[Row] = [{"network": "dense", "ρ": 0.0, "MACs ÷ dense": 1.0}]
    modules = {"dense": dense.module}
    for network in networks:
        method = sb.strategy(network.strategy)
        compressed = method.compress(dense, method.plan(dense, network.knobs))
        modules[network.name] = compressed.module
        found = size(compressed, dense)
        rows.append(
            {
                "network": network.name,
                "ρ": found["rho"],
                "ρ published": network.rho,
                "MACs ÷ dense": found["macs"] / _macs(dense),
                "weights kept": found["density"],
            }
        )
    for precision in ("fp32", "bf16"):
        key = {"workload": name, "precision": precision, "networks": list(modules), "steps": STEPS[run.scale]}
        seconds = run.cell(
            key,
            lambda precision=precision: sb.epoch_seconds(
                modules, chosen, dense.splits.train, precision, steps=STEPS[run.scale], limit=LIMIT
            ),
        )
        for row in rows:
            own, whole = seconds[row["network"]], seconds["dense"]
            row[f"s, {precision}"] = own
            row[f"times faster, {precision}"] = own and whole / own
    return rows


def _macs(dense: Any) -> int:
    return sum(layer.macs for layer in sb.trace(dense.module, dense.workload.example).compute_layers)


def beside(rows: list[Row]) -> list[Row]:
    """One row a published rate: seconds an epoch there, and ours; how many times faster than at the first rate."""
    by_rate = {row["ρ published"]: row for row in rows if row.get("ρ published")}
    first = PUBLISHED[0.43][1]
    return [
        {
            "ρ": f"{100 * rho:.0f} %",
            "s an epoch, published (comparison)": comparison,
            "s an epoch, published (PCA + L1)": ours,
            "times faster than at 43 %, published": first / ours,
            **{
                f"times faster than {what}, ours, {precision}": _ratio(by_rate[rho], whole, precision)
                for precision in ("fp32", "bf16")
                for what, whole in (("at 43 %", by_rate[0.43]), ("dense", rows[0]))
            },
        }
        for rho, (comparison, ours) in PUBLISHED.items()
    ]


def _ratio(row: Row, whole: Row, precision: str) -> float | None:
    own, other = row[f"s, {precision}"], whole[f"s, {precision}"]
    return None if own is None else other / own


def text(run: Run, tables: Mapping[str, list[Row]]) -> str:
    lines = [
        "Seconds that the steps of one epoch of the training split take (forward, backward, SGD; batches of the "
        f"recipe): medians over at most {STEPS[run.scale]} rounds in which the networks take turns. Reading and "
        "augmenting pictures, the same for all, is left out. Masked networks compute every product, also those with a "
        "zero. A processor that only imitates bf16 has no figure in it."
    ]
    for heading, rows in tables.items():
        if not any("network" in row for row in rows):
            continue
        smallest = max((row for row in rows if row.get("ρ published")), key=lambda row: row["ρ"])
        claims = [
            f"{smallest['network']} computes {smallest['MACs ÷ dense']:.2f} of the MACs and trains {_fast(smallest)}"
        ]
        claims += [f"{row['network']}, {_fast(row)}" for row in _masked(rows)]
        lines.append(f"{heading.split(':')[0]}: {'; '.join(claims)}.")
    lines.append(
        "The published networks take 11.9 to 12.3 s an epoch at every rate: all that PCA + L1 saves in training comes "
        "from its fewer epochs. So do networks behave whose channels are masked rather than cut, and so does an epoch "
        "that waits for its pictures [our reading; the source does not say]."
    )
    return "\n\n".join(lines)


def _masked(rows: list[Row]) -> list[Row]:
    return [row for row in rows if "weights kept" in row and row["ρ published"] is None]


def _fast(row: Row) -> str:
    found = [(p, row[f"times faster, {p}"]) for p in ("fp32", "bf16")]
    return ", ".join(f"{ratio:.2f}× as fast as dense in {precision}" for precision, ratio in found if ratio)


def plot(plt: Any, tables: Mapping[str, list[Row]]) -> None:
    """Speed of an epoch against ρ: cut networks as lines, masked ones as crosses, the published ones flat."""
    for heading, rows in tables.items():
        for precision, style in (("fp32", "-"), ("bf16", "--")):
            column, label = f"times faster, {precision}", f"{heading.split(':')[0]}, {precision}"
            cut = sorted((row["ρ"], row[column]) for row in rows if row.get("ρ published") and row.get(column))
            if not cut:
                continue
            (line,) = plt.plot(*zip((0.0, 1.0), *cut, strict=True), style, marker="o", label=f"{label}, cut")
            masked = [(1 - row["weights kept"], row[column]) for row in _masked(rows)]
            plt.plot(*zip(*masked, strict=True), "x", color=line.get_color(), label=f"{label}, masks only")
    first = PUBLISHED[0.43][1]
    published = [(rho, first / ours) for rho, (_, ours) in PUBLISHED.items()]
    plt.plot(*zip(*published, strict=True), "k:", marker="s", label="published, relative to ρ = 43 %")
    plt.xlabel("reduction of parameters ρ (masks: weights that are zero)")
    plt.ylabel("times faster an epoch than the dense network")
    plt.legend(fontsize="small")
    plt.grid(alpha=0.3)


if __name__ == "__main__":
    main()
