"""The commands `shrinkboard estimate`, `shrinkboard targets` and `shrinkboard doctor`.

Heavy imports stand inside the functions, so that `--help` answers at once.
"""

from __future__ import annotations

import enum
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from workloads import Network

    from .base import CostModel
    from .doctor import Report
    from .fpga.design import Design
    from .fpga.device import FpgaDevice
    from .given_network import GivenNetwork


class OutputFormat(enum.StrEnum):
    """How a command prints its table."""

    table = "table"
    json = "json"


Format = Annotated[OutputFormat, typer.Option("--format", help="How to print the result.")]

targets_app = typer.Typer(invoke_without_command=True)


@targets_app.callback()
def targets(context: typer.Context, format: Format = OutputFormat.table) -> None:
    """List the devices and cost models that networks can be costed on.

    Options stand behind the name: --target cpu-onnxruntime:threads=2,image=640x480.

    Example: shrinkboard targets --format json
    """
    if context.invoked_subcommand is not None:
        return
    from .registry import target_names

    rows = [_target_row(name) for name in target_names()]
    if format is OutputFormat.json:
        typer.echo(json.dumps(rows, indent=2))
        return
    _table(
        ["target", "kind", "what it is", "options", "figures"],
        [
            [
                row["target"],
                row["kind"] or "unavailable",
                row["summary"],
                "\n".join(row["options"]),
                ", ".join(row["figures"]),
            ]
            for row in rows
        ],
        _console(120),
    )


def _target_row(name: str) -> dict[str, Any]:
    """What a target is; where it cannot be had here, the line that says why stands for what it is."""
    from workloads import InputError

    from .measured import MeasuredTarget
    from .options import described
    from .registry import target

    row: dict[str, Any] = {"target": name, "kind": None, "summary": "", "figures": [], "options": [], "key": None}
    try:
        model = target(name)
    except InputError as error:
        return row | {"summary": str(error)}
    if isinstance(model, MeasuredTarget):
        row["options"] = described(model.options)
    if missing := model.missing():
        return row | {"summary": missing}
    return row | {"kind": model.kind, "summary": model.summary, "figures": list(model.figures), "key": model.key}


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


def estimate(
    network: Annotated[
        str,
        typer.Argument(
            help="A workload, an ONNX file, a network as JSON (docs/network.md), or a layer file of fpgaConvNet."
        ),
    ],
    target: Annotated[str, typer.Option(help="A modelled target: fpga-zcu104, fpga:FILE.toml, counts, …")],
    folding: Annotated[
        Path | None, typer.Option(help="Folding of every layer as JSON (docs/fpga.md); allocated unless given.")
    ] = None,
    bits: Annotated[
        str | None,
        typer.Option(help="Widths of layers in floating point: W8A8, or Wmf6A8 for weights in minifloats."),
    ] = None,
    order: Annotated[
        Literal["natural", "sorted", "equal"] | None,
        typer.Option(
            help="In which order filters are processed; equal: as if all had the same number of nonzeros.",
            show_default="sorted",
        ),
    ] = None,
    clock: Annotated[
        str | None, typer.Option(help="Clock, such as 200MHz; else the folding file's or the device's.")
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(envvar="SHRINKBOARD_DATA", help="Folder of images, for a workload that counts its classes there."),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print the layers too, and draw the pipeline.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="The drawing, .svg, .png or .pdf.", show_default="pipeline.svg with --explain")
    ] = None,
    format: Annotated[Literal["table", "json"], typer.Option(help="How to print.")] = "table",
) -> None:
    """Say what one network costs on a modelled device, without a search; nothing is trained and no data are read.

    Example: shrinkboard estimate cifar10/resnet8 --target fpga-zcu104 --bits W8A8 --explain
    """
    from rich.console import Console

    from .fpga.target import Fpga
    from .given_network import floating_layers, given_network, with_widths
    from .registry import target as by_name

    model = by_name(target)
    if not isinstance(model, Fpga):
        _refuse_options_of_fpgas(target, folding=folding, order=order, clock=clock, explain=explain or None, out=out)
    picture = out or (Path("pipeline.svg") if explain else None)
    if picture:
        from .fpga.picture import check_picture_path

        check_picture_path(picture)
    given = given_network(network, data_dir)
    table = given.network if bits is None else with_widths(given.network, bits)
    if bits is not None and not floating_layers(given.network):
        typer.echo("shrinkboard: --bits changes no layer with weights: none is in floating point", err=True)
    if not isinstance(model, Fpga):
        _print_figures(model, table, format)
        return

    from .fpga.describe import describe
    from .fpga.picture import draw

    with Console(stderr=True).status("estimating"):
        design = _design(model.device, given, table, folding, order or "sorted", clock)
        described = describe(design)
    _say_what_runs(table)
    if format == "json":
        typer.echo(json.dumps(described, indent=2, allow_nan=False))
    else:
        _print_design(described, given.title, layers=explain)
    if picture:
        draw(design, picture, given.title)
        typer.echo(f"the pipeline is drawn in {picture}", err=format == "json")


def _design(
    device: FpgaDevice,
    given: GivenNetwork,
    network: Network,
    folding: Path | None,
    order: Literal["natural", "sorted", "equal"],
    clock: str | None,
) -> Design:
    from .fpga.design import estimate as estimated
    from .fpga.folding import read_folding

    layers, rate = given.folding, None
    if folding is not None:
        file = read_folding(folding)
        layers, rate = file.layers, file.clock
    return estimated(network, device, layers, order, rate if clock is None else parse_clock(clock))


def parse_clock(text: str) -> float:
    """Hertz of `200MHz`, `0.2GHz`, `2e8Hz`; raises `InputError` for anything else."""
    from workloads import InputError

    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]+)?(?:e[+-]?[0-9]{1,2})?) ?(k|M|G)?Hz", text.strip(), re.IGNORECASE)
    hertz = float(match[1]) * {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}[(match[2] or "").lower()] if match else 0.0
    if not 0 < hertz <= 1e10:
        raise InputError(f"clock {text!r} is no frequency up to 10 GHz; give it with its unit, such as 200MHz")
    return hertz


def _refuse_options_of_fpgas(target: str, **given: Any) -> None:
    from workloads import InputError

    for name, value in given.items():
        if value is not None:
            raise InputError(f"--{name} is for targets fpga-…; target {target} has no pipeline")


def _say_what_runs(network: Network) -> None:
    """Says on stderr that layers in floating point run in fixed point, where there are any."""
    from .given_network import floating_layers

    count = floating_layers(network)
    if count:
        typer.echo(
            f"shrinkboard: {count} layers in floating point are estimated in 16-bit fixed point; "
            "--bits W8A8 sets other widths",
            err=True,
        )


def _print_figures(model: CostModel, network: Network, format: str) -> None:
    """The figures of a target that reads nothing but the network's table."""
    import torch

    from workloads import InputError

    from .base import UNITS, Deployable, Reference

    if model.kind != "modelled":
        raise InputError(
            f"target {model.name} runs the network itself, not its table: use shrinkboard search --target {model.name}"
        )
    # A modelled target looks at nothing but the table.
    deployable = Deployable(torch.nn.Identity(), torch.zeros(1), [], network)
    figures = model.cost(deployable, Reference(deployable, latency=None)).figures
    if format == "json":
        rows = [
            {"figure": name, "value": figure.value, "unit": UNITS[name], "reason": figure.reason}
            for name, figure in figures.items()
        ]
        typer.echo(json.dumps({"target": model.key, "figures": rows}, indent=2, allow_nan=False))
        return
    _table(
        ["figure", "value", "unit"],
        [
            [name, f"unknown: {figure.reason}" if figure.value is None else f"{figure.value:,.6g}", UNITS[name]]
            for name, figure in figures.items()
        ],
    )


def _print_design(described: dict[str, Any], title: str, layers: bool) -> None:
    from .fpga.summary import headlines, layer_table, resource_table

    console = _console(110)
    console.print(headlines(described, title))
    console.print(resource_table(described))
    if layers:
        _console(160).print(layer_table(described))


def _console(least_width: int) -> Console:
    """The terminal; what is not one is at least so many columns wide, so that files and pipes get whole lines."""
    from rich.console import Console

    width = Console().width
    # Names of layers are the user's: nothing in them is markup.
    return Console(
        width=width if sys.stdout.isatty() else max(width, least_width), highlight=False, markup=False, emoji=False
    )


def doctor(
    format: Format = OutputFormat.table,
    seconds: Annotated[float, typer.Option(min=1, max=600, help="How long to measure the noise.")] = 10.0,
) -> None:
    """Say what can be measured on this machine, what not and why, how noisy it is, and what to change.

    Example: shrinkboard doctor --seconds 30
    """
    from dataclasses import asdict

    from rich.console import Console

    from .doctor import examine

    with Console(stderr=True).status("starting") as status:
        report = examine(seconds, status.update)
    if format is OutputFormat.json:
        typer.echo(json.dumps(asdict(report), indent=2, allow_nan=False))
        return
    _print_report(report)


def _print_report(report: Report) -> None:
    from .doctor import fact_rows, noise_rows

    console = _console(120)
    _table(["this machine", ""], fact_rows(report.facts), console)
    _table(
        ["what can be measured", "here", "remark"],
        [[able.what, "yes" if able.possible else "no", able.remark] for able in report.abilities],
        console,
    )
    if report.noise is not None:
        _table(["noise", "here", "meaning"], noise_rows(report.noise), console)
    if report.advice:
        _table(["what makes figures worse", "what to do"], [[one.seen, one.do] for one in report.advice], console)
    console.print(f"Verdict: {report.verdict}.", soft_wrap=True)


def _table(header: list[str], rows: Sequence[Sequence[str]], console: Console | None = None) -> None:
    from rich.table import Column, Table

    table = Table(*(Column(name, overflow="fold") for name in header))
    for row in rows:
        table.add_row(*row)
    (console or _console(80)).print(table)
