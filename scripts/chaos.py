"""Searches that are disturbed at random moments, and what is left of them: nothing finished may be lost.

    python scripts/chaos.py --faults 60 --out docs/results/chaos

Every campaign is one or two real `shrinkboard search` processes on the digits. Faults come one after the other at
random moments; a driver that dies is started again as its user would, by the same command with `--resume`. A fault
counts where it was seen to land. At the end of every campaign the database is read, by its tables and by Optuna, and
must hold what was asked for, exactly once. The campaigns in OUT.json are kept, and only missing ones are run.

Needs Linux. Disks are filled where this process may mount a small one in memory (root); PostgreSQL is started where its
programs are installed; Ray where it is.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

HOME = Path(__file__).resolve().parent.parent
STRATEGIES = ("chaotic", "uniform")
STUDY = "chaos"
BEAT, LEASE, BUSY = 0.5, 4.0, 2.0
"""Of the drivers here, instead of 5, 60 and 60: what takes a minute in a search is seen in seconds."""
TRIAL_TIMEOUT = 20
"""Seconds; a worker's first trial includes its start."""
TOGETHER = 8
"""Faults in one campaign, at most."""
LONGEST = 420.0
"""Seconds that a campaign may take."""
DISK, DATABASE_DISK = 24, 320
"""MiB of a disk in memory for a cache or a SQLite file, and for PostgreSQL."""

DRIVE = f"""
import os, search.drivers, leaderboard.store
search.drivers.BEAT, search.drivers.LEASE, leaderboard.store._BUSY_SECONDS = {BEAT}, {LEASE}, {BUSY}
if os.environ.get("CHAOS_MACHINE"):
    search.drivers.machine = lambda: os.environ["CHAOS_MACHINE"]
os.environ["CHAOS_DRIVER"] = str(os.getpid())
import shrinkboard
shrinkboard.main()
"""
"""What a driver's process runs.

With CHAOS_MACHINE it counts as one of another machine: only its lease tells of its death.
"""


class Disk:
    """A folder, in memory with a size of its own where this process may mount one."""

    def __init__(self, place: Path, megabytes: int) -> None:
        self.place = place
        place.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "tmpfs", str(place)]
        self.mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0

    @contextmanager
    def full(self) -> Iterator[int]:
        """Fills it to the last byte; gives how many it took."""
        ballast = self.place / "ballast"
        try:
            with ballast.open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(2**20))
            with ballast.open("ab", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(512))
            yield ballast.stat().st_size
        finally:
            ballast.unlink()

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.place)], check=False)


class Sqlite:
    """One file on a disk of its own."""

    kind = "sqlite"

    def __init__(self, folder: Path) -> None:
        self.disk = Disk(folder / "database", DISK)
        self.file = self.disk.place / "board.db"
        self.url = self.seen_url = f"sqlite:///{self.file}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Held by another process' writer."""
        with closing(sqlite3.connect(self.file, timeout=60, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield
            connection.execute("ROLLBACK")

    def close(self) -> None:
        self.disk.close()


class Postgres:
    """A server on a disk of its own that drivers reach through a relay."""

    kind = "postgresql"

    def __init__(self, folder: Path) -> None:
        self._bin = postgres_programs()
        assert self._bin is not None
        self._user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        self.disk = Disk(folder / "database", DATABASE_DISK)
        self._data, self._log = self.disk.place / "data", folder / "postgres.log"
        sockets = folder / "sockets"
        sockets.mkdir()
        self._log.touch()
        if self._user:
            for place in (folder, *folder.parents):
                if place.stat().st_uid == os.geteuid() and len(place.parts) > 2:
                    place.chmod(place.stat().st_mode | 0o055)
            for place in (self.disk.place, sockets, self._log):
                shutil.chown(place, "postgres")
        self._run("initdb", f"--pgdata={self._data}", "--auth=trust", "--username=postgres", "--no-sync")
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(
                f"listen_addresses = ''\nunix_socket_directories = '{sockets}'\n"
                "max_wal_size = 64MB\nmin_wal_size = 32MB\n"
            )
        self.start()
        self.relay = Relay(sockets / ".s.PGSQL.5432")
        self.seen_url = f"postgresql://postgres@/{STUDY}?host={sockets}"
        self.url = f"postgresql://postgres@127.0.0.1:{self.relay.port}/{STUDY}?sslmode=disable&gssencmode=disable"
        self.sql(f"CREATE DATABASE {STUDY}", database="postgres")

    def start(self) -> None:
        """Starts the server, again and again until it answers: a full disk may keep it from that."""
        for _ in range(30):
            with suppress(subprocess.CalledProcessError):
                self._run("pg_ctl", f"--pgdata={self._data}", f"--log={self._log}", "--wait", "start")
                return
            time.sleep(1.0)
        raise RuntimeError(f"PostgreSQL does not start: {self._log.read_text()[-2000:]}")

    def runs(self) -> bool:
        """Whether the server is there."""
        status = [*self._user, str(self._bin / "pg_ctl"), f"--pgdata={self._data}", "status"]  # type: ignore[operator]
        return subprocess.run(status, capture_output=True, cwd="/").returncode == 0

    def kill(self) -> int:
        """Kills the postmaster and all its children; gives how many processes died."""
        first = int((self._data / "postmaster.pid").read_text().split()[0])
        found = [first, *children(first)]
        for number in found:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        await_that(lambda: not any(lives(number) for number in found), 10)
        return len(found)

    def sql(self, text: str, database: str = STUDY) -> list[Any]:
        """Rows of one statement, as the server itself gives them."""
        url = sa.make_url(self.seen_url if hasattr(self, "seen_url") else "").set(database=database)
        engine = sa.create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            found = connection.exec_driver_sql(text)
            return list(found) if found.returns_rows else []

    def close(self) -> None:
        self.relay.close()
        with suppress(subprocess.CalledProcessError):
            self._run("pg_ctl", f"--pgdata={self._data}", "--mode=immediate", "stop")
        self.disk.close()

    def _run(self, program: str, *arguments: str) -> None:
        assert self._bin is not None
        command = [*self._user, str(self._bin / program), *arguments]
        subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Relay:
    """Passes bytes between a port of this machine and a socket; can be cut, and can stand still."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._flows = threading.Event()
        self._flows.set()
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.carried = 0
        """Connections so far."""
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    @contextmanager
    def cut(self) -> Iterator[int]:
        """Ends all connections and refuses new ones; gives how many there were."""
        stop(self._listener)
        with self._lock:
            ended, self._open = self._open, []
        for one in ended:
            stop(one)
        yield len(ended) // 2
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    @contextmanager
    def still(self) -> Iterator[int]:
        """Keeps connections, and passes nothing on; gives how many there are."""
        self._flows.clear()
        yield len(self._open) // 2
        self._flows.set()

    def close(self) -> None:
        self._flows.set()
        with self._lock:
            for one in (self._listener, *self._open):
                stop(one)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            try:
                far.connect(str(self._target))
            except OSError:
                stop(near)
                continue
            self.carried += 1
            with self._lock:
                self._open += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                self._flows.wait()
                other.sendall(data)
        with self._lock:
            self._open = [kept for kept in self._open if kept not in (one, other)]
        stop(one)
        stop(other)


def stop(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


class RayCluster:
    """A head without room for trials and two more nodes, all on this machine."""

    NODES = 2

    def __init__(self, environment: dict[str, str]) -> None:
        from ray.cluster_utils import Cluster

        # Nodes inherit this process' variables.
        names = ("CHAOS_TOKENS", "SHRINKBOARD_CACHE", "OMP_NUM_THREADS")
        os.environ |= {name: environment[name] for name in names} | {"RAY_USAGE_STATS_ENABLED": "0"}
        self._port = free_port()
        self._make: Callable[..., Any] = Cluster
        self._begin()

    def _begin(self) -> None:
        head = {"num_cpus": 0, "num_gpus": 0, "include_dashboard": False, "gcs_server_port": self._port}
        self._cluster = self._make(initialize_head=True, head_node_args=head, connect=False)
        for _ in range(self.NODES):
            self.add_node()
        self.address = str(self._cluster.address)

    def add_node(self) -> None:
        self._cluster.add_node(num_cpus=1, num_gpus=0)

    def kill_node(self, rng: random.Random) -> bool:
        """Kills the raylet of a node, and with it its workers."""
        node = rng.choice(list(self._cluster.worker_nodes))
        number = node.all_processes["raylet"][0].process.pid
        os.kill(number, signal.SIGKILL)
        died = await_that(lambda: not lives(number), 5)
        self._cluster.remove_node(node, allow_graceful=False)
        return died

    def kill(self) -> None:
        """Kills all of it, the head too."""
        for node in list(self._cluster.list_all_nodes()):
            with suppress(Exception):
                node.kill_all_processes(check_alive=False, allow_graceful=False)

    def start(self) -> None:
        """Another one at the same address."""
        await_that(lambda: not answers(self._port), 10)
        self._begin()

    def workers(self) -> list[int]:
        """Processes that hold a trial's actor."""
        raylets = {node.all_processes["raylet"][0].process.pid for node in self._cluster.list_all_nodes()}
        found = [number for raylet in raylets for number in children(raylet)]
        return [number for number in found if command(number).startswith("ray::OneJob")]

    def close(self) -> None:
        with suppress(Exception):
            self._cluster.shutdown()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


class Driver:
    """A user who starts one search, and starts it again when it has died."""

    def __init__(self, number: int, run: Run, resume: bool) -> None:
        self.number, self._run, self._resume = number, run, resume
        self.log = run.folder / f"driver-{number}.log"
        self.restarts = 0
        self.ends: list[str] = []
        """How its processes ended that did not end well."""
        self._again_at = 0.0
        self._expected = False
        self.process = self._start()

    @property
    def finished(self) -> bool:
        return self.process.poll() == 0

    def kill(self) -> bool:
        """Kills its process, not its workers'."""
        self._expected = True
        self.process.kill()
        return self.process.wait() == -signal.SIGKILL

    def tend(self) -> None:
        """Starts it again a moment after it has died."""
        code = self.process.poll()
        if not code:
            return
        if self._again_at == 0.0:
            last = ["", *self.log.read_text(errors="replace").strip().splitlines()[-5:]]
            told = next((line for line in last if line.startswith("shrinkboard: ")), last[-1])
            self.ends.append("killed" if self._expected else f"exit {code}: {told}")
            self._again_at = time.monotonic() + self._run.rng.uniform(0.0, 3.0)
        elif time.monotonic() > self._again_at:
            self._again_at, self._resume, self._expected = 0.0, True, False
            self.restarts += 1
            self.process = self._start()

    def said(self, text: str) -> int:
        """How often it has said so."""
        return self.log.read_text(errors="replace").count(text)

    def helpers(self) -> list[int]:
        """Its own child processes: workers, or the one of Tune."""
        return [number for number in children(self.process.pid) if "spawn_main" in command(number)]

    def end(self) -> None:
        """Ends its process, should it still run."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        run = self._run
        arguments = [
            *("search", "--workload", "digits/cnn", "--strategy", ",".join(STRATEGIES), "--target", "counts"),
            *("--trials", str(run.trials), "--epochs", run.epochs, "--stages", run.stages, "--seed", str(run.seed)),
            *("--workers", str(run.arm.workers), "--trial-timeout", f"{TRIAL_TIMEOUT}s", "--study", STUDY),
            *("--storage", run.database.url),
            *([] if run.cluster is None else ["--executor", "ray", "--ray-address", run.cluster.address]),
            *(["--resume"] if self._resume else []),
        ]
        environment = run.environment | ({"CHAOS_MACHINE": f"machine{self.number}"} if run.machines else {})
        with self.log.open("ab") as file:
            return subprocess.Popen(
                [sys.executable, "-c", DRIVE, *arguments],
                cwd=run.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )


class Watch:
    """Looks at the board all the while, with a connection of its own, and remembers what it has seen."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url, poolclass=NullPool)
        self.seen: dict[tuple[str, int], str] = {}
        """Strategy and trial → digest of the entry's document."""
        self.changed: list[str] = []
        self.last = 0.0
        """When a new one was seen last."""
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self._thread.start()

    def look(self) -> None:
        """Looks once."""
        for key, digest in entries(self._engine).items():
            if key not in self.seen:
                self.last = time.monotonic()
            elif self.seen[key] != digest:
                self.changed.append(f"{key} has changed")
            self.seen[key] = digest

    def close(self) -> None:
        self._left.set()
        self._thread.join()

    def _look_on(self) -> None:
        while not self._left.wait(0.3):
            with suppress(sa.exc.SQLAlchemyError):
                self.look()


def entries(engine: sa.Engine) -> dict[tuple[str, int], str]:
    """Strategy and trial → digest of what stands on the board."""
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT strategy, trial, id, document FROM sb_entries").all()
    return {(row[0], int(row[1])): hashlib.sha256(f"{row[2]} {row[3]}".encode()).hexdigest() for row in found}


@dataclass(frozen=True)
class Arm:
    """Where campaigns run."""

    storage: str
    executor: str
    drivers: int
    workers: int

    @property
    def name(self) -> str:
        return f"{self.storage}, {self.executor}, {self.drivers} driver{'s' if self.drivers > 1 else ''}"

    def possible(self) -> bool:
        """Whether this machine has what it takes."""
        return (self.storage == "sqlite" or postgres_programs() is not None) and (
            self.executor == "local" or importlib.util.find_spec("ray") is not None
        )


ARMS = (Arm("sqlite", "local", 1, 1), Arm("postgresql", "local", 2, 1), Arm("postgresql", "ray", 1, 2))


@dataclass
class Run:
    """One campaign under way."""

    arm: Arm
    seed: int
    folder: Path
    trials: int
    stages: str = "none"
    machines: bool = False
    """Whether drivers count as ones of different machines."""
    database: Any = None
    cluster: Any = None
    cache: Any = None
    drivers: list[Driver] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.watch: Any = None
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        self.rng = random.Random(self.seed)
        self.cache = Disk(self.folder / "cache", DISK)
        self.tokens = self.folder / "tokens"
        self.tokens.mkdir()
        self.database = {"sqlite": Sqlite, "postgresql": Postgres}[self.arm.storage](self.folder)
        plugin = self.folder / "plugin"
        place = plugin / "chaotic-1.dist-info"
        place.mkdir(parents=True)
        shutil.copy(HOME / "scripts" / "chaotic.py", plugin)
        (place / "METADATA").write_text("Metadata-Version: 2.1\nName: chaotic\nVersion: 1\n")
        (place / "entry_points.txt").write_text("[shrinkboard.strategies]\nchaotic = chaotic:Chaotic\n")
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(plugin), str(HOME)]),
            "SHRINKBOARD_CACHE": str(self.cache.place),
            "CHAOS_TOKENS": str(self.tokens),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }
        self.cluster = RayCluster(self.environment) if self.arm.executor == "ray" else None
        self.watch = Watch(self.database.seen_url)

    def begin(self) -> None:
        """Starts the drivers; several at once join each other."""
        several = self.arm.drivers > 1
        self.drivers = [Driver(number, self, resume=several) for number in range(self.arm.drivers)]

    @property
    def epochs(self) -> str:
        """Of a full evaluation; a rung is at least one step long."""
        return "1" if self.stages == "rungs" else "0.5"

    @property
    def finished(self) -> bool:
        return all(driver.finished for driver in self.drivers)

    @property
    def waits(self) -> int:
        """How often drivers have said that they wait for the storage."""
        return sum(driver.said("the storage is away") for driver in self.drivers)

    @property
    def living(self) -> list[Driver]:
        return [driver for driver in self.drivers if driver.process.poll() is None]

    def tend_until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Starts dead drivers again until something is so; False where it did not come to that in time."""
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                return False
            for driver in self.drivers:
                driver.tend()
            time.sleep(0.05)
        return True

    def workers(self) -> list[int]:
        """Processes that evaluate."""
        if self.cluster is not None:
            return self.cluster.workers()
        return [number for driver in self.living for number in driver.helpers()]

    def left(self) -> list[int]:
        """Processes of drivers and workers that still run."""
        mark = f"CHAOS_TOKENS={self.tokens}".encode()
        signs = ("spawn_main", "search.drivers", "ray::OneJob", "ray::Meter")
        found = [number for number in processes() if any(sign in command(number) for sign in signs) and lives(number)]
        return [number for number in found if mark in environment_of(number)]

    def close(self) -> list[int]:
        """Ends everything; gives the processes that drivers which have ended have left behind."""
        for driver in self.drivers:
            driver.end()
        await_that(lambda: not self.left(), 10.0)
        left = self.left()
        for number in left:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        for part in (self.watch, self.cluster, self.database, self.cache):
            if part is not None:
                part.close()
        self.watch = self.cluster = self.database = self.cache = None
        return left


Act = Callable[[Run], str]
"""Does harm; gives what was seen of it, and nothing where it did not land."""


def kill_worker(run: Run) -> str:
    run.tend_until(lambda: bool(run.workers()) or run.finished, 30)
    victims = run.workers()
    if not victims:
        return ""
    number = run.rng.choice(victims)
    os.kill(number, signal.SIGKILL)
    return "the process died" if await_that(lambda: not lives(number), 5) else ""


def kill_driver(run: Run) -> str:
    living = run.living
    return "the process died" if living and run.rng.choice(living).kill() else ""


def kill_tune(run: Run) -> str:
    """The process in which a driver runs Ray Tune."""
    victims = [number for driver in run.living for number in driver.helpers()]
    if not victims:
        return ""
    os.kill(victims[0], signal.SIGKILL)
    return "the process died" if await_that(lambda: not lives(victims[0]), 5) else ""


def kill_node(run: Run) -> str:
    died = run.cluster.kill_node(run.rng)
    run.tend_until(lambda: False, run.rng.uniform(1, 6))
    run.cluster.add_node()
    return "its raylet died; another node was added" if died else ""


def kill_cluster(run: Run) -> str:
    run.cluster.kill()
    run.tend_until(lambda: False, run.rng.uniform(1, 6))
    run.cluster.start()
    return "the head and all nodes died; another cluster was started at its address"


def stop_driver(run: Run) -> str:
    living = run.living
    if not living:
        return ""
    driver = run.rng.choice(living)
    before = driver.said("another driver has taken it")
    os.kill(driver.process.pid, signal.SIGSTOP)
    stopped = await_that(lambda: state(driver.process.pid) == "T", 5)
    run.tend_until(lambda: False, 2 * LEASE + run.rng.uniform(0, 3))
    os.kill(driver.process.pid, signal.SIGCONT)
    run.tend_until(lambda: run.finished, 3)
    refused = driver.said("another driver has taken it") - before
    return f"it stood still for longer than its lease; {refused} late results refused" if stopped else ""


def kill_database(run: Run) -> str:
    dead = run.database.kill()
    run.tend_until(lambda: False, run.rng.uniform(1, 6))
    run.database.start()
    return f"{dead} processes of the server died"


def lock_database(run: Run) -> str:
    before = run.waits
    with run.database.locked():
        run.tend_until(lambda: False, run.rng.uniform(BUSY + 1, BUSY + 6))
        run.tend_until(lambda: run.waits > before, 20)
    return "another process held the lock, which drivers told of" if run.waits > before else ""


def cut_sessions(run: Run) -> str:
    ended = run.database.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid <> pg_backend_pid()"
    )
    return f"{len(ended)} sessions ended" if ended else ""


def cut_network(run: Run) -> str:
    with run.database.relay.cut() as ended:
        run.tend_until(lambda: False, run.rng.uniform(1, 6))
    return f"{ended} connections cut and new ones refused" if ended else ""


def stall_network(run: Run) -> str:
    with run.database.relay.still() as held:
        run.tend_until(lambda: False, run.rng.uniform(LEASE, LEASE + 6))
    return f"{held} connections passed nothing on for longer than a lease" if held else ""


def fill_database_disk(run: Run) -> str:
    before, fell = run.waits, ""
    with run.database.disk.full():
        run.tend_until(lambda: False, run.rng.uniform(2, 8))
        run.tend_until(lambda: run.waits > before, 20)
    if run.arm.storage == "postgresql" and not run.database.runs():
        run.database.start()
        fell = "; the server fell and was started again"
    return f"no byte was left, which drivers told of{fell}" if fell or run.waits > before else ""


def fill_cache_disk(run: Run) -> str:
    before = len(run.watch.seen)
    with run.cache.full() as taken:
        run.tend_until(lambda: False, run.rng.uniform(2, 8))
    return f"no byte was left; {len(run.watch.seen) - before} entries came all the same" if taken else ""


def token(fault: str) -> Act:
    """A fault that the next trial of the plug-in has."""

    def act(run: Run) -> str:
        place = run.tokens / f"trial-{fault}.{time.monotonic_ns()}"
        place.touch()
        if run.tend_until(lambda: not place.exists() or run.finished, 90) and not place.exists():
            return "a trial took it"
        place.unlink(missing_ok=True)
        return ""

    return act


def poison(run: Run) -> str:
    """Waits until the plan was given up."""
    if not token("poison")(run):
        return ""

    def given_up() -> bool:
        with suppress(sa.exc.SQLAlchemyError):
            return bool(failures(run.database.seen_url, "given up after"))
        return False

    return "its plan was given up after 3 tries" if run.tend_until(given_up, 120) else ""


@dataclass(frozen=True)
class Kind:
    """One way to do harm."""

    name: str
    about: str
    act: Act
    storages: tuple[str, ...] = ("sqlite", "postgresql")
    executors: tuple[str, ...] = ("local", "ray")
    mounts: bool = False
    """Whether it needs a disk of its own."""
    stages: str = ""
    """That a campaign must have."""


KINDS = (
    Kind("kill-worker", "kill −9 of a worker", kill_worker),
    Kind("kill-driver", "kill −9 of a driver", kill_driver),
    Kind("kill-tune", "kill −9 of the process of Tune", kill_tune, executors=("ray",)),
    Kind("kill-node", "kill −9 of a Ray node", kill_node, executors=("ray",)),
    Kind("kill-cluster", "kill −9 of the whole Ray cluster", kill_cluster, executors=("ray",)),
    Kind("stop-driver", "a driver stopped for longer than its lease", stop_driver),
    Kind("kill-database", "kill −9 of PostgreSQL", kill_database, ("postgresql",)),
    Kind("lock-database", "SQLite's file locked by another process", lock_database, ("sqlite",)),
    Kind("cut-sessions", "all database sessions ended", cut_sessions, ("postgresql",)),
    Kind("cut-network", "connections to the database cut, new ones refused", cut_network, ("postgresql",)),
    Kind("stall-network", "connections to the database stand still", stall_network, ("postgresql",)),
    Kind("fill-database-disk", "the database's disk full", fill_database_disk, mounts=True),
    Kind("fill-cache-disk", "the cache's disk full", fill_cache_disk, mounts=True, stages="rungs"),
    Kind("trial-raises", "a trial raises", token("raises")),
    Kind("trial-hangs", "a trial hangs", token("hangs")),
    Kind("trial-memory", "a trial runs into a limit of memory (MemoryError)", token("memory")),
    Kind("trial-killed", "a trial is killed as the kernel does when memory is short", token("killed")),
    Kind("trial-nan-weights", "a trial's weights are NaN", token("nan_weights")),
    Kind("trial-nan-accuracy", "a trial's accuracy is NaN", token("nan_accuracy")),
    Kind("poisoned-plan", "a plan kills each of its workers", poison),
)


def disturb(run: Run, kinds: Sequence[Kind], pause: float = 2.0) -> list[dict[str, Any]]:
    """Runs a campaign to its end, with one fault after the other; gives those that landed.

    A fault comes up to `pause` seconds after the first entry, or after the one that followed the fault before.
    """
    run.begin()
    landed = []
    run.tend_until(lambda: bool(run.watch.seen) or run.finished, 120)
    for kind in kinds:
        run.tend_until(lambda: run.finished, run.rng.uniform(0.0, pause))
        if run.finished:
            break
        began = time.monotonic()
        seen = kind.act(run)
        over = time.monotonic()
        print(f"    {kind.name}: {seen or 'did not land'}", flush=True)
        if not seen:
            continue
        again = run.tend_until(lambda over=over: run.watch.last > over or run.finished, 120)  # type: ignore[misc]
        recovery = max(0.0, run.watch.last - over) if run.watch.last > over else None
        landed.append(
            {"kind": kind.name, "seen": seen, "seconds": round(over - began, 1), "went_on": again}
            | {"recovery": None if recovery is None else round(recovery, 1)}
        )
    run.tend_until(lambda: run.finished, LONGEST)
    return landed


def failures(url: str, text: str = "") -> list[str]:
    """Reasons of candidates that were given up."""
    engine = sa.create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT reason FROM sb_leases WHERE state = 'failed'").all()
    return [row[0] for row in rows if text in row[0]]


def breaches(run: Run) -> tuple[list[str], dict[str, int]]:
    """What is not as it must be at the end, read from the database, and what was counted."""
    found = list(dict.fromkeys(run.watch.changed))
    engine = sa.create_engine(run.database.seen_url, poolclass=NullPool)
    now = entries(engine)
    lost = [key for key, digest in run.watch.seen.items() if now.get(key) != digest]
    found += [f"{key} was on the board, and is gone or changed" for key in lost]
    with engine.connect() as connection:

        def rows(query: str) -> list[Any]:
            return list(connection.exec_driver_sql(query).all())

        board = rows("SELECT strategy, trial, plan_digest, id, role FROM sb_entries")
        leases = rows("SELECT strategy, trial, plan_digest, owner, state, reason FROM sb_leases")
        drivers = rows("SELECT process, ended FROM sb_drivers")
    counts = Counter(row.strategy for row in board)
    asked = dict.fromkeys(STRATEGIES, run.trials) | {"dense": 1, "dense+int": 1}
    if counts != asked:
        found.append(f"on the board are {dict(counts)}, not {asked}")
    digests = Counter((row.strategy, row.plan_digest) for row in board)
    found += [f"{key} was evaluated {count} times" for key, count in digests.items() if count > 1]
    left = 0
    storage = optuna.storages.RDBStorage(run.database.seen_url)
    for name in STRATEGIES:
        trials = optuna.load_study(study_name=f"{STUDY}/{name}", storage=storage).get_trials(deepcopy=False)
        states = Counter(trial.state.name for trial in trials)
        on_its_way = states["RUNNING"] + states["WAITING"]
        left += on_its_way
        if on_its_way:
            found.append(f"{name}: Optuna's study has {dict(states)}")
        told = Counter(t.user_attrs["entry"] for t in trials if t.state.name == "COMPLETE" and "entry" in t.user_attrs)
        ids = {row.id for row in board if row.strategy == name}
        if set(told) != ids or any(count > 1 for count in told.values()):
            found.append(
                f"{name}: of the board's {len(ids)} entries {len(ids - set(told))} are not in Optuna's study, which "
                f"has {len(set(told) - ids)} others and {sum(told.values()) - len(told)} twice"
            )
        reasons = {t.user_attrs.get("trial"): t.user_attrs.get("reason") for t in trials if "entry" not in t.user_attrs}
        numbers = Counter(t.user_attrs.get("trial") for t in trials)
        found += [f"{name} trial {n} is {c} times in Optuna's study" for n, c in numbers.items() if c > 1]
        ended = {lease.trial for lease in leases if lease.strategy == name and lease.state in ("failed", "rejected")}
        found += [f"{name} trial {n} has ended, which Optuna's study does not know" for n in ended - set(reasons)]
        found += [f"{name} trial {n} has ended without a reason" for n, reason in reasons.items() if not reason]
    storage.remove_session()
    storage.engine.dispose()
    done = {(lease.strategy, lease.trial, lease.plan_digest) for lease in leases if lease.state == "done"}
    if done != {(row.strategy, row.trial, row.plan_digest) for row in board}:
        found.append("leases that are done and entries differ")
    held = [lease for lease in leases if lease.state == "running" and lease.owner is not None]
    found += [f"{lease.strategy} trial {lease.trial} is still held by driver {lease.owner}" for lease in held]
    failed = [lease for lease in leases if lease.state == "failed"]
    found += [f"{lease.strategy} trial {lease.trial} failed without a reason" for lease in failed if not lease.reason]
    killed = sum(end == "killed" for driver in run.drivers for end in driver.ends)
    staying = [row for row in drivers if row.ended is None]
    if len(staying) > killed:
        found.append(f"{len(staying)} drivers have said no good-bye, {killed} were killed")
    for driver in run.drivers:
        found += [f"driver {driver.number} ended by itself: {end}" for end in driver.ends if _is_odd(end)]
        if not driver.finished:
            found.append(f"driver {driver.number} has not finished")
    waiting = sum(lease.state == "running" for lease in leases) - len(held)
    return found, {
        "asked": sum(asked.values()),
        "finished": len(board),
        "lost": len(lost),
        "left_running": left + len(held),
        "put_down": waiting,
        "failed": len(failed),
    }


def _is_odd(end: str) -> bool:
    """Whether a driver's end is none that its user expects: killed, or at its start by one line about the storage."""
    return end != "killed" and not (end.startswith("exit 2: shrinkboard: ") and "storage" in end)


@contextmanager
def begun(arm: Arm, seed: int, trials: int, stages: str = "none", machines: bool = False) -> Iterator[Run]:
    """A campaign in a folder of its own, ended and removed in any case."""
    with tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp", ignore_cleanup_errors=True) as name:
        run = Run(arm, seed, Path(name), trials, stages, machines)
        try:
            yield run
        finally:
            run.close()


def campaign(arm: Arm, kinds: Sequence[Kind], seed: int, keep: Path | None = None) -> dict[str, Any]:
    """One disturbed campaign: what landed, what was counted, and what was not as it must be."""
    start = time.monotonic()
    rng = random.Random(seed)
    stages = next((kind.stages for kind in kinds if kind.stages), "none")
    machines = arm.drivers > 1 and rng.random() < 0.5
    trials = 4 + len(kinds) * (1 if stages == "rungs" else 2)
    with begun(arm, seed, trials, stages, machines) as run:
        landed = disturb(run, kinds)
        found, counts = breaches(run)
        reasons = failures(run.database.seen_url)
        if keep is not None and arm.storage == "sqlite":
            kept = run.database.file.read_bytes()
        left = run.close()
        found += [f"{len(left)} processes were left behind"] if left else []
        if found and keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            for log in run.folder.glob("*.log"):
                shutil.copy(log, keep / f"{seed}-{log.name}")
            if arm.storage == "sqlite":
                (keep / f"{seed}.db").write_bytes(kept)
    return {
        "arm": arm.name,
        "storage": arm.storage,
        "executor": arm.executor,
        "drivers": arm.drivers,
        "seed": seed,
        "stages": stages,
        "machines": machines,
        "faults": landed,
        "restarts": sum(driver.restarts for driver in run.drivers),
        "ends": [end for driver in run.drivers for end in driver.ends],
        "failures": reasons,
        "breaches": found,
        "seconds": round(time.monotonic() - start, 1),
        **counts,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """What became of the faults, by kind and arm."""
    lines = [
        "| fault | storage, executor | injected | of them went on | median s to the next entry | verdict |",
        "|---|---|---:|---:|---:|---|",
    ]
    for kind in KINDS:
        for arm in dict.fromkeys(row["arm"] for row in rows):
            hit = [(row, fault) for row in rows for fault in row["faults"] if row["arm"] == arm]
            hit = [(row, fault) for row, fault in hit if fault["kind"] == kind.name]
            if not hit:
                continue
            times = sorted(fault["recovery"] for _, fault in hit if fault["recovery"] is not None)
            median = f"{times[len(times) // 2]:.1f}" if times else "–"
            well = all(not row["breaches"] and fault["went_on"] for row, fault in hit)
            on = sum(fault["went_on"] for _, fault in hit)
            lines.append(f"| {kind.about} | {arm} | {len(hit)} | {on} | {median} | {'held' if well else 'BROKEN'} |")
    lines += [
        "",
        "| storage, executor | campaigns | faults | drivers started again | entries asked | finished | lost "
        "| left running | put down | given up, with reason | breaches |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for arm in [*dict.fromkeys(row["arm"] for row in rows), None]:
        of_arm = [row for row in rows if arm in (None, row["arm"])]
        sums = [sum(len(row["faults"]) for row in of_arm)]
        names = ("restarts", "asked", "finished", "lost", "left_running", "put_down", "failed")
        sums += [sum(row[name] for row in of_arm) for name in names]
        sums.append(sum(len(row["breaches"]) for row in of_arm))
        lines.append(f"| {arm or 'all'} | {len(of_arm)} | {' | '.join(map(str, sums))} |")
    return "\n".join(lines)


PAGE = f"""# Chaos

Made by `{{command}}`.

Real `shrinkboard search` processes on the digits ({", ".join(STRATEGIES)}; the first is `l1` with trials that go
wrong on request) were disturbed at random moments, up to {TOGETHER} times in a campaign, and started again by the same
command with `--resume` where they had died. A fault counts where it was seen to land. At the end of every campaign
the database was read, by its tables and by Optuna: exactly the entries asked for and two controls, no plan twice,
every entry that was ever seen still there and unchanged, no trial running or waiting, the board's entries and those
of Optuna's study the same, no lease held, every failure with its reason, no process left behind. A breach of any of
these is counted. What was put down (paused, or claimed and not begun) waits for a later run.

A driver here renews its row every {BEAT:g} s and counts as dead after {LEASE:g} s, SQLite is waited for {BUSY:g} s
at a time (5, 60 and 60 s in a search), and a trial may take {TRIAL_TIMEOUT} s. In some campaigns of two drivers
each counts as one of another machine, so that only its lease tells of its death. Disks that fill are small ones in
memory (tmpfs); a full cache is told of by nobody, for what cannot be paused there is trained again. A trial that
runs into a limit of memory gets a real `MemoryError` (RLIMIT_AS); one that is killed as the kernel does kills
itself with signal 9. The time to the next entry counts from the end of the fault, the start of a driver and of its
worker included.

{{table}}
"""


def write(out: Path, rows: list[dict[str, Any]], made_by: str) -> None:
    """OUT.json and OUT.md."""
    out.with_suffix(".json").write_text(json.dumps({"campaigns": rows}, indent=1, ensure_ascii=False) + "\n")
    out.with_suffix(".md").write_text(PAGE.format(command=made_by, table=table(rows)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=60, help="that are to land, in all (default 60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--storage", choices=("sqlite", "postgresql", "all"), default="all")
    parser.add_argument("--executor", choices=("local", "ray", "all"), default="all")
    parser.add_argument("--kinds", help="some of " + ", ".join(kind.name for kind in KINDS))
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md; what is there is gone on with")
    parser.add_argument("--logs", type=Path, help="folder for the drivers' words where something was not as it must be")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started and mounted is taken down
    names = arguments.kinds.split(",") if arguments.kinds else [kind.name for kind in KINDS]
    unknown = sorted(set(names) - {kind.name for kind in KINDS})
    if unknown:
        parser.error(f"unknown kind {unknown[0]!r}")
    arms = [
        arm
        for arm in ARMS
        if arguments.storage in ("all", arm.storage) and arguments.executor in ("all", arm.executor) and arm.possible()
    ]
    if not arms:
        parser.error("nothing that is asked for can be run on this machine")
    rows: list[dict[str, Any]] = []
    if arguments.out and arguments.out.with_suffix(".json").exists():
        rows = json.loads(arguments.out.with_suffix(".json").read_text())["campaigns"]
    while faults_of(rows) < arguments.faults:
        arm = min(arms, key=lambda arm: sum(len(row["faults"]) for row in rows if row["arm"] == arm.name))
        seed = 1000 * arguments.seed + len(rows)
        kinds = next_kinds(arm, rows, names, seed, arguments.faults - faults_of(rows))
        print(f"campaign {len(rows)} ({arm.name}): {', '.join(kind.name for kind in kinds)}", flush=True)
        rows.append(campaign(arm, kinds, seed, keep=arguments.logs))
        print(f"  {rows[-1]['seconds']} s, {rows[-1]['finished']} of {rows[-1]['asked']}, {rows[-1]['breaches']}")
        if arguments.out:
            write(arguments.out, rows, _command(arguments))
    print(table(rows))
    if any(row["breaches"] for row in rows):
        raise SystemExit(1)


def faults_of(rows: Sequence[dict[str, Any]]) -> int:
    """How many have landed."""
    return sum(len(row["faults"]) for row in rows)


def next_kinds(arm: Arm, rows: Sequence[dict[str, Any]], names: Sequence[str], seed: int, most: int) -> list[Kind]:
    """Those that have hit the arm least, in random order."""
    had = Counter(fault["kind"] for row in rows if row["arm"] == arm.name for fault in row["faults"])
    fitting = [
        kind
        for kind in KINDS
        if kind.name in names and arm.storage in kind.storages and arm.executor in kind.executors
        if not kind.mounts or os.geteuid() == 0
    ]
    rng = random.Random(seed)
    rng.shuffle(fitting)
    chosen = sorted(fitting, key=lambda kind: had[kind.name])[: min(TOGETHER, most)]
    rng.shuffle(chosen)
    return chosen


def _command(arguments: argparse.Namespace) -> str:
    parts = [f"--faults {arguments.faults}", f"--seed {arguments.seed}", f"--storage {arguments.storage}"]
    parts += [f"--executor {arguments.executor}"] + ([f"--kinds {arguments.kinds}"] if arguments.kinds else [])
    return f"python scripts/chaos.py {' '.join(parts)} --out {arguments.out}"


def postgres_programs() -> Path | None:
    """Debian's folder of the newest PostgreSQL; None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return found[-1].parent if found else None


def await_that(done: Callable[[], bool], seconds: float) -> bool:
    """Waits until something is so; False where it did not come to that in time."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def stat(number: int) -> list[str]:
    """Fields of a process behind its name: state, parent, …; empty where it is gone."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def state(number: int) -> str:
    return (stat(number) or [""])[0]


def lives(number: int) -> bool:
    return state(number) not in ("", "Z")


def command(number: int) -> str:
    try:
        return Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def children(number: int) -> list[int]:
    return [one for one in processes() if (stat(one) or ["", ""])[1] == str(number)]


def environment_of(number: int) -> bytes:
    try:
        return Path(f"/proc/{number}/environ").read_bytes()
    except OSError:
        return b""


if __name__ == "__main__":
    main()
