"""How fast is each workload's dense network in each runtime on this CPU, in fp32 and in int8?

    python scripts/benchmarks/runtimes_side_by_side.py --out docs/results/runtimes_side_by_side

Every runtime is timed in interleaved pairs beside one reference, the dense fp32 network in ONNX Runtime whose latency
is frozen once a workload, so that all rows compare. Weights are those before training and calibration images are
random: neither decides how long an inference takes. A second table says what decoding and resizing a JPEG of 640×480
adds. Finished cells are kept in OUT.json; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from cost_models import Deployable, processor, target
from cost_models.input_pipeline import encoded_picture, network_input
from cost_models.machine import Telemetry, exclusive
from cost_models.measured import MeasuredTarget, throughput_batch
from cost_models.timing import Comparison, Effort, compare
from workloads import Format, InputError, LayerFormats, trace, workload, workload_names

RUNTIMES = ("cpu-onnxruntime", "cpu-openvino", "cpu-torch")
REFERENCE = RUNTIMES[0]
FORMS = ("fp32", "int8")
PICTURE = (640, 480)
EFFORT = Effort(goal=0.02, budget=4.0, pairs=60)
THROUGHPUT = Effort(goal=0.03, budget=1.0, pairs=15)
DISTURBED = 0.03
"""Half width of an interval from which a latency is marked in the tables."""
COLOURS = {"cpu-onnxruntime": "#0072b2", "cpu-openvino": "#e69f00", "cpu-torch": "#cc3311"}

Cell = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=("smoke", "full"), default="full", help="smoke: the two smallest workloads")
    parser.add_argument("--out", type=Path, help="write OUT.json, OUT.md, OUT.svg and OUT.png; resumes from OUT.json")
    arguments = parser.parse_args()
    names = workload_names()[:2] if arguments.scale == "smoke" else workload_names()
    kept = arguments.out.with_suffix(".json") if arguments.out else None
    results = load(kept)
    runtimes = available(results)
    for name in names:
        with ten_classes() as folder:
            chosen = workload(name, data_dir=folder if name.startswith("folder/") else None)
            torch.manual_seed(0)
            module = chosen.build().eval()
        measure_workload(name, deployables(module, chosen.input_shape), runtimes, results, kept)
    text = page(results, arguments.out.name if arguments.out else "runtimes_side_by_side")
    print(text)
    if arguments.out:
        arguments.out.with_suffix(".md").write_text(text)
        draw(results, arguments.out)


@contextlib.contextmanager
def ten_classes() -> Iterator[Path]:
    """A data folder of ten classes, by which the network for a folder of images is built; no image of it is read."""
    with tempfile.TemporaryDirectory() as folder:
        for name in range(10):
            (Path(folder) / str(name)).mkdir()
            Image.new("RGB", (1, 1)).save(Path(folder) / str(name) / "image.png")
        yield Path(folder)


def load(path: Path | None) -> dict[str, Any]:
    """What an earlier run on this machine kept, or a beginning."""
    if path is not None and path.exists():
        kept = json.loads(path.read_text())
        if kept["machine"] == machine():
            return kept
    return {
        "machine": machine(),
        "skipped": {},
        "macs": {},
        "runtimes": {},
        "frozen": {},
        "frozen_throughput": {},
        "cells": {},
        "pictures": {},
    }


def save(results: dict[str, Any], path: Path | None) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".part")
        fresh.write_text(json.dumps(results, indent=1) + "\n")
        fresh.replace(path)


def machine() -> str:
    return f"{processor().model}, {os.cpu_count()} CPUs, one thread"


def available(results: dict[str, Any]) -> dict[str, MeasuredTarget]:
    """The runtimes that are installed; of the others `skipped` says why not. Cells of another version are dropped."""
    found = {}
    for name in RUNTIMES:
        results["skipped"].pop(name, None)
        try:
            found[name] = model = opened(name)
        except InputError as error:
            results["skipped"][name] = str(error)
            continue
        if results["runtimes"].get(name) != model.key:
            # All cells stand on the reference.
            for key in [key for key in results["cells"] if name == REFERENCE or f" {name} " in key]:
                del results["cells"][key]
            if name == REFERENCE:
                results["frozen"], results["frozen_throughput"], results["pictures"] = {}, {}, {}
        results["runtimes"][name] = model.key
    return found


def deployables(module: torch.nn.Module, shape: tuple[int, int, int]) -> dict[str, Deployable]:
    """The dense network in both forms."""
    random = torch.Generator().manual_seed(0)
    example = torch.randn(1, *shape, generator=random)
    dense = trace(module, example)
    # Large images take gigabytes to calibrate with.
    count = 32 if example.numel() < 100_000 else 4
    calibration = [torch.randn(count, *shape, generator=random)]
    int8 = LayerFormats(Format("int", 8), Format("int", 8))
    tables = {"fp32": dense, "int8": trace(module, example, {layer.name: int8 for layer in dense.compute_layers})}
    return {form: Deployable(module, example, calibration, table) for form, table in tables.items()}


def measure_workload(
    name: str,
    networks: Mapping[str, Deployable],
    runtimes: Mapping[str, MeasuredTarget],
    results: dict[str, Any],
    kept: Path | None,
) -> None:
    """Every cell of a workload that is not there yet."""
    results["macs"][name] = sum(layer.macs for layer in networks["fp32"].network.compute_layers)
    reference = runtimes[REFERENCE]
    if name not in results["frozen"]:
        frozen = reference.freeze(networks["fp32"])
        results["frozen"][name], results["frozen_throughput"][name] = frozen.latency, frozen.throughput
    frozen_figures = results["frozen"][name], results["frozen_throughput"][name]
    for runtime, model in runtimes.items():
        for form in FORMS:
            key = f"{name} {runtime} {form}"
            if "error" not in results["cells"].get(key, {"error": "absent"}):
                continue
            began = time.monotonic()
            try:
                cell = measure(model, networks[form], reference, networks["fp32"], *frozen_figures)
            except InputError as error:
                cell = {"error": str(error)}
            results["cells"][key] = cell | {"seconds": time.monotonic() - began}
            save(results, kept)
            print(f"{key}: {results['cells'][key]['seconds']:.1f} s", file=sys.stderr, flush=True)
    if name not in results["pictures"]:
        began = time.monotonic()
        try:
            cell = with_picture(networks, reference, results["frozen"][name])
        except InputError as error:
            cell = {"error": str(error)}
        results["pictures"][name] = cell | {"seconds": time.monotonic() - began}
        save(results, kept)
        print(f"{name} with a picture: {results['pictures'][name]['seconds']:.1f} s", file=sys.stderr, flush=True)


def opened(name: str) -> MeasuredTarget:
    model = target(name)
    assert isinstance(model, MeasuredTarget)
    model.effort = EFFORT
    return model


def measure(
    model: MeasuredTarget,
    candidate: Deployable,
    other: MeasuredTarget,
    dense: Deployable,
    frozen: float,
    dense_throughput: float,
) -> Cell:
    """One cell: the candidate in `model`'s runtime beside the dense network in that of `other`.

    `cost()` would take the reference in the candidate's own runtime; here all runtimes stand beside one, so the same
    programs, pinning and clock are put together anew.
    """
    program = model._program(candidate)
    beside = partial(other._run, other._program(dense), dense, 1)
    batch = throughput_batch(frozen)
    if batch > 1:
        model._run(program, candidate, batch)()  # compiled before it is timed, where a runtime compiles for a batch
    with exclusive(model.device), model._quiet() as quiet:
        telemetry = Telemetry()
        single = compare(
            partial(model._run, program, candidate, 1), beside, EFFORT, frozen, quiet.move, timer=quiet.timer
        )
        noise = telemetry.read()
        many = single
        if batch > 1:
            many = compare(
                partial(model._run, program, candidate, batch),
                partial(other._run, other._program(dense), dense, batch),
                THROUGHPUT,
                None,
                quiet.move,
                timer=quiet.timer,
            )
    macs = {layer.name: layer.macs for layer in candidate.network.compute_layers}
    in_int8 = sum(macs[layer] for layer, formats in program.executed.items() if all(f.kind == "int" for f in formats))
    return {
        **in_seconds(single, frozen),
        "ratio": single.ratio,
        "throughput": dense_throughput / many.ratio,
        "batch": batch,
        "int8_share": in_int8 / sum(macs.values()),
        "memory": program.memory,
        "pairs": int(single.calm.sum()),
        "telemetry": noise,
    }


def with_picture(networks: Mapping[str, Deployable], reference: MeasuredTarget, frozen: float) -> Cell:
    """Latency from the JPEG to the output, and the share of it that the input takes, in both forms."""
    dense = networks["fp32"]
    whole = opened(f"{REFERENCE}:image={PICTURE[0]}x{PICTURE[1]}")
    channels, height, width = dense.example.shape[1:]
    decode = partial(network_input, encoded_picture(dense.example, PICTURE), (channels, height, width))
    beside = partial(reference._run, reference._program(dense), dense, 1)
    cell: Cell = {}
    for form, candidate in networks.items():
        run = partial(whole._run, reference._program(candidate), candidate, 1)
        with exclusive(whole.device), whole._quiet() as quiet:
            found = compare(run, beside, EFFORT, frozen, quiet.move, timer=quiet.timer)
            part = compare(lambda: decode, run, THROUGHPUT, None, quiet.move, timer=quiet.timer)
        cell[form] = in_seconds(found, frozen) | {"input_share": min(part.ratio, 1.0)}
    return cell


def in_seconds(found: Comparison, frozen: float) -> Cell:
    """The latency that follows from a comparison with the reference."""
    return {
        "latency": found.ratio * frozen,
        "low": found.low * frozen,
        "high": found.high * frozen,
        "disturbed": not found.found_calm or found.half_width > DISTURBED,
    }


def page(results: dict[str, Any], stem: str) -> str:
    """The page in markdown; `stem` is the name of the files beside it."""
    size = f"{PICTURE[0]}x{PICTURE[1]}"
    seconds = sum(cell["seconds"] for cell in (*results["cells"].values(), *results["pictures"].values()))
    parts = [
        "# Runtimes side by side",
        f"Made by `python scripts/benchmarks/runtimes_side_by_side.py` in {seconds / 60:.0f} minutes on "
        f"{results['machine']}. Dense networks before training; latency is of one image, the median ratio to the dense "
        "fp32 network in ONNX Runtime times its frozen latency, ± half of the 95 % interval. A latency with ~ was "
        "disturbed, or its interval is wider than 3 % each way. The same figures as data: "
        f"`{stem}.json`.",
        f"![Latency by workload, runtime and format]({stem}.svg)",
        "Targets: " + ", ".join(f"`{key}`" for key in results["runtimes"].values()) + ".",
        "## Latency in ms",
        latencies(results),
        "## Throughput, formats and memory",
        "Throughput is in images a second, at the batch in brackets. The share of multiply–accumulates in int8 is what "
        "the runtime was seen to run. Memory is of weights, biases, scales and zero points.",
        details(results),
        f"## With a picture of {size}",
        f"`{REFERENCE}:image={size}`: from a JPEG to the output, and the share of that time in which the picture is "
        "decoded, resized and normalised.",
        pictures(results),
    ]
    notes = [f"- {name}: {reason}" for name, reason in results["skipped"].items()]
    for cells, words in ((results["cells"], ""), (results["pictures"], " with a picture")):
        notes += [f"- {key}{words}: {cell['error']}" for key, cell in cells.items() if "error" in cell]
    if notes:
        parts += ["## Not measured", "\n".join(notes)]
    return "\n\n".join(parts) + "\n"


def latencies(results: dict[str, Any]) -> str:
    columns = [(runtime, form) for runtime in results["runtimes"] for form in FORMS]
    head = ["workload", "MMACs", *(f"{runtime.removeprefix('cpu-')} {form}" for runtime, form in columns)]
    rows = [
        [
            name,
            f"{results['macs'][name] / 1e6:.1f}",
            *(latency(results["cells"].get(f"{name} {runtime} {form}", {})) for runtime, form in columns),
        ]
        for name in results["frozen"]
    ]
    return table(head, rows)


def latency(cell: Cell) -> str:
    if "latency" not in cell:
        return "–"
    half = (cell["high"] - cell["low"]) / 2 / cell["latency"]
    return f"{'~' if cell['disturbed'] else ''}{1e3 * cell['latency']:.3g} ± {half:.1%}"


def details(results: dict[str, Any]) -> str:
    head = ["workload", "runtime", "format", "÷ reference", "images/s", "MACs in int8", "memory", "calm pairs"]
    keys = [f"{name} {runtime} {form}" for name in results["frozen"] for runtime in RUNTIMES for form in FORMS]
    rows = []
    for key in keys:
        cell = results["cells"].get(key, {})
        if "latency" in cell:
            rows.append(
                [
                    *key.split(" "),
                    f"{cell['ratio']:.3f}",
                    f"{cell['throughput']:,.{0 if cell['throughput'] >= 100 else 1}f} ({cell['batch']})",
                    f"{cell['int8_share']:.0%}",
                    f"{cell['memory'] / 1e3:,.0f} kB",
                    str(cell["pairs"]),
                ]
            )
    return table(head, rows)


def pictures(results: dict[str, Any]) -> str:
    head = ["workload", *(f"{form}, {what}" for form in FORMS for what in ("ms", "share of the input"))]
    rows = [
        [name, *(word for form in FORMS for word in (latency(cell[form]), f"{cell[form]['input_share']:.0%}"))]
        for name, cell in results["pictures"].items()
        if "error" not in cell
    ]
    return table(head, rows)


def table(head: list[str], rows: list[list[str]]) -> str:
    ruler = ["---:" if all(row[place][:1] in "0123456789~–" for row in rows) else "---" for place in range(len(head))]
    return "\n".join("| " + " | ".join(words) + " |" for words in (head, ruler, *rows))


def draw(results: dict[str, Any], out: Path) -> None:
    """Bars of the latencies by workload, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = sorted(results["frozen"], key=lambda name: results["frozen"][name])
    columns = [(runtime, form) for runtime in results["runtimes"] for form in FORMS]
    width = 0.84 / len(columns)
    plt.figure(figsize=(max(6.0, 1.25 * len(names)), 5.5), layout="constrained")
    for place, (runtime, form) in enumerate(columns):
        cells = [results["cells"].get(f"{name} {runtime} {form}", {}) for name in names]
        shown = [(index, cell) for index, cell in enumerate(cells) if "latency" in cell]
        middle = [1e3 * cell["latency"] for _, cell in shown]
        plt.bar(
            [index + (place - (len(columns) - 1) / 2) * width for index, _ in shown],
            middle,
            width,
            # A bootstrap interval of few pairs may miss the median itself.
            yerr=[
                [max(m - 1e3 * cell["low"], 0.0) for m, (_, cell) in zip(middle, shown, strict=True)],
                [max(1e3 * cell["high"] - m, 0.0) for m, (_, cell) in zip(middle, shown, strict=True)],
            ],
            color=COLOURS[runtime] if form == "fp32" else "white",
            edgecolor=COLOURS[runtime],
            hatch=None if form == "fp32" else "////",
            error_kw={"linewidth": 0.8},
            label=f"{runtime.removeprefix('cpu-')}, {form}",
        )
    plt.yscale("log")
    plt.ylabel("latency of one image in ms")
    plt.xticks(range(len(names)), [name.replace("/", "/\n") for name in names])
    plt.grid(axis="y", alpha=0.3)
    plt.gca().set_axisbelow(True)
    plt.legend(ncols=len(results["runtimes"]), fontsize="small", loc="upper left")
    plt.title(f"Dense networks on one thread of {results['machine'].partition(',')[0]}", fontsize="medium")
    plt.savefig(out.with_suffix(".svg"), metadata={"Date": None})
    plt.savefig(out.with_suffix(".png"), dpi=120)
    plt.close()


if __name__ == "__main__":
    main()
