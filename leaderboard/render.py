"""A board as text: table for the terminal, JSON, CSV, Markdown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from . import _format
from .entry import Entry, Figure, Scores, Speedup
from .query import Board, Front, Row, Track

Format = Literal["table", "json", "csv", "markdown"]

_COMMON = ("", "entry", "strategy", "acc %", "drop")
_HEADERS: dict[Front, tuple[str, ...]] = {
    "speed": (*_COMMON, "speed-up [95 %]", "latency", "params", "MACs", "bytes", "train"),
    "training": (*_COMMON, "training", "epochs", "from", "fp32 epoch", "bf16 epoch"),
}
_ENERGY = _HEADERS["speed"].index("latency") + 1
"""Place of the column of energy, where there is one."""


def to_json(board: Board) -> str:
    """A list with one object per row."""
    return json.dumps([row._asdict() for row in board.rows], indent=2, allow_nan=False)


def to_csv(board: Board) -> str:
    """One line per row below a header; an absent figure is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(map(_cell, row) for row in board.rows)
    return out.getvalue()


def to_markdown(board: Board) -> str:
    """One heading and table per track."""
    parts = []
    for track in board.tracks:
        headers = _headers(track, board.front)
        lines = [f"### {_format.escaped(title(track))}", "", "| " + " | ".join(headers) + " |"]
        lines.append("|" + "|".join("---" if i in (0, 1, 2) else "---:" for i in range(len(headers))) + "|")
        lines += [
            "| " + " | ".join(_format.escaped(cell) for cell in cells) + " |" for cells in _rows(track, board.front)
        ]
        parts.append("\n".join([*lines, "", _format.escaped(legend(track, board.front))]))
    return "\n\n".join(parts) + "\n" if parts else ""


def to_table(board: Board) -> RenderableType:
    """One table per track, for a terminal of 100 columns."""
    parts: list[RenderableType] = []
    for track in board.tracks:
        table = Table(box=None, padding=(0, 1, 0, 0), title=Text(title(track), style="bold"), title_justify="left")
        for i, header in enumerate(_headers(track, board.front)):
            table.add_column(header, justify="left" if i < 3 else "right", no_wrap=i != 2, overflow="fold")
        for row, cells in zip(track.rows, _rows(track, board.front), strict=True):
            table.add_row(*(Text(cell) for cell in cells), style="bold" if _on_front(row, board.front) else "")
        parts += [table, Text(legend(track, board.front), style="dim"), Text()]
    return Group(*parts[:-1])


def entry_table(entry: Entry) -> RenderableType:
    """Everything about one entry that a person asks for: result, costs, plan, formats, provenance."""
    parts: list[RenderableType] = [
        Text(f"{entry.id}  {entry.strategy} on {entry.workload}", style="bold"),
        _pairs(_summary(entry)),
    ]
    for cost in entry.costs:
        shown = {} if cost.speedup is None else {"speed-up": _speedup(cost.speedup)}
        shown |= {name: _figure(figure) for name, figure in cost.figures.items()}
        if cost.runtime_accuracy is not None:
            shown["accuracy as run"] = f"{_format.percent(cost.runtime_accuracy.primary)} %"
        if cost.unstable:
            shown["unstable"] = "yes: the machine was too noisy for these figures to be trusted"
        if cost.executed:
            shown["formats run"] = _counted(f"{weight}/{activation}" for weight, activation in cost.executed.values())
        if cost.runtime:
            shown["runtime"] = ", ".join(f"{name} {value}" for name, value in cost.runtime.items())
        if cost.telemetry:
            read = {name: value for name, value in cost.telemetry.items() if value is not None}
            shown["noise seen"] = ", ".join(f"{name} {value:.3g}" for name, value in read.items())
        parts += [Text(f"\n{cost.key} ({cost.kind})", style="bold"), _pairs(shown)]
    parts += [Text("\nplan", style="bold"), _nested(entry.plan)]
    layers = _executed(entry)
    if layers is not None:
        parts += [Text("\nformats that run, weight/activation", style="bold"), layers]
    environment = {name: value for name, value in entry.environment.model_dump().items() if value is not None}
    parts += [Text("\nmade with", style="bold"), _pairs(environment)]
    return Group(*parts)


def title(track: Track) -> str:
    """`digits/cnn on cpu-onnxruntime@ab12cd34, measured`."""
    return f"{track.workload} on {track.key}, {track.kind}"


def legend(track: Track, front: Front) -> str:
    """What the marks in a table mean, and how many rows there are."""
    matched = f"{len(track.rows)} of {track.matched} matching entries"
    marks = "* on the front of those that match, drop in points below the dense network"
    tested = "; accuracy on the test split" if any(row.final for row in track.rows) else ""
    unstable = "; ? measured on an unstable machine" if any(row.unstable for row in track.rows) else ""
    training = "; training includes that of the dense network where a recipe starts from it" * (front == "training")
    return f"{matched}; {marks}{tested}{unstable}{training}"


def _on_front(row: Row, front: Front) -> bool:
    return row.training_front if front == "training" else row.front


def _metered(track: Track, front: Front) -> bool:
    """Whether energy has a column: on the front of speed, where any entry has a figure."""
    return front == "speed" and any(row.energy is not None for row in track.rows)


def _headers(track: Track, front: Front) -> list[str]:
    headers = list(_HEADERS[front])
    if _metered(track, front):
        headers.insert(_ENERGY, "energy")
    return headers


def _rows(track: Track, front: Front) -> list[list[str]]:
    rows = [list(_cells(row, front)) for row in track.rows]
    if _metered(track, front):
        for row, cells in zip(track.rows, rows, strict=True):
            cells.insert(_ENERGY, _format.joules(row.energy))
    return rows


def _cells(row: Row, front: Front) -> tuple[str, ...]:
    common = (
        ("*" if _on_front(row, front) else " ") + ("?" if row.unstable else ""),
        row.id[:8],
        row.strategy,
        _format.percent(row.accuracy),
        _format.points(row.drop),
    )
    if front == "training":
        return (
            *common,
            _format.seconds(row.total_seconds),
            f"{row.total_epochs:g}",
            row.starts_from or _format.ABSENT,
            _format.beside(row.epoch_fp32, row.dense_epoch_fp32),
            _format.beside(row.epoch_bf16, row.dense_epoch_bf16),
        )
    return (
        *common,
        _format.speedup(row.speedup, row.low, row.high),
        _format.seconds(row.latency),
        _format.count(row.parameters),
        _format.count(row.macs),
        _format.size(row.bytes),
        _format.seconds(row.seconds),
    )


def _cell(value: Any) -> Any:
    # A spreadsheet would run text that starts so as a formula.
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value


def _summary(entry: Entry) -> dict[str, str]:
    training, scores = entry.training, entry.accuracy
    begun = "fresh" if training.starts_from == "initial" else "trained"
    epochs = {
        "fp32": _format.beside(training.epoch_fp32, training.dense_epoch_fp32),
        "bf16": _format.beside(training.epoch_bf16, training.dense_epoch_bf16),
    }
    shown = {
        "accuracy": f"validation {_scores(scores.validation)}; dense {_format.percent(scores.dense_validation)} %",
        "parameters": f"{entry.parameters:,} of {entry.dense_parameters:,}",
        "MACs": f"{entry.macs:,} of {entry.dense_macs:,}",
        "bytes": f"{entry.bytes:,}",
        "training": f"{training.epochs:g} epochs in {_format.seconds(training.seconds)}, {training.images:,} images; "
        f"dense {training.dense_epochs:g} epochs in {_format.seconds(training.dense_seconds)}",
        "whole training": f"{training.total_epochs:g} epochs in {_format.seconds(training.total_seconds)}, "
        f"from {begun} weights",
        "an epoch": ", ".join(f"{name} {text}" for name, text in epochs.items() if text != _format.ABSENT)
        or "not measured",
        "study": f"{entry.study}, trial {entry.trial}, seed {entry.seed}, {entry.role}",
        "created": entry.created,
        "plan digest": entry.plan_digest,
        "dense digest": entry.dense_digest,
    }
    if scores.test is not None:
        shown["accuracy"] += f"; test {_scores(scores.test)}"
    return shown


def _scores(scores: Scores) -> str:
    return ", ".join(f"{name} {100 * value:.2f} %" for name, value in scores.model_dump().items() if value is not None)


def _speedup(speedup: Speedup) -> str:
    if speedup.value is None:
        return f"none: {speedup.reason}"
    return _format.speedup(speedup.value, speedup.low, speedup.high)


def _figure(figure: Figure) -> str:
    if figure.value is None:
        return f"none: {figure.reason}"
    if figure.unit == "s":
        values = [_format.seconds(x) for x in (figure.value, figure.low, figure.high) if x is not None]
    else:
        unit = "" if figure.unit == "1" else f" {figure.unit}"
        values = [f"{x:.4g}{unit}" for x in (figure.value, figure.low, figure.high) if x is not None]
    return values[0] if len(values) == 1 else f"{values[0]} [{values[1]}, {values[2]}]"


def _counted(names: Any) -> str:
    listed = list(names)
    return ", ".join(f"{name} in {listed.count(name)} layers" for name in sorted(set(listed)))


def _executed(entry: Entry) -> Table | None:
    costs = [cost for cost in entry.costs if cost.executed]
    if not costs:
        return None
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column("layer", overflow="fold")
    for cost in costs:
        table.add_column(Text(cost.target))
    for layer in dict.fromkeys(layer for cost in costs for layer in cost.executed):
        cells = ["/".join(cost.executed.get(layer, (_format.ABSENT,))) for cost in costs]
        table.add_row(Text(layer), *(Text(cell) for cell in cells))
    return table


def _nested(value: Mapping[str, Any]) -> RenderableType:
    """A plan, whatever its fields: nested objects as tables below their name, ratios with a bar."""
    plain = {name: _value(item) for name, item in value.items() if not (isinstance(item, Mapping) and item)}
    parts: list[RenderableType] = [_pairs(plain)] if plain else []
    for name, item in value.items():
        if isinstance(item, Mapping) and item:
            parts += [Text(name, style="italic"), Padding(_nested(item), (0, 0, 0, 2))]
    return Group(*parts)


def _value(value: Any) -> str:
    if isinstance(value, float) and 0 <= value <= 1:
        return f"{value:<7.4g} {'█' * round(20 * value):░<20}"
    return value if isinstance(value, str) else json.dumps(value)


def _pairs(pairs: Mapping[str, str]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", overflow="fold")
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(Text(name), Text(value))
    return table
