"""How far apart do fresh processes measure the same latency? Interleaved with the reference, and as a plain median.

    python scripts/benchmarks/latency_repeatability.py --out docs/results/latency_repeatability

For every network, its int8 version is measured beside the dense fp32 one by `cpu-onnxruntime` in fresh processes, first
with the machine as it is, then with a process that keeps the other core busy. Printed is the coefficient of variation
(standard deviation ÷ mean) over processes: of the normalised latency, and of the plain median of the very same samples.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

NETWORKS = ("digits/cnn", "cifar10/resnet8")
HOG = "import os\nif hasattr(os, 'sched_setaffinity'): os.sched_setaffinity(0, {%d})\nwhile True: pass"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=10, help="fresh processes per network and load (default 10)")
    parser.add_argument("--scale", choices=("smoke", "full"), default="full", help="smoke: one network, two processes")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    parser.add_argument("--measure", nargs=2, metavar=("NETWORK", "REFERENCE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure[0], Path(arguments.measure[1]))
        return
    smoke = arguments.scale == "smoke"
    results = run(NETWORKS[:1] if smoke else NETWORKS, 2 if smoke else arguments.processes)
    table = markdown(results)
    print(table)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
        command = "python scripts/benchmarks/latency_repeatability.py"
        arguments.out.with_suffix(".md").write_text(
            f"# Repeatability of the latency between processes\n\nMade by `{command}`; the figures of every process "
            f"stand in `{arguments.out.name}.json`.\n\n{table}\n"
        )


def run(networks: tuple[str, ...], processes: int) -> dict[str, Any]:
    """Measures everything: {"target", "rows": [{network, load, processes: [what each process printed]}]}."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for network in networks:
            frozen = Path(folder) / (network.replace("/", "-") + ".json")
            child(network, frozen)  # the first process freezes the reference that all others use
            for load, company in (("quiet", contextlib.nullcontext()), ("hog on the other core", hog())):
                with company:
                    seen = [child(network, frozen) for _ in range(processes)]
                rows.append({"network": network, "load": load, "processes": seen})
                print(f"{network}, {load}: {processes} processes measured", file=sys.stderr)
    return {"target": rows[0]["processes"][0]["target"], "rows": rows}


def child(network: str, reference: Path) -> dict[str, Any]:
    """What one fresh process measures."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, __file__, "--measure", network, str(reference)], capture_output=True, text=True, timeout=120
    )
    if done.returncode:
        raise SystemExit(f"measuring {network} failed: {done.stderr.strip().splitlines()[-1:]}")
    return {**json.loads(done.stdout), "process_seconds": time.monotonic() - start}


@contextlib.contextmanager
def hog() -> Iterator[None]:
    """A process that keeps the first allowed CPU busy; the meter pins itself to the last."""
    cpu = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    process = subprocess.Popen([sys.executable, "-c", HOG % cpu])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def measure(network: str, reference: Path) -> None:
    """Prints the int8 network's figures as JSON; freezes the dense network's latency where `reference` is absent."""
    import torch

    from cost_models import Deployable, Reference, target
    from workloads import Format, LayerFormats, trace, workload

    torch.manual_seed(0)
    chosen = workload(network)
    module = chosen.build().eval()
    example = torch.randn(1, *chosen.input_shape)
    calibration = [torch.randn(32, *chosen.input_shape)]
    dense = Deployable(module, example, calibration, trace(module, example))
    int8 = LayerFormats(Format("int", 8), Format("int", 8))
    formats = {layer.name: int8 for layer in dense.network.compute_layers}
    candidate = Deployable(module, example, calibration, trace(module, example, formats))
    model = target("cpu-onnxruntime")
    if reference.exists():
        frozen = Reference(dense, json.loads(reference.read_text()))
    else:
        frozen = model.freeze(dense)
        reference.write_text(json.dumps(frozen.latency))
    start = time.monotonic()
    cost = model.cost(candidate, frozen)
    latency = cost.figures["latency"]
    print(
        json.dumps(
            {
                "target": cost.target,
                "latency": latency.value,
                "low": latency.low,
                "high": latency.high,
                "plain_median": float(np.median(np.asarray(cost.samples["latency"]))),
                "throughput": cost.figures["throughput"].value,
                "block_ratios": np.median(
                    np.asarray(cost.samples["latency"]) / np.asarray(cost.samples["latency_reference"]), axis=1
                ).tolist(),
                "unstable": cost.unstable,
                "telemetry": dict(cost.telemetry),
                "cost_seconds": time.monotonic() - start,
            }
        )
    )


def markdown(results: dict[str, Any]) -> str:
    """The table of coefficients of variation."""
    lines = [
        f"Target `{results['target']}`.",
        "",
        "| network | load | processes | normalised latency, CV | plain median, CV | throughput, CV "
        "| mean half interval | marked unstable | pressure | s a cost | s a process |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        seen = row["processes"]
        half = np.mean([(p["high"] - p["low"]) / 2 / p["latency"] for p in seen])
        pressure = [p["telemetry"]["pressure"] for p in seen if p["telemetry"]["pressure"] is not None]
        lines.append(
            f"| {row['network']} int8 | {row['load']} | {len(seen)} | **{variation(seen, 'latency'):.1%}** "
            f"| {variation(seen, 'plain_median'):.1%} | {variation(seen, 'throughput'):.1%} | {half:.1%} "
            f"| {sum(p['unstable'] for p in seen)} | {np.mean(pressure) if pressure else float('nan'):.0%} "
            f"| {np.mean([p['cost_seconds'] for p in seen]):.1f} "
            f"| {np.mean([p['process_seconds'] for p in seen]):.1f} |"
        )
    return "\n".join(lines)


def variation(seen: list[dict[str, Any]], name: str) -> float:
    """Sample standard deviation ÷ mean of one figure over processes."""
    values = np.array([process[name] for process in seen])
    return float(values.std(ddof=1) / values.mean())


if __name__ == "__main__":
    main()
