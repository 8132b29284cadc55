"""The room's commands. Heavy imports stand inside the functions, so that `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Storage = Annotated[
    str,
    typer.Option(envvar="SHRINKBOARD_STORAGE", help="File, sqlite:///FILE or postgresql://… that holds the board."),
]
DEFAULT_STORAGE = "sqlite:///shrinkboard.db"


def leaderboard(
    workload: Annotated[str | None, typer.Option(help="Only this workload, such as digits/cnn.")] = None,
    target: Annotated[str | None, typer.Option(help="Only this target, or this target key (name@fingerprint).")] = None,
    strategy: Annotated[str | None, typer.Option(help="Only these strategies, with commas between them.")] = None,
    study: Annotated[str | None, typer.Option(help="Only this study.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="At most so many points below the dense network.")] = None,
    max_latency: Annotated[str | None, typer.Option(help="At most this latency, such as 2ms or 500us.")] = None,
    pareto: Annotated[bool, typer.Option("--pareto", help="Only the front of what matches.")] = False,
    front: Annotated[
        Literal["speed", "training"],
        typer.Option(help="The front of accuracy and speed, or of accuracy and the seconds of the whole training."),
    ] = "speed",
    where: Annotated[str | None, typer.Option(help="Condition, such as 'parameters < 20000 and top1 >= 0.95'.")] = None,
    sort: Annotated[
        str | None,
        typer.Option(
            help="Column to sort by; - before it: largest first.",
            show_default="-speedup or, by training, total_seconds",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many rows per table.")] = None,
    finals: Annotated[
        bool, typer.Option("--finals", help="Finalists, on the test split, instead of searches, on validation.")
    ] = False,
    format: Annotated[
        Literal["table", "json", "csv", "markdown", "parquet"], typer.Option(help="How to print or write.")
    ] = "table",
    out: Annotated[Path | None, typer.Option(help="File to write instead; a table is always printed.")] = None,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Lists the entries: one table per workload and target, each with its own Pareto front.

    Example: shrinkboard leaderboard --workload digits/cnn --target cpu-onnxruntime --max-drop 1.0 --pareto

    Accuracy against training cost: shrinkboard leaderboard --front training --pareto

    For pandas or Polars: shrinkboard leaderboard --format parquet --out board.parquet
    """
    from . import render
    from .errors import LeaderboardError, writing
    from .query import Query, parse_latency
    from .store import Store

    if (format == "parquet" and out is None) or (format == "table" and out is not None):
        raise LeaderboardError(
            f"format {format} {'without' if out is None else 'with'} --out: parquet is written to a file, table is "
            "printed, json, csv and markdown are either"
        )

    query = Query(
        workload=workload,
        target=target,
        strategy=strategy,
        study=study,
        max_drop=max_drop,
        max_latency=None if max_latency is None else parse_latency(max_latency),
        where=where,
        front=front,
        pareto=pareto,
        sort=sort,
        limit=limit,
        finals=finals,
    )
    with Store(storage, create=False) as store:
        board = store.query(query)
    texts = {"json": render.to_json, "csv": render.to_csv, "markdown": render.to_markdown}
    if format == "table":
        _print(render.to_table(board) if board.tracks else "No entry matches.")
    elif out is None:
        typer.echo(texts[format](board).rstrip("\n"))
    elif format == "parquet":
        board.to_parquet(out)
    else:
        with writing(out):
            out.write_text(texts[format](board), encoding="utf-8")


def show(
    entry: Annotated[str, typer.Argument(help="Id of the entry, or its first digits.")],
    format: Annotated[Literal["table", "json"], typer.Option(help="How to print.")] = "table",
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Shows one entry: its plan, per-layer ratios and formats, costs, and where it comes from.

    Example: shrinkboard show 3f9a12cd
    """
    from .render import entry_table
    from .store import Store

    with Store(storage, create=False) as store:
        found = store.get(entry)
    if format == "json":
        typer.echo(found.to_json().rstrip("\n"))
    else:
        _print(entry_table(found))


def dump(
    out: Annotated[Path, typer.Option(help="Folder to write to; it is made if need be.")] = Path("entries"),
    study: Annotated[str | None, typer.Option(help="Only this study.")] = None,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Writes every entry and every benchmark as one JSON file, named by its id, for exchange.

    Example: shrinkboard dump --out entries
    """
    from .exchange import write_benchmarks, write_entries
    from .store import Store

    with Store(storage, create=False) as store:
        entries = write_entries(store.entries(study), out)
        benchmarks = write_benchmarks([] if study else store.benchmarks(), out)
    typer.echo(f"{_counted(entries, benchmarks)} written to {out}")


def import_(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Files that dump wrote, or folders of them.", show_default=False)
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say whether they are valid; needs no storage.")] = False,
    schema: Annotated[
        Literal["entry", "benchmark"] | None, typer.Option(help="Print the JSON schema of such files, and end.")
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Adds entries and benchmarks from JSON files: all of them or, where one is refused, none.

    Example: shrinkboard import entries

    For every change of a folder of results: shrinkboard import --check entries
    """
    from .errors import LeaderboardError
    from .exchange import json_schema, read_files
    from .store import Store

    if schema is not None:
        typer.echo(json_schema(schema).rstrip("\n"))
        return
    if not files:
        raise LeaderboardError("import: give files that `shrinkboard dump` wrote, or folders of them")
    read = read_files(files)
    # What a new board takes is valid.
    with Store("sqlite://" if check else storage) as store:
        new = store.add_many(
            (entry for _, entry in read.entries),
            sources=(str(file) for file, _ in read.entries),
            benchmarks=(benchmark for _, benchmark in read.benchmarks),
        )
    entries, benchmarks = len(read.entries), len(read.benchmarks)
    if check:
        typer.echo(f"{_counted(entries, benchmarks)} checked, all valid")
    else:
        typer.echo(f"{_counted(new, benchmarks)} imported, {entries - new} were already there")


def _counted(entries: int, benchmarks: int) -> str:
    return f"{entries} entries" + (f" and {benchmarks} benchmarks" if benchmarks else "")


def report(
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("board.html"),
    workload: Annotated[str | None, typer.Option(help="Only this workload.")] = None,
    target: Annotated[str | None, typer.Option(help="Only this target, or this target key.")] = None,
    strategy: Annotated[str | None, typer.Option(help="Only these strategies, with commas between them.")] = None,
    study: Annotated[str | None, typer.Option(help="Only this study.")] = None,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Writes the board as one HTML file that works offline: fronts as pictures, and sortable tables.

    Example: shrinkboard report --out board.html
    """
    from .query import Query
    from .report import write_report
    from .store import Store

    with Store(storage, create=False) as store:
        board = store.query(Query(workload=workload, target=target, strategy=strategy, study=study))
    write_report(board, out)
    typer.echo(f"report written to {out}")


def _print(renderable: object) -> None:
    from rich.console import Console

    console = Console()
    # Without a terminal rich assumes 80 columns, and our table needs 100.
    width = console.width if console.is_terminal else max(console.width, 100)
    Console(width=width, highlight=False, markup=False).print(renderable)
