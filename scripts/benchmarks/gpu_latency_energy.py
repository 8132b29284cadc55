"""What VGG-16 and ResNet-56 take on this machine's NVIDIA GPU, dense and shrunk: latency cold and warm, and energy.

    python scripts/benchmarks/gpu_latency_energy.py --out docs/results/gpu_latency_energy

Each network is measured by `gpu-torch` in fresh processes, beside the dense one whose latency was frozen by the first.
Shrunk is half of the channels of every layer, rounded to a multiple of 8; nothing is trained, for neither latency nor
energy depends on how well a network predicts. Printed are means over processes, the coefficient of variation (CV,
standard deviation ÷ mean) between them, what Triton's own benchmark says of the same network in the same process, and
what NVML's energy counter says divided by the integral of its power. Energy is that of warm runs.

Without an NVIDIA GPU it says so in one line. Finished cells are kept in OUT.json; the same command goes on where it was
cut off. Energy is metered for a minute or so a network and process: twenty minutes by default, none with
`--energy-processes 0`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from itertools import product
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
    parser.add_argument("--processes", type=int, default=5, help="fresh processes per network (default 5)")
    parser.add_argument("--energy-processes", type=int, help="processes that meter energy too (default all)")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the whole network (default fp32)")
    parser.add_argument("--scale", choices=("smoke", "full"), default="full", help="smoke: one network, two processes")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    parser.add_argument("--device", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs="+", metavar="NETWORK PRECISION [ENERGY FROZEN]", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device:
        print(json.dumps(device(arguments.precision)))
        return
    if arguments.measure:
        network, precision, *rest = arguments.measure
        cell = (
            measured(network, precision, rest[0], json.loads(rest[1])) if rest else frozen_figures(network, precision)
        )
        print(json.dumps(cell))
        return
    about = child("--device", "--precision", arguments.precision, script=__file__)
    del about["process_seconds"]  # differs every time, and cells are kept under the rest
    if "missing" in about:
        print(f"gpu_latency_energy: {about['missing']}", file=sys.stderr)
        raise SystemExit(2)
    smoke = arguments.scale == "smoke"
    out = arguments.out and arguments.out.with_suffix(".json")
    kept = Kept(out, {"scale": arguments.scale, **about})
    processes = 2 if smoke else arguments.processes
    metered = processes if arguments.energy_processes is None else arguments.energy_processes
    fill(kept, arguments.precision, SMOKE if smoke else NETWORKS, processes, metered, "smoke" if smoke else "on")
    table = markdown(about, list(kept.cells.values()))
    print(table)
    if arguments.out:
        arguments.out.with_suffix(".md").write_text(
            f"# Latency and energy on {about['gpu']}\n\n"
            f"Made by `python scripts/benchmarks/gpu_latency_energy.py --processes {processes} --energy-processes "
            f"{metered} --precision {arguments.precision} --scale {arguments.scale}`; the figures of every process "
            f"stand in `{arguments.out.name}.json`.\n\n{table}\n"
        )


def device(precision: str) -> dict[str, str]:
    """What is measured on, or `missing`. Asked in a fresh process: a CUDA context draws power while it is open."""
    from cost_models import GpuTorch

    model = GpuTorch(precision=precision)
    missing = model.missing()
    if missing:
        return {"missing": missing}
    return {"target": model.key, **model.runtime()}


def fill(kept: Kept, precision: str, networks: Sequence[str], processes: int, metered: int, energy: str) -> None:
    """Measures all cells; networks by turns, so that no hour of the machine falls on one of them."""
    run = partial(child, "--measure", script=__file__)
    for turn in range(processes):
        for network in networks:
            frozen = kept.get(f"frozen {network}", partial(run, network, precision))
            told = json.dumps({cache: frozen[cache] for cache in CACHES})
            found = kept.get(
                f"{network}, {turn}", partial(run, network, precision, energy if turn < metered else "off", told)
            )
            for form, figures in found["warm"].items():
                print(f"{turn} {network}, {form}, warm: {figures['latency']:.4g} s", file=sys.stderr)


def frozen_figures(network: str, precision: str) -> Cell:
    """Latency and throughput of the dense network by cache."""
    found = {}
    for cache in CACHES:
        frozen = model_of(precision, cache).freeze(subjects(network)["dense"])
        found[cache] = {"latency": frozen.latency, "throughput": frozen.throughput}
    return found


def measured(network: str, precision: str, energy: str, frozen: Cell) -> Cell:
    """The figures of both forms by cache, beside the dense network's frozen ones; `energy` is on, off or smoke."""
    from cost_models import Reference
    from cost_models.power.energy import EnergyEffort

    networks = subjects(network)
    found: Cell = {"network": network}
    for cache in CACHES:
        model = model_of(precision, cache, energy)
        if energy == "smoke":
            model.energy_effort = EnergyEffort(window=1.5, windows=2, cool_down=2.0)
        for form, deployable in networks.items():
            start = time.monotonic()
            cost = model.cost(deployable, Reference(networks["dense"], **frozen[cache]))
            latency = cost.figures["latency"]
            figures = {
                name: (f.value, f.low, f.high, f.reason) for name, f in cost.figures.items() if name != "latency"
            }
            found.setdefault(cache, {})[form] = {
                **{"latency": latency.value, "low": latency.low, "high": latency.high, "speedup": cost.speedup.value},
                **figures,
                **{"unstable": cost.unstable, "telemetry": dict(cost.telemetry)},
                "cost_seconds": time.monotonic() - start,
                "triton": by_triton(deployable, precision, cache),
            }
    return found


def model_of(precision: str, cache: str, energy: str = "off") -> Any:
    """The target; clocks are left as they are, for cards are shared."""
    from cost_models import GpuTorch

    return GpuTorch(precision=precision, cache=cache, energy="off" if energy == "off" else "on")


def by_triton(deployable: Any, precision: str, cache: str) -> float | None:
    """Seconds of the same network by `triton.testing`: warm as graphs of many runs, cold after emptying the cache.

    None without Triton. Its cold run starts kernel by kernel, so it is no shorter than the launches take.
    """
    try:
        import triton.testing
    except ImportError:
        return None
    import torch

    from cost_models.gpu_torch import PRECISIONS, arithmetic
    from workloads.folding import fold_batch_norm

    kind = PRECISIONS[precision][1]
    module = fold_batch_norm(deployable.module).to("cuda", kind).to(memory_format=torch.channels_last)
    given = deployable.example.to("cuda", kind).contiguous(memory_format=torch.channels_last)
    bench = triton.testing.do_bench_cudagraph if cache == "warm" else triton.testing.do_bench
    with torch.no_grad(), arithmetic(tf32=precision == "tf32"), torch.cuda.stream(torch.cuda.Stream()):
        return bench(lambda: module(given), return_mode="median") / 1e3


def subjects(network: str) -> dict[str, Any]:
    """Form → `Deployable`: the network dense and shrunk, untrained and on noise, both with a fixed seed."""
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
    forms = {"dense": module, "shrunk": cut}
    return {form: Deployable(m.eval(), example, calibration, trace(m, example)) for form, m in forms.items()}


def markdown(about: dict[str, str], cells: list[Cell]) -> str:
    """The table, a row for each network, form and cache."""
    lines = [
        f"{about['gpu']}, driver {about['driver']}, CUDA {about['cuda']}, cuDNN {about['cudnn']}, torch "
        f"{about['version']}, {about['precision']}. Target `{about['target']}`.",
        "",
        "| network | form | cache | processes | latency, ms | CV | Triton, ms | speed-up | images a second "
        "| energy, mJ | CV | without idle, mJ | power, W | counter ÷ integral | SM clock, MHz | slowed down "
        "| marked unstable |",
        "|---|---|---|" + "---:|" * 14,
    ]
    seen = [cell for cell in cells if "network" in cell]
    for network, cache, form in product(dict.fromkeys(cell["network"] for cell in seen), CACHES, FORMS):
        row = [cell[cache][form] for cell in seen if cell["network"] == network]
        lines.append(
            f"| {network} | {form} | {cache} | {len(row)} | {mean(row, 'latency', 1e3)} | {spread(row, 'latency')} "
            f"| {mean(row, 'triton', 1e3)} | {mean(row, 'speedup')} | {mean(row, 'throughput')} "
            f"| {mean(row, 'energy', 1e3)} | {spread(row, 'energy')} | {mean(row, 'net_energy', 1e3)} "
            f"| {mean(row, 'power')} | {told(row, 'counter_over_integral')} | {told(row, 'sm_clock', 1e-6)} "
            f"| {sum((c['telemetry']['throttled'] or 0) > 0 for c in row)} | {sum(c['unstable'] for c in row)} |"
        )
    cells = [cell[cache][form] for cell in seen for cache in CACHES for form in FORMS]
    reasons = {cell[name][3] for cell in cells for name in ("energy", "net_energy", "power") if cell[name][3]}
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
