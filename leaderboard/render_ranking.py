"""A ranking as text: one table for the terminal, and all of it as JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from . import _format
from .benchmark import Benchmark
from .progress import Progress
from .ranking import Ranking
from .standing import DROPS, GAINS, At, Ranked
from .statistics import Estimate

_GAIN = {"measured": "speed-up", "modelled": "modelled speed-up", "parameters": "gain in parameters"}
_SHOWN_GAINS, _SHOWN_DROP = (1.5, 2.0), 0.01
_LEGEND = (
    "hypervolume on the test split, mean over n search seeds with its 95 % t-interval; a rank counts those shown to be "
    "better (paired t-tests, Holm over all pairs, 5 %): who shares one could not be told apart"
)
_REACHED = "(k/n): in k of n searches only, so not to be compared with what all reached"


def to_json(ranking: Ranking) -> str:
    """The fields of `Ranking`, raw values and curves included."""
    return json.dumps(ranking.to_dict(), indent=1, allow_nan=False) + "\n"


def to_table(ranking: Ranking) -> RenderableType:
    """What a person asks first, for a terminal of 100 columns."""
    table = Table(box=None, padding=(0, 1, 0, 0), title=Text(_title(ranking), style="bold"), title_justify="left")
    accuracies = [f"acc at {wanted:g}×" for wanted in _SHOWN_GAINS]
    headers = ("rank", "strategy", "hypervolume [95 %]", "n", "on front", *accuracies, f"at −{100 * _SHOWN_DROP:g} pt")
    for i, header in enumerate(headers):
        left = i in (1, 2)
        table.add_column(header, justify="left" if left else "right", no_wrap=i != 1, overflow="fold")
    for one in ranking.strategies:
        table.add_row(*(Text(cell) for cell in _brief(one)))
    deviating = [Text(f"! {line}") for line in ranking.deviations()]
    legend = f"{_LEGEND}; then accuracy in % at a gain, and the gain one point below the dense network; {_REACHED}"
    notes = [Text(f"note: {line}", style="dim") for line in ranking.notes]
    return Group(table, Text(legend, style="dim"), *deviating, *notes)


def to_markdown(ranking: Ranking) -> str:
    """Everything but raw values and curves: one section for each question."""
    escaped = _format.escaped
    parts = [f"# {escaped(_title(ranking))}", "\n".join(f"- {escaped(line)}" for line in _terms(ranking.benchmark))]
    for section in _sections(ranking):
        parts.append(f"## {section.title}")
        if section.told:
            parts.append(escaped(section.told))
        if section.rows:
            lines = ["| " + " | ".join(section.headers) + " |"]
            lines.append(
                "|" + "|".join("---" if i < section.left else "---:" for i in range(len(section.headers))) + "|"
            )
            lines += ["| " + " | ".join(map(escaped, row)) + " |" for row in section.rows]
            parts.append("\n".join(lines))
    said = [*ranking.deviations(), *ranking.notes]
    if said:
        parts += ["## What to know", "\n".join(f"- {escaped(line)}" for line in said)]
    return "\n\n".join(parts) + "\n"


@dataclass(frozen=True)
class _Section:
    title: str
    told: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    """So many columns hold text."""


def _title(ranking: Ranking) -> str:
    benchmark = ranking.benchmark
    return f"{benchmark.workload} on {benchmark.key}, {benchmark.track}: benchmark {benchmark.id}"


def _brief(one: Ranked) -> tuple[str, ...]:
    gains = dict(zip(GAINS, one.at_gain, strict=False))
    drops = dict(zip(DROPS, one.at_drop, strict=False))
    return (
        _rank(one),
        f"{one.strategy} !" if one.deviations else one.strategy,
        _interval(one.hypervolume, "{:.3f}".format),
        _format.ABSENT if one.hypervolume is None else str(one.hypervolume.n),
        _share(one.front_probability),
        *(_reached(gains.get(wanted), lambda at: _mean(at.accuracy, _percent)) for wanted in _SHOWN_GAINS),
        _reached(drops.get(_SHOWN_DROP), lambda at: _mean(at.gain, _times)),
    )


def _terms(benchmark: Benchmark) -> Iterator[str]:
    """What the benchmark fixes."""
    yield (
        f"dense network: {_percent(benchmark.dense_accuracy)} % on the test split, a mean over "
        f"{len(benchmark.dense_seeds)} seeds"
        + ("" if benchmark.reference_latency is None else f"; {_format.seconds(benchmark.reference_latency)}")
    )
    yield (
        f"hypervolume of {_GAIN[benchmark.track]} up to {benchmark.cap:g}× and accuracy from "
        f"{100 * benchmark.reference_drop:g} points below the dense network, in 0…1"
    )
    yield (
        f"budget of every strategy: {benchmark.trials} full evaluations for each of the search seeds "
        f"{', '.join(map(str, benchmark.search_seeds))}, {benchmark.epochs:g} epochs from the trained network or "
        f"{benchmark.training_epochs:g} from initial weights"
    )
    yield (
        f"at most {benchmark.points} finalists of a search, chosen on validation, trained again on "
        f"{benchmark.final_seeds} fresh seeds and tested once"
    )
    if benchmark.front_source is not None:
        yield f"reference front of {len(benchmark.front)} points: {benchmark.front_source}"


def _sections(ranking: Ranking) -> Iterator[_Section]:
    track = ranking.benchmark.track
    yield _Section(
        "Strategies",
        f"{_LEGEND}. On front: how often a strategy adds a point to the front of all, over searches and fresh seeds "
        "(hierarchical bootstrap). The bootstrap interval of the mean is a second opinion that covers less than 95 %. "
        "IGD+ and epsilon: distance from the reference front, smaller is better.",
        ("rank", "strategy", "hypervolume", "SD", "95 % t-interval", "bootstrap", "n", "on front", "IGD+", "epsilon"),
        [_strategy(one) for one in ranking.strategies],
        left=2,
    )
    ranked = [one for one in ranking.strategies if one.points]
    yield _Section(
        f"Accuracy at a fixed {_GAIN[track]}",
        "Test accuracy in %, of the network with at least that gain that is best on validation; mean, SD and 95 % "
        f"t-interval over searches. {_REACHED}.",
        ("strategy", *(f"{wanted:g}×" for wanted in GAINS)),
        [
            (one.strategy, *(_reached(at, lambda at: _full(at.accuracy, _percent)) for at in one.at_gain))
            for one in ranked
        ],
    )
    yield _Section(
        f"{_GAIN[track].capitalize()} at a fixed drop",
        "Geometric mean, SD and 95 % t-interval over searches of the fastest network that loses at most so much on "
        "validation, and after the semicolon the points that it loses on test.",
        ("strategy", *(f"{100 * wanted:g} points" for wanted in DROPS)),
        [(one.strategy, *(_reached(at, _at_drop) for at in one.at_drop)) for one in ranked],
    )
    yield _Section(
        "Pairs",
        "Difference of mean hypervolume, first − second, paired by search seed. The interval is of this pair alone; "
        "what decides is p after Holm's correction over all pairs.",
        ("first", "second", "difference", "95 % t-interval", "n", "p", "p (Holm)", "better"),
        [
            (
                pair.first,
                pair.second,
                _mean(pair.difference, "{:+.3f}".format),
                _ends(pair.difference, "{:+.3f}".format),
                _format.ABSENT if pair.difference is None else str(pair.difference.n),
                _p(pair.p),
                _p(pair.adjusted),
                pair.better or "not told apart",
            )
            for pair in ranking.pairs
        ],
        left=2,
    )
    yield _Section(
        "The dense network",
        "Mean, SD and 95 % t-interval over the seeds of its own.",
        ("control", "test accuracy %", "validation %", "gain", "n"),
        [
            (
                one.strategy,
                _full(one.accuracy, _percent),
                _full(one.validation, _percent),
                _full(one.gain, _times),
                str(one.accuracy.n),
            )
            for one in ranking.dense
        ],
    )
    yield _Section(
        "The same structure, trained otherwise",
        "Points of test accuracy that a finalist is ahead of its control: mean, SD and 95 % t-interval over searches. "
        "Where it is not, the structure is what was found, and not the weights.",
        ("strategy", "control", "ahead", "n", "epochs of control", "of finalist"),
        [
            (
                *(one.strategy, one.control, _full(one.difference, _signed_points), str(one.difference.n)),
                *(f"{one.epochs:.3g}", f"{one.finalist_epochs:.3g}"),
            )
            for one in ranking.structure
        ],
        left=2,
    )
    yield _Section(
        "What training takes",
        "A finalist from its start and from fresh weights, the dense network's training included; an epoch of it "
        "beside one of the dense network; and all full evaluations of one search. Means with SD over searches.",
        (
            "strategy",
            "epochs",
            "seconds",
            "whole epochs",
            "whole seconds",
            "an epoch, s",
            "dense epoch, s",
            "search, s",
        ),
        [
            (
                one.strategy,
                *(_with_sd(value) for value in (cost.epochs, cost.seconds, cost.total_epochs, cost.total_seconds)),
                *(_with_sd(value) for value in (cost.epoch_fp32, cost.dense_epoch_fp32)),
                _with_sd(cost.search_seconds or cost.search_training_seconds),
            )
            for one in ranked
            if (cost := one.training) is not None
        ],
    )
    yield _Section(
        "How searches went on",
        "Hypervolume on validation, by which networks were chosen: for comparing searches only. Means over searches "
        "after a quarter, a half and all of the trials, and of the seconds that the longest took.",
        ("strategy", "¼ trials", "½ trials", "all trials", "trials", "¼ time", "½ time", "all time", "seconds"),
        [
            (one.strategy, *_parts(curves.get("trials")), *_parts(curves.get("evaluation_seconds")))
            for one in ranking.strategies
            if (curves := {curve.against: curve for curve in one.progress})
        ],
    )
    yield _Section(
        "The front",
        "Finalists that no other of the same search seed beats on test, in means over fresh seeds; drops in points.",
        ("strategy", "seed", "gain", "test %", "SD", "drop", "latency", "energy", "params", "MACs", "bytes"),
        [
            (
                point.strategy,
                str(point.search_seed),
                _format.speedup(point.gain, point.low, point.high),
                _percent(point.accuracy),
                _format.percent(point.accuracy_sd),
                _format.ABSENT if point.drop is None else f"{100 * point.drop:.2f}",
                _format.seconds(point.latency),
                _format.joules(point.energy),
                *(_format.count(value) for value in (point.parameters, point.macs)),
                _format.size(point.bytes),
            )
            for point in sorted(
                (point for one in ranking.strategies for point in one.points if point.front),
                key=lambda point: (point.search_seed, -(point.gain or 0.0), point.strategy),
            )
        ],
    )


def _strategy(one: Ranked) -> tuple[str, ...]:
    bootstrap = _format.ABSENT if one.bootstrap is None else f"[{one.bootstrap[0]:.3f}, {one.bootstrap[1]:.3f}]"
    spread = None if one.hypervolume is None else one.hypervolume.sd
    return (
        _rank(one),
        one.strategy,
        _mean(one.hypervolume, "{:.3f}".format),
        _format.ABSENT if spread is None else f"{spread:.3f}",
        _ends(one.hypervolume, "{:.3f}".format),
        bootstrap,
        _format.ABSENT if one.hypervolume is None else str(one.hypervolume.n),
        _share(one.front_probability),
        _full(one.igd_plus, "{:.3f}".format),
        _full(one.epsilon, "{:.3f}".format),
    )


def _at_drop(at: At) -> str:
    return f"{_full(at.gain, _times)}; {_full(at.drop, _signed_points)}"


def _parts(curve: Progress | None) -> tuple[str, ...]:
    """Where a curve stands at a quarter, a half and the end of what it goes over, and that end."""
    if curve is None:
        return (_format.ABSENT,) * 4
    end = curve.at[-1]
    stands = [
        next((mean for at, mean in zip(reversed(curve.at), reversed(curve.mean), strict=True) if at <= part * end), 0.0)
        for part in (0.25, 0.5, 1.0)
    ]
    return (*(f"{value:.3f}" for value in stands), f"{end:.4g}")


def _rank(one: Ranked) -> str:
    return _format.ABSENT if one.rank is None else str(one.rank)


def _reached(at: At | None, write: Callable[[At], str]) -> str:
    if at is None or not at.reached:
        return _format.ABSENT
    return write(at) if at.reached == at.seeds else f"{write(at)} ({at.reached}/{at.seeds})"


def _mean(found: Estimate | None, write: Callable[[float], str]) -> str:
    return _format.ABSENT if found is None else write(found.mean)


def _ends(found: Estimate | None, write: Callable[[float], str]) -> str:
    if found is None or found.low is None or found.high is None:
        return _format.ABSENT
    return f"[{write(found.low)}, {write(found.high)}]"


def _interval(found: Estimate | None, write: Callable[[float], str]) -> str:
    if found is None or found.low is None:
        return _mean(found, write)
    return f"{write(found.mean)} {_ends(found, write)}"


def _full(found: Estimate | None, write: Callable[[float], str]) -> str:
    """Mean, SD and interval."""
    if found is None or found.sd is None:
        return _mean(found, write)
    return f"{write(found.mean)} (SD {write(found.sd).lstrip('+')}) {_ends(found, write)}"


def _with_sd(found: Estimate | None) -> str:
    if found is None or found.sd is None:
        return _mean(found, "{:.3g}".format)
    return f"{found.mean:.3g} ± {found.sd:.2g}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _signed_points(fraction: float) -> str:
    return f"{100 * fraction:+.2f}"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}×"


def _share(probability: float | None) -> str:
    return _format.ABSENT if probability is None else f"{100 * probability:.0f} %"


def _p(value: float | None) -> str:
    if value is None:
        return _format.ABSENT
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"
