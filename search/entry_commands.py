"""The commands `export`, `verify` and `gc`: what becomes of entries and their networks.

Heavy imports stand inside the functions, so that `--help` answers at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .commands import DEFAULT_STORAGE, Format, Storage, check_file, parse_duration

if TYPE_CHECKING:
    from rich.console import Console

    from leaderboard import Entry

    from .garbage import Waste
    from .verification import Verified

EntryId = Annotated[str, typer.Argument(metavar="ENTRY", help="Id of the entry, or its first digits.")]
Weights = Annotated[
    Path | None,
    typer.Option(help="File (safetensors) with the entry's trained network, where it is not in this cache."),
]
Model = Annotated[
    str | None,
    typer.Option(help="The network that the entry was shrunk from, where it is your own: package.module:factory."),
]
Dataset = Annotated[str | None, typer.Option(help="Data set for --model; the entry's unless given.")]
DataDir = Annotated[Path | None, typer.Option(envvar="SHRINKBOARD_DATA", help="Folder that holds the data sets.")]
Checkpoint = Annotated[
    Path | None, typer.Option(help="Weights (safetensors) of the dense network, where the entry's came from a file.")
]


def export(
    entry: EntryId,
    format: Annotated[
        Literal["onnx", "onnx-int8", "qonnx", "safetensors", "trained"],
        typer.Option(
            help="fp32 ONNX; static int8 ONNX (QDQ) as the runtime gets it; QONNX for FPGA flows; the deployed weights "
            "with plan and formats; or weights and masks as they were trained."
        ),
    ] = "onnx",
    out: Annotated[Path | None, typer.Option(help="File to write; named by the entry's id unless given.")] = None,
    weights: Weights = None,
    model: Model = None,
    dataset: Dataset = None,
    data_dir: DataDir = None,
    checkpoint: Checkpoint = None,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Writes the network of an entry as a file: ONNX, int8 ONNX, QONNX or safetensors.

    Example: shrinkboard export 3f9a12cd --format qonnx --out network.onnx
    """
    from rich.console import Console

    from workloads import InputError

    from .exporting import ENDINGS, export_network
    from .recreation import Own, recreate

    console = Console(highlight=False, stderr=True)
    found = _entry(entry, storage)
    path = out or Path(f"{found.id}{ENDINGS[format]}")
    check_file(path)
    own = Own(model, dataset, data_dir, checkpoint)
    with _bar(console) as bar:
        recreated = recreate(
            found, weights=weights, own=own, progress=bar, say=lambda line: console.print(line, markup=False)
        )
    exported = export_network(recreated, format)
    try:
        path.write_bytes(exported.content)
    except OSError as error:
        raise InputError(f"file {path} cannot be written: {error.strerror}") from error
    source = {"kept": "its kept weights", "given": f"{weights}", "trained": "training it again"}[recreated.source]
    size = f"{len(exported.content) / 1000:,.1f} kB"
    Console(highlight=False, markup=False).print(f"{path}: {size}, from {source}; {exported.told}", soft_wrap=True)


def verify(
    entry: EntryId,
    weights: Weights = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train it again from plan and seed, also where its weights are at hand.")
    ] = False,
    target: Annotated[
        list[str] | None,
        typer.Option(help="A target of the entry that its name does not open, such as roofline:FILE; several times."),
    ] = None,
    model: Model = None,
    dataset: Dataset = None,
    data_dir: DataDir = None,
    checkpoint: Checkpoint = None,
    format: Format = "table",
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Makes an entry's network again, judges and measures it again, and says what is the same and what is not.

    Ends with code 1 where something that can be checked differs.

    Example: shrinkboard verify 3f9a12cd --retrain
    """
    from rich.console import Console

    from .recreation import Own
    from .verification import verify as verified

    if weights is not None and retrain:
        from workloads import InputError

        raise InputError("--weights and --retrain are two ways to make the network again; give one of them")
    console = Console(highlight=False, stderr=True)
    found = _entry(entry, storage)
    own = Own(model, dataset, data_dir, checkpoint)
    with _bar(console) as bar:
        result = verified(
            found,
            weights=weights,
            retrain=retrain,
            own=own,
            targets=target or (),
            progress=bar,
            say=lambda line: console.print(line, markup=False),
        )
    if format == "json":
        typer.echo(json.dumps(_verified_json(result), indent=1, ensure_ascii=False))
    else:
        _print_verified(result)
    if not result.holds:
        raise typer.Exit(1)


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
    older_than: Annotated[str, typer.Option(help="Leave what is younger than this: 30m, 24h.")] = "24h",
    storage: Annotated[
        list[str] | None,
        typer.Option(
            envvar="SHRINKBOARD_STORAGE",
            help="A storage that uses this cache, beside those that it knows of; several times.",
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(help="A storage that the cache knows of and that is gone for good; several times."),
    ] = None,
    format: Format = "table",
) -> None:
    """Removes from the cache folder trained networks that no entry names, and paused candidates that nobody needs.

    Every storage that was searched into from this cache is asked; where one cannot be asked, nothing is removed.
    Dense networks and measured levels stay.

    Example: shrinkboard gc --dry-run
    """
    from workloads import cache_folder

    from .boards import forget_boards, open_boards
    from .garbage import find_waste, remove

    age = parse_duration(older_than, "age")
    stores = open_boards(storage or [], without or [])
    try:
        waste = find_waste(stores, age)
        names = [store.name for store in stores]
    finally:
        for store in stores:
            store.close()
    if not dry_run:
        remove(waste)
        forget_boards(without or [])
    if format == "json":
        files = [{"file": str(one.path), "kind": one.kind, "bytes": one.bytes} for one in waste]
        told = {"removed": not dry_run, "bytes": sum(one.bytes for one in waste), "storages": names, "files": files}
        typer.echo(json.dumps(told, indent=1, ensure_ascii=False))
        return
    _print_waste(waste, names, str(cache_folder()), dry_run)


def _entry(id: str, storage: str) -> Entry:
    from leaderboard import Store

    with Store(storage, create=False) as store:
        return store.get(id)


@contextmanager
def _bar(console: Console) -> Iterator[Callable[[int, int], None]]:
    """A bar that moves while there is work, and tells how far a training is."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task("working", total=None)

        def trained(done: int, total: int) -> None:
            working = done >= total
            bar.update(
                task,
                description="working" if working else "training",
                completed=0 if working else done,
                total=None if working else total,
            )

        yield trained


def _verified_json(result: Verified) -> dict[str, object]:
    checks = [vars(check) for check in result.checks]
    return {"entry": result.entry.id, "from": result.source, "holds": result.holds, "checks": checks}


def _print_verified(result: Verified) -> None:
    from collections import Counter

    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    styles = {"differs": "red", "changed": "yellow", "cannot be had": "yellow"}
    table = Table(Column("field", no_wrap=True), "recorded", "now", Column("verdict", no_wrap=True), "why")
    for check in result.checks:
        verdict = Text(check.verdict, styles.get(check.verdict, ""))
        table.add_row(Text(check.field), Text(check.recorded), Text(check.now), verdict, Text(check.why))
    console = Console(highlight=False, markup=False)
    # Without a terminal rich assumes 80 columns, which would cut every line in two.
    width = console.width if console.is_terminal else max(console.width, 140)
    console = Console(width=width, highlight=False, markup=False)
    console.print(f"entry {result.entry.id}, from {result.source}")
    console.print(table)
    counted = ", ".join(f"{count} {verdict}" for verdict, count in Counter(c.verdict for c in result.checks).items())
    console.print(f"{'it holds' if result.holds else 'it does NOT hold'}: {counted}")


def _print_waste(waste: list[Waste], storages: list[str], folder: str, dry_run: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    console.print(f"needed is what these storages need: {', '.join(storages)}", soft_wrap=True)
    if not waste:
        console.print(f"nothing in {folder} is too much", soft_wrap=True)
        return
    table = Table("what", "files", "MB")
    for kind in dict.fromkeys(one.kind for one in waste):
        sizes = [one.bytes for one in waste if one.kind == kind]
        table.add_row(f"{kind}s", str(len(sizes)), f"{sum(sizes) / 1e6:.1f}")
    console.print(table)
    said = "would be removed from" if dry_run else "removed from"
    console.print(f"{sum(one.bytes for one in waste):,} bytes {said} {folder}", soft_wrap=True)
