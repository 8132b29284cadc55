"""A user's device file as a target: one name in entries, frozen latencies, studies and on the board."""

from __future__ import annotations

from pathlib import Path

import pytest

from cost_models import target
from leaderboard import Query, Store
from search import Campaign, Evaluator, Known, Subject, Summary, default_objectives, run_campaign, values
from workloads import InputError

SHIPPED = Path(__file__).parents[2] / "cost_models"
GIVEN = {"roofline": SHIPPED / "devices/jetson-tx2.toml", "fpga": SHIPPED / "fpga/devices/z7020.toml"}


def device_file(family: str, folder: Path, name: str = "my-board") -> str:
    """The target of a shipped device under another name."""
    path = folder / f"{family}-file.toml"
    given = GIVEN[family].read_text(encoding="utf-8")
    path.write_text(given.replace(f'name = "{GIVEN[family].stem}"', f'name = "{name}"'), encoding="utf-8")
    return f"{family}:{path}"


def run(store: Store, *targets: str, trials: int = 1, resume: bool = False, workers: int = 1) -> Summary:
    campaign = Campaign("s", Subject("digits/cnn"), ("uniform+int",), targets, epochs=0.0, training_epochs=0.0)
    return run_campaign(campaign, store, trials=trials, resume=resume, workers=workers)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "board.db"))


@pytest.mark.usefixtures("digits")
def test_a_device_file_is_searched_resumed_and_ranked_as_the_device_it_names(store: Store, tmp_path: Path) -> None:
    targets = [device_file(family, tmp_path) for family in GIVEN]
    for trials in (1, 2):
        summary = run(store, *targets, trials=trials, resume=trials == 2)
        assert (summary.finished, summary.failed, summary.given_up) == (1, [], {})
    entries = list(store.entries(study="s"))
    assert len(entries) == 4  # two controls, two trials
    for family in GIVEN:
        name = f"{family}-my-board"
        frozen = store.reference("digits/cnn", name)
        assert frozen is not None and frozen.latency > 0
        [track] = store.query(Query(target=name)).tracks
        assert {row.id for row in track.rows} == {entry.id for entry in entries}
        for entry in entries:
            [cost] = [cost for cost in entry.costs if cost.target == name]
            assert cost.key == name
            assert cost.speedup is not None
            assert cost.speedup.value == pytest.approx(frozen.latency / cost.figures["latency"].value)
    latencies = tuple(cost.figures["latency"].value for cost in entries[0].costs)
    objectives = default_objectives([target(text) for text in targets])
    assert values(Known.of(entries[0]), objectives)[1:] == latencies


@pytest.mark.usefixtures("digits")
def test_worker_processes_open_device_files_too(store: Store, tmp_path: Path) -> None:
    summary = run(store, device_file("roofline", tmp_path), workers=2)
    assert (summary.finished, summary.failed) == (1, [])


@pytest.mark.usefixtures("digits")
def test_a_study_is_not_resumed_on_another_device(store: Store, tmp_path: Path) -> None:
    run(store, device_file("roofline", tmp_path))
    with pytest.raises(InputError, match="--target roofline-my-board, not roofline-other;"):
        run(store, device_file("roofline", tmp_path, "other"), trials=2, resume=True)


def test_two_targets_of_one_name_are_refused(tmp_path: Path) -> None:
    own = device_file("roofline", tmp_path, "jetson-tx2")
    with pytest.raises(InputError, match="both named 'roofline-jetson-tx2'") as refusal:
        Evaluator(Subject("digits/cnn"), ["roofline-jetson-tx2", own])
    assert "\n" not in str(refusal.value)
