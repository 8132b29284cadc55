"""What the page asks for, as plain typed data: the server sends these answers, the report holds them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import GenericAlias
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, create_model

from .benchmark import TrackKind
from .definitions import current_benchmark
from .entry import Entry, Kind, Method
from .query import Front, Query, Row, Track
from .ranking import stored_ranking
from .standing import At
from .statistics import Estimate
from .store import Store

MOST_ROWS = 20_000
"""Rows of a track that an answer holds: what a page can draw and still be quick."""
_SHOWN_CHOICES = 12


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class TrackName(Answer):
    """What may be ranked together: one workload on one target key."""

    workload: str
    target: str
    key: str
    """`target`, or `target@fingerprint` where machine and runtime matter."""
    kind: Kind
    metric: str
    """What accuracy is: `top-1` or `mIoU`."""
    timed: bool
    """Whether any of its results has a speed-up."""
    searched: bool
    """Whether it has results of searches, on validation."""
    finals: bool
    """Whether it has results on the test split."""


class Tracks(Answer):
    tracks: list[TrackName]


class Dense(Answer):
    """The dense network of a track."""

    accuracy: float | None
    """On the split of the rows: frozen with the reference, else the mean over those that the rows come from."""
    latency: float | None
    """In seconds; None where the target has no latency."""
    seconds: float | None
    """That its training took, a mean likewise; 0 where it came from a checkpoint."""


_OF_TRACK = ("workload", "target", "key", "kind")
_COLUMNS = tuple(name for name in Row._fields if name not in _OF_TRACK)
_LISTS: dict[str, Any] = {name: (GenericAlias(list, (get_type_hints(Row)[name],)), ...) for name in _COLUMNS}
Columns = create_model(
    "Columns",
    __base__=Answer,
    __doc__="Rows by column, all of equal length: seconds, joules, bytes; accuracies in 0…1, drop in points.",
    **_LISTS,
)


class TrackAnswer(Answer):
    workload: str
    target: str
    key: str
    kind: str
    matched: int
    """Entries that match, before `limit` and `pareto`."""
    dense: Dense
    rows: Columns  # type: ignore[valid-type]  # made of the fields of `Row`


class BoardAnswer(Answer):
    front: Front
    finals: bool
    tracks: list[TrackAnswer]


class EntryAnswer(Answer):
    id: str
    entry: Entry
    """Without its raw samples, which `shrinkboard show ID --format json` gives."""


class Setting(Answer):
    """One knob of a strategy, and what was tried of it."""

    name: str
    """`keep.*` stands for all knobs of single layers that begin so."""
    low: float | None
    high: float | None
    """Of numbers; None otherwise."""
    values: list[str]
    """A few that were tried, the commonest first."""
    distinct: int
    """How many different ones were."""


class StrategyAnswer(Answer):
    name: str
    entries: int
    method: Method | None
    """None in entries of schemas 1 to 3, which do not say."""
    settings: list[Setting]
    of_entries: int
    """So many entries, the newest ones, the settings were read from."""


class Strategies(Answer):
    strategies: list[StrategyAnswer]


class RankedStrategy(Answer):
    """A strategy's line in a ranking; figures are of the test split, estimates over search seeds."""

    rank: int | None
    """Shared by those that could not be told apart; None for fewer than two search seeds."""
    name: str
    hypervolume: Estimate | None
    front_probability: float | None
    """That it adds a point to the front of all strategies."""
    at_gain: list[At]
    """Accuracy at fixed gains."""
    at_drop: list[At]
    """Gain at fixed drops."""


class Ranking(Answer):
    """Strategies by mean hypervolume, as `shrinkboard rank` has it; that gives pairs, curves and raw values, too."""

    benchmark: str
    """Its id, such as `digits-cnn-fpga-zcu104@1`."""
    track: TrackKind
    trials: int
    """Full evaluations of a strategy in each search."""
    search_seeds: int
    final_seeds: int
    """Fresh seeds that each finalist was trained on."""
    strategies: list[RankedStrategy]
    deviations: list[str]
    """What is not as the benchmark asks for, and of which strategies."""
    notes: list[str]


class RankingAnswer(Answer):
    ranking: Ranking | None
    """None where no benchmark is frozen for the track, or no finalist was trained yet."""


def tracks(store: Store) -> Tracks:
    """Every track of a storage, by workload and target key."""
    return Tracks(
        tracks=[
            TrackName(
                workload=track.workload,
                target=track.target,
                key=track.key,
                kind=track.kind,
                metric="mIoU" if track.segments else "top-1",
                timed=track.timed,
                searched=track.searched,
                finals=track.finals,
            )
            for track in store.tracks()
        ]
    )


def board(store: Store, query: Query) -> BoardAnswer:
    """The rows that match, by column."""
    found = store.query(query)
    return BoardAnswer.model_construct(
        front=found.front, finals=query.finals, tracks=[_track(track) for track in found.tracks]
    )


def entry(store: Store, id_prefix: str) -> EntryAnswer:
    """One entry in full, but for its raw samples; raises `LeaderboardError` where there is none."""
    found = store.get(id_prefix)
    costs = tuple(cost.model_copy(update={"samples": {}}) for cost in found.costs)
    return EntryAnswer.model_construct(id=found.id, entry=found.model_copy(update={"costs": costs}))


def strategies(store: Store, workload: str, key: str, name: str | None = None) -> Strategies:
    """The strategies of a track, or the one of this name: what they say of themselves, and the settings tried."""
    return Strategies(
        strategies=[
            StrategyAnswer(
                name=tried.strategy,
                entries=tried.entries,
                method=tried.method,
                settings=settings(tried.knobs),
                of_entries=len(tried.knobs),
            )
            for tried in store.tried(workload, key, name)
        ]
    )


def ranking(store: Store, workload: str, key: str) -> RankingAnswer:
    """The ranking of a track by the benchmark that holds for it."""
    benchmark = current_benchmark(store, workload, key)
    if benchmark is None:
        return RankingAnswer(ranking=None)
    found = stored_ranking(store, benchmark)
    if all(one.hypervolume is None for one in found.strategies):
        return RankingAnswer(ranking=None)
    return RankingAnswer(
        ranking=Ranking(
            benchmark=benchmark.id,
            track=benchmark.track,
            trials=benchmark.trials,
            search_seeds=len(benchmark.search_seeds),
            final_seeds=benchmark.final_seeds,
            strategies=[
                RankedStrategy(
                    rank=one.rank,
                    name=one.strategy,
                    hypervolume=one.hypervolume,
                    front_probability=one.front_probability,
                    at_gain=list(one.at_gain),
                    at_drop=list(one.at_drop),
                )
                for one in found.strategies
            ],
            deviations=found.deviations(),
            notes=list(found.notes),
        )
    )


def settings(knobs: Sequence[Mapping[str, Any]]) -> list[Setting]:
    """What was tried of every knob: those of single layers together, then the others' ranges or commonest values."""
    tried: dict[str, list[Any]] = {}
    for values in knobs:
        for name, value in values.items():
            prefix, dot, _ = name.partition(".")
            tried.setdefault(f"{prefix}.*" if dot else name, []).append(value)
    return [_setting(name, values) for name, values in tried.items()]


def encoded(answer: BaseModel) -> bytes:
    """An answer as JSON."""
    return answer.__pydantic_serializer__.to_json(answer)


def _track(track: Track) -> TrackAnswer:
    rows = track.rows
    values = zip(*rows, strict=True) if rows else ((),) * len(Row._fields)
    columns: dict[str, Any] = dict(zip(Row._fields, map(list, values), strict=True))
    frozen = track.reference_accuracy
    return TrackAnswer.model_construct(
        workload=track.workload,
        target=track.target,
        key=track.key,
        kind=track.kind,
        matched=track.matched,
        dense=Dense(
            accuracy=_mean(row.dense_accuracy for row in rows) if frozen is None else frozen,
            latency=track.reference_latency,
            seconds=_mean(row.dense_seconds for row in rows),
        ),
        rows=Columns.model_construct(**{name: columns[name] for name in _COLUMNS}),
    )


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return sum(listed) / len(listed) if listed else None


def _setting(name: str, values: list[Any]) -> Setting:
    numbers = [float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    shown = Counter(value if isinstance(value, str) else json.dumps(value) for value in values)
    return Setting(
        name=name,
        low=min(numbers, default=None),
        high=max(numbers, default=None),
        values=[value for value, _ in shown.most_common(_SHOWN_CHOICES)],
        distinct=len(shown),
    )
