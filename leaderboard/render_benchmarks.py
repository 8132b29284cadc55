"""Benchmarks as text: a table for the terminal, JSON, and one in full."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from . import _format
from .benchmark import Benchmark

_HEADERS = ("benchmark", "workload", "key", "dense %", "cap", "trials", "search seeds", "final", "front")


def to_json(benchmarks: Sequence[Benchmark]) -> str:
    """A list with the fields of each."""
    return json.dumps([benchmark.model_dump(mode="json") for benchmark in benchmarks], indent=2, allow_nan=False)


def to_table(benchmarks: Sequence[Benchmark]) -> RenderableType:
    """One line each, for a terminal of 100 columns."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for i, header in enumerate(_HEADERS):
        table.add_column(header, justify="left" if i < 3 else "right", overflow="fold")
    for one in benchmarks:
        cells = (
            *(one.id, one.workload, one.key, _format.percent(one.dense_accuracy), f"{one.cap:g}×", str(one.trials)),
            *(_seeds(one), str(one.final_seeds), str(len(one.front) or _format.ABSENT)),
        )
        table.add_row(*(Text(cell) for cell in cells))
    return table


def benchmark_table(benchmark: Benchmark) -> RenderableType:
    """Every field of one."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    latency = benchmark.reference_latency
    front = "; ".join(f"{gain:.2f}× {_format.percent(accuracy)} %" for gain, accuracy in benchmark.front)
    shown = {
        "benchmark": benchmark.id,
        "workload": benchmark.workload,
        "target": f"{benchmark.key}, {benchmark.track}",
        "dense network": f"{_format.percent(benchmark.dense_accuracy)} % on the test split, over seeds "
        + ", ".join(map(str, benchmark.dense_seeds)),
        "reference latency": _format.seconds(latency),
        "hypervolume": f"gain up to {benchmark.cap:g}×, accuracy from {100 * benchmark.reference_drop:g} points below",
        "budget": f"{benchmark.trials} full evaluations of every strategy and search seed",
        "epochs": f"{benchmark.epochs:g} from the trained network, {benchmark.training_epochs:g} from initial weights",
        "search seeds": _seeds(benchmark),
        "finalists": f"at most {benchmark.points} of a search, each on {benchmark.final_seeds} fresh seeds",
        "reference front": front or _format.ABSENT,
        "front from": benchmark.front_source or _format.ABSENT,
    }
    for name, value in shown.items():
        table.add_row(name, Text(value))
    return table


def _seeds(benchmark: Benchmark) -> str:
    return ", ".join(map(str, benchmark.search_seeds))
