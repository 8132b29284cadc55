"""Boards for the tests of the ranking: finals and searches as a benchmark asks for them, with known differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from board_samples import cost, entry, training

from leaderboard import Benchmark, Entry, Final, Searched

KEY = "fpga-z7020"
"""Has no benchmark that comes with shrinkboard: servers that tests start would rank by it."""
DENSE = 0.95


def benchmark(**changed: Any) -> Benchmark:
    fields: dict[str, Any] = {
        "name": "digits-cnn-fpga-z7020",
        "version": 1,
        "workload": "digits/cnn",
        "target": KEY,
        "key": KEY,
        "track": "modelled",
        "reference_latency": 1e-3,
        "dense_accuracy": DENSE,
        "dense_seeds": [1000, 1001],
        "cap": 64.0,
        "points": 8,
        "trials": 4,
        "epochs": 2.0,
        "training_epochs": 10.0,
        "search_seeds": [0, 1, 2],
        "final_seeds": 2,
        **changed,
    }
    return Benchmark.create(**fields)


def final(
    strategy: str = "one",
    search_seed: int = 0,
    trial: int = 0,
    fresh: int = 0,
    gain: float | None = 2.0,
    **changed: Any,
) -> Final:
    """A finalist on the `fresh`-th fresh seed of its search."""
    seed = 1000 * (search_seed + 1) + fresh
    fields: dict[str, Any] = {
        "id": f"{strategy}-{search_seed}-{trial}-{fresh}",
        "strategy": strategy,
        "role": "finalist",
        "study": f"search-{search_seed}",
        "trial": trial,
        "search_seed": search_seed,
        "chosen": True,
        "seed": seed,
        "final_study": f"search-{search_seed}@{seed}",
        "speedup": gain,
        "low": None,
        "high": None,
        "latency": None if gain is None else 1e-3 / gain,
        "energy": None,
        "unstable": False,
        "validation": 0.94,
        "accuracy": 0.94,
        "dense_accuracy": DENSE,
        "parameters": 1000,
        "dense_parameters": 9000,
        "macs": 20000,
        "dense_macs": 90000,
        "bytes": 4000,
        "epochs": 2.0,
        "seconds": 3.0,
        "total_epochs": 12.0,
        "total_seconds": 15.0,
        "epoch_fp32": 1.0,
        "dense_epoch_fp32": 1.5,
    }
    return Final(**{**fields, **changed})


def dense(search_seed: int, fresh: int, strategy: str = "dense", **changed: Any) -> Final:
    origin = {"role": "control", "study": None, "trial": None, "search_seed": None, "chosen": False}
    at = final(strategy, search_seed, 0, fresh, **{"gain": 1.0, "validation": DENSE, "accuracy": DENSE, **changed})
    return Final(**{**vars(at), **origin})


def searched(
    strategy: str = "one", seed: int = 0, trial: int = 0, gain: float | None = 2.0, **changed: Any
) -> Searched:
    fields: dict[str, Any] = {
        "strategy": strategy,
        "study": f"search-{seed}",
        "trial": trial,
        "seed": seed,
        "speedup": gain,
        "parameters": 1000,
        "dense_parameters": 9000,
        "accuracy": 0.94,
        "seconds": 3.0,
        "evaluation_seconds": 4.0,
        "created": f"2026-11-22T03:{trial:02}:00Z",
    }
    return Searched(**{**fields, **changed})


def board(
    levels: Mapping[str, float],
    seed: int = 0,
    *,
    searches: Sequence[int] = (0, 1, 2),
    fresh: int = 2,
    points: int = 3,
    between: float = 0.004,
    within: float = 0.002,
    shared: float = 0.0,
) -> tuple[list[Final], list[Searched]]:
    """Finals and searches of strategies whose accuracy lies `levels` above a common curve.

    `between` is the spread of a strategy's searches, `shared` that of a search seed for all strategies, `within` that
    of one training.
    """
    random = np.random.default_rng(seed)
    finals, tried = list[Final](), list[Searched]()
    for search in searches:
        finals += [dense(search, i, name) for i in range(fresh) for name in ("dense", "dense+int")]
        ease = random.normal(0, shared) if shared else 0.0
        for name, level in levels.items():
            luck = ease + random.normal(0, between)
            for trial in range(points):
                base = DENSE + level + luck - 0.01 * trial
                for i in range(fresh):
                    validation, test = np.clip(base + random.normal(0, within, 2), 0, 1)
                    at = {"validation": float(validation), "accuracy": float(test)}
                    finals.append(final(name, search, trial, i, 2.0 * 1.7**trial, **at))
            tried += [
                searched(name, search, trial, 1.5 * 1.7**trial, accuracy=0.95 - 0.01 * trial) for trial in range(4)
            ]
    return finals, tried


def as_entries(finals: Sequence[Final], tried: Sequence[Searched]) -> list[Entry]:
    """Entries that a storage tells as these finals and searches."""
    return [_final_entry(one) for one in finals] + [_searched_entry(one) for one in tried]


def _final_entry(one: Final) -> Entry:
    accuracy = {
        "validation": {"top1": one.validation},
        "test": {"top1": one.accuracy},
        "dense_validation": DENSE,
        "dense_test": one.dense_accuracy,
    }
    origin = {"entry": "ab" * 8, "study": one.study, "trial": one.trial, "seed": one.search_seed}
    return entry(
        study=one.final_study,
        strategy=one.strategy,
        trial=one.trial or 0,
        role=one.role,
        seed=one.seed,
        plan_digest=one.id,
        accuracy=accuracy,
        origin=None if one.study is None else {**origin, "targets": [KEY] if one.chosen else []},
        costs=[cost(KEY, one.speedup)],
        training=training(epochs=one.epochs, seconds=one.seconds),
    )


def _searched_entry(one: Searched) -> Entry:
    return entry(
        study=one.study,
        strategy=one.strategy,
        trial=one.trial,
        seed=one.seed,
        accuracy={"validation": {"top1": one.accuracy}, "dense_validation": DENSE},
        costs=[cost(KEY, one.speedup)],
        training=training(seconds=one.seconds),
        evaluation_seconds=one.evaluation_seconds,
        created=one.created,
    )
