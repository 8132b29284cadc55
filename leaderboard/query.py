"""What can be asked of the board: `Query`, and the `Board` that answers it, one track per workload and target key."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_type_hints

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql.visitors import iterate

from . import _tables as tables
from .entry import Kind
from .errors import LeaderboardError, quoted, writing

if TYPE_CHECKING:
    import pandas
    import pyarrow

Front = Literal["speed", "training"]
"""What accuracy is set against: the speed-up, or the seconds that the whole training took, dense network included."""

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_NUMBERS = (
    *("accuracy", "drop", "speedup", "low", "high", "latency", "energy", "top1", "top5", "miou", "dense_accuracy"),
    *("parameters", "macs", "bytes", "dense_parameters", "dense_macs"),
    *("epochs", "seconds", "dense_epochs", "dense_seconds", "total_epochs", "total_seconds"),
    *("epoch_fp32", "epoch_bf16", "dense_epoch_fp32", "dense_epoch_bf16", "trial", "seed"),
)
"""Columns that `where` may name; times in seconds, energy in joules, accuracies in 0…1, drop in points."""
_COLUMNS: dict[str, sa.ColumnElement[Any]] = {
    name: (tables.costs if name in tables.costs.c else tables.entries).c[name]
    for name in (*_NUMBERS, "id", "study", "strategy", "role", "unstable", "final", "starts_from", "created")
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_FRONTS: dict[Front, str] = {"speed": "-speedup", "training": "total_seconds"}
"""What stands against accuracy, in the words of `Query.sort`."""
# Long enough for any question a person types; keeps the parser's recursion shallow.
_MAX_EXPRESSION = 500


@dataclass(frozen=True)
class Query:
    """What is wanted; None means no limit."""

    workload: str | None = None
    target: str | None = None
    """Name (`cpu-onnxruntime`: every machine, a track each) or key (`cpu-onnxruntime@ab12cd34`)."""
    strategy: str | None = None
    """One name, or several with commas."""
    study: str | None = None
    max_drop: float | None = None
    """Points of accuracy below the dense network: 1.0 is 0.01."""
    max_latency: float | None = None
    """Seconds; entries without a latency are then left out."""
    where: str | None = None
    """Such as `parameters < 20000 and top1 >= 0.95`; an absent figure never matches."""
    front: Front = "speed"
    """Which front the board shows."""
    pareto: bool = False
    """Only that front of what matches."""
    sort: str | None = None
    """A column, with `-` before it for the largest first; absent figures come last. None: the best of the front's
    figure first."""
    limit: int | None = None
    """Rows per track."""
    finals: bool = False
    """Results on the test split instead of those of searches, which are on validation; never both in one board."""


class Row(NamedTuple):
    """One entry on one target. Seconds, joules, bytes; accuracies are fractions, `drop` is in points."""

    id: str
    workload: str
    target: str
    key: str
    kind: str
    study: str
    strategy: str
    trial: int
    role: str
    seed: int
    front: bool
    """On the Pareto front (speed-up, accuracy) of what the query matched on this track."""
    training_front: bool
    """On that of accuracy and `total_seconds`."""
    unstable: bool
    final: bool
    """Whether accuracies are of the test split; of validation otherwise."""
    accuracy: float
    """That the ranking uses: as the target's runtime runs the network, else as simulated."""
    drop: float
    dense_accuracy: float
    speedup: float | None
    low: float | None
    high: float | None
    """95 % interval of the speed-up."""
    latency: float | None
    energy: float | None
    parameters: int
    macs: int
    bytes: int
    dense_parameters: int
    dense_macs: int
    epochs: float
    seconds: float
    dense_epochs: float
    dense_seconds: float
    """Training of the candidate and of the dense network it came from."""
    starts_from: str | None
    total_epochs: float
    total_seconds: float
    """From fresh weights to the result, the dense network's training included where the recipe started from it."""
    epoch_fp32: float | None
    epoch_bf16: float | None
    dense_epoch_fp32: float | None
    dense_epoch_bf16: float | None
    """Seconds that a training epoch takes, the candidate's and the dense network's."""
    created: str


@dataclass(frozen=True)
class Track:
    """What may be ranked together: one workload on one target key, measured or modelled."""

    workload: str
    target: str
    key: str
    kind: str
    reference_latency: float | None
    """Of the dense network, frozen, in seconds."""
    reference_accuracy: float | None
    """Likewise on validation; None on a board of finals."""
    rows: tuple[Row, ...]
    matched: int
    """Rows that match, before `limit` and `pareto`."""


@dataclass(frozen=True)
class Listed:
    """A track that a storage holds, by its names."""

    workload: str
    target: str
    key: str
    kind: Kind
    segments: bool
    """Whether its accuracies are mIoU; top-1 otherwise."""
    timed: bool
    """Whether any has a speed-up."""
    searched: bool
    finals: bool
    """Whether it holds results of searches, and on the test split."""


@dataclass(frozen=True)
class Board:
    """The answer to a query."""

    tracks: tuple[Track, ...]
    front: Front = "speed"

    @property
    def rows(self) -> list[Row]:
        """The rows of all tracks, one after the other."""
        return [row for track in self.tracks for row in track.rows]

    def to_arrow(self) -> pyarrow.Table:
        """One row per `Row`, columns named as its fields, in pyarrow; `polars.from_arrow` takes it without copying."""
        import pyarrow

        kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
        declared = {name: get_args(hint) or (hint,) for name, hint in get_type_hints(Row).items()}
        schema = pyarrow.schema(
            pyarrow.field(name, kinds[kind], nullable=bool(optional)) for name, (kind, *optional) in declared.items()
        )
        columns = zip(*rows, strict=True) if (rows := self.rows) else ((),) * len(declared)
        return pyarrow.table(dict(zip(declared, columns, strict=True)), schema=schema)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Arrow's PyCapsule interface, by which `polars.DataFrame(board)` and others read it."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def to_pandas(self) -> pandas.DataFrame:
        """One row per `Row`, columns named as its fields; an absent figure is NaN."""
        return self.to_arrow().to_pandas()

    def to_parquet(self, path: str | Path) -> None:
        """Writes `to_arrow` as a Parquet file; raises `LeaderboardError` where that fails."""
        from pyarrow import parquet

        with writing(path):
            parquet.write_table(self.to_arrow(), path, compression="zstd")

    def to_csv(self, path: str | Path) -> None:
        """Writes a header and one line per `Row`; raises `LeaderboardError` where that fails.

        An absent figure is an empty cell; text that a spreadsheet would run as a formula has ' before it.
        """
        from .render import to_csv

        with writing(path):
            Path(path).write_text(to_csv(self), encoding="utf-8")


def parse_latency(text: str) -> float:
    """Seconds that `2ms`, `500us` or `0.002s` mean; raises `LeaderboardError`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)(?:e([+-]?\d{1,3}))?\s*(ns|us|µs|ms|s)\s*", text)
    seconds = float(f"{match[1]}e{match[2] or 0}") * _SECONDS[match[3]] if match else math.nan
    if not math.isfinite(seconds):
        raise LeaderboardError(f"latency {quoted(text)}: a number with its unit is expected, such as 2ms or 500us")
    return seconds


def run(connection: Connection, query: Query) -> Board:
    """Answers `query`; raises `LeaderboardError` for a name that the storage does not hold, or a bad expression."""
    _check(query)
    conditions = _conditions(query)
    found = [_track(connection, track, query, conditions) for track in _tracks(connection, query)]
    return Board(tuple(track for track in found if track.matched), query.front)


def mark(connection: Connection, query: Query) -> Hashable:
    """Another one whenever the answer to `query` may be another: entries are added, and never changed or removed."""
    _check(query)
    c, ids = tables.costs.c, [track.id for track in _tracks(connection, query)]
    counted = sa.select(c.track, sa.func.count()).where(c.track.in_(ids)).group_by(c.track).order_by(c.track)
    frozen = sa.select(tables.references).order_by(*tables.references.primary_key)
    return tuple(tuple(row) for statement in (counted, frozen) for row in connection.execute(statement))


def listed(connection: Connection) -> list[Listed]:
    """Every track, by workload and key; without a look at more than one entry of each."""
    c, costs, entries = tables.tracks.c, tables.costs, tables.entries
    first = sa.select(entries.c.miou.is_not(None)).select_from(costs.join(entries)).where(costs.c.track == c.id)

    def holds(*conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
        return sa.exists().where(costs.c.track == c.id, *conditions).correlate(tables.tracks)

    known = {
        "segments": first.limit(1).correlate(tables.tracks).scalar_subquery(),
        "timed": holds(costs.c.speedup.is_not(None)),
        "searched": holds(costs.c.final.is_(sa.false())),
        "finals": holds(costs.c.final.is_(sa.true())),
    }
    names = (c.workload, c.target, c.key, c.kind)
    statement = sa.select(*names, *(column.label(name) for name, column in known.items())).order_by(c.workload, c.key)
    return [
        Listed(**{**row, **{name: bool(row[name]) for name in known}})
        for row in connection.execute(statement).mappings()
    ]


def _check(query: Query) -> None:
    for name, value in (("max-drop", query.max_drop), ("max-latency", query.max_latency)):
        if value is not None and not (math.isfinite(value) and (value >= 0 or name == "max-drop")):
            raise LeaderboardError(f"{name} {value}: a finite number is expected, and a latency of at least 0")
    if query.limit is not None and query.limit < 1:
        raise LeaderboardError(f"limit {quoted(query.limit)}: at least 1 is expected")
    if query.front not in _FRONTS:
        raise LeaderboardError(f"front {quoted(query.front)} is unknown; allowed: {', '.join(_FRONTS)}")
    if query.sort is not None and query.sort.removeprefix("-") not in _COLUMNS:
        raise LeaderboardError(f"sort column {quoted(query.sort)} is unknown; allowed: {', '.join(_COLUMNS)}")


def _tracks(connection: Connection, query: Query) -> list[Any]:
    c = tables.tracks.c
    listed = list(connection.execute(sa.select(c.id, c.workload, c.target, c.key, c.kind).order_by(c.workload, c.key)))
    if listed:
        _known("workload", query.workload, {track.workload for track in listed})
        _known("target", query.target, {name for track in listed for name in (track.target, track.key)})
    return [
        track
        for track in listed
        if query.workload in (None, track.workload) and query.target in (None, track.target, track.key)
    ]


def _known(what: str, name: str | None, known: set[str]) -> None:
    if name is not None and name not in known:
        shown = ", ".join(quoted(item) for item in sorted(known)[:20])
        raise LeaderboardError(f"{what} {quoted(name)} has no entries; the storage holds: {shown}")


def _conditions(query: Query) -> list[sa.ColumnElement[bool]]:
    c = tables.costs.c
    conditions: list[sa.ColumnElement[bool]] = [c.final.is_(sa.true() if query.finals else sa.false())]
    if query.max_drop is not None:
        conditions.append(c.drop <= query.max_drop)
    if query.max_latency is not None:
        conditions.append(c.latency <= query.max_latency)
    if query.strategy is not None:
        conditions.append(c.strategy.in_([name.strip() for name in query.strategy.split(",")]))
    if query.study is not None:
        conditions.append(tables.entries.c.study == query.study)
    if query.where is not None:
        conditions.append(parse_where(query.where))
    return conditions


def _track(connection: Connection, track: Any, query: Query, conditions: list[sa.ColumnElement[bool]]) -> Track:
    references = tables.references
    matching = _matching(track, query, conditions)
    rows = connection.execute(_rows(track, query, matching)).all()
    if rows:
        matched = rows[0].matched
    else:
        matched = connection.execute(sa.select(sa.func.count()).select_from(matching)).scalar_one()
    reference = connection.execute(
        sa.select(references.c.latency, references.c.dense_accuracy).where(
            references.c.workload == track.workload, references.c.key == track.key
        )
    ).one_or_none()
    return Track(
        workload=track.workload,
        target=track.target,
        key=track.key,
        kind=track.kind,
        reference_latency=None if reference is None else reference.latency,
        reference_accuracy=None if reference is None or query.finals else reference.dense_accuracy,
        rows=tuple(Row._make(row[:-1]) for row in rows),
        matched=matched,
    )


def _matching(track: Any, query: Query, conditions: list[sa.ColumnElement[bool]]) -> sa.CTE:
    """What matches on a track: id, accuracy, the figures of the fronts, and `place`, by which it is sorted.

    Most of it is read from an index alone, again for every use; where the wide table of entries has a say, that is
    asked once.
    """
    c, place = tables.costs.c, _place(query)
    named = [part for expression in (place, *conditions) for part in iterate(expression)]
    wide = any(getattr(part, "table", None) is tables.entries for part in named)
    source = tables.costs.join(tables.entries) if wide else tables.costs
    columns = sa.select(c.entry, c.accuracy, c.speedup, c.total_seconds, place.label("place"))
    found = columns.select_from(source).where(c.track == track.id, *conditions)
    return found.cte("matching").prefix_with("MATERIALIZED" if wide else "NOT MATERIALIZED")


def _rows(track: Any, query: Query, matching: sa.CTE) -> sa.Select[Any]:
    """The fields of `Row` in their order, and how many match in all, for what a query wants of a track."""
    costs, entries = tables.costs, tables.entries
    fronts = {name: sa.select(_front(matching, name)) for name in _FRONTS}
    # Found first, for to join all that match to the wide tables would take ten times as long.
    first = sa.select(matching.c.entry).order_by(*_order(query, matching.c.place, matching.c.entry)).limit(query.limit)
    wanted = (fronts[query.front] if query.pareto else first).subquery("wanted")
    values: dict[str, sa.ColumnElement[Any]] = {
        **_COLUMNS,
        **{name: sa.literal(getattr(track, name)) for name in ("workload", "target", "key", "kind")},
        "front": costs.c.entry.in_(fronts["speed"]),
        "training_front": costs.c.entry.in_(fronts["training"]),
    }
    return (
        sa.select(
            *(values[name].label(name) for name in Row._fields),
            sa.select(sa.func.count()).select_from(matching).scalar_subquery().label("matched"),
        )
        .select_from(wanted)
        .join(costs, sa.and_(costs.c.track == track.id, costs.c.entry == wanted.c.entry))
        .join(entries, entries.c.id == wanted.c.entry)
        .order_by(*_order(query, _place(query), costs.c.entry))
        .limit(query.limit)
    )


def _front(matching: sa.CTE, front: Front) -> sa.CTE:
    """Ids on the Pareto front of accuracy and a figure.

    Its best first, whoever is more accurate than all before, and most accurate of those with the same figure. In that
    order an index has them; one of (figure, accuracy downwards) would have to be sorted.
    """
    best = _FRONTS[front]
    figure = matching.c[best.removeprefix("-")]
    order = figure.desc() if best.startswith("-") else figure.asc()
    before = sa.func.max(matching.c.accuracy).over(order_by=order, groups=(None, -1)).label("before")
    named = (matching.c.entry, matching.c.accuracy, figure.label("figure"), before)
    swept = sa.select(*named).where(figure.is_not(None)).subquery(f"{front}_swept")
    level = sa.func.max(swept.c.accuracy).over(partition_by=swept.c.figure).label("level")
    ahead = sa.or_(swept.c.before.is_(None), swept.c.accuracy > swept.c.before)
    unbeaten = sa.select(swept.c.entry, swept.c.accuracy, level).where(ahead).subquery(f"{front}_unbeaten")
    return sa.select(unbeaten.c.entry).where(unbeaten.c.accuracy == unbeaten.c.level).cte(f"{front}_front")


def _sort(query: Query) -> str:
    return query.sort or _FRONTS[query.front]


def _place(query: Query) -> sa.ColumnElement[Any]:
    """What is sorted by."""
    return _COLUMNS[_sort(query).removeprefix("-")]


def _order(query: Query, place: sa.ColumnElement[Any], entry: sa.ColumnElement[Any]) -> list[sa.ColumnElement[Any]]:
    return [(place.desc() if _sort(query).startswith("-") else place.asc()).nulls_last(), entry]


def parse_where(text: str) -> sa.ColumnElement[bool]:
    """A condition in SQL from a small expression: columns, numbers, comparisons, and, or, not, parentheses.

    The text is parsed, never run; whatever else it holds raises `LeaderboardError`.
    """
    try:
        if len(text) > _MAX_EXPRESSION:
            raise ValueError
        tree = ast.parse(text.strip(), mode="eval")
        return _condition(tree.body)
    except LeaderboardError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _refused(text) from None


def _condition(node: ast.expr) -> sa.ColumnElement[bool]:
    match node:
        case ast.BoolOp(op=ast.And(), values=values):
            return sa.and_(*(_condition(value) for value in values))
        case ast.BoolOp(op=ast.Or(), values=values):
            return sa.or_(*(_condition(value) for value in values))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return sa.not_(_condition(operand))
        case ast.Compare(left=left, ops=ops, comparators=right) if all(type(op) in _COMPARE for op in ops):
            sides = [left, *right]
            if not any(isinstance(side, ast.Name) for side in sides):
                raise _refused(ast.unparse(node))
            terms = [_term(side) for side in sides]
            return sa.and_(*(_COMPARE[type(op)](a, b) for a, op, b in zip(terms, ops, terms[1:], strict=False)))
    raise _refused(ast.unparse(node))


def _term(node: ast.expr) -> sa.ColumnElement[Any]:
    match node:
        case ast.Name(id=name) if name in _NUMBERS:
            return _COLUMNS[name]
        case ast.Constant(value=float() | int() as value) if not isinstance(value, bool) and abs(value) < 1e300:
            return sa.literal(float(value))
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=float() | int() as value)) if abs(value) < 1e300:
            return sa.literal(-float(value))
    raise _refused(ast.unparse(node))


def _refused(text: str) -> LeaderboardError:
    return LeaderboardError(
        f"where {quoted(text)}: comparisons of columns and numbers are expected, joined by and, or, not; "
        f"columns: {', '.join(_NUMBERS)}"
    )
