"""Predictions of figures: errors are those of leaving out for real, and each model leads where it foretells better."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor

from search.regression import KERNEL, Regression, _forest


def additive(x: np.ndarray) -> np.ndarray:
    return np.asarray(x @ np.array([3.0, 1.0, 0.5, 0.2]) + x[:, 0] ** 2)


def by_alignment(x: np.ndarray) -> np.ndarray:
    """A runtime that is slow wherever a width is no multiple of eight, whatever the rest."""
    return np.asarray(np.where(np.round(32 * x[:, 0]) % 8 == 0, 1.0, 2.0) + 0.1 * x[:, 1])


def drawn(count: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).random((count, 4))
    x[::2, 0] = np.random.default_rng(seed + 1).choice([0.25, 0.5, 0.75], len(x[::2]))
    return x


def test_the_process_errs_as_it_does_when_each_value_is_left_out_for_real() -> None:
    x = drawn(15, 0)
    y = additive(x) + np.random.default_rng(1).normal(0, 0.3, 15)
    regression = Regression()
    _, off = regression._process(x, y, np.zeros(15), x)
    scaled = (y - y.mean()) / y.std()
    errors = []
    for place in range(15):
        rest = np.arange(15) != place
        alone = GaussianProcessRegressor(regression._kernel, optimizer=None).fit(x[rest], scaled[rest])
        errors.append(float(alone.predict(x[[place]])[0] - scaled[place]) * y.std())
    assert off == pytest.approx(np.mean(np.square(errors)), rel=1e-6)


@pytest.mark.parametrize("truth", [additive, by_alignment])
def test_both_together_are_nearly_as_good_as_the_better(truth: Callable[[np.ndarray], np.ndarray]) -> None:
    def error(mean: np.ndarray) -> float:
        return float(np.sqrt(np.mean((mean - truth(other)) ** 2)))

    together, apart = [], []
    for seed in range(5):
        x, other = drawn(40, seed), drawn(200, 100 + seed)
        together.append(error(Regression().predict(x, truth(x), other, seed).mean))
        process, _ = Regression()._process(x, truth(x), np.zeros(40), other)
        forest, _ = _forest(x, truth(x), np.zeros(40), other, seed)
        apart.append((error(process.mean), error(forest.mean)))
    best, worst = np.sort(np.mean(apart, axis=0))
    assert np.mean(together) < best + 0.25 * (worst - best) + 0.02


def test_what_was_not_foretold_lies_within_the_errors() -> None:
    beside = []
    for seed in range(10):
        x, other = drawn(12, seed), drawn(100, 100 + seed)
        y = additive(x) + np.random.default_rng(seed).normal(0, 0.2, 12)
        found = Regression().predict(x, y, other, seed)
        beside += list(np.abs(additive(other) - found.mean) / found.error)
    assert 0.85 < np.mean(np.array(beside) < 2) < 1.0


def test_what_never_changes_is_foretold_as_it_is() -> None:
    x = drawn(5, 0)
    for values in (np.full(5, 3.0), np.array([3.0])):
        found = Regression().predict(x[: len(values)], values, x, 0)
        assert (found.mean == 3.0).all() and (found.error > 0).all()


def test_the_kernel_is_kept_until_much_more_is_known() -> None:
    regression, x = Regression(), drawn(44, 0)
    regression.predict(x[:40], additive(x[:40]), x, 0)
    kept = regression._kernel
    assert kept != KERNEL
    regression.predict(x[:41], additive(x[:41]), x, 0)
    assert regression._kernel is kept
    regression.predict(x, additive(x), x, 0)
    assert regression._kernel is not kept
