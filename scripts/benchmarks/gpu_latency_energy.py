"""What VGG-16 and ResNet-56 take on this machine's NVIDIA GPU, dense and shrunk: latency cold and warm, and energy.

    python scripts/benchmarks/gpu_latency_energy.py --out docs/results/gpu_latency_energy

Each network is measured by `gpu-torch` in fresh processes, beside the dense one whose latency was frozen by the first.
Shrunk is half of the channels of every layer, rounded to a multiple of 8; nothing is trained, for neither latency nor
energy depends on how well a network predicts. Printed are means over processes, the coefficient of variation (CV,
standard deviation ÷ mean) between them, what Triton's own benchmark says of the same network in the same process, and
what NVML's energy counter says divided by the integral of its power. Energy is that of warm runs.

Without an NVIDIA GPU it says so in one line. Finished cells are kept in OUT.json; the same command goes on where it was
cut off. A process takes half a minute for the latencies and a minute for the energy of one network in one form: with
`--energy-processes 5` energy takes twenty minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
from latency_repeatability import Cell, Kept, child, variation

NETWORKS = {"full": ("cifar10/vgg16_bn", "cifar10/resnet56"), "smoke": ("digits/cnn",)}
FORMS = ("dense", "shrunk")
CACHES = ("warm", "cold")
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
METERED = ("energy", "net_energy", "power")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=5, help="fresh processes per network (default 5)")
    parser.add_argument("--energy-processes", type=int, default=1, help="fresh processes that meter energy (default 1)")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the whole network (default fp32)")
    parser.add_argument("--scale", choices=("smoke", "full"), default="full", help="smoke: one network, two processes")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    parser.add_argument("--device", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs="+", metavar="WHAT SCALE PRECISION …", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device:
        print(json.dumps(device(arguments.precision)))
        return
    if arguments.measure:
        what, *rest = arguments.measure
        print(json.dumps({"frozen": frozen_figures, "latency": latencies, "energy": energy}[what](*rest)))
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
    fill(kept, arguments.scale, arguments.precision, processes, arguments.energy_processes)
    table = markdown(about, kept.cells)
    print(table)
    if arguments.out:
        arguments.out.with_suffix(".md").write_text(
            f"# Latency and energy on {about['gpu']}\n\n"
            f"Made by `python scripts/benchmarks/gpu_latency_energy.py --processes {processes} --energy-processes "
            f"{arguments.energy_processes} --precision {arguments.precision} --scale {arguments.scale}`; the figures "
            f"of every process stand in `{arguments.out.name}.json`.\n\n{table}\n"
        )


def device(precision: str) -> dict[str, str]:
    """What is measured on, or `missing`. Asked in a fresh process: a CUDA context draws power while it is open."""
    from cost_models import GpuTorch

    model = GpuTorch(precision=precision)
    missing = model.missing()
    if missing:
        return {"missing": missing}
    return {"target": model.key, **model.runtime()}


def fill(kept: Kept, scale: str, precision: str, processes: int, metered: int) -> None:
    """Measures all cells."""

    def cell(name: str, what: str, *more: str) -> Cell:
        print(name, file=sys.stderr)
        return kept.get(name, partial(child, "--measure", what, scale, precision, *more, script=__file__))

    frozen = cell("frozen", "frozen")
    told = json.dumps({network: frozen[network] for network in NETWORKS[scale]})
    for turn in range(processes):
        cell(f"latency, {turn}", "latency", told)
    for turn, network, form in product(range(metered), NETWORKS[scale], FORMS):
        cell(f"energy, {network}, {form}, {turn}", "energy", network, form)


def frozen_figures(scale: str, precision: str) -> Cell:
    """Network → cache → latency and throughput of the dense network."""
    found: Cell = {}
    for network in NETWORKS[scale]:
        dense = subjects(network)["dense"]
        frozen = {cache: model_of(precision, cache).freeze(dense) for cache in CACHES}
        found[network] = {cache: {"latency": f.latency, "throughput": f.throughput} for cache, f in frozen.items()}
    return found


def latencies(scale: str, precision: str, frozen: str) -> Cell:
    """Network → cache → form → its figures beside the dense network's frozen ones."""
    from cost_models import Reference

    told, found = json.loads(frozen), {}
    for network in NETWORKS[scale]:
        forms = subjects(network)
        found[network] = {cache: {} for cache in CACHES}
        for cache, (form, deployable) in product(CACHES, forms.items()):
            start = time.monotonic()
            model = model_of(precision, cache)
            cost = model.cost(deployable, Reference(forms["dense"], **told[network][cache]))
            latency, throughput = cost.figures["latency"], cost.figures["throughput"]
            found[network][cache][form] = {
                **{"latency": latency.value, "low": latency.low, "high": latency.high, "speedup": cost.speedup.value},
                **{"throughput": throughput.value, "unstable": cost.unstable, "telemetry": dict(cost.telemetry)},
                "cost_seconds": time.monotonic() - start,
                "triton": by_triton(deployable, precision, cache),
            }
    return found


def energy(scale: str, precision: str, network: str, form: str) -> Cell:
    """What a meter tells of a network's warm runs."""
    from cost_models import Reference
    from cost_models.power.energy import EnergyEffort

    forms, model = subjects(network), model_of(precision, "warm", energy="on")
    if scale == "smoke":
        model.energy_effort = EnergyEffort(window=1.5, windows=2, cool_down=2.0)
    cost = model.cost(forms[form], Reference(forms["dense"], 1.0))
    return {
        **{name: (f.value, f.low, f.high, f.reason) for name in METERED for f in [cost.figures[name]]},
        "telemetry": dict(cost.telemetry),
    }


def model_of(precision: str, cache: str, energy: str = "off") -> Any:
    """The target."""
    from cost_models import GpuTorch

    return GpuTorch(precision=precision, cache=cache, energy=energy)


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


def markdown(about: dict[str, str], cells: dict[str, Cell]) -> str:
    """Two tables: latencies, a row for each network, cache and form; and energies."""
    timed = [cell for name, cell in cells.items() if name.startswith("latency")]
    networks = [network for network in chain(*NETWORKS.values()) if network in timed[0]]
    lines = [
        f"{about['gpu']}, driver {about['driver']}, CUDA {about['cuda']}, cuDNN {about['cudnn']}, torch "
        f"{about['version']}, {about['precision']}, clocks {about['clocks']}. Target `{about['target']}`.",
        "",
        "| network | form | cache | processes | latency, ms | CV | Triton, ms | speed-up | images a second | CV "
        "| SM clock, MHz | slowed down | marked unstable |",
        "|---|---|---|" + "---:|" * 10,
    ]
    for network, cache, form in product(networks, CACHES, FORMS):
        row = [cell[network][cache][form] for cell in timed]
        lines.append(
            f"| {network} | {form} | {cache} | {len(row)} | {mean(row, 'latency', 1e3)} | {spread(row, 'latency')} "
            f"| {mean(row, 'triton', 1e3)} | {mean(row, 'speedup')} | {mean(row, 'throughput')} "
            f"| {spread(row, 'throughput')} | {told(row, 'sm_clock', 1e-6)} "
            f"| {sum((c['telemetry']['throttled'] or 0) > 0 for c in row)} | {sum(c['unstable'] for c in row)} |"
        )
    lines += [
        "",
        "| network | form | processes | energy, mJ | 95 % interval | without idle, mJ | 95 % interval | power, W "
        "| idle, W | counter ÷ integral | °C |",
        "|---|---|" + "---:|" * 9,
    ]
    reasons = set()
    for network, form in product(networks, FORMS):
        row = [cell for name, cell in cells.items() if name.startswith(f"energy, {network}, {form}, ")]
        reasons |= {cell[name][3] for cell in row for name in METERED if cell[name][3]}
        lines.append(
            f"| {network} | {form} | {len(row)} | {mean(row, 'energy', 1e3)} | {interval(row, 'energy', 1e3)} "
            f"| {mean(row, 'net_energy', 1e3)} | {interval(row, 'net_energy', 1e3)} | {mean(row, 'power')} "
            f"| {told(row, 'idle_power')} | {told(row, 'counter_over_integral')} | {told(row, 'celsius_load')} |"
        )
    return "\n".join([*lines, "", *(f"A dash: {reason}." for reason in sorted(reasons))]).rstrip()


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


def interval(row: list[Cell], name: str, scale: float) -> str:
    """The widest over processes, in words."""
    found = [(cell[name][1] * scale, cell[name][2] * scale) for cell in row if cell[name][0] is not None]
    return f"{min(low for low, _ in found):.4g} to {max(high for _, high in found):.4g}" if found else "–"


def told(row: list[Cell], name: str, scale: float = 1.0) -> str:
    """Least and greatest value of a name in the telemetry, in words."""
    found = [value * scale for cell in row if (value := cell["telemetry"].get(name)) is not None]
    ends = [f"{end:.4g}" for end in (min(found), max(found))] if found else ["–"]
    return " to ".join(dict.fromkeys(ends))


if __name__ == "__main__":
    main()
