"""What VGG-16 and ResNet-56 take on this machine's NVIDIA GPU, dense and shrunk: latency cold and warm, and energy.

    python scripts/benchmarks/gpu_latency_energy.py --out docs/results/gpu_latency_energy

Each network is measured by `gpu-torch` in fresh processes, beside the dense one whose latency was frozen by the first.
Shrunk is half of the channels of every layer, rounded to a multiple of 8; nothing is trained, for neither latency nor
energy depends on how well a network predicts. Printed are means over processes, the coefficient of variation (CV,
standard deviation ÷ mean) between them, and what NVML's energy counter says divided by the integral of its power.
Energy is that of warm runs.

Without an NVIDIA GPU it says so in one line. Finished cells are kept in OUT.json; the same command goes on where it was
cut off. The windows in which energy is metered add up to about half an hour.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from latency_repeatability import Cell, Kept, child, variation

NETWORKS = ("cifar10/vgg16_bn", "cifar10/resnet56")
SMOKE = ("digits/cnn",)
FORMS = ("dense", "shrunk")
CACHES = ("warm", "cold")
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=5, help="fresh processes per network and cache (default 5)")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the whole network (default fp32)")
    parser.add_argument("--scale", choices=("smoke", "full"), default="full", help="smoke: one network, two processes")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    parser.add_argument("--device", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--measure", nargs="+", metavar="NETWORK FORM TARGET SCALE [LATENCY THROUGHPUT]", help=argparse.SUPPRESS
    )
    arguments = parser.parse_args()
    if arguments.device:
        print(json.dumps(device(arguments.precision)))
        return
    if arguments.measure:
        network, form, name, scale, *frozen = arguments.measure
        if not frozen:
            print(json.dumps(frozen_figures(network, name)))
            return
        latency, throughput = map(float, frozen)
        print(json.dumps(measured(network, form, name, scale == "smoke", latency, throughput)))
        return
    about = child("--device", "--precision", arguments.precision, script=__file__)
    del about["process_seconds"]  # differs every time, and cells are kept under the rest
    if "missing" in about:
        print(f"gpu_latency_energy: {about['missing']}", file=sys.stderr)
        raise SystemExit(2)
    smoke = arguments.scale == "smoke"
    out = arguments.out and arguments.out.with_suffix(".json")
    kept = Kept(out, {"scale": arguments.scale, **about})
    fill(kept, arguments.precision, arguments.scale, 2 if smoke else arguments.processes)
    table = markdown(about, list(kept.cells.values()))
    print(table)
    if arguments.out:
        arguments.out.with_suffix(".md").write_text(
            f"# Latency and energy on {about['gpu']}\n\n"
            f"Made by `python scripts/benchmarks/gpu_latency_energy.py --processes {arguments.processes} "
            f"--precision {arguments.precision} --scale {arguments.scale}`; the figures of every process stand in "
            f"`{arguments.out.name}.json`.\n\n{table}\n"
        )


def device(precision: str) -> dict[str, str]:
    """What is measured on, or `missing`. Asked in a fresh process: a CUDA context draws power while it is open."""
    from cost_models import GpuTorch

    model = GpuTorch(precision=precision)
    missing = model.missing()
    if missing:
        return {"missing": missing}
    return {"target": model.key, **model.runtime()}


def fill(kept: Kept, precision: str, scale: str, processes: int) -> None:
    """Measures all cells; networks and caches by turns, so that no hour of the machine falls on one of them."""
    networks = SMOKE if scale == "smoke" else NETWORKS
    run = partial(child, "--measure", script=__file__)
    for turn in range(processes):
        for network in networks:
            for cache in CACHES:
                name = f"gpu-torch:cache={cache},precision={precision}"
                start = kept.get(f"frozen {network}, {cache}", partial(run, network, "dense", name, scale))
                frozen = repr(start["latency"]), repr(start["throughput"])
                for form in FORMS:
                    found = kept.get(
                        f"{network}, {form}, {cache}, {turn}", partial(run, network, form, name, scale, *frozen)
                    )
                    print(f"{turn} {network}, {form}, {cache}: {found['latency']:.4g} s", file=sys.stderr)


def frozen_figures(network: str, name: str) -> Cell:
    """Latency and throughput of the dense network."""
    from cost_models import target

    frozen = target(name).freeze(subjects(network)[0])
    return {"latency": frozen.latency, "throughput": frozen.throughput}


def measured(network: str, form: str, name: str, smoke: bool, frozen: float, frozen_throughput: float) -> Cell:
    """The network's figures beside the dense one's frozen ones."""
    from cost_models import Reference, target
    from cost_models.power.energy import EnergyEffort

    dense, shrunk = subjects(network)
    model = target(name)
    if smoke:
        model.energy_effort = EnergyEffort(window=1.5, windows=2, cool_down=2.0)
    start = time.monotonic()
    cost = model.cost(dense if form == "dense" else shrunk, Reference(dense, frozen, frozen_throughput))
    latency = cost.figures["latency"]
    figures = {name: (f.value, f.low, f.high, f.reason) for name, f in cost.figures.items() if name != "latency"}
    return {
        **{"network": network, "form": form, "cache": "cold" if "cold" in name else "warm"},
        **{"latency": latency.value, "low": latency.low, "high": latency.high, "speedup": cost.speedup.value},
        **figures,
        **{"unstable": cost.unstable, "telemetry": dict(cost.telemetry), "cost_seconds": time.monotonic() - start},
    }


def subjects(network: str) -> tuple[Any, Any]:
    """The dense network and the shrunk one as `Deployable`, untrained and on noise, both with a fixed seed."""
    import torch

    import shrinkboard as sb
    from cost_models import Deployable
    from workloads import Accuracy, Dense, TrainingCost, initial, trace, workload

    chosen = workload(network)
    module = initial(chosen, 0)
    torch.manual_seed(0)
    example, calibration = torch.randn(1, *chosen.input_shape), [torch.randn(32, *chosen.input_shape)]
    # Cutting by the weights' norms looks at no data, so none need be here.
    start = Dense(chosen, 0, module, None, Accuracy(), TrainingCost(0.0, 0.0, 0), "")
    method = sb.strategy("uniform")
    cut = method.compress(start, method.plan(start, {"keep": 0.5, "align": 8})).module
    dense, shrunk = (Deployable(m.eval(), example, calibration, trace(m, example)) for m in (module, cut))
    return dense, shrunk


def markdown(about: dict[str, str], cells: list[Cell]) -> str:
    """The table, a row for each network, form and cache."""
    lines = [
        f"{about['gpu']}, driver {about['driver']}, CUDA {about['cuda']}, cuDNN {about['cudnn']}, torch "
        f"{about['version']}, {about['precision']}. Target `{about['target']}`.",
        "",
        "| network | form | cache | processes | latency, ms | CV | speed-up | images a second | energy, mJ | CV "
        "| without idle, mJ | power, W | counter ÷ integral | SM clock, MHz | slowed down | marked unstable |",
        "|---|---|---|" + "---:|" * 13,
    ]
    seen = [cell for cell in cells if "form" in cell]
    for network, form, cache in dict.fromkeys((c["network"], c["form"], c["cache"]) for c in seen):
        row = [c for c in seen if (c["network"], c["form"], c["cache"]) == (network, form, cache)]
        lines.append(
            f"| {network} | {form} | {cache} | {len(row)} | {mean(row, 'latency', 1e3)} | {spread(row, 'latency')} "
            f"| {mean(row, 'speedup')} | {mean(row, 'throughput')} | {mean(row, 'energy', 1e3)} "
            f"| {spread(row, 'energy')} | {mean(row, 'net_energy', 1e3)} | {mean(row, 'power')} "
            f"| {told(row, 'counter_over_integral')} | {told(row, 'sm_clock', 1e-6)} "
            f"| {sum((c['telemetry']['throttled'] or 0) > 0 for c in row)} | {sum(c['unstable'] for c in row)} |"
        )
    reasons = {c[name][3] for c in seen for name in ("energy", "net_energy", "power") if c[name][3]}
    return "\n".join([*lines, "", *(f"A dash under energy or power: {reason}." for reason in sorted(reasons))]).rstrip()


def values(row: list[Cell], name: str) -> list[float]:
    """One figure of all processes, where it was had."""
    found = [cell[name][0] if isinstance(cell[name], list | tuple) else cell[name] for cell in row]
    return [value for value in found if value is not None]


def mean(row: list[Cell], name: str, scale: float = 1.0) -> str:
    """Over processes, in words."""
    found = values(row, name)
    return f"{np.mean(found) * scale:.4g}" if found else "–"


def spread(row: list[Cell], name: str) -> str:
    """Coefficient of variation between processes, in words."""
    found = values(row, name)
    return f"{variation([{name: value} for value in found], name):.1%}" if len(found) > 1 else "–"


def told(row: list[Cell], name: str, scale: float = 1.0) -> str:
    """Least and greatest value of a name in the telemetry, in words."""
    found = [value * scale for cell in row if (value := cell["telemetry"].get(name)) is not None]
    return f"{min(found):.4g} to {max(found):.4g}" if found else "–"


if __name__ == "__main__":
    main()
