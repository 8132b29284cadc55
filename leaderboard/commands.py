"""The room's commands. Heavy imports stand inside the functions, so that `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from .ranking import Ranking

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


def rank(
    workload: Annotated[str, typer.Option(help="The workload, such as digits/cnn.")],
    target: Annotated[str, typer.Option(help="The target, or the key of one machine's results (name@fingerprint).")],
    strategy: Annotated[
        str | None,
        typer.Option(help="Show only these strategies, with commas between them; ranks stay those among all."),
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(help="File of a benchmark, or NAME or NAME@VERSION.", show_default="the highest version there is"),
    ] = None,
    format: Annotated[Literal["table", "json", "markdown"], typer.Option(help="How to print.")] = "table",
    out: Annotated[Path | None, typer.Option(help="File to write instead of printing.")] = None,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Ranks strategies by the hypervolume of their finalists on the test split, as the benchmark lays down.

    Example: shrinkboard rank --workload digits/cnn --target fpga-zcu104

    All of it, with pairs, fixed speeds and drops, controls and training cost: add --format markdown --out rank.md
    """
    from . import render_ranking

    found = _ranking(workload, target, benchmark, strategy, storage)
    if format == "table":
        _print(render_ranking.to_table(found), out)
    else:
        writers = {"json": render_ranking.to_json, "markdown": render_ranking.to_markdown}
        _write(writers[format](found), out)


benchmarks_app = typer.Typer(invoke_without_command=True, no_args_is_help=False)
BenchmarkName = Annotated[str, typer.Argument(help="NAME for its highest version, or NAME@VERSION.")]


@benchmarks_app.callback()
def benchmarks(
    context: typer.Context,
    format: Annotated[Literal["table", "json"], typer.Option(help="How to print.")] = "table",
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Lists what rankings are held against, shipped or in the storage. Of one track the highest version holds.

    Example: shrinkboard benchmarks --format json
    """
    if context.invoked_subcommand is not None:
        return
    from . import render_benchmarks
    from .definitions import known_benchmarks
    from .store import Store

    with Store(storage, create=False) as store:
        found = known_benchmarks(store)
    if format == "json":
        typer.echo(render_benchmarks.to_json(found))
    else:
        _print(render_benchmarks.to_table(found) if found else "No benchmark yet: `shrinkboard finalists` freezes one.")


@benchmarks_app.command("show")
def show_benchmark(
    name: BenchmarkName,
    format: Annotated[Literal["table", "json"], typer.Option(help="How to print.")] = "table",
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Shows one benchmark; as JSON it is the file that `benchmarks add` and `rank --benchmark` read.

    Example: shrinkboard benchmarks show digits-cnn-fpga-zcu104@1
    """
    from .definitions import named_benchmark
    from .render_benchmarks import benchmark_table
    from .store import Store

    with Store(storage, create=False) as store:
        found = named_benchmark(store, name)
    if format == "json":
        typer.echo(found.to_json().rstrip("\n"))
    else:
        _print(benchmark_table(found))


@benchmarks_app.command("add")
def add_benchmark(
    file: Annotated[Path, typer.Argument(help="JSON of a benchmark.")], storage: Storage = DEFAULT_STORAGE
) -> None:
    """Adds a benchmark from a file; a definition that stands is never changed, so another one has another version.

    Example: shrinkboard benchmarks add digits-cnn-fpga-zcu104@2.json
    """
    from .definitions import add_benchmark as add
    from .definitions import read_benchmark
    from .store import Store

    read = read_benchmark(file)
    with Store(storage) as store:
        typer.echo(f"benchmark {add(store, read).id} is in the storage")


@benchmarks_app.command("dump")
def dump_benchmarks(
    out: Annotated[Path, typer.Option(help="Folder to write to; it is made if need be.")] = Path("benchmarks"),
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Writes every benchmark as one JSON file, named by its name and version.

    Example: shrinkboard benchmarks dump --out benchmarks
    """
    from .definitions import known_benchmarks
    from .exchange import write_benchmarks
    from .store import Store

    with Store(storage, create=False) as store:
        count = write_benchmarks(known_benchmarks(store), out)
    typer.echo(f"{count} benchmarks written to {out}")


@benchmarks_app.command("front")
def front_of_benchmark(
    name: BenchmarkName,
    study: Annotated[str, typer.Option(help="Pilot studies that have finalists, with commas between them.")],
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Freezes the next version of a benchmark, with the front of pilot studies as the reference of IGD+ and epsilon.

    Pilots are searches of other seeds than those that the benchmark ranks by.

    Example: shrinkboard benchmarks front digits-cnn-fpga-zcu104 --study pilot-7,pilot-8
    """
    from .definitions import freeze_front
    from .store import Store

    with Store(storage, create=False) as store:
        frozen = freeze_front(store, name, [one.strip() for one in study.split(",")])
    typer.echo(f"benchmark {frozen.id} is frozen with a reference front of {len(frozen.front)} points")


plot_app = typer.Typer(help="Pictures for papers, as SVG, PDF or PNG.", no_args_is_help=True)
Out = Annotated[Path, typer.Option(help="File to write; its name ends in .svg, .pdf or .png.")]
Workload = Annotated[str, typer.Option(help="The workload, such as digits/cnn.")]
Target = Annotated[str, typer.Option(help="The target, or the key of one machine's results (name@fingerprint).")]
Strategies = Annotated[str | None, typer.Option(help="Only these strategies, with commas between them.")]
Definition = Annotated[
    str | None,
    typer.Option(help="File of a benchmark, or NAME or NAME@VERSION.", show_default="the highest version there is"),
]


@plot_app.command("front")
def plot_front(
    workload: Workload,
    target: Target,
    out: Out,
    strategy: Strategies = None,
    study: Annotated[str | None, typer.Option(help="Only this study.")] = None,
    finals: Annotated[bool, typer.Option("--finals", help="Finalists by test accuracy, not searches.")] = False,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Draws accuracy against speed-up, with intervals and the front.

    Example: shrinkboard plot front --workload digits/cnn --target fpga-zcu104 --out front.svg
    """
    from .errors import LeaderboardError, quoted
    from .pictures import draw_front
    from .query import Query
    from .store import Store

    with Store(storage, create=False) as store:
        asked = Query(workload=workload, target=target, strategy=strategy, study=study, finals=finals)
        tracks = store.query(asked).tracks
    if not tracks:
        raise LeaderboardError("no entry matches; `shrinkboard leaderboard` lists what there is")
    if len(tracks) > 1:
        keys = ", ".join(track.key for track in tracks)
        raise LeaderboardError(f"target {quoted(target)} was measured on several machines, give one of {keys}")
    draw_front(tracks[0], out)
    typer.echo(f"picture written to {out}")


@plot_app.command("layers")
def plot_layers(
    entries: Annotated[list[str], typer.Argument(help="Ids of entries, or their first digits; a row for each.")],
    out: Out,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Draws what is left of every layer, and in how many bits, along the network.

    Example: shrinkboard plot layers 3f9a12cd 89d4bf68 --out layers.svg
    """
    from .pictures import draw_layers
    from .store import Store

    with Store(storage, create=False) as store:
        found = [store.get(entry) for entry in entries]
    draw_layers(found, out)
    typer.echo(f"picture written to {out}")


@plot_app.command("attainment")
def plot_attainment(
    workload: Workload,
    target: Target,
    out: Out,
    strategy: Strategies = None,
    benchmark: Definition = None,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Draws what half of a strategy's runs attain on the test split, between what 10 % and 90 % do.

    Example: shrinkboard plot attainment --workload digits/cnn --target fpga-zcu104 --out attainment.svg
    """
    from .pictures import draw_attainment

    draw_attainment(_ranking(workload, target, benchmark, strategy, storage), out)
    typer.echo(f"picture written to {out}")


@plot_app.command("convergence")
def plot_convergence(
    workload: Workload,
    target: Target,
    out: Out,
    strategy: Strategies = None,
    benchmark: Definition = None,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Draws how the hypervolume of searches grew with trials and with seconds.

    Example: shrinkboard plot convergence --workload digits/cnn --target fpga-zcu104 --out convergence.svg
    """
    from .pictures import draw_convergence

    draw_convergence(_ranking(workload, target, benchmark, strategy, storage), out)
    typer.echo(f"picture written to {out}")


def _ranking(workload: str, target: str, benchmark: str | None, strategy: str | None, storage: str) -> Ranking:
    """The ranking of a benchmark, with these strategies shown."""
    from .definitions import asked_benchmark
    from .ranking import stored_ranking
    from .store import Store

    with Store(storage, create=False) as store:
        found = stored_ranking(store, asked_benchmark(store, workload, target, benchmark))
    return found if strategy is None else found.only([name.strip() for name in strategy.split(",")])


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
        beside = f"; the storage holds the {benchmarks} benchmarks among them" if benchmarks else ""
        typer.echo(f"{new} entries imported, {entries - new} were already there{beside}")


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
    """Writes the board as one HTML file that works offline: the page of `serve`, with its data inside.

    It holds the figures of every network, and the plans of those on the fronts and of the best others.

    Example: shrinkboard report --out board.html
    """
    from .query import Query
    from .report import write_report
    from .store import Store

    with Store(storage, create=False) as store:
        write_report(store, out, Query(workload=workload, target=target, strategy=strategy, study=study))
    typer.echo(f"report written to {out}")


def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of this machine; 0 takes any that is free.")] = 8000,
    open: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Shows the board in this machine's browser until Ctrl-C: nothing is written, and no other machine is answered.

    Example: shrinkboard serve --open
    """
    from .server import serve
    from .store import Store

    def opened(url: str) -> None:
        typer.echo(f"board of {store.name} at {url} (Ctrl-C ends)")
        if open:
            import webbrowser

            webbrowser.open(url)

    with Store(storage, create=False) as store:
        serve(store, port, opened)


_TURNING = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd")


def _print(renderable: object, out: Path | None = None) -> None:
    """Prints for the terminal, or writes the same to a file."""
    import io

    from rich.console import Console

    if out is not None:
        text = io.StringIO()
        Console(width=100, highlight=False, markup=False, file=text).print(renderable)
        return _write(text.getvalue(), out)
    console = Console()
    # Without a terminal rich assumes 80 columns, and our table needs 100.
    width = console.width if console.is_terminal else max(console.width, 100)
    console = Console(width=width, highlight=False, markup=False)
    with console.capture() as printed:
        console.print(renderable)
    # A name from somebody's entry that turns the direction of writing would change how the rest of its line reads.
    typer.echo(printed.get().translate(_TURNING), nl=False)


def _write(text: str, out: Path | None) -> None:
    from .errors import LeaderboardError, quoted

    if out is None:
        typer.echo(text.rstrip("\n"))
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        reason = f"file {quoted(str(out))} cannot be written ({error.strerror}); give another"
        raise LeaderboardError(reason) from None
    typer.echo(f"written to {out}")
