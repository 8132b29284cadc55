"""Ray: a cluster of two nodes on this machine, whose workers, nodes and Meter are killed; the same results as here."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import invalidate_caches
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

pytest.importorskip("ray", reason="needs the extra ray")

from cost_models import Frozen
from leaderboard import Entry, Store
from search import Campaign, Evaluator, Job, Subject, run_campaign
from search.evaluation import Report
from search.executors import Executor, Failure, Outcome
from search.ray_trials import share
from search.ray_tune import RayTune
from search.shipping import stage
from search.workers import Workers, checked
from strategies import strategy
from workloads import Dense, InputError

SUBJECT = Subject("digits/cnn")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    made = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "num_gpus": 0}, connect=False
    )
    made.add_node(num_cpus=1, num_gpus=0)
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def evaluator(digits: Dense) -> Evaluator:
    return Evaluator(SUBJECT, ["counts"], {"counts": Frozen(None)}, digits)


@pytest.fixture(scope="module")
def pool(cluster: Any, evaluator: Evaluator) -> Iterator[RayTune]:
    executor = RayTune(evaluator, Workers(2, "ray", cluster.address))
    yield executor
    executor.close()


def job(trial: int, keep: float, digits: Dense, name: str = "uniform", epochs: float = 0.5) -> Job:
    plan = strategy("uniform").plan(digits, {"keep": keep}).to_json()
    return Job("s", name, trial, "candidate", plan, {"keep": trial}, epochs)


def ended(executor: Executor, seconds: float = 60.0) -> tuple[Job, Outcome]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = executor.next(timeout=1.0)
        if found is not None:
            return found
    raise AssertionError(f"no job ended within {seconds:g} s")


def processes(cluster: Any, title: str) -> list[int]:
    """Workers of the cluster whose title begins so."""
    raylets = {node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()}
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent in raylets and (entry / "cmdline").read_text().startswith(f"ray::{title}"):
                found.append(int(entry.name))
    return found


def until(said: Callable[[], Any], seconds: float = 20.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := said():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not so within {seconds:g} s")


def test_jobs_come_back_as_in_one_process(pool: RayTune, evaluator: Evaluator, digits: Dense) -> None:
    jobs = [job(0, 0.5, digits), job(1, 0.25, digits)]
    for one in jobs:
        pool.submit(one)
    for done, outcome in (ended(pool), ended(pool)):
        assert done in jobs
        assert isinstance(outcome, Entry)
        assert outcome.accuracy == evaluator.run(done).accuracy
    assert pool.next(timeout=0.0) is None


def test_an_error_comes_back_with_its_traceback_and_bad_input_is_told_apart(pool: RayTune, digits: Dense) -> None:
    pool.submit(job(0, 0.5, digits, name="nonsense"))
    _, outcome = ended(pool)
    assert isinstance(outcome, Failure)
    assert outcome.bad_input
    pool.submit(job(1, 0.5, digits, epochs=float("nan")))
    _, outcome = ended(pool)
    assert isinstance(outcome, Failure)
    assert not outcome.bad_input
    assert not outcome.lost
    assert "Traceback" in outcome.details


def test_a_paused_candidate_comes_back_and_goes_on_from_there(
    pool: RayTune, evaluator: Evaluator, digits: Dense
) -> None:
    whole = job(0, 0.5, digits, epochs=2.0)
    path = evaluator.paused_file(whole)
    pool.submit(replace(whole, until=1.0))
    _, report = ended(pool)
    assert isinstance(report, Report)
    assert report.paused is None
    with safe_open(path, "pt") as file:
        about, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    # Whoever goes on from a network that cannot learn ends at chance; whoever began anew would not.
    save_file({name: torch.zeros_like(tensor) for name, tensor in tensors.items()}, path, about)
    pool.submit(whole)
    _, entry = ended(pool)
    assert isinstance(entry, Entry)
    assert (entry.accuracy.validation.top1 or 0.0) < 0.2
    assert not path.exists()


def test_a_job_that_hangs_is_ended_and_says_where(pool: RayTune, digits: Dense) -> None:
    pool.submit(replace(job(0, 0.5, digits, epochs=1000.0), seconds=0.2))
    _, outcome = ended(pool)
    assert isinstance(outcome, Failure)
    assert outcome.lost
    assert "longer than it may" in outcome.reason
    assert "most recent call first" in outcome.details


def test_a_killed_worker_is_told_and_the_other_goes_on(pool: RayTune, cluster: Any, digits: Dense) -> None:
    pool.submit(job(0, 0.5, digits, epochs=1000.0))
    os.kill(until(lambda: processes(cluster, "OneJob.train"))[0], signal.SIGKILL)
    done, outcome = ended(pool)
    assert done.trial == 0
    assert isinstance(outcome, Failure)
    assert outcome.lost
    assert "died" in outcome.reason
    pool.submit(job(1, 0.5, digits))
    assert isinstance(ended(pool)[1], Entry)


def test_a_lost_node_loses_its_job_and_no_other(pool: RayTune, cluster: Any, digits: Dense) -> None:
    pool.submit(job(0, 0.5, digits, epochs=300.0))
    pool.submit(job(1, 0.5, digits, epochs=300.0))
    until(lambda: len(processes(cluster, "OneJob.train")) == 2)
    [node] = cluster.worker_nodes
    cluster.remove_node(node, allow_graceful=False)
    outcomes = [ended(pool)[1], ended(pool)[1]]
    cluster.add_node(num_cpus=1, num_gpus=0)
    assert [type(outcome) for outcome in outcomes] == [Failure, Entry]
    assert isinstance(outcomes[0], Failure)
    assert outcomes[0].lost


def test_a_campaign_is_the_same_as_here_though_a_worker_is_killed(cluster: Any, tmp_path: Path, digits: Dense) -> None:
    chosen = Campaign("same", SUBJECT, ("uniform",), ("counts",), 0.5, 0.5)
    killed: list[int] = []

    def kill(entry: Entry | None, line: str) -> None:
        if entry is not None and entry.trial == 2 and not killed:
            killed.extend(processes(cluster, "OneJob"))
            for worker in killed:
                os.kill(worker, signal.SIGKILL)

    def ignore(entry: Entry | None, line: str) -> None:
        return None

    found = {}
    for name, workers in {"local": Workers(), "ray": Workers(1, "ray", cluster.address)}.items():
        with Store(str(tmp_path / f"{name}.db")) as store:
            summary = run_campaign(chosen, store, trials=6, workers=workers, listen=kill if name == "ray" else ignore)
            assert (summary.finished, summary.failed) == (6, [])
            entries = store.entries(study="same")
        found[name] = sorted((e.strategy, e.trial, e.plan_digest, e.accuracy.validation.top1) for e in entries)
    assert killed
    assert found["ray"] == found["local"]


PLUGIN = '''
import os, time
from pathlib import Path
from cost_models import Cost, CostModel, Deployable, Figure
from strategies import strategy
from workloads import workload, Splits
from dataclasses import replace
from . import helper

LOG = Path({log!r})

class Bench(CostModel):
    """Takes half a second, and notes from when to when and where."""
    name, kind, summary, figures, device = "bench", "measured", "test", ("latency",), "bench"
    def _latency(self, deployable):
        return 1.0
    def missing(self):
        return None if Path({data!r}).exists() else "its device"
    def _cost(self, candidate, reference):
        begun = time.monotonic()
        time.sleep(0.5)
        with LOG.open("a") as file:
            file.write(f"{{os.getpid()}} {{begun}} {{time.monotonic()}}\\n")
        return Cost(self.key, {{"latency": Figure(1.0, "measured")}}, speedup=Figure(1.0, "measured"))
    def predict(self, candidate, images):
        return candidate.module(images).detach().numpy()

def load(folder):
    assert Path({data!r}).exists(), "the data are read where they are not"
    return workload("digits/cnn").load(None)

def made():
    return replace(workload("digits/cnn"), name="plugged", load=load)

def method():
    found = strategy("uniform")
    found.name = "plugged"
    return found
'''


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution that only this process finds, with a target, a strategy and a workload; gives its folder."""
    (tmp_path / "data").mkdir()
    place = tmp_path / "plugins"
    package = place / "plugged_in"
    package.mkdir(parents=True)
    text = PLUGIN.format(log=str(tmp_path / "log"), data=str(tmp_path / "data"))
    (package / "__init__.py").write_text(text)
    (package / "helper.py").write_text("")
    about = place / "plugged_in-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged-in\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[shrinkboard.cost_models]\nbench = plugged_in:Bench\n"
        "[shrinkboard.strategies]\nplugged = plugged_in:method\n"
        "[shrinkboard.workloads]\nplugged = plugged_in:made\n"
    )
    monkeypatch.syspath_prepend(str(place))
    invalidate_caches()
    return tmp_path


def test_plugins_and_data_of_the_driver_reach_workers_and_one_measures_at_a_time(
    cluster: Any, plugin: Path, digits: Dense
) -> None:
    here = Evaluator(Subject("plugged"), ["bench"])
    here.freeze({})
    # From now on the data and the device are where the driver has been, and nowhere else.
    shutil.rmtree(plugin / "data")
    executor = RayTune(here, Workers(2, "ray", cluster.address))
    try:
        for trial in range(2):
            executor.submit(job(trial, 0.5, digits, name="plugged"))
        found = [ended(executor)[1], ended(executor)[1]]
        for trial in range(2, 4):
            executor.submit(job(trial, 0.25, digits, name="plugged"))
        [meter] = processes(cluster, "Meter")
        os.kill(meter, signal.SIGKILL)
        found += [ended(executor)[1], ended(executor)[1]]
        assert [type(outcome) for outcome in found] == [Entry] * 4, found
        for entry in found:
            assert isinstance(entry, Entry)
            assert entry.workload == "plugged"
            [cost] = entry.costs
            assert cost.runtime_accuracy is not None
            assert cost.runtime_accuracy.top1 == pytest.approx(entry.accuracy.validation.top1, abs=0.01)
        executor.submit(job(5, 0.5, digits, epochs=1000.0))
        until(lambda: processes(cluster, "OneJob.train"))
    finally:
        executor.close()
    until(lambda: not processes(cluster, "OneJob") and not processes(cluster, "Meter"))
    lines = [line.split() for line in (plugin / "log").read_text().splitlines()]
    spans = sorted((float(begun), float(end)) for _, begun, end in lines)
    assert all(end <= begun for (_, end), (begun, _) in pairwise(spans))
    assert len({pid for pid, *_ in lines}) == 2
    assert len(lines) >= 4


def test_where_tune_dies_its_jobs_are_lost_and_the_next_ones_run(evaluator: Evaluator, digits: Dense) -> None:
    executor = RayTune(evaluator, Workers(1, "ray"))
    folder = executor._folder
    try:
        executor.submit(job(0, 0.5, digits, epochs=1000.0))
        assert executor.next(timeout=0.1) is None
        first = executor._process
        assert first is not None and first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        _, outcome = ended(executor)
        assert isinstance(outcome, Failure)
        assert outcome.lost
        executor.submit(job(1, 0.5, digits))
        assert isinstance(ended(executor)[1], Entry)
        second = executor._process
        assert second is not None and second.pid is not None
    finally:
        executor.close()
    for group in (first.pid, second.pid):
        with pytest.raises(ProcessLookupError):
            os.killpg(group, 0)
    assert not folder.exists()


def test_what_cannot_be_had_is_refused_in_one_line(cluster: Any, evaluator: Evaluator) -> None:
    for workers, said in (
        (Workers(gpus=1.0), "need --executor ray"),
        (Workers(1, "ray", gpus=-1.0), "at least 0"),
        (Workers(1, "ray", cpus=0.0), "more than 0"),
        (Workers(1, "ray", cpus=1e6), "this machine has"),
        (Workers(1, "ray", "ray://localhost:1"), "client"),
        (Workers(1, "ray", "localhost:1"), "no Ray cluster answers"),
    ):
        with pytest.raises(InputError, match=said):
            checked(workers)
    with pytest.raises(InputError, match="room for 2 at a time"):
        RayTune(evaluator, Workers(3, "ray", cluster.address))


def test_shares_of_the_cpus_leave_room_for_every_worker() -> None:
    assert share([4, 4], 1) == 4
    assert share([4, 4], 3) == 2
    assert share([5, 3], 2) == 3
    assert share([2], 8) == 1


def test_the_users_own_network_is_shipped_with_what_it_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, folder = tmp_path / "home", tmp_path / "folder"
    home.mkdir()
    folder.mkdir()
    (home / "own_net_of_test.py").write_text("import beside_of_test\n")
    (home / "beside_of_test.py").write_text("")
    (home / "unused_of_test.py").write_text("")
    monkeypatch.syspath_prepend(str(home))
    __import__("own_net_of_test")
    stage(folder, "digits/own_net_of_test:build")
    names = {path.name for path in folder.iterdir()}
    assert {"search", "workloads", "shrinkboard.py", "own_net_of_test.py", "beside_of_test.py"} <= names
    assert "unused_of_test.py" not in names
    for name in ("own_net_of_test", "beside_of_test"):
        del sys.modules[name]
