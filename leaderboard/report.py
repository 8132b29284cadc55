"""The board as one HTML file that works offline: what the server would answer stands inside, nothing is fetched."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from . import answers
from ._page import page
from .errors import writing
from .query import Query
from .store import Store

ROWS = 50_000
"""That a report holds at most, shared evenly by its tracks."""
PLANS = 100
"""Entries of a track that a report holds in full, with their plans, beside those on its fronts."""


def write_report(store: Store, path: Path, query: Query | None = None) -> None:
    """Writes `report_html` to `path`; raises `LeaderboardError` where that cannot be written."""
    content = report_html(store, query)
    with writing(path):
        path.write_text(content, encoding="utf-8")


def report_html(store: Store, query: Query | None = None) -> str:
    """The page with what `query` asks for: results of searches and of finals, and the best entries in full."""
    return page(_data(store, query or Query()))[0]


def _data(store: Store, query: Query) -> dict[str, Any]:
    listed = answers.tracks(store).tracks
    limit = max(1, min(answers.MOST_ROWS, ROWS // max(1, len(listed))))
    boards = [answers.board(store, replace(query, finals=finals, limit=limit)) for finals in (False, True)]
    # One split of one track each, as the page asks for them.
    found = [(track, board.finals) for board in boards for track in board.tracks]
    splits = {(track.workload, track.key, finals) for track, finals in found}
    shown = [
        track.model_copy(
            update={
                "searched": (track.workload, track.key, False) in splits,
                "finals": (track.workload, track.key, True) in splits,
            }
        )
        for track in listed
        if {(track.workload, track.key, finals) for finals in (False, True)} & splits
    ]
    wanted = dict.fromkeys(id for track, _ in found for id in _best(track.rows))
    return {
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "tracks": [_plain(track) for track in shown],
        "boards": [{"finals": finals, **_plain(track)} for track, finals in found],
        "entries": {id: _plain(answers.entry(store, id)) for id in wanted},
        "strategies": [
            {"workload": track.workload, "key": track.key, **_plain(strategy)}
            for track in shown
            for strategy in answers.strategies(store, track.workload, track.key).strategies
        ],
        "rankings": [
            {"workload": track.workload, "key": track.key, **_plain(answers.ranking(store, track.workload, track.key))}
            for track in shown
            if track.finals
        ],
    }


def _best(rows: Any) -> list[str]:
    """Ids of the entries that a report holds in full: those on a front, then of every strategy in turn its first."""
    fronts = [id for id, *on in zip(rows.id, rows.front, rows.training_front, strict=True) if any(on)]
    places: Counter[str] = Counter()
    turns = []
    for id, strategy, drop in zip(rows.id, rows.strategy, rows.drop, strict=True):
        # What has lost more than ten points counts for nothing in a ranking, and is looked at last.
        turns.append((drop > 10, places[strategy], id))
        places[strategy] += 1
    others = [id for *_, id in sorted(turns)]
    return list(dict.fromkeys([*fronts, *others]))[: len(fronts) + PLANS]


def _plain(answer: BaseModel) -> dict[str, Any]:
    return json.loads(answers.encoded(answer))
