"""The command as its users meet it: in a process of its own, in an empty folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

import shrinkboard as sb

from .forking import ROOT, forked

SEARCH = ["search", "--strategy", "uniform", "--target", "counts", "--trials", "1", "--epochs", "0.2"]


def shrinkboard(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return forked(folder, arguments, environment())


def launched(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """As a user starts it, with all that belongs to a start."""
    command = [sys.executable, "-m", "shrinkboard", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment() | variables, capture_output=True, text=True, timeout=240
    )


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("SHRINKBOARD_STORAGE", "SHRINKBOARD_DATA")}
    return kept | {"PYTHONPATH": str(ROOT), "COLUMNS": "120", "NO_COLOR": "1"}


def test_a_search_ends_with_a_board_a_report_and_files_for_exchange(tmp_path: Path) -> None:
    searched = launched(tmp_path, *SEARCH, "--strategy", "uniform+int,sentei", "--trials", "2", "--study", "first")
    assert searched.returncode == 0, searched.stderr
    assert "all trials done: 4 trials finished, 0 failed" in searched.stdout

    listed = launched(tmp_path, "leaderboard", "--study", "first", "--format", "json")
    rows = json.loads(listed.stdout)
    assert {row["strategy"] for row in rows} == {"uniform+int", "sentei", "dense", "dense+int"}

    shown = shrinkboard(tmp_path, "show", rows[0]["id"])
    assert shown.returncode == 0
    assert rows[0]["id"] in shown.stdout

    assert shrinkboard(tmp_path, "report", "--out", "board.html").returncode == 0
    assert "<svg" in (tmp_path / "board.html").read_text() or "createElementNS" in (tmp_path / "board.html").read_text()

    assert shrinkboard(tmp_path, "dump", "--out", "entries").returncode == 0
    imported = shrinkboard(tmp_path, "import", "entries", "--storage", "other.db")
    assert "6 entries imported" in imported.stdout
    again = shrinkboard(tmp_path, "leaderboard", "--format", "json", "--storage", "other.db")
    assert json.loads(again.stdout) == json.loads(shrinkboard(tmp_path, "leaderboard", "--format", "json").stdout)


def test_an_entry_becomes_a_file_and_is_checked(tmp_path: Path) -> None:
    searched = shrinkboard(tmp_path, *SEARCH, "--strategy", "uniform+int", "--study", "s")
    assert searched.returncode == 0, searched.stderr
    with sb.Store(str(tmp_path / "shrinkboard.db")) as store:
        [entry] = [entry for entry in store.entries() if entry.role == "candidate"]
    written = shrinkboard(tmp_path, "export", entry.id[:8], "--format", "qonnx", "--out", "network.onnx")
    assert written.returncode == 0, written.stderr
    assert "from its kept weights; 8 quantisers" in written.stdout
    assert sb.network_from_onnx(tmp_path / "network.onnx").compute_layers[0].name == "conv1"

    checked = shrinkboard(tmp_path, "verify", entry.id, "--format", "json")
    assert checked.returncode == 0, checked.stderr
    told = json.loads(checked.stdout)
    assert told["holds"] and {check["verdict"] for check in told["checks"]} == {"same"}

    better = sb.Entry.create(**entry.model_dump() | {"bytes": entry.bytes - 1})
    with sb.Store(str(tmp_path / "tampered.db")) as store:
        store.add(better)
    found = shrinkboard(tmp_path, "verify", better.id, "--storage", "tampered.db")
    assert found.returncode == 1
    assert "it does NOT hold: " in found.stdout and "1 differs" in found.stdout


def test_a_search_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    assert shrinkboard(tmp_path, *SEARCH, "--study", "s").returncode == 0
    again = shrinkboard(tmp_path, *SEARCH, "--study", "s")
    assert again.returncode == 2
    assert "--resume" in again.stderr
    resumed = shrinkboard(tmp_path, *SEARCH, "--study", "s", "--trials", "3", "--resume")
    assert "2 trials finished" in resumed.stdout


def test_several_workers_share_a_search(tmp_path: Path) -> None:
    told = launched(tmp_path, *SEARCH, "--strategy", "uniform,l1", "--trials", "2", "--workers", "2")
    assert "4 trials finished, 0 failed" in told.stdout, told.stderr
    rows = json.loads(shrinkboard(tmp_path, "leaderboard", "--format", "json").stdout)
    assert len({row["id"] for row in rows}) == 6


def test_options_of_training_reach_every_entry_and_the_board_ranks_the_whole_cost(tmp_path: Path) -> None:
    options = ["--training-epochs", "2", "--distillation", "0.5", "--straight-through"]
    told = shrinkboard(tmp_path, *SEARCH, "--strategy", "snip_structured,uniform+minifloat", *options)
    assert "2 trials finished, 0 failed" in told.stdout, told.stderr
    with sb.Store(str(tmp_path / "shrinkboard.db")) as store:
        entries = {entry.strategy: entry for entry in store.entries() if entry.role == "candidate"}
    masked, quantised = entries["snip_structured"], entries["uniform+minifloat"]
    assert masked.epochs == 2.0 and quantised.epochs != 2.0
    assert masked.plan["settings"]["distillation"] == quantised.plan["settings"]["distillation"] == 0.5
    assert quantised.plan["settings"]["straight_through"] and "straight_through" not in masked.plan["settings"]
    # The teacher's training is part of what learning from it costs.
    assert masked.training.total_epochs == masked.training.dense_epochs + 2.0
    front = shrinkboard(tmp_path, "leaderboard", "--front", "training", "--format", "json")
    seconds = [row["total_seconds"] for row in json.loads(front.stdout)]
    assert seconds == sorted(seconds) and len(seconds) == 4


def test_study_and_board_live_in_postgresql_too(tmp_path: Path, postgres: str) -> None:
    study = f"s{os.getpid()}"
    assert shrinkboard(tmp_path, *SEARCH, "--study", study, "--storage", postgres).returncode == 0
    resumed = shrinkboard(tmp_path, *SEARCH, "--study", study, "--trials", "2", "--resume", "--storage", postgres)
    assert "1 trials finished" in resumed.stdout, resumed.stderr
    listed = shrinkboard(tmp_path, "leaderboard", "--study", study, "--format", "json", "--storage", postgres)
    assert len(json.loads(listed.stdout)) == 4
    assert not list(tmp_path.glob("*.db"))


@pytest.mark.parametrize("signalled", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_what_clusters_send_keep_what_was_finished(tmp_path: Path, signalled: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "shrinkboard", *SEARCH, "--trials", "50", "--strategy", "l1", "--study", "s"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "#1 " in line:
            break
    process.send_signal(signalled)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "interrupted" in out
    assert "Traceback" not in err
    with sb.Store(str(tmp_path / "shrinkboard.db")) as store:
        assert len([e for e in store.entries(study="s") if e.role == "candidate"]) >= 2


def test_a_dry_run_says_what_would_be_done_and_does_nothing(tmp_path: Path) -> None:
    told = shrinkboard(tmp_path, *SEARCH, "--trials", "7", "--dry-run")
    assert told.returncode == 0, told.stderr
    assert "7 trials" in told.stdout
    assert "min" in told.stdout
    with sb.Store(str(tmp_path / "shrinkboard.db")) as store:
        assert list(store.entries()) == []


@pytest.mark.parametrize("command", ["workloads", "strategies", "targets"])
def test_what_there_is_can_be_listed_as_a_table_and_as_json(tmp_path: Path, command: str) -> None:
    table, listed = shrinkboard(tmp_path, command), shrinkboard(tmp_path, command, "--format", "json")
    assert table.returncode == listed.returncode == 0
    rows = json.loads(listed.stdout)
    assert all(row[command.removesuffix("s").replace("strategie", "strategy")] for row in rows)


def test_help_answers_without_the_heavy_libraries(tmp_path: Path) -> None:
    code = (
        "import sys, shrinkboard; sys.argv = ['shrinkboard', 'search', '--help']\n"
        "try: shrinkboard.main()\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'optuna', 'pandas', 'sqlalchemy', 'onnxruntime') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert told.stdout.rstrip().endswith("[]"), told.stdout
    assert "Example: shrinkboard search" in told.stdout


def bad(folder: Path, *arguments: str) -> str:
    return refusal(shrinkboard(folder, *arguments))


def refusal(told: subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr."""
    assert told.returncode == 2, (told.stdout, told.stderr)
    lines = told.stderr.strip().splitlines()
    assert len(lines) == 1, told.stderr
    return lines[0]


def test_unknown_names_are_refused_in_one_line(tmp_path: Path) -> None:
    assert "digits/cnn" in bad(tmp_path, *SEARCH, "--workload", "digit/cnn")
    assert "uniform" in bad(tmp_path, *SEARCH, "--strategy", "unifrom")
    assert "counts" in bad(tmp_path, *SEARCH, "--target", "count")
    assert "no strategy" in bad(tmp_path, *SEARCH, "--strategy", ",")
    assert "'soon'" in bad(tmp_path, *SEARCH, "--time-budget", "soon")
    assert "nsga2" in bad(tmp_path, *SEARCH, "--sampler", "annealing")
    assert "rungs" in bad(tmp_path, *SEARCH, "--stages", "rugs")
    assert "bit_operations" in bad(tmp_path, *SEARCH, "--objective", "speed")
    assert "latency=2ms" in bad(tmp_path, *SEARCH, "--limit", "latency<2ms")
    assert not list(tmp_path.glob("*.db"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["serch"],
        ["search", "--trials", "0"],
        ["search", "--epochs", "-1"],
        ["search", "--trails", "3"],
        ["search", "--executor", "slurm"],
        ["search", "--trial-cpus", "2"],
        ["search", "--trial-timeout", "soon"],
        ["stop"],
        ["show"],
    ],
)
def test_a_wrong_command_line_is_refused_in_one_line(tmp_path: Path, arguments: list[str]) -> None:
    assert bad(tmp_path, *arguments).startswith("shrinkboard: ")


def test_damaged_and_missing_data_are_refused_in_one_line(tmp_path: Path) -> None:
    missing = bad(tmp_path, *SEARCH, "--workload", "cifar10/resnet8", "--data-dir", str(tmp_path / "nowhere"))
    assert "cifar" in missing.lower()
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ["batches.meta", "test_batch", *(f"data_batch_{i}" for i in range(1, 6))]:
        (folder / name).write_bytes(b"\x80\x02cos\nsystem\nU\x04true\x85R.")
    damaged = bad(tmp_path, *SEARCH, "--workload", "cifar10/resnet8", "--data-dir", str(tmp_path))
    assert "batch" in damaged


@pytest.mark.parametrize(
    "storage", ["nowhere/board.db", ".", "mysql://u:secret@h/d", "notes.txt", "postgresql://u:secret@127.0.0.1:1/d"]
)
def test_a_storage_that_cannot_be_opened_is_refused_in_one_line(tmp_path: Path, storage: str) -> None:
    (tmp_path / "notes.txt").write_text("no database, but long enough to be mistaken for one by its size alone\n" * 40)
    line = bad(tmp_path, *SEARCH, "--storage", storage)
    assert "storage" in line
    assert "secret" not in line


def test_networks_that_cannot_be_used_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Branching(nn.Module):\n"
        "    def __init__(self): super().__init__(); self.a = nn.Conv2d(1, 10, 8); self.f = nn.Flatten()\n"
        "    def forward(self, x): return self.f(self.a(x if x.sum() > 0 else -x))\n"
        "def branching(): return Branching()\n"
        "def wrong(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))\n"
    )
    assert "traced" in bad(tmp_path, *SEARCH, "--model", "mine:branching", "--dataset", "digits")
    assert "10" in bad(tmp_path, *SEARCH, "--model", "mine:wrong", "--dataset", "digits")
    assert "--dataset" in bad(tmp_path, *SEARCH, "--model", "mine:wrong")
    assert "nothere" in bad(tmp_path, *SEARCH, "--model", "mine:nothere", "--dataset", "digits")


def test_a_users_own_network_is_searched(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def net(): return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),\n"
        "    nn.Flatten(), nn.Linear(8 * 36, 10))\n"
    )
    told = shrinkboard(tmp_path, *SEARCH, "--model", "mine:net", "--dataset", "digits", "--trials", "2")
    assert told.returncode == 0, told.stderr
    assert "2 trials finished" in told.stdout


def test_a_checkpoint_that_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    import torch

    save_file({"conv1.weight": torch.zeros(3)}, tmp_path / "weights.safetensors")
    assert "conv1" in bad(tmp_path, *SEARCH, "--checkpoint", str(tmp_path / "weights.safetensors"))
    assert "nowhere" in bad(tmp_path, *SEARCH, "--checkpoint", str(tmp_path / "nowhere.safetensors"))


def test_a_folder_that_hides_a_room_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies" / "__init__.py").write_text("")
    line = refusal(launched(tmp_path, "workloads"))
    assert "strategies" in line
    assert "rename" in line


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a board."""
    folder = tmp_path_factory.mktemp("searched")
    assert shrinkboard(folder, *SEARCH).returncode == 0
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["leaderboard", "--where", "__import__('os')"],
        ["leaderboard", "--max-latency", "fast"],
        ["leaderboard", "--sort", "beauty"],
        ["show", "zzzz"],
        ["show", "abcdef"],
        ["import", "nowhere.json"],
        ["targets", "check", "nonsense"],
        ["strategies", "check", "nonsense"],
    ],
)
def test_questions_that_have_no_answer_are_refused_in_one_line(searched: Path, arguments: list[str]) -> None:
    assert bad(searched, *arguments)


def test_a_plug_in_that_breaks_its_contract_is_named_in_one_line(tmp_path: Path) -> None:
    """A cost model installed as a package beside ours, whose figures depend on the time of day."""
    package = tmp_path / "site" / "noisy"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "import time\nfrom cost_models import Cost, CostModel, Figure\n"
        "class Noisy(CostModel):\n"
        "    name, kind, summary, figures = 'noisy', 'modelled', 'not deterministic', ('latency',)\n"
        "    def _latency(self, deployable): return time.perf_counter()\n"
        "    def _cost(self, candidate, reference):\n"
        "        latency = time.perf_counter()\n"
        "        speedup = Figure(reference.latency / latency, 'modelled')\n"
        "        return Cost(self.key, {'latency': Figure(latency, 'modelled')}, speedup)\n"
    )
    about = tmp_path / "site" / "noisy-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: noisy\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[shrinkboard.cost_models]\nnoisy = noisy:Noisy\nbroken = noisy:Missing\n"
        "[shrinkboard.strategies]\nbroken = noisy:Missing\n"
    )
    path = f"{ROOT}{os.pathsep}{package.parent}"
    assert "noisy" in refusal(launched(tmp_path, "targets", "check", "noisy", PYTHONPATH=path))
    assert "broken" in refusal(launched(tmp_path, "targets", "check", "broken", PYTHONPATH=path))
    assert "broken" in refusal(launched(tmp_path, "strategies", "check", "broken", PYTHONPATH=path))
    listed = launched(tmp_path, "targets", PYTHONPATH=path)
    assert listed.returncode == 0
    assert "noisy" in listed.stdout
