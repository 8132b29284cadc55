"""The board as one HTML file that works offline: data, style and script stand inside, nothing is fetched."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from .errors import LeaderboardError, quoted
from .query import Board, Track


def write_report(board: Board, path: Path) -> None:
    """Writes `report_html(board)` to `path`; raises `LeaderboardError` where that cannot be written."""
    try:
        path.write_text(report_html(board), encoding="utf-8")
    except OSError as error:
        reason = f"report {quoted(str(path))} cannot be written ({error.strerror}); give another --out"
        raise LeaderboardError(reason) from None


def report_html(board: Board) -> str:
    """The page. Its content-security policy allows this style and this script, by hash, and no request."""
    page = resources.files("leaderboard") / "page"
    style, script = ((page / name).read_text(encoding="utf-8") for name in ("board.css", "board.js"))
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    parts = {"policy": policy, "style": style, "script": script, "data": embedded(page_data(board))}
    template = (page / "board.html").read_text(encoding="utf-8")
    # In one pass, so that text of an entry that looks like a placeholder stays what it is.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def page_data(board: Board) -> dict[str, Any]:
    """What the page's script draws: the tracks with their rows, and the dense network of each."""
    return {
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "tracks": [
            {
                "workload": track.workload,
                "target": track.target,
                "key": track.key,
                "kind": track.kind,
                "dense": {
                    "accuracy": _dense_accuracy(track),
                    "latency": track.reference_latency,
                    "seconds": _dense_seconds(track),
                },
                "rows": [asdict(row) for row in track.rows],
            }
            for track in board.tracks
        ],
    }


def embedded(data: Mapping[str, Any]) -> str:
    """`data` as JSON that may stand inside a script element: ASCII, and no character that HTML could read."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _dense_accuracy(track: Track) -> float:
    """The frozen reference's, else the mean of the dense networks that the entries came from (one per seed)."""
    if track.reference_accuracy is not None:
        return track.reference_accuracy
    return sum(row.dense_accuracy for row in track.rows) / len(track.rows)


def _dense_seconds(track: Track) -> float:
    """What its training took, a mean likewise; zero where its weights came from a checkpoint."""
    return sum(row.dense_seconds for row in track.rows) / len(track.rows)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
