"""The commands `shrinkboard targets` and `shrinkboard doctor`."""

from __future__ import annotations

import enum
import json
from typing import Annotated, Any

import typer


class OutputFormat(enum.StrEnum):
    """How a command prints its table."""

    table = "table"
    json = "json"


Format = Annotated[OutputFormat, typer.Option("--format", help="How to print the result.")]

targets_app = typer.Typer(invoke_without_command=True)


@targets_app.callback()
def targets(context: typer.Context, format: Format = OutputFormat.table) -> None:
    """List the devices and cost models that networks can be costed on.

    Example: shrinkboard targets --format json
    """
    if context.invoked_subcommand is not None:
        return
    from workloads import InputError

    from .registry import target, target_names

    rows: list[dict[str, Any]] = []
    for name in target_names():
        try:
            model = target(name)
        except InputError as error:  # a plug-in that does not load is listed with what is wrong
            rows.append({"target": name, "kind": None, "summary": str(error), "figures": [], "key": None})
            continue
        rows.append(
            {
                "target": name,
                "kind": model.kind,
                "summary": model.summary,
                "figures": list(model.figures),
                "key": model.key,
            }
        )
    if format is OutputFormat.json:
        typer.echo(json.dumps(rows, indent=2))
        return
    _table(
        ["target", "kind", "what it is", "figures"],
        [[row["target"], row["kind"] or "broken", row["summary"], ", ".join(row["figures"])] for row in rows],
    )


@targets_app.command()
def check(name: Annotated[str, typer.Argument(help="Name of the target, or roofline:PATH.toml.")]) -> None:
    """Run the contract test on one target; ends with code 2 and one line where it is broken.

    Example: shrinkboard targets check roofline-raspberry-pi-4
    """
    from .registry import target
    from .testing import check_cost_model

    model = target(name)
    check_cost_model(model)
    typer.echo(f"target {model.key} keeps its contract")


def doctor(format: Format = OutputFormat.table) -> None:
    """Say what can be measured on this machine, what not and why, and how noisy it is.

    Example: shrinkboard doctor
    """
    report = examine()
    if format is OutputFormat.json:
        typer.echo(json.dumps(report, indent=2))
        return
    _table(["what", "here", "remark"], [[row["what"], row["here"], row["remark"]] for row in report])


def examine() -> list[dict[str, str]]:
    """Rows of `doctor`: what, here (yes, no or a figure), remark. Takes a few seconds: it measures a small network."""
    import importlib.util
    import os

    from .machine import multiplies_int8_exactly, processor
    from .power import cpu_power_absence, gpu_power_absence

    rows: list[dict[str, str]] = []

    def row(what: str, here: str, remark: str = "") -> None:
        rows.append({"what": what, "here": here, "remark": remark})

    cpu = processor()
    row("processor", f"{cpu.cores} cores", cpu.model)
    row("instruction sets", ", ".join(cpu.instruction_sets) or "unknown")
    exact = multiplies_int8_exactly(cpu)
    row("int8 at full range", "yes" if exact else "no", "" if exact else "no VNNI: int8 weights keep to 7 bits")
    pinning = hasattr(os, "sched_setaffinity")
    row(
        "pinning to a CPU",
        "yes" if pinning else "no",
        "" if pinning else "this system has no affinity: expect more noise",
    )
    row("energy of the CPU", "no", cpu_power_absence())
    gpu = gpu_power_absence()
    row("power of a GPU", "no" if gpu else "yes", gpu or "read through NVML; no target uses it yet")
    if importlib.util.find_spec("onnxruntime") is None:
        row("latency on the CPU", "no", "onnxruntime is not installed")
        return rows
    from .cpu_onnxruntime import CpuOnnxRuntime
    from .testing import sample_deployable

    model = CpuOnnxRuntime()
    dense = sample_deployable(width=32)
    cost = model.cost(dense, model.freeze(dense))
    row("latency on the CPU", "yes", f"{model.key}{', unstable now' if cost.unstable else ''}")
    speedup = cost.speedup
    if speedup is not None and speedup.low is not None and speedup.high is not None:
        half_width = (speedup.high - speedup.low) / 2
        row(
            "a network beside itself",
            f"{speedup.value:.3f} ± {half_width:.3f}",
            "speedup; a calm machine shows 1 ± 0.01",
        )
    for name, meaning in (
        ("steal", "share of time that a hypervisor gave to others"),
        ("switches", "involuntary context switches a second"),
        ("pressure", "share of time in which some task waited for a CPU"),
        ("frequency", "clock in Hz"),
    ):
        value = cost.telemetry[name]
        row(name, "unknown" if value is None else f"{value:.3g}", meaning)
    return rows


def _table(header: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
