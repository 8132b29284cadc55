"""SENTEI on FPGAs: what equal filters gain on an accelerator that skips zeros, beside free sorting, on every device.

    python scripts/reproduce/sentei_fpga.py --scale cpu --data-dir DIR --checkpoint RESNET20.safetensors

Four fifths of the weights of every layer go: the smallest of each filter (`sentei`), or the smallest of the layer
wherever they are, as many in all (unstructured). The accelerator works on the filters of a group side by side and waits
for the fullest; unstructured filters are taken as they stand (natural) or by their number of nonzeros (sorted), which
costs nothing. Every design is the fastest that the model finds for its device. No accuracy is measured here:
`sentei_segmentation.py` does that. `cpu` and `full` are the same.

Beside it stand speed and images a joule as multiples of a mobile GPU's, which SENTEI publishes for its own board.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from harness import Row, Run, start

import shrinkboard as sb

NETWORKS = {
    "smoke": ("digits/cnn",),
    "cpu": ("cifar10/resnet20", "camvid/unet"),
    "full": ("cifar10/resnet20", "camvid/unet"),
}
SPARSITY = 0.8
KINDS = ("dense", "natural", "sorted", "equal")
GPU = "roofline-jetson-tx2"
GPU_WATTS = {"7.5 W": 7.5, "15 W": 15.0}
"""Limits of the Jetson TX2's power modes (NVIDIA); nothing says what a network draws."""
POWERED = "zcu104"
"""The device whose power published measurements calibrate."""
PUBLISHED = {"speed": 33.2, "images/J": 87.9}
"""SENTEI beside a mobile GPU."""


@dataclass(frozen=True)
class Subject:
    """A network's tables: dense, without four fifths of its weights in two ways, and dense in fp16 for the GPU."""

    name: str
    weights: str
    tables: dict[str, Any]
    half: Any
    deployable: Any
    kept: float
    """Weights left ÷ all."""


def main() -> None:
    run = start(
        __doc__, "sentei_fpga", {scale: names[0] for scale, names in NETWORKS.items()}, checkpoint="cifar10/resnet20"
    )
    devices = sb.fpga_names() if run.scale != "smoke" else ("z7020", POWERED)
    subjects = [subject(run, name) for name in NETWORKS[run.scale]]
    designs: dict[tuple[str, str, str], Any] = {}
    for one in subjects:
        for device in devices:
            for kind in KINDS:
                designs[one.name, device, kind] = design(one, device, kind)
            run.say(f"{one.name} on {device}")
    run.write(
        "SENTEI on FPGAs: equal filters, sorted filters, and a mobile GPU",
        text(subjects),
        {
            "Initiation interval, cycles": [
                intervals(one.name, device, designs) for one in subjects for device in devices
            ],
            "The design for equal filters, with other filters in it": [
                row for one in subjects for device in devices for row in same_folding(one, device, designs)
            ],
            f"Beside a mobile GPU (`{GPU}`, fp16, dense)": [
                row for one in subjects for row in beside_gpu(one, devices, designs)
            ],
            "Every design": [figures(*key, found) for key, found in designs.items()],
        },
        lambda plt: plot(plt, [one.name for one in subjects], devices, designs),
    )


def subject(run: Run, name: str) -> Subject:
    """The network with trained weights where there are any: the checkpoint, or a training in the cache."""
    given = run.checkpoint if name == "cifar10/resnet20" else None
    described = sb.workload(name, data_dir=run.data_dir, checkpoint=given)
    trained = sb.dense_is_cached(described, 0)
    dense = sb.dense(described, 0) if trained else sb.untrained(described, 0)
    sentei = sb.strategy("sentei")
    members = sentei.space(dense).families[0].members
    equal = sentei.compress(dense, sentei.plan(dense, {"sparsity": dict.fromkeys(members, SPARSITY)})).nonzeros()
    plain = sb.trace(dense.module, described.example)
    names = [layer.name for layer in plain.compute_layers]
    int8 = dict.fromkeys(names, sb.LayerFormats(sb.Format("int", 8), sb.Format("int", 8)))
    fp16 = dict.fromkeys(names, sb.LayerFormats(sb.Format("float", 16), sb.Format("float", 16)))
    scattered = {name: unstructured(dense.module.get_submodule(name).weight, equal[name]) for name in equal}
    half = sb.trace(dense.module, described.example, fp16)
    tables = {
        "dense": sb.trace(dense.module, described.example, int8),
        "unstructured": sb.trace(dense.module, described.example, int8, scattered),
        "equal": sb.trace(dense.module, described.example, int8, equal),
    }
    weights = "the given checkpoint" if given else "trained" if trained else "initial (no training is cached)"
    left = sum(int(layer.nonzeros.sum()) for layer in tables["equal"].compute_layers)
    return Subject(
        name,
        weights,
        tables,
        half,
        sb.Deployable(dense.module, described.example, [], half),
        left / sum(layer.weights for layer in plain.compute_layers),
    )


def unstructured(weight: Any, equal: np.ndarray) -> np.ndarray:
    """Nonzeros of every filter when the layer keeps its largest weights, as many as `equal` has in all."""
    sizes = weight.detach().abs().flatten(1).numpy()
    kept = np.zeros(sizes.size, dtype=bool)
    kept[np.argsort(-sizes.ravel(), kind="stable")[: int(equal.sum())]] = True
    return kept.reshape(sizes.shape).sum(1)


def design(one: Subject, device: str, kind: str) -> Any:
    """The fastest design, or the line that says why there is none."""
    table = one.tables["unstructured" if kind in ("natural", "sorted") else kind]
    try:
        return sb.estimate(table, sb.named_fpga(device), order="sorted" if kind == "sorted" else "natural")
    except sb.InputError as error:
        return str(error)


def intervals(name: str, device: str, designs: dict[tuple[str, str, str], Any]) -> Row:
    """One row of the first table: the interval of each kind, and what is gained from one to the next."""
    found = {kind: designs[name, device, kind] for kind in KINDS}
    cycles = {kind: None if isinstance(one, str) else one.interval for kind, one in found.items()}

    def gain(slow: str, fast: str) -> float | None:
        first, second = cycles[slow], cycles[fast]
        return first / second if first and second else None

    equal = found["equal"]
    return {
        "network": name,
        "device": device,
        **cycles,
        "natural ÷ sorted": gain("natural", "sorted"),
        "sorted ÷ equal": gain("sorted", "equal"),
        "natural ÷ equal": gain("natural", "equal"),
        "dense ÷ equal": gain("dense", "equal"),
        **({} if isinstance(equal, str) else {"images/s, equal": equal.throughput, "limit, equal": equal.limit[0]}),
    }


def same_folding(one: Subject, device: str, designs: dict[tuple[str, str, str], Any]) -> list[Row]:
    """What the design for equal filters would take for unstructured ones: the interval if nothing is folded anew."""
    equal = designs[one.name, device, "equal"]
    if isinstance(equal, str):
        return []
    folding = {block.name: own for block, own in zip(equal.blocks, equal.foldings, strict=True)}
    filters = [own.filters for block, own in zip(equal.blocks, equal.foldings, strict=True) if block.computes]
    cycles = {
        order: sb.estimate(one.tables["unstructured"], sb.named_fpga(device), folding, order).interval
        for order in ("natural", "sorted")
    }
    return [
        {
            "network": one.name,
            "device": device,
            **cycles,
            "equal": equal.interval,
            "natural ÷ equal": cycles["natural"] / equal.interval,
            "sorted ÷ equal": cycles["sorted"] / equal.interval,
            "filters at once, mean of the layers": float(np.mean(filters)),
        }
    ]


def figures(name: str, device: str, kind: str, found: Any) -> Row:
    """One row a design: speed, latency, limit, and used shares of the budget."""
    row = {"network": name, "device": device, "filters": kind}
    if isinstance(found, str):
        return {**row, "limit": found}
    share = 100 * found.resources.sum(0) / np.maximum(found.device.budget, 1)
    return {
        **row,
        "II": found.interval,
        "images/s": found.throughput,
        "latency, ms": 1e3 * float(found.latency.mean) / found.clock,
        "from": 1e3 * float(found.latency.optimistic) / found.clock,
        "to": 1e3 * float(found.latency.pessimistic) / found.clock,
        **{f"{part}, % of budget": round(float(used), 1) for part, used in zip(sb.RESOURCES, share, strict=True)},
        "limit": found.limit[1],
    }


def beside_gpu(one: Subject, devices: tuple[str, ...], designs: dict[tuple[str, str, str], Any]) -> list[Row]:
    """Speed of equal filters ÷ the GPU's on every device, and images a joule where power is known."""
    model = sb.target(GPU)
    cost = model.cost(one.deployable, model.freeze(one.deployable))
    alone, together = 1 / cost.figures["latency"].value, cost.figures["throughput"].value
    rows = []
    for device in devices:
        found = designs[one.name, device, "equal"]
        if isinstance(found, str):
            continue
        row: Row = {
            "network": one.name,
            "device": device,
            "images/s": found.throughput,
            "GPU, images/s": alone,
            "speed ÷ GPU": found.throughput / alone,
            "÷ GPU, batches of 128": found.throughput / together,
            "published speed": PUBLISHED["speed"],
        }
        power = sb.design_power(found).power
        if power.value is not None:
            row |= {
                "W": power.value,
                "W from": power.low,
                "W to": power.high,
                "images/J": found.throughput / power.value,
            }
            for label, watts in GPU_WATTS.items():
                row[f"images/J ÷ GPU's at {label}"] = row["images/J"] / (alone / watts)
            row["published images/J"] = PUBLISHED["images/J"]
        rows.append(row)
    return rows


def text(subjects: list[Subject]) -> str:
    networks = "; ".join(f"{one.name}, weights: {one.weights}, {one.kept:.0%} of them left" for one in subjects)
    return f"""
{SPARSITY:.0%} of the weights of every layer are left out but in the first and in those that make the outputs; 8-bit
integers throughout. Networks: {networks}. Trained filters differ more from one another than initial ones do, so where
weights are initial the gain over natural and sorted order is understated. Sorting cannot be had before adds and
concats, whose channels must keep their places.

The first table compares designs that are each the best for their filters. Against unstructured filters a design can
defend itself: it works on one or two of them at once, on more weights of each and on more pixels, and hardly waits. So
less is gained than where the folding stands: the second table keeps the one for equal filters and puts the others into
it. At the floor of the input's stream (a pixel a cycle), and where external memory or layers that stay dense set the
pace, nothing is gained at all.

Ratios to the GPU are those of two systems, not of a method, and both sides are modelled. The FPGA: 8-bit integers, four
fifths of the weights left out, every layer at work on an image of its own. The GPU: fp16, dense, one layer after the
other, one image at a time (in batches of 128 beside it), at its published peaks: the least time that it can
need, so a measured GPU would be slower and the ratios larger. The FPGA's power is the whole board's, from its fit to
published measurements ({POWERED} only; idle it draws 9.2 W already); the GPU module's is the limit of its power
mode, 7.5 W or 15 W, since nothing says what it draws, and the clock is that of the faster mode. SENTEI's figures,
{PUBLISHED["speed"]} times the speed and {PUBLISHED["images/J"]} times the images a joule, are of its own network, board
and GPU measurement, which are not given: they stand beside ours, no more.
"""


def plot(plt: Any, names: list[str], devices: tuple[str, ...], designs: dict[tuple[str, str, str], Any]) -> None:
    figure = plt.gcf()
    figure.set_size_inches(9, 3.6 * len(names))
    width = 0.8 / len(KINDS)
    for panel, name in enumerate(names, start=1):
        axes = figure.add_subplot(len(names), 1, panel)
        for k, (kind, colour) in enumerate(zip(KINDS, ("0.7", "C1", "C0", "C2"), strict=True)):
            found = {i: designs[name, device, kind] for i, device in enumerate(devices)}
            cycles = {i: one.interval for i, one in found.items() if not isinstance(one, str)}
            places = [i + (k - (len(KINDS) - 1) / 2) * width for i in cycles]
            axes.bar(places, list(cycles.values()), width, color=colour, label=kind)
        axes.set_yscale("log")
        lowest, highest = axes.get_ylim()
        axes.set_ylim(lowest / 1.5, highest * 2)
        for i, device in enumerate(devices):
            if isinstance(designs[name, device, "equal"], str):
                axes.text(i, lowest, "does not fit", rotation=90, ha="center", va="bottom", fontsize=8)
        axes.set_xticks(range(len(devices)), devices)
        axes.set_ylabel("initiation interval, cycles")
        axes.set_title(f"{name}, W8A8, {SPARSITY:.0%} sparse", fontsize=10)
        axes.grid(axis="y", which="both", alpha=0.25)
        axes.set_axisbelow(True)
        axes.legend(fontsize=8, ncols=len(KINDS), loc="upper right")


if __name__ == "__main__":
    main()
