"""optuna-dashboard opens a study as it stands in the storage."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from urllib.request import urlopen
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

from leaderboard import Store
from search import Campaign, Subject, run_campaign
from search.lane import Staging
from search.storage import optuna_storage
from workloads import Dense

from .fakes import FakeEvaluator


class Quiet(WSGIRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """No line for every request."""


def test_the_dashboard_shows_the_study_with_its_front(tmp_path: Path, digits: Dense) -> None:
    dashboard = pytest.importorskip("optuna_dashboard", reason="needs optuna-dashboard")
    with Store(str(tmp_path / "board.db")) as store:
        for name in ("s", "another"):
            chosen = Campaign(
                name, Subject("digits/cnn"), ("l1",), ("counts",), 1.0, 2.0, limits=("drop=40",), staging=Staging(True)
            )
            run_campaign(chosen, store, trials=6, evaluator=FakeEvaluator(digits))
        entries = list(store.entries(study="s"))
        with (
            optuna_storage(store) as storage,
            make_server("127.0.0.1", 0, dashboard.wsgi(storage), handler_class=Quiet) as server,
        ):
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                studies = _get(server.server_port, "studies")["study_summaries"]
                by_name = {one["study_name"]: one for one in studies}
                assert set(by_name) == {"s/l1", "another/l1"}
                shown = _get(server.server_port, f"studies/{by_name['s/l1']['study_id']}?after=0")
            finally:
                server.shutdown()
                thread.join()
    complete = [trial for trial in shown["trials"] if trial["state"] == "Complete"]
    attributes = [{one["key"]: one["value"] for one in trial["user_attrs"]} for trial in complete]
    told = {found["entry"].strip('"') for found in attributes if "entry" in found}
    assert told == {entry.id for entry in entries if entry.role == "candidate"}
    assert shown["best_trials"]
    assert shown["objective_names"] == ["accuracy", "bit_operations@counts"]
    assert {"Running", "Waiting"}.isdisjoint(trial["state"] for trial in shown["trials"])


def _get(port: int, path: str) -> dict:
    with urlopen(f"http://127.0.0.1:{port}/api/{path}", timeout=20) as answer:
        return json.load(answer)
