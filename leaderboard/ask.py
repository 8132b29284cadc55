"""One question to a board, without a store to open and to close."""

from __future__ import annotations

import os

from .commands import DEFAULT_STORAGE
from .query import Board, Front, Query
from .store import Store


def leaderboard(
    *,
    workload: str | None = None,
    target: str | None = None,
    strategy: str | None = None,
    study: str | None = None,
    max_drop: float | None = None,
    max_latency: float | None = None,
    where: str | None = None,
    front: Front = "speed",
    pareto: bool = False,
    sort: str | None = None,
    limit: int | None = None,
    finals: bool = False,
    storage: str | None = None,
) -> Board:
    """What the command `leaderboard` lists; `Query` says what each argument means, `Board` what can be done with it.

    `storage` is a file name or URL; None is the environment's SHRINKBOARD_STORAGE or, without it, `shrinkboard.db` in
    the working folder. Raises `LeaderboardError`.
    """
    query = Query(
        workload=workload,
        target=target,
        strategy=strategy,
        study=study,
        max_drop=max_drop,
        max_latency=max_latency,
        where=where,
        front=front,
        pareto=pareto,
        sort=sort,
        limit=limit,
        finals=finals,
    )
    with Store(storage or os.environ.get("SHRINKBOARD_STORAGE", DEFAULT_STORAGE), create=False) as store:
        return store.query(query)
