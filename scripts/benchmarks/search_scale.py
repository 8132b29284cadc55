"""What limits a search at 10, 100, 1,000 and 10,000 workers: replayed, and measured part by part.

    python scripts/benchmarks/search_scale.py --scale cpu --out docs/results/search_scale

- `replay`: a recorded study on a simulated clock, at 1 to 1,000 workers and, with random sampling, at 10,000. The more
  workers, the more trials, else the last would have nothing to do. The record is `--board FILE --study NAME
  --strategy NAME`; without it a search of digits, embedded in the package, is recorded first. The sampler's thinking
  takes no simulated time. NSGA-II is handed its search space, which Optuna would gather from all trials again at every
  suggestion: the plans are the same.
- `sampler`: seconds of a suggestion by trials told, with 20 knobs and 100 trials running, and from them how many
  workers one driver can feed.
- `storage`: trials a second that 1 to 16 processes write, as shrinkboard does (the entry, one trial of Optuna with its
  log; `with claims` two small transactions more, as several drivers on one study need) and as Optuna does when each of
  40 parameters is suggested into the storage. SQLite (WAL), PostgreSQL (`--postgres URL`, or Debian's, started in a
  temporary folder, fsync on), and Optuna's gRPC proxy over it where `grpcio` is installed.
- `slots`: workers that share one device, by simulation on recorded candidates: `--boards` names boards whose candidates
  were costed in a step of their own.

Finished cells are kept in OUT.json; the same command goes on where it was cut off. `--parts` chooses some.
"""

from __future__ import annotations

import argparse
import heapq
import importlib.util
import json
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import optuna

if TYPE_CHECKING:  # processes that only write shall start at once
    from latency_repeatability import Kept

    from search.replay import Run

Cell = dict[str, Any]

PARTS = ("replay", "sampler", "storage", "slots")
SCALES: dict[str, dict[str, Any]] = {
    "smoke": {
        "recorded": 24,
        "replays": {"random": {1: (24, 2), 10: (40, 1)}, "nsga2": {10: (40, 1)}},
        "told": (50, 100),
        "patience": 20.0,
        "clients": (1, 2),
        "seconds": 1.0,
    },
    "cpu": {
        "recorded": 120,
        "replays": {
            "random": {1: (400, 5), 10: (400, 5), 100: (1000, 5), 1000: (3000, 5), 10_000: (12_000, 1)},
            "tpe": {1: (100, 3), 10: (100, 3), 100: (150, 1)},
            "ehvi": {1: (30, 3), 10: (30, 3), 100: (110, 1)},
            "nsga2": {1: (400, 3), 10: (400, 3), 100: (1000, 3), 1000: (1500, 1)},
        },
        "told": (100, 500, 1000, 2000, 5000),
        "patience": 120.0,
        "clients": (1, 2, 4, 8, 16),
        "seconds": 4.0,
    },
}
"""`recorded`: full evaluations of the study that is recorded where no board is given. `replays`: sampler → workers →
(full evaluations, seeds). `told`: trials at which a suggestion is timed; a process that takes longer
than `patience` seconds of processor time is ended. `clients` write for so many `seconds`."""
STRATEGY = "l1+int"
MARKS = (10, 20, 30, 50, 100, 200, 400, 1000, 3000)
"""Full evaluations at which the table tells the hypervolume."""
NEAR = (0.9, 0.99)
"""Shares of the record's hypervolume, to which evaluations and seconds are counted."""
MEMBERS, LEVELS, CHOICES = 17, 12, 2
"""Of the space in which samplers are timed: with the common level, 20 knobs."""
RUNNING = 100
"""Trials that run while a suggestion is timed; never more than have ended."""
SUGGESTIONS = 10
SAMPLERS = ("random", "nsga2", "tpe", "ehvi")
WARM = 0.5
"""Seconds for which clients write before it counts."""
TRIAL_SECONDS = {"10 s": 10.0, "1 min": 60.0, "10 min": 600.0, "1 h": 3600.0}
LOOP = 0.015
"""Seconds that a trial takes the driver beside the sampler: docs/results/search_overhead.md."""
STOCK_KNOBS = 40
SLOT_WORKERS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
SLOT_CANDIDATES = 20
"""That every worker has, at least, in the simulation of a shared device."""
MANY_FULL = 0.95
"""Share of its time that a device measures, from which it counts as full."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="smoke", help="smoke: two minutes (default)")
    parser.add_argument("--parts", default=",".join(PARTS), help="names with commas between them (default all)")
    parser.add_argument("--board", type=Path, help="board of the study to replay; it is only read")
    parser.add_argument("--study", default="efficiency", help="its name on that board (default efficiency)")
    parser.add_argument("--strategy", default=STRATEGY, help=f"and its strategy (default {STRATEGY})")
    parser.add_argument("--boards", type=Path, nargs="*", default=[], help="more boards, for `slots`")
    parser.add_argument("--postgres", metavar="URL", help="an empty database; else Debian's is started")
    parser.add_argument("--data-dir", help="folder of the data sets (default: SHRINKBOARD_DATA)")
    parser.add_argument("--out", type=Path, help="write OUT.json, OUT.md and OUT.png")
    parser.add_argument("--suggest", nargs=3, metavar=("SAMPLER", "TOLD", "PATIENCE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if arguments.data_dir:
        os.environ["SHRINKBOARD_DATA"] = arguments.data_dir
    if arguments.suggest:
        sampler, told_before, patience = arguments.suggest
        resource.setrlimit(resource.RLIMIT_CPU, (int(patience), int(patience)))
        print(json.dumps(suggestions(sampler, int(told_before))))
        return
    parts = [name for name in arguments.parts.split(",") if name]
    if unknown := [name for name in parts if name not in PARTS]:
        parser.error(f"part {unknown[0]!r} is unknown; allowed: {', '.join(PARTS)}")
    from latency_repeatability import Kept

    scale = SCALES[arguments.scale]
    about = {"scale": arguments.scale, "target": str(arguments.board and arguments.board.name)}
    kept = Kept(arguments.out and arguments.out.with_suffix(".json"), about)
    with tempfile.TemporaryDirectory(prefix="search-scale-") as folder:
        # Copied, for to open a board writes beside it.
        boards = [copied(board, Path(folder)) for board in [arguments.board, *arguments.boards] if board]
        where = boards[0] if arguments.board else Path(folder) / "recorded.db"
        if "replay" in parts or ("slots" in parts and not boards):
            study = arguments.study if arguments.board else "scale"
            if not arguments.board:
                record(where, scale["recorded"])
                boards.append(where)
            if "replay" in parts:
                replays(kept, where, study, arguments.strategy, scale["replays"])
        if "sampler" in parts:
            samplers(kept, scale["told"], scale["patience"])
        if "storage" in parts:
            storages(kept, scale["clients"], scale["seconds"], arguments.postgres)
        if "slots" in parts:
            for board in boards:
                slots(kept, board)
    text = markdown(kept.cells)
    print(text)
    if arguments.out:
        draw(kept.cells, arguments.out)
        named = f" --board {arguments.board.name!r}" if arguments.board else ""
        named += f" --boards {' '.join(repr(board.name) for board in arguments.boards)}" if arguments.boards else ""
        arguments.out.with_suffix(".md").write_text(
            "# Search at scale\n\nMade by `python scripts/benchmarks/search_scale.py --scale "
            f"{arguments.scale}{named}`; every figure stands in `{arguments.out.name}.json`. "
            f"What follows from them: [scaling.md](../scaling.md).\n\n{text}\n"
        )


def copied(board: Path, folder: Path) -> Path:
    for file in board.parent.glob(f"{board.name}*"):
        shutil.copy(file, folder / file.name)
    return folder / board.name


# Replay


def record(board: Path, trials: int) -> None:
    """A study of digits: TPE, every proposal evaluated in full."""
    from leaderboard import Store
    from search import Campaign, Staging, Subject, run_campaign

    print(f"recording {trials} full evaluations of digits", file=sys.stderr, flush=True)
    subject = Subject("digits/cnn")
    campaign = Campaign("scale", subject, (STRATEGY,), ("cpu-onnxruntime",), 2.0, 2.0, sampler="tpe", staging=Staging())
    with Store(str(board)) as store:
        run_campaign(campaign, store, trials=trials)


class Replays:
    """A study that is open for replays."""

    def __init__(self, board: Path, study: str, strategy: str) -> None:
        from leaderboard import Store
        from search import Evaluator
        from search.replay import Recorded
        from search.surrogate import Surrogate

        with Store(str(board)) as store:
            self.recorded = Recorded.read(store, optuna.storages.RDBStorage(store.url), study, strategy)
        settings = self.recorded.settings
        asking = settings.asking
        self.surrogate = Surrogate(
            self.recorded.table, settings.space, asking.objectives, asking.limits, self.recorded.gain
        )
        self.evaluator = Evaluator(settings.subject, [])

    def about(self) -> Cell:
        from search.objectives import ranking_accuracy
        from search.replay import curve

        recorded, table = self.recorded, self.recorded.table
        entries = [row.entry for row in table.full if row.entry is not None]
        gains = [recorded.gain.of(entry) for entry in entries]
        every = curve(recorded.gain, gains, [ranking_accuracy(entry) for entry in entries])
        settings = recorded.settings
        own = self.run(settings.asking.sampler, 1, settings.trials, settings.subject.seed)
        again = own.hypervolume[: len(every)]
        return {
            # The study's own seed at one worker is the recorded search over again.
            "retraced_within": float(np.abs(again - every[: len(again)]).max()),
            "workload": recorded.settings.subject.workload,
            "strategy": recorded.strategy,
            "sampler": recorded.settings.asking.sampler,
            "knobs": len(recorded.settings.space.ranges()),
            "full": len(table.full),
            "hypervolume": float(every[-1]),
            "seconds": median(sum(row.seconds.values()) for row in table.full),
            "spearman": {fit.value: fit.spearman for fit in self.surrogate.fits},
        }

    def __call__(self, sampler: str, workers: int, trials: int, seed: int) -> Cell:
        thinking = Thinking()
        with patch.object(optuna.Study, "ask", thinking.ask):
            run = self.run(sampler, workers, trials, seed)
        return {
            **{"sampler": sampler, "workers": workers, "trials": trials, "seed": seed},
            # Only where the curve rises; it is a staircase.
            "rises": [
                [int(place) + 1, round(float(run.seconds[place]), 3), round(float(run.hypervolume[place]), 6)]
                for place in np.flatnonzero(np.diff(run.hypervolume, prepend=0.0) > 0)
            ],
            **{"evaluations": len(run.hypervolume), "makespan": run.makespan, "writes": run.writes},
            "busiest": busiest(run.seconds),
            "asked": thinking.asked,
            "thought": thinking.seconds,
            "wall": run.wall,
        }

    def run(self, sampler: str, workers: int, trials: int, seed: int) -> Run:
        from search.replay import Setup, simulate

        setup, staging = Setup(sampler, workers), self.recorded.settings.staging
        return simulate(self.recorded, self.surrogate, self.evaluator, setup, trials=trials, seed=seed, staging=staging)


class Thinking:
    """Counts suggestions and their seconds of processor time, duplicates of known networks included."""

    def __init__(self) -> None:
        self.asked, self.seconds, self._ask = 0, 0.0, optuna.Study.ask

    @property
    def ask(self) -> Callable[..., Any]:
        def ask(study: optuna.Study, *arguments: Any, **named: Any) -> Any:
            began = time.thread_time()
            try:
                return self._ask(study, *arguments, **named)
            finally:
                self.asked += 1
                self.seconds += time.thread_time() - began

        return ask


def busiest(seconds: np.ndarray) -> float:
    """The most full evaluations that end within a second."""
    ended = np.searchsorted(seconds, seconds + 1.0, side="right") - np.arange(len(seconds))
    return float(ended.max())


def replays(kept: Kept, board: Path, study: str, strategy: str, wanted: dict[str, Any]) -> None:
    names = {
        f"replay {sampler}, {workers} workers, {trials} trials, seed {seed}": (sampler, workers, trials, seed)
        for sampler, by_workers in wanted.items()
        for workers, (trials, seeds) in by_workers.items()
        for seed in range(seeds)
    }
    opened = cache(lambda: Replays(board, study, strategy))
    kept.get("record", lambda: opened().about())
    for name, setup in names.items():
        if name not in kept.cells:
            print(name, file=sys.stderr, flush=True)
            kept.get(name, lambda setup=setup: opened()(*setup))  # type: ignore[misc]


def hypervolume_at(cell: Cell, evaluations: int | None = None, seconds: float = np.inf) -> float:
    rises = [h for n, s, h in cell["rises"] if s <= seconds and (evaluations is None or n <= evaluations)]
    return rises[-1] if rises else 0.0


# Samplers


def samplers(kept: Kept, told: Sequence[int], patience: float) -> None:
    """Each in a fresh process, by turns, so that no minute of the machine falls on one of them."""
    over = set[str]()
    for count in told:
        for sampler in SAMPLERS:
            if sampler in over:
                continue
            name = f"sampler {sampler}, {count}"
            if name not in kept.cells:
                print(name, file=sys.stderr, flush=True)
            cell = kept.get(name, partial(timed, sampler, count, patience))
            if cell["seconds"] is None:
                over.add(sampler)


def timed(sampler: str, told: int, patience: float) -> Cell:
    about: Cell = {"sampler": sampler, "told": told, "patience": patience}
    command = [sys.executable, __file__, "--suggest", sampler, str(told), str(round(patience))]
    alone = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=alone)
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return about | {"first": None, "seconds": None}
    if done.returncode:
        raise SystemExit(f"{sampler}: {done.stderr.strip().splitlines()[-1:]}")
    return about | json.loads(done.stdout)


def suggestions(name: str, told: int) -> Cell:
    """Seconds of the first suggestion, for which models are fitted anew, and of the later ones (median)."""
    from search.ehvi import ACCURACY, KNOWN, Goal
    from search.samplers import make_sampler
    from strategies import Choice, Family, Space

    members = tuple(f"layer{place}" for place in range(MEMBERS))
    space = Space(
        tuple(Choice(f"choice{place}", tuple(range(4)), 3) for place in range(CHOICES)),
        (Family("keep", tuple(range(LEVELS)), members, LEVELS - 1),),
        "keep",
    )
    distributions = {
        name: optuna.distributions.IntDistribution(low, high) for name, (low, high) in space.ranges().items()
    }
    sampler = make_sampler(name, 0, told, space, Goal(0.9, ("latency",), images=1000), None)
    study = optuna.create_study(sampler=sampler, directions=["maximize", "minimize"])
    rng = np.random.default_rng(0)
    weights, dear = rng.random(MEMBERS + CHOICES), rng.random(MEMBERS + CHOICES)
    for place in range(told + min(RUNNING, told)):
        params = {knob: int(rng.integers(low, high, endpoint=True)) for knob, (low, high) in space.ranges().items()}
        levels = space.indices({knob: np.array([value]) for knob, value in params.items()}, 1)[0] / space.tops()
        accuracy = 0.9 - 0.3 * float(weights @ (1 - levels) ** 2) / weights.sum() + rng.normal(0, 0.003)
        latency = 0.1 + float(dear @ levels) / dear.sum()
        found = {"values": [accuracy, latency], "user_attrs": {KNOWN: {ACCURACY: accuracy, "latency": latency}}}
        # Who runs began among the last that have ended.
        ended = place < told - RUNNING or place % 2 == 0
        study.add_trial(
            optuna.create_trial(
                state=optuna.trial.TrialState.COMPLETE if ended else optuna.trial.TrialState.RUNNING,
                params=params,
                distributions=distributions,
                system_attrs={"NSGAIISampler:generation": place // 50} if name == "nsga2" else None,
                **(found if ended else {}),
            )
        )
    took = []
    for _ in range(SUGGESTIONS):
        began = time.thread_time()
        study.ask(distributions)
        took.append(time.thread_time() - began)
        if sum(took) > 30 and len(took) > 1:
            break
    return {"first": took[0], "seconds": median(took[1:]), "suggestions": len(took), "knobs": len(distributions)}


# Storage


def storages(kept: Kept, clients: Sequence[int], seconds: float, postgres: str | None) -> None:
    wanted = [("ours", count) for count in clients]
    wanted += [(how, count) for how in ("ours with claims", "stock") for count in clients if count in (1, 4, 16)]
    wanted += [("entry alone", 1)]
    for how, count in wanted:
        with tempfile.TemporaryDirectory(prefix="search-scale-") as folder:
            kept.get(
                f"storage sqlite, {how}, {count}",
                partial(written, "sqlite", how, count, seconds, f"sqlite:///{folder}/board.db", None),
            )
    missing = [
        name
        for kind in ("postgresql", "grpc")
        for how, count in wanted
        if (name := f"storage {kind}, {how}, {count}") not in kept.cells
    ]
    if not missing:
        return
    with ExitStack() as stack:
        url = postgres or stack.enter_context(postgres_server())
        if url is None:
            print("no PostgreSQL here: left out", file=sys.stderr)
            return
        for how, count in wanted:
            make = partial(written, "postgresql", how, count, seconds, url, None)
            kept.get(f"storage postgresql, {how}, {count}", make)
        if importlib.util.find_spec("grpc") is None:
            print("no grpcio here: the proxy is left out", file=sys.stderr)
            return
        port = stack.enter_context(proxy(url))
        for how, count in wanted:
            kept.get(f"storage grpc, {how}, {count}", partial(written, "grpc", how, count, seconds, url, port))


def written(kind: str, how: str, clients: int, seconds: float, url: str, port: int | None) -> Cell:
    """Trials that `clients` processes write in `seconds`, all into one study."""
    from leaderboard import Store

    print(f"storage {kind}, {how}, {clients}", file=sys.stderr, flush=True)
    study, template = f"{kind} {how} {clients} {time.time():.0f}", measured_entry()
    with Store(url) as store:
        optuna.create_study(
            study_name=study, storage=opened_storage(store.url, None), directions=["maximize", "minimize"]
        )
        with claims_of(store.url) as execute:
            execute(CLAIMS)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "optuna", "leaderboard"])
    barrier, counts = context.Barrier(clients), context.SimpleQueue()
    setup = study, template, how, seconds, url, port, barrier, counts
    processes = [context.Process(target=client, args=(place, *setup)) for place in range(clients)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        process.kill()  # who hangs behind a lock
    found = []
    while not counts.empty():
        found.append(counts.get())
    if not found:
        raise SystemExit(f"storage {kind}: no client of {clients} came to an end")
    longest = max(took for _, took in found)
    trials = sum(count for count, _ in found)
    found_here = {"kind": kind, "how": how, "clients": clients, "trials": trials, "a_second": trials / longest}
    found_here["died"] = clients - len(found)
    return found_here | {"bytes": len(template)}


@cache
def measured_entry() -> str:
    """An entry as JSON, as a search makes it, with all that was measured."""
    from search import Evaluator, Job, Subject
    from strategies import strategy

    evaluator = Evaluator(Subject("digits/cnn"), ["cpu-onnxruntime"])
    evaluator.freeze({})
    method = strategy(STRATEGY)
    plan = method.plan(evaluator.dense, method.space(evaluator.dense, frozenset({8})).decode({}))
    entry = evaluator.run(Job("scale", STRATEGY, 0, "candidate", plan.to_json(), {}, 0.0))
    return str(entry.to_json())  # type: ignore[union-attr]


CLAIMS = (
    "CREATE TABLE IF NOT EXISTS scale_claims (study VARCHAR(200), trial BIGINT, plan VARCHAR(80), owner VARCHAR(16), "
    "state VARCHAR(12), PRIMARY KEY (study, trial), UNIQUE (study, plan))"
)
"""A stand-in for the table in which drivers of one study claim plans."""


@contextmanager
def claims_of(url: str) -> Iterator[Callable[..., Any]]:
    """Runs statements, each a transaction of its own, on SQLite as durable as the board's."""
    import sqlalchemy as sa

    timeout = {"timeout": 60} if url.startswith("sqlite") else {}
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", connect_args=timeout)
    with engine.connect() as connection:
        if timeout:
            connection.exec_driver_sql("PRAGMA synchronous = NORMAL")
        yield lambda text, **values: connection.execute(sa.text(text), values)
    engine.dispose()


def opened_storage(url: str, port: int | None) -> optuna.storages.BaseStorage:
    if port is not None:
        return optuna.storages.GrpcStorageProxy(host="localhost", port=port)
    return optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}} if "sqlite" in url else None)


def client(
    place: int,
    study: str,
    template: str,
    how: str,
    seconds: float,
    url: str,
    port: int | None,
    barrier: Any,
    counts: Any,
) -> None:
    """One process that writes trials until the time is over."""
    from leaderboard import Entry, Store

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    made = 400
    with Store(url) as store, claims_of(store.url) as claim:
        loaded = optuna.load_study(
            study_name=study, storage=opened_storage(store.url, port), sampler=optuna.samplers.RandomSampler()
        )
        distributions = {f"knob{k}": optuna.distributions.IntDistribution(0, 9) for k in range(STOCK_KNOBS)}
        params = dict.fromkeys(distributions, 3)
        own = json.loads(template) | {"study": study}
        own.pop("id")

        def entry_of(number: int) -> Entry:
            return Entry.create(**own | {"trial": place * 1_000_000 + number})

        # What makes an entry is the worker's time, not the storage's.
        entries = iter([entry_of(number) for number in range(made if how != "stock" else 0)])
        log = json.dumps({"steps": [{"stage": "full", "values": [0.8, 2e-5], "seconds": 21.0}], "notes": "." * 300})

        def ours() -> None:
            entry = next(entries, None) or entry_of(made + count)
            if how == "ours with claims":
                key = {"study": study, "trial": entry.trial}
                claim("INSERT INTO scale_claims VALUES (:study, :trial, :plan, 'me', 'running')", plan=entry.id, **key)
                claim("UPDATE scale_claims SET state = 'full' WHERE study = :study AND trial = :trial", **key)
            store.add(entry)
            if how == "entry alone":
                return
            loaded.add_trial(
                optuna.create_trial(
                    values=[0.8, 2e-5],
                    params=params,
                    distributions=distributions,
                    user_attrs={"entry": entry.id, "trial": entry.trial, "plan_digest": entry.plan_digest, "log": log},
                )
            )

        def stock() -> None:
            trial = loaded.ask()
            for k in range(STOCK_KNOBS):
                trial.suggest_int(f"knob{k}", 0, 9)
            loaded.tell(trial, [0.8, 2e-5])

        write, count = stock if how == "stock" else ours, 0
        barrier.wait(120)
        began = time.monotonic()
        while time.monotonic() < began + WARM:
            write()
        began = time.monotonic()
        while (now := time.monotonic()) < began + seconds:
            write()
            count += 1
        counts.put((count, now - began))


@contextmanager
def postgres_server() -> Iterator[str | None]:
    """A server of its own in a temporary folder, on a socket there; None where PostgreSQL is not installed."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if not binaries:
        yield None
        return
    root = os.geteuid() == 0
    prefix = ["runuser", "-u", "postgres", "--"] if root else []
    with tempfile.TemporaryDirectory(prefix="search-scale-") as folder:
        os.chmod(folder, 0o755)
        where = Path(folder) / "postgres"
        where.mkdir()
        if root:
            shutil.chown(where, "postgres")

        def run(program: str, *words: str) -> None:
            subprocess.run(
                [*prefix, str(binaries[-1] / program), f"--pgdata={where}/data", *words],
                **{"check": True, "cwd": "/", "stdout": subprocess.DEVNULL},
            )

        run("initdb", "--auth=trust", "--username=postgres")
        options = f"-c listen_addresses='' -c unix_socket_directories={where} -c fsync=on -c max_connections=200"
        run("pg_ctl", f"--log={where}/log", "--wait", f"--options={options}", "start")
        try:
            yield f"postgresql+psycopg://postgres@/postgres?host={where}"
        finally:
            run("pg_ctl", "--mode=immediate", "stop")


@contextmanager
def proxy(url: str) -> Iterator[int]:
    """Optuna's gRPC proxy in a process of its own."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = int(free.getsockname()[1])
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=serve, args=(url, port), daemon=True)
    process.start()
    try:
        optuna.storages.GrpcStorageProxy(host="localhost", port=port).wait_server_ready(timeout=60)
        yield port
    finally:
        process.kill()
        process.join()


def serve(url: str, port: int) -> None:
    optuna.storages.run_grpc_proxy_server(opened_storage(url, None), host="localhost", port=port)


# Slots


def slots(kept: Kept, board: Path) -> None:
    """Of every study on a board that was measured."""
    from leaderboard import Store
    from search.log import records

    with Store(str(board)) as store:
        storage = optuna.storages.RDBStorage(store.url)
        for name in optuna.get_all_study_names(storage):
            study, _, strategy = name.rpartition("/")
            own = [e for e in store.entries(study=study) if e.strategy == strategy and e.role == "candidate"]
            timed = {e.trial: sum(cost.telemetry.get("seconds") or 0.0 for cost in e.costs) for e in own}
            rows = {
                record.number: {step.stage: step.seconds for step in record.steps}
                for record in records(storage, study, strategy)
                if timed.get(record.number)
            }
            if not rows:
                continue
            about = f"{own[0].workload}, {strategy}, {median(e.epochs for e in own):g} epochs"
            whole = [sum(row.values()) for row in rows.values()]
            held = {"timing alone": [timed[number] for number in rows]}
            if all("screen" in row for row in rows.values()):
                held["whole costing step"] = [row["screen"] for row in rows.values()]
            for what, seconds in held.items():
                kept.get(f"slots {board.name}, {about}, {what}", partial(shared, about, what, seconds, whole))


def shared(about: str, what: str, held: Sequence[float], whole: Sequence[float]) -> Cell:
    """Workers that take a device for `held` of the `whole` seconds of a candidate, one at a time."""
    by_workers = {}
    for workers in SLOT_WORKERS:
        ended, used = queued(held, whole, workers, SLOT_CANDIDATES * workers)
        count = SLOT_CANDIDATES * workers
        by_workers[workers] = {
            "used": used / ended,
            "faster": count * float(np.mean(whole)) / ended,
            "ideal": count * float(np.mean(whole)) / queued([0.0] * len(whole), whole, workers, count)[0],
        }
    return {
        **{"about": about, "what": what, "candidates": len(whole), "held": median(held), "whole": median(whole)},
        "bound": float(np.mean(whole) / np.mean(held)),
        "workers": by_workers,
    }


def queued(held: Sequence[float], whole: Sequence[float], workers: int, count: int) -> tuple[float, float]:
    """Seconds until `count` candidates, drawn from the recorded, have ended, and those that the device was taken for.

    Every candidate asks for the device first and works on for the rest of its time; who asks first gets it first.
    """
    drawn = np.random.default_rng(0).integers(len(whole), size=count)
    free, device, used, last = [0.0] * workers, 0.0, 0.0, 0.0
    for place in drawn:
        begun = heapq.heappop(free)
        device = max(device, begun) + held[place]
        ended = device + max(whole[place] - held[place], 0.0)
        used, last = used + held[place], max(last, ended)
        heapq.heappush(free, ended)
    return last, used


# Words and pictures


def of_kind(cells: dict[str, Cell], kind: str) -> list[Cell]:
    return [cell for name, cell in cells.items() if name.startswith(f"{kind} ")]


def by_setup(cells: dict[str, Cell]) -> dict[tuple[str, int], list[Cell]]:
    found: dict[tuple[str, int], list[Cell]] = {}
    for cell in of_kind(cells, "replay"):
        found.setdefault((cell["sampler"], cell["workers"]), []).append(cell)
    return found


def told(values: Sequence[float], digits: int = 3) -> str:
    """Mean ± half width of the 95 % interval."""
    from search.replay import Mean

    mean = Mean.of(values)
    return f"{mean.mean:,.{digits}f}" + ("" if mean.half_width is None else f" ± {mean.half_width:,.{digits}f}")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> list[str]:
    """Of which the first `words` columns are words."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * words + "---:|" * (len(head) - words)]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def markdown(cells: dict[str, Cell]) -> str:
    lines = []
    if of_kind(cells, "replay"):
        lines += replayed_words(cells)
    if of_kind(cells, "sampler"):
        lines += sampler_words(of_kind(cells, "sampler"))
    if of_kind(cells, "storage"):
        lines += storage_words(of_kind(cells, "storage"))
    if of_kind(cells, "slots"):
        lines += slot_words(of_kind(cells, "slots"))
    return "\n".join(lines).strip()


def replayed_words(cells: dict[str, Cell]) -> list[str]:
    about, found = cells["record"], by_setup(cells)
    correlations = ", ".join(f"{rho:.2f} ({name})" for name, rho in about["spearman"].items() if rho is not None)
    head = ["sampler", "workers", "trials", "seeds"]
    marks = [mark for mark in MARKS if mark <= max(cell["evaluations"] for own in found.values() for cell in own)]
    after, clock = [], []
    for (sampler, workers), own in found.items():
        setup = [sampler, f"{workers:,}", f"{own[0]['trials']:,}", str(len(own))]
        most = min(cell["evaluations"] for cell in own)
        at = [told([hypervolume_at(cell, mark) for cell in own], 4) if mark <= most else "–" for mark in marks]
        after.append([*setup, *at])
        reached = []
        for share in NEAR:
            hits = [next((r for r in cell["rises"] if r[2] >= share * about["hypervolume"]), None) for cell in own]
            there = [hit for hit in hits if hit is not None]
            some = "" if len(there) == len(own) else f" ({len(there)} of {len(own)})"
            reached += [f"{median(n for n, _, _ in there):,.0f}{some}" if there else "–"]
            reached += [f"{median(s for _, s, _ in there):,.0f}" if there else "–"]
        makespan = [cell["makespan"] for cell in own]
        rate = [cell["writes"] / cell["makespan"] for cell in own]
        most_writes = [2 * cell["busiest"] for cell in own]
        clock.append(
            [
                *setup,
                *reached,
                told(makespan, 0),
                f"{np.mean(rate):,.2f}",
                f"{np.mean(most_writes):,.0f}",
                f"{np.mean([cell['asked'] / cell['evaluations'] for cell in own]):.1f}",
                f"{1e3 * np.mean([cell['thought'] / cell['evaluations'] for cell in own]):,.0f}",
            ]
        )
    shares = [f"{what} to {share:.0%}" for share in NEAR for what in ("evaluations", "seconds")]
    return [
        "## Replay",
        "",
        f"{about['workload']}, `{about['strategy']}`, {about['knobs']} knobs, from the record of {about['full']} full "
        f"evaluations led by {about['sampler']}, median {about['seconds']:.1f} s each, hypervolume "
        f"{about['hypervolume']:.4f} in all. A forest ranks recorded networks that it has not seen with a correlation "
        f"of {correlations}; it never goes beyond the record. The study's own seed at one worker retraces the recorded "
        f"curve within {about['retraced_within']:.1e}. Hypervolume ± 95 % interval over seeds:",
        "",
        *table([*head, *(f"after {mark:,}" for mark in marks)], after),
        "",
        "Simulated seconds and full evaluations until so much of the record's hypervolume (medians), and what the "
        "whole campaign takes. Writes are the entry and the trial of every candidate, on average and in the busiest "
        "second; suggestions a plan count those that were networks known already; thinking is processor time on "
        "this machine, and takes no simulated time.",
        "",
        *table(
            [*head, *shares, "makespan", "writes a second", "at most", "suggestions a plan", "ms of thinking a plan"],
            clock,
        ),
        "",
    ]


def sampler_words(cells: list[Cell]) -> list[str]:
    counts = list(dict.fromkeys(cell["told"] for cell in cells))
    names = list(dict.fromkeys(cell["sampler"] for cell in cells))
    at = {(cell["sampler"], cell["told"]): cell for cell in cells}
    rows, fed = [], []
    for name in names:
        row, own = [], []
        for count in counts:
            cell = at.get((name, count))
            if cell is None or cell["seconds"] is None:
                row.append(f"over {cell['patience']:,.0f} s" if cell else "–")
                continue
            row.append(f"{1e3 * cell['seconds']:,.1f} ({1e3 * cell['first']:,.0f})")
            workers = [f"{seconds / (cell['seconds'] + LOOP):,.0f}" for seconds in TRIAL_SECONDS.values()]
            own.append([name, f"{count:,}", *workers])
        rows.append([name, *row])
        fed += own
    return [
        "## Samplers",
        "",
        f"Milliseconds of processor time of a suggestion by trials told, {cells[0].get('knobs', 20)} knobs, "
        f"{RUNNING} trials running, one thread of a shared machine. In brackets the first, for which `ehvi` fits its "
        "kernel anew, as it does whenever a tenth more is known, and NSGA-II sorts a generation.",
        "",
        *table(["sampler", *(f"{count:,} told" for count in counts)], rows),
        "",
        f"Workers that one driver can feed, with {1e3 * LOOP:.0f} ms a trial for all else, where every suggestion is a "
        "new network, by how long a trial takes:",
        "",
        *table(["sampler", "told", *TRIAL_SECONDS], fed),
        "",
    ]


def storage_words(cells: list[Cell]) -> list[str]:
    clients = list(dict.fromkeys(cell["clients"] for cell in cells))
    at = {(cell["kind"], cell["how"], cell["clients"]): cell for cell in cells}
    names = {"sqlite": "SQLite, WAL", "postgresql": "PostgreSQL, fsync on", "grpc": "gRPC proxy over PostgreSQL"}
    rows = [
        [names[kind], how, *(wrote(at.get((kind, how, n))) for n in clients)]
        for kind, how in dict.fromkeys((cell["kind"], cell["how"]) for cell in cells)
    ]
    return [
        "## Storage",
        "",
        f"Trials a second that so many processes write into one study, {STOCK_KNOBS} knobs, an entry of "
        f"{cells[0]['bytes'] / 1000:.0f} kB, clients and server on the same {os.cpu_count()} cores. `ours`: the "
        "entry and one trial of Optuna with its log; `with claims`: two small "
        "transactions more, on a stand-in for the leases; `stock`: every "
        "parameter suggested into Optuna's storage, no entry; `entry alone`: no trial of Optuna. Other programs took "
        "part of the cores, so rows compare by their order of size only.",
        "",
        *table(["storage", "what", *(f"{n} clients" if n > 1 else "1 client" for n in clients)], rows, 2),
        "",
    ]


def wrote(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    died = f" ({cell['died']} died)" if cell.get("died") else ""
    return f"{cell['a_second']:,.0f}{died}"


def slot_words(cells: list[Cell]) -> list[str]:
    rows = [
        [
            cell["about"],
            cell["what"],
            str(cell["candidates"]),
            f"{cell['held']:.2f}",
            f"{cell['whole']:.1f}",
            f"{cell['bound']:.0f}",
            *(f"{100 * one['used']:.0f} % ({one['faster']:,.0f}×)" for one in own(cell).values()),
        ]
        for cell in cells
    ]
    shown = list(own(cells[0]))
    return [
        "## Measurement slots",
        "",
        "One device that measures one candidate at a time: how long a candidate holds it (median), how long it takes "
        "in all, and at how many workers the device would be full (mean of all ÷ mean of held); then, simulated with "
        "the recorded candidates, the share of time that it measures and how much sooner the campaign ends than with "
        "one worker.",
        "",
        *table(
            [
                "workload",
                "what holds the device",
                "candidates",
                "held, s",
                "in all, s",
                "full at",
                *(f"{n} workers" for n in shown),
            ],
            rows,
            2,
        ),
        "",
    ]


def own(cell: Cell) -> dict[int, Cell]:
    return {int(n): one for n, one in cell["workers"].items() if int(n) in (10, 50, 100, 500, 1000)}


def draw(cells: dict[str, Cell], out: Path) -> None:
    """Hypervolume against simulated time and evaluations, suggestions by trials told, trials written by clients."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    found = by_setup(cells)
    colours = {name: f"C{place}" for place, name in enumerate(dict.fromkeys(sampler for sampler, _ in found))}
    lines = {1: ":", 10: "-.", 100: "--", 1000: "-", 10_000: "-"}
    for (sampler, workers), runs in found.items():
        style: dict[str, Any] = {
            "color": colours[sampler],
            "linestyle": lines.get(workers, "-"),
            "drawstyle": "steps-post",
        }
        style |= {"label": f"{sampler} × {workers:,}", "linewidth": 2.0 if workers == 10_000 else 1.2}
        moments = np.geomspace(5, max(run["makespan"] for run in runs), 100)
        axes[0, 0].plot(moments, [np.mean([hypervolume_at(run, seconds=m) for run in runs]) for m in moments], **style)
        counts = np.unique(np.geomspace(1, min(run["evaluations"] for run in runs), 100).round())
        axes[0, 1].plot(counts, [np.mean([hypervolume_at(run, int(n)) for run in runs]) for n in counts], **style)
    axes[0, 0].set(xlabel="simulated seconds", ylabel="hypervolume")
    axes[0, 1].set(xlabel="full evaluations", ylabel="hypervolume")
    for place, name in enumerate(SAMPLERS):
        timed = [cell for cell in of_kind(cells, "sampler") if cell["sampler"] == name and cell["seconds"]]
        if timed:
            axes[1, 0].plot(
                [c["told"] for c in timed], [c["seconds"] for c in timed], "o-", color=f"C{place}", label=name
            )
    axes[1, 0].set(xlabel="trials told", ylabel="seconds of a suggestion")
    stored: dict[tuple[str, str], list[Cell]] = {}
    for cell in of_kind(cells, "storage"):
        stored.setdefault((cell["kind"], cell["how"]), []).append(cell)
    marks = {"ours": "o-", "ours with claims": "s--", "stock": "x:", "entry alone": "^"}
    for (kind, how), some in stored.items():
        colour = {"sqlite": "C0", "postgresql": "C1", "grpc": "C2"}[kind]
        axes[1, 1].plot(
            [c["clients"] for c in some],
            [c["a_second"] for c in some],
            marks[how],
            color=colour,
            label=f"{kind}, {how}",
        )
    axes[1, 1].set(xlabel="processes", ylabel="trials written a second")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.set_visible(bool(axis.lines))
        if axis.lines:
            axis.set_xscale("log")
            axis.legend(fontsize=6.5)
    for axis in axes[1]:
        if axis.lines:
            axis.set_yscale("log")
    figure.savefig(out.with_suffix(".png"), dpi=120)


if __name__ == "__main__":
    main()
