"""The commands `search`, `finalists`, `strategies` and `workloads`.

Heavy imports stand inside the functions, so that `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from leaderboard import Entry, Store

    from .campaign import Campaign, Summary
    from .evaluation import Evaluator

Format = Annotated[Literal["table", "json"], typer.Option("--format", help="How to print.")]
Storage = Annotated[
    str,
    typer.Option(envvar="SHRINKBOARD_STORAGE", help="File, sqlite:///FILE or postgresql://… for study and board."),
]
DEFAULT_STORAGE = "sqlite:///shrinkboard.db"
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells use it."""


def search(
    workload: Annotated[
        str, typer.Option(help="Network and data, as `shrinkboard workloads` lists them.")
    ] = "digits/cnn",
    strategy: Annotated[
        str, typer.Option(help="Strategies with commas between them, PRUNER+FORMAT joined, or all.")
    ] = "pca_l1,sentei,uniform,global_l1",
    target: Annotated[str, typer.Option(help="Targets with commas between them.")] = "cpu-onnxruntime",
    trials: Annotated[int, typer.Option(min=1, help="Full evaluations of every strategy.")] = 20,
    epochs: Annotated[
        float | None,
        typer.Option(min=0, help="Tuning epochs of a full evaluation; the workload's recipe unless given."),
    ] = None,
    training_epochs: Annotated[
        float | None,
        typer.Option(min=0, help="The same for strategies that start from initial weights; the recipe's unless given."),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="The highest of tuning; the recipe's unless given.")
    ] = None,
    distillation: Annotated[
        float | None,
        typer.Option(min=0, help="Weight of learning from the dense network's outputs, in every strategy; 0: none."),
    ] = None,
    straight_through: Annotated[
        bool, typer.Option("--straight-through", help="Tuning sees the number formats (quantisation-aware).")
    ] = False,
    objective: Annotated[
        str | None,
        typer.Option(
            help="What is minimised beside the loss of accuracy: latency, energy, fps, bytes, training, … with commas "
            "between several; FIGURE@TARGET for one target alone. Each target's own unless given."
        ),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(help="A bound such as latency=2ms, drop=1.0 (points), bytes=100kB; may be given several times."),
    ] = None,
    sampler: Annotated[
        str, typer.Option(help="ehvi, tpe, gp, nsga2, random, qmc, or auto: by trials and objectives.")
    ] = "auto",
    stages: Annotated[
        str,
        typer.Option(
            help="What comes before full evaluations: some of sensitivity, screening, rungs, with commas between "
            "them; none; or auto: those that save time here."
        ),
    ] = "auto",
    time_budget: Annotated[
        str | None, typer.Option(help="Stop in time: 90s, 10m or 2h from now, training included.")
    ] = None,
    trial_timeout: Annotated[
        str | None,
        typer.Option(help="End a job that takes longer, and try it again; many times what others took unless given."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that evaluate at the same time.")] = 1,
    executor: Annotated[
        Literal["local", "ray"], typer.Option(help="Processes of this machine, or actors of Ray Tune.")
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of a Ray cluster that this machine is in, or auto; one is started unless given."),
    ] = None,
    trial_cpus: Annotated[
        float | None, typer.Option(help="CPUs that a trial takes under Ray; an equal share unless given.")
    ] = None,
    trial_gpus: Annotated[
        float, typer.Option(help="GPUs that a trial takes under Ray, of which one trains it; 0.5: two share one.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the dense network, the training and the sampler.")] = 0,
    study: Annotated[
        str | None, typer.Option(help="Name of the study; made from workload and time unless given.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a study that exists, or join others that search it.")
    ] = False,
    storage: Storage = DEFAULT_STORAGE,
    data_dir: Annotated[
        Path | None, typer.Option(envvar="SHRINKBOARD_DATA", help="Folder that holds the data sets.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Weights (safetensors) of the dense network, instead of training it.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Your own network: package.module:factory; needs --dataset.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set for --model, such as cifar10.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and how long it would take.")
    ] = False,
) -> None:
    """Searches how to shrink a network: every strategy gets the same number of trials, each measured and ranked.

    Example: shrinkboard search --workload digits/cnn --strategy pca_l1,sentei+int --target cpu-onnxruntime --trials 10
    """
    from rich.console import Console

    from leaderboard import Store

    from .campaign import Campaign, asking_of, run_campaign, settings_before
    from .estimate import tuning_seconds
    from .evaluation import Evaluator, Subject
    from .lane import staging_of
    from .workers import Workers, checked

    started = time.monotonic()
    console = Console(highlight=False)
    asked = checked(Workers(workers, executor, ray_address, trial_cpus, trial_gpus))
    budget = None if time_budget is None else parse_duration(time_budget)
    timeout = None if trial_timeout is None else parse_duration(trial_timeout, "trial timeout")
    names = _strategies(strategy)
    subject = Subject(
        *(workload, model, dataset),
        data_dir=str(data_dir) if data_dir else None,
        checkpoint=str(checkpoint) if checkpoint else None,
        seed=seed,
        learning_rate=learning_rate,
    )
    opened = subject.open()
    targets = names_in(target, "target")
    evaluator = Evaluator(subject, targets)
    campaign = Campaign(
        name=study or f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', opened.name)}-{datetime.now(UTC):%Y%m%d-%H%M%S}",
        subject=subject,
        strategies=names,
        targets=targets,
        epochs=opened.recipe.tune_epochs if epochs is None else epochs,
        training_epochs=opened.recipe.epochs if training_epochs is None else training_epochs,
        options={} if distillation is None else {"distillation": distillation},
        objectives=() if objective is None else names_in(objective, "objective"),
        limits=tuple(limit or ()),
        sampler=sampler,
    )
    asking_of(campaign, list(evaluator.models.values()), trials)  # refused before anything is trained
    staging_of(stages, 0.0)
    if straight_through:
        campaign = replace(campaign, options={**campaign.options, "straight_through": True})
    with Store(storage) as store:
        if dry_run:
            _print_plan(console, campaign, evaluator, trials, workers, stages)
            return
        console.print(f"study [bold]{campaign.name}[/] in {store.name}")
        train_dense(console, evaluator)
        # What pays was decided when the study was begun: a second estimate might fall on the other side.
        before = settings_before(store, campaign.name) if resume and stages == "auto" else None
        layout, staging = (
            (before.asking.layout, before.staging)
            if before
            else staging_of(stages, tuning_seconds(evaluator, campaign.epochs))
        )
        campaign = replace(campaign, layout=layout, staging=staging)
        left = None if budget is None else max(0.0, budget - (time.monotonic() - started))
        _end_like_ctrl_c()
        with _progress(console, trials * len(names), campaign, store) as listen:
            summary = run_campaign(
                campaign,
                store,
                trials=trials,
                workers=asked,
                time_budget=left,
                trial_timeout=timeout,
                resume=resume,
                listen=listen,
                evaluator=evaluator,
                say=lambda line: console.print(line, markup=False),
            )
        _print_summary(console, campaign, store, summary, time.monotonic() - started)
    if summary.ended == "interrupted":
        raise typer.Exit(INTERRUPTED)
    if summary.finished == 0 and summary.failed:
        raise typer.Exit(1)


def finalists(
    study: Annotated[str, typer.Option(help="Studies with commas between them: one search each, of different seeds.")],
    seeds: Annotated[int, typer.Option(min=1, help="Fresh seeds that every finalist is trained on.")] = 5,
    points: Annotated[int, typer.Option(min=1, help="Finalists of a strategy, search and target at most.")] = 8,
    target: Annotated[
        str | None, typer.Option(help="Targets with commas between them; those that the searches were scored on.")
    ] = None,
    scratch: Annotated[
        bool, typer.Option(help="Train one network of every strategy from scratch too, as a control.")
    ] = True,
    time_budget: Annotated[str | None, typer.Option(help="Stop in time: 90s, 10m or 2h from now.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that train at the same time.")] = 1,
    executor: Annotated[
        Literal["local", "ray"], typer.Option(help="Processes of this machine, or actors of Ray Tune.")
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of a Ray cluster that this machine is in, or auto; one is started unless given."),
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be trained.")] = False,
) -> None:
    """Trains the validation front of every strategy again on fresh seeds and tests it once: what `rank` ranks.

    What is on the board already stays: the same command goes on after Ctrl-C, a crash or a spent --time-budget.

    Example: shrinkboard finalists --study first-0,first-1,first-2 --seeds 5
    """
    from rich.console import Console
    from rich.markup import escape

    from leaderboard import Store

    from .finalists import Finals, chosen, read_studies, run_finalists
    from .workers import Workers, checked

    console = Console(highlight=False)
    deadline = None if time_budget is None else time.monotonic() + parse_duration(time_budget)
    asked = checked(Workers(workers, executor, ray_address))
    finals = Finals(seeds, points, scratch, () if target is None else names_in(target, "target"))

    def listen(entry: Entry | None, line: str) -> None:
        told, style = (line, "red") if entry is None else (f"seed {entry.seed} {_trial_line(entry)}", None)
        console.print(escape(told), style=style, soft_wrap=True)

    with Store(storage, create=False) as store:
        studies = read_studies(store, names_in(study, "study"))
        if dry_run:
            for one in studies:
                picked = [entry.strategy for entry, _ in chosen(one.entries, points)]
                told = ", ".join(f"{name} {picked.count(name)}" for name in dict.fromkeys(picked))
                console.print(f"{one.name}: {len(picked)} finalists on {seeds} seeds each: {told}", markup=False)
            return
        _end_like_ctrl_c()
        summary = run_finalists(
            studies,
            finals,
            store,
            workers=asked,
            deadline=deadline,
            listen=listen,
            say=lambda line: console.print(line, markup=False, soft_wrap=True),
        )
        first, keys = studies[0].entries[0], [cost.key for cost in studies[0].entries[0].costs]
    console.print(f"{summary.ended}: {summary.finished} finalists and controls tested, {len(summary.failed)} failed")
    for key in keys:
        line = f"ranking: shrinkboard rank --workload {first.workload} --target {key}"
        console.print(line, markup=False, soft_wrap=True)
    if summary.ended != "all trials done":
        console.print("the same command goes on")
    if summary.ended == "interrupted":
        raise typer.Exit(INTERRUPTED)
    if summary.failed and not summary.finished:
        raise typer.Exit(1)


def workloads(format: Format = "table") -> None:
    """Lists the workloads: networks, the data that they are judged on, and where the data comes from.

    Example: shrinkboard workloads
    """
    from workloads import workload_summaries

    rows = [{"workload": name, "summary": summary} for name, summary in workload_summaries().items()]
    _print_rows(rows, format)


strategies_app = typer.Typer(
    help="The ways of shrinking a network.", invoke_without_command=True, no_args_is_help=False
)


@strategies_app.callback()
def strategies(context: typer.Context, format: Format = "table") -> None:
    """Lists the strategies, each with its source.

    Example: shrinkboard strategies --format json
    """
    if context.invoked_subcommand is not None:
        return
    from strategies import strategy as by_name
    from strategies import strategy_names
    from workloads import InputError

    rows = []
    for name in strategy_names():
        try:
            method = by_name(name)
            rows.append({"strategy": name, "stage": method.stage, "summary": method.summary, "source": method.source})
        except InputError as error:  # a plug-in that does not load is listed with what is wrong
            rows.append({"strategy": name, "stage": "broken", "summary": str(error), "source": ""})
    _print_rows(rows, format)


@strategies_app.command()
def check(name: Annotated[str, typer.Argument(help="Name of the strategy, PRUNER+FORMAT too.")]) -> None:
    """Runs the contract test on a strategy, on a small residual network; ends with code 2 and one line at a breach.

    Example: shrinkboard strategies check pca_l1+int
    """
    from strategies import check_strategy
    from strategies import strategy as by_name

    check_strategy(by_name(name))
    typer.echo(f"strategy {name} keeps its contract")


def parse_duration(text: str, what: str = "time budget") -> float:
    """Seconds of `90s`, `10m`, `1.5h`; raises `InputError` for anything else."""
    from workloads import InputError

    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h)?", text.strip())
    if not match or float(match[1]) == 0:
        raise InputError(f"{what} {text!r} is no duration; give 90s, 10m or 1.5h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, None: 1}[match[2]]


def _strategies(text: str) -> tuple[str, ...]:
    """Names of strategies that exist; `all` is every one that a search can vary, each in fp32 and in integers."""
    from strategies import strategy as by_name
    from strategies import strategy_names

    names = names_in(text, "strategy")
    if names == ("all",):
        structures = [name for name in strategy_names() if by_name(name).stage == "structure" and name != "dense"]
        return (*structures, *(f"{name}+int" for name in structures))
    for name in names:
        by_name(name)
    return names


def names_in(text: str, what: str) -> tuple[str, ...]:
    from workloads import InputError

    # A comma before `option=` belongs to a target: cpu-onnxruntime:threads=2,image=640x480.
    names = tuple(dict.fromkeys(name.strip() for name in re.split(r",(?![^,:]*=)", text) if name.strip()))
    if not names:
        raise InputError(f"no {what} was given; name at least one, with commas between several")
    return names


def check_file(path: Path) -> None:
    """Raises `InputError` where nothing could be written to `path`: before the work is done, not after."""
    from workloads import InputError

    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(f"file {path} cannot be written: give a file name in a folder that exists")


def _end_like_ctrl_c() -> None:
    """Makes SIGTERM, which clusters send to a process that is to end, do what Ctrl-C does."""

    def as_ctrl_c(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, as_ctrl_c)
    # It may come while a connection is given back, after all is written: SQLAlchemy then drops it, with a traceback.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)


def train_dense(console: Console, evaluator: Evaluator) -> None:
    """Opens the dense network, with a bar where it must be trained first."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("training the dense network"), BarColumn(), TimeRemainingColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task("train", total=None, visible=False)
        dense = evaluator.open_dense(lambda done, total: bar.update(task, completed=done, total=total, visible=True))
    trained = (
        f"trained in {dense.cost.seconds:.0f} s, {dense.cost.epochs:g} epochs"
        if dense.cost.epochs
        else "from a checkpoint"
    )
    console.print(f"dense {dense.workload.name}: {100 * dense.validation.primary:.2f} % on validation ({trained})")


@contextmanager
def _progress(
    console: Console, total: int, campaign: Campaign, store: Store
) -> Iterator[Callable[[Entry | None, str], None]]:
    """A bar with the front so far, and a line for every trial that ends."""
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from leaderboard import StorageUnavailable

    done = sum(entry.role == "candidate" for entry in store.entries(study=campaign.name))
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task("measuring the dense network", total=total, completed=done)

        def listen(entry: Entry | None, line: str) -> None:
            if entry is None:
                console.print(escape(line), style="red", soft_wrap=True)
                return
            console.print(escape(_trial_line(entry)), soft_wrap=True)
            if entry.role == "candidate":
                bar.advance(task)
            with contextlib.suppress(StorageUnavailable):  # what is only shown need not wait for it
                bar.update(task, description=escape(_front_line(store, entry)))

        yield listen


def _trial_line(entry: Entry) -> str:
    from .objectives import ranking_accuracy

    parts = [f"{entry.strategy:>14} {'control' if entry.role == 'control' else f'#{entry.trial:<3}'}"]
    accuracy = entry.ranking_accuracy(entry.costs[0]) if entry.final else ranking_accuracy(entry)
    parts.append(f"{100 * accuracy:6.2f} %{' on test' if entry.final else ''}")
    for cost in entry.costs:
        if cost.speedup and cost.speedup.value is not None:
            interval = f" ({cost.speedup.low:.2f}–{cost.speedup.high:.2f})" if cost.speedup.low is not None else ""
            where = f" {cost.target}" if len(entry.costs) > 1 else ""
            parts.append(f"{cost.speedup.value:5.2f}×{interval}{where}{' unstable' if cost.unstable else ''}")
    parts.append(f"{entry.parameters:,} parameters  {entry.macs / 1e6:.2f} MMAC  {entry.training.seconds:.1f} s tuning")
    return "  ".join(parts)


def _front_line(store: Store, entry: Entry) -> str:
    """The front so far on the last entry's first target that has a speed-up, in a few words."""
    for cost in entry.costs:
        rows = store.pareto(entry.workload, cost.key)
        if rows:
            good = [row for row in rows if row.drop <= 1.0 and row.speedup is not None]
            best = f", at most 1 point lost: {good[0].speedup:.2f}× by {good[0].strategy}" if good else ""
            return f"front of {len(rows)}{best}"
    return "searching"


def _print_plan(
    console: Console, campaign: Campaign, evaluator: Evaluator, trials: int, workers: int, stages: str
) -> None:
    """What would be done, and how long by the training speed of a few batches on this machine."""
    from strategies import strategy as by_name

    from .campaign import CONTROLS, asking_of
    from .estimate import estimate_seconds

    estimate = estimate_seconds(evaluator)
    initial = [name for name in campaign.strategies if by_name(name).start == "initial"]
    trained = [name for name in campaign.strategies if name not in initial]
    total = estimate.dense
    console.print(f"workload    {evaluator.subject.open().name}, seed {campaign.subject.seed}")
    for names, epochs in ((trained, campaign.epochs), (initial, campaign.training_epochs)):
        if names:
            total += trials * len(names) * estimate.trial(epochs) / workers
            console.print(
                f"strategies  {', '.join(names)}: {trials} trials each, {epochs:g} epochs and about "
                f"{estimate.trial(epochs):.1f} s a trial"
            )
    console.print(f"controls    {', '.join(CONTROLS)}")
    console.print(f"targets     {', '.join(campaign.targets)}")
    asking = asking_of(campaign, list(evaluator.models.values()), trials)
    console.print(f"objectives  accuracy, {', '.join(map(str, asking.objectives))}", soft_wrap=True)
    if campaign.limits:
        console.print(f"limits      {', '.join(campaign.limits)}")
    console.print(f"sampler     {campaign.sampler}; stages {stages}")
    console.print(
        f"dense       {'in the cache' if estimate.dense == 0 else f'to be trained, about {estimate.dense:.0f} s'}"
    )
    console.print(f"time        about {total / 60:.1f} min, {workers} at a time")


def _print_summary(console: Console, campaign: Campaign, store: Store, summary: Summary, seconds: float) -> None:
    from rich.table import Table

    from .ranking import hypervolumes

    for name, reason in summary.given_up.items():
        console.print(f"{name} was given up: {reason}", style="red", markup=False)
    for name in summary.exhausted:
        console.print(f"{name}: every plan of its space was evaluated")
    console.print(f"{summary.ended}: {summary.finished} trials finished, {len(summary.failed)} failed, {seconds:.0f} s")
    for name, reasons in summary.let_go.items():
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        console.print(f"{name}: let go before their full evaluation: {told}", markup=False)
    for key, ranks in hypervolumes(list(store.entries(study=campaign.name))).items():
        console.print(
            f"\nstrategies on {key}, by hypervolume of validation accuracy and speed-up; one seed, so no intervals"
        )
        table = Table()
        for column in ("rank", "strategy", "hypervolume", "trials", "fastest ≤ 1 point", "training s"):
            table.add_column(column, justify="left" if column == "strategy" else "right")
        for place, rank in enumerate(ranks, 1):
            fastest = "–" if rank.fastest is None else f"{rank.fastest:.2f}×"
            table.add_row(
                str(place), rank.strategy, f"{rank.hypervolume:.3f}", str(rank.trials), fastest, f"{rank.seconds:.0f}"
            )
        console.print(table)
    console.print(
        f"board: shrinkboard leaderboard --study {campaign.name} --storage {store.name}", soft_wrap=True, markup=False
    )
    if summary.ended != "all trials done":
        console.print("add --resume to the same command to go on", markup=False)


def _print_rows(rows: list[dict[str, Any]], format: str) -> None:
    if format == "json":
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console(highlight=False, markup=False).print(table)
