"""The commands `status`, `workers`, `stop`, `replay` and `explain`: what becomes of a study, and what it tells.

Heavy imports stand inside the functions, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .commands import DEFAULT_STORAGE, Format, Storage, check_file, names_in, train_dense

if TYPE_CHECKING:
    import optuna

    from .evaluation import Evaluator
    from .lane import Staging
    from .replay import Recorded, Run, Setup
    from .surrogate import Surrogate


def status(
    study: Annotated[
        str | None, typer.Argument(help="Name of the study; all of the storage, in short, unless given.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print it once, also while drivers are at work.")] = False,
    format: Format = "table",
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Shows how a study stands: workers, rates, failures, the front, the time left; live while drivers work on it.

    Example: shrinkboard status first
    """
    from rich.console import Console
    from rich.live import Live

    from leaderboard import Store

    from .status import status as status_of
    from .status import studies
    from .status_view import status_json, status_view
    from .storage import optuna_storage

    console = Console(highlight=False)
    with Store(storage, create=False) as store, optuna_storage(store) as database:
        if study is None or format == "json" or once or not console.is_terminal:
            names = studies(store, database) if study is None else [study]
            found = [status_of(store, database, name) for name in names]
            if format == "json":
                data = [status_json(one) for one in found]
                typer.echo(json.dumps(data if study is None else data[0], indent=1, ensure_ascii=False))
            else:
                for one in found:
                    console.print(status_view(one))
                if not found:
                    console.print("no study is in this storage yet")
            return
        with Live(console=console, auto_refresh=False) as live:
            while True:
                now = status_of(store, database, study)
                live.update(status_view(now), refresh=True)
                if not now.drivers:
                    return
                time.sleep(2.0)


def workers(
    study: Annotated[str | None, typer.Argument(help="Name of the study; all of the storage unless given.")] = None,
    format: Format = "table",
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Lists the drivers that are at work, and what each of their workers does.

    Example: shrinkboard workers --storage postgresql://user@host/database
    """
    from rich.console import Console

    from leaderboard import Store

    from .drivers import drivers_of
    from .status import seems_alive
    from .status_view import workers_grid, workers_json

    with Store(storage, create=False) as store:
        found = [driver for driver in drivers_of(store, study) if seems_alive(driver)]
    if format == "json":
        typer.echo(json.dumps(workers_json(found), indent=1, ensure_ascii=False))
        return
    console = Console(highlight=False, markup=False)
    console.print(workers_grid(found) if found else "no driver is at work")


def stop(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    now: Annotated[
        bool, typer.Option("--now", help="Do not wait for jobs that run; a later run begins them anew.")
    ] = False,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Asks all drivers of a study to stop: they begin nothing more, and end when their jobs have ended.

    Example: shrinkboard stop first
    """
    from leaderboard import Store
    from workloads import InputError

    from .drivers import BEAT, ask_to_stop

    with Store(storage, create=False) as store:
        asked = ask_to_stop(store, study, "now" if now else "soon")
    if not asked:
        raise InputError(f"no driver is at work on study {study!r}; `shrinkboard status` lists the studies")
    typer.echo(f"{asked} driver{'s' if asked > 1 else ''} asked; each hears it within {BEAT:g} s")


def replay(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    strategy: Annotated[
        str | None, typer.Option(help="Strategy whose search is replayed; needed where the study has several.")
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(help="Samplers with commas between them: ehvi, tpe, gp, nsga2, random, qmc; as searched."),
    ] = None,
    workers: Annotated[str, typer.Option(help="Numbers of workers, with commas between them.")] = "1",
    trials: Annotated[int | None, typer.Option(min=1, help="Full evaluations; as many as were searched.")] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Simulations of each sampler and number of workers, from the study's seed on.")
    ] = 5,
    stages: Annotated[
        str | None, typer.Option(help="Before a full evaluation: none, screening, rungs, or both; as searched.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for all curves.")] = None,
    format: Format = "table",
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Simulates a recorded study: what other samplers and numbers of workers would have reached, and how fast.

    Recorded plans are answered from the log, others by a surrogate; the sampler's thinking takes no simulated time.

    Example: shrinkboard replay first --strategy l1+int --sampler tpe,random --workers 1,10,100
    """
    from rich.console import Console

    from . import render
    from .evaluation import Evaluator
    from .lane import staging_of
    from .replay import Setup, summaries
    from .surrogate import Surrogate

    counts = _counts(workers)
    if out is not None:
        check_file(out)
    with _recorded(storage, study, strategy) as (recorded, _):
        settings = recorded.settings
        staging = settings.staging
        if stages is not None:
            layout, staging = staging_of(stages, recorded.table.median_training)
            settings = replace(settings, asking=replace(settings.asking, layout=layout))
            recorded = replace(recorded, settings=settings)
            if staging.rungs and settings.staging.rungs:
                staging = replace(staging, rungs=settings.staging.rungs, reduction=settings.staging.reduction)
        wanted = trials or settings.trials
        samplers = [
            _sampler(name, recorded, wanted) for name in names_in(sampler or settings.asking.sampler, "sampler")
        ]
        asking = settings.asking
        surrogate = Surrogate(recorded.table, settings.space, asking.objectives, asking.limits, recorded.gain)
        evaluator = Evaluator(settings.subject, [])
        setups = [Setup(name, count) for name in dict.fromkeys(samplers) for count in counts]
        seeded = range(settings.subject.seed, settings.subject.seed + seeds)
        runs = _replayed(recorded, surrogate, evaluator, setups, seeded, wanted, staging)
    compared = summaries(runs)
    about = {
        "study": study,
        "strategy": recorded.strategy,
        "rows": len(recorded.table.rows),
        "full_rows": len(recorded.table.full),
        "trials": wanted,
        "gain": str(recorded.gain),
        "staging": {"screen": staging.screen, "rungs": staging.rungs, "reduction": staging.reduction},
    }
    data = json.dumps(render.replay_json(surrogate.fits, runs, compared, about), indent=1, ensure_ascii=False)
    if out is not None:
        out.write_text(data + "\n")
    if format == "json":
        typer.echo(data)
        return
    console = Console(highlight=False, markup=False)
    candidates, full = len(recorded.table.rows), len(recorded.table.full)
    console.print(f"{study}, {recorded.strategy}: {candidates} candidates, {full} evaluated in full", soft_wrap=True)
    console.print("how well the surrogate ranks recorded rows that it has not seen:")
    console.print(render.fit_grid(surrogate.fits))
    told = f"{seeds} seeds, 95 % intervals" if seeds > 1 else "one seed, so no intervals"
    console.print(f"\nhypervolume of accuracy and {recorded.gain} after full evaluations ({told})", soft_wrap=True)
    console.print(render.evaluations_grid(compared))
    if any(recorded.retraces(setup, wanted, staging) for setup in setups):
        console.print(
            f"seed {seeded[0]} of {asking.sampler} × 1 retraces the recorded search; the others see more of the "
            "surrogate, which predicts nothing beyond the record",
            soft_wrap=True,
        )
    console.print("\nthe same at simulated times")
    console.print(render.times_grid(compared))
    console.print("\nstorage writes a simulated second, and candidates replayed a real second")
    console.print(render.cost_grid(compared))


def explain(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    strategy: Annotated[
        str | None, typer.Option(help="Strategy whose search is explained; needed where the study has several.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for pictures: front, importances, sensitivity.")] = None,
    format: Format = "table",
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Explains a study: which layers matter, what the front looks like, what was let go where and what that saved.

    Example: shrinkboard explain first --strategy l1+int --out pictures
    """
    from rich.console import Console

    from strategies import strategy as by_name
    from workloads import InputError

    from . import render
    from .evaluation import Evaluator
    from .explain import by_weight, fanova, front, importances, saved, sensitivity, stages
    from .pictures import check_folder, draw_front, draw_importances, draw_sensitivity
    from .surrogate import FEWEST_ROWS

    if out is not None:
        check_folder(out)
    with _recorded(storage, study, strategy) as (recorded, optuna_study):
        table, space, objectives = recorded.table, recorded.settings.space, recorded.settings.asking.objectives
        with Console(stderr=True).status("weighing layers and knobs"):
            found = importances(table, space, objectives)
            knobs = fanova(optuna_study, objectives)
    lost, unseen = {}, ""
    if recorded.guide is not None:
        settings = recorded.settings
        try:
            with Console(stderr=True).status("which layers are sensitive"):
                dense = Evaluator(settings.subject, []).dense
                lost = sensitivity(dense, by_name(recorded.strategy), settings.widths)
        except InputError as error:  # a study may be explained where its data are not
            unseen = f"which layers are sensitive cannot be told here: {error}"
    best, passed, spared = front(table, objectives), stages(table), saved(table)
    written = []
    if out is not None:
        draw_front(table, objectives, recorded.dense, out / "front.png")
        written.append(out / "front.png")
        if found:
            draw_importances(found, out / "importances.png")
            written.append(out / "importances.png")
        if lost:
            draw_sensitivity(lost, out / "sensitivity.png")
            written.append(out / "sensitivity.png")
    if format == "json":
        told = render.explain_json(found, knobs, best, objectives, space, passed, spared, lost)
        typer.echo(json.dumps(told, indent=1, ensure_ascii=False))
        return
    console = Console(highlight=False, markup=False)
    console.print(f"{study}, {recorded.strategy}: {len(table.rows)} candidates, {len(table.full)} evaluated in full")
    if found:
        trust = ", ".join(f"{one.value} {one.trust:.2f}" for one in found if one.trust is not None)
        console.print("\nwhat the levels decide: share by permutation, and rank correlation ρ")
        console.print(render.importance_grid(found))
        console.print(f"rank correlation of the surrogate behind it on held-out rows: {trust}", soft_wrap=True)
        console.print("\nwhat the sampler's knobs decide, common levels and steps of layers, by fANOVA")
        console.print(render.fanova_grid(knobs))
    else:
        console.print(
            f"which layers matter cannot be said from {len(table.full)} full evaluations; {FEWEST_ROWS} are needed"
        )
    if lost:
        console.print("\nsensitivity: increase of the loss where one layer alone is at its lowest level, untrained")
        for line in render.sensitivity_lines(lost):
            console.print(line, soft_wrap=True)
    if unseen:
        console.print(unseen, style="yellow", soft_wrap=True)
    console.print(f"\nthe front: {len(best)} of {len(table.full)} networks that no other beats")
    console.print(render.front_grid(best, objectives, space, by_weight(found)[: render.MAIN_LEVELS]))
    console.print("\nwhere candidates were let go")
    console.print(render.stage_grid(passed))
    console.print(render.saved_line(spared), soft_wrap=True)
    for path in written:
        console.print(f"written: {path}", soft_wrap=True)


@contextmanager
def _recorded(storage: str, study: str, strategy: str | None) -> Iterator[tuple[Recorded, optuna.Study]]:
    """A recorded study with Optuna's own view of it, while the storage is open."""
    import optuna

    from leaderboard import Store
    from workloads import InputError

    from .replay import Recorded
    from .settings import searched_strategies
    from .storage import optuna_storage

    with Store(storage, create=False) as store, optuna_storage(store) as database:
        searched = searched_strategies(database, study)
        if strategy is None and len(searched) > 1:
            raise InputError(f"study {study!r} searched {', '.join(searched)}; choose one with --strategy")
        name = strategy or searched[0]
        recorded = Recorded.read(store, database, study, name)
        yield recorded, optuna.load_study(study_name=f"{study}/{name}", storage=database)


def _replayed(
    recorded: Recorded,
    surrogate: Surrogate,
    evaluator: Evaluator,
    setups: list[Setup],
    seeds: range,
    trials: int,
    staging: Staging,
) -> list[Run]:
    """All simulations, with a bar on stderr: what is printed stays plain data."""
    from rich.console import Console
    from rich.progress import track

    from .replay import simulate

    console = Console(stderr=True, highlight=False)
    train_dense(console, evaluator)
    jobs = [(setup, seed) for setup in setups for seed in seeds]
    return [
        simulate(recorded, surrogate, evaluator, setup, trials=trials, seed=seed, staging=staging)
        for setup, seed in track(jobs, "simulating", console=console, transient=True)
    ]


def _sampler(name: str, recorded: Recorded, trials: int) -> str:
    """A sampler that there is; `auto` becomes the one that a search like this would take."""
    from .samplers import check_sampler, choose_sampler

    check_sampler(name)
    if name != "auto":
        return name
    return choose_sampler(trials, len(recorded.settings.asking.objectives))


def _counts(text: str) -> list[int]:
    """Numbers of workers; raises `InputError` for anything else."""
    from workloads import InputError

    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[1-9]\d{0,5}", part) for part in parts):
        raise InputError(f"workers {text!r} are no whole numbers from 1 on; give one, or several such as 1,10,100")
    return list(dict.fromkeys(map(int, parts)))
