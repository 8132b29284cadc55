"""The samplers of Optuna that a search can be led by, and which one suits how many trials."""

from __future__ import annotations

from collections.abc import Callable

import optuna

from workloads import InputError

MANY = 1000
"""Trials from which on modelling them costs more than it gains: TPE takes 0.6 s a suggestion at 2,000, NSGA-II 1 ms."""
FEW = 100
"""Trials up to which a Gaussian process, at 2 to 4 s a suggestion, is worth its time where trials take minutes."""
SLOW = 60.0
"""Seconds of a full evaluation beside which a few seconds of thinking do not count."""


def _tpe(seed: int, trials: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=seed)


def _gp(seed: int, trials: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.GPSampler(seed=seed, deterministic_objective=False)


def _nsga2(seed: int, trials: int) -> optuna.samplers.BaseSampler:
    # The default of 50 would leave a short search in its first, random generation.
    return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(4, min(50, trials // 8)))


def _random(seed: int, trials: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


def _qmc(seed: int, trials: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)


_MAKERS: dict[str, Callable[[int, int], optuna.samplers.BaseSampler]] = {
    "tpe": _tpe,
    "gp": _gp,
    "nsga2": _nsga2,
    "random": _random,
    "qmc": _qmc,
}
SAMPLERS = ("auto", *_MAKERS)


def check_sampler(name: str) -> None:
    """Raises `InputError` for a sampler that there is not."""
    if name not in SAMPLERS:
        raise InputError(f"sampler {name!r} is unknown; allowed: {', '.join(SAMPLERS)}")


def make_sampler(name: str, seed: int, trials: int) -> optuna.samplers.BaseSampler:
    """The sampler of that name for a study of so many trials; `auto` has been chosen before."""
    check_sampler(name)
    return _MAKERS[name](seed, trials)


def choose_sampler(trials: int, objectives: int, seconds: float | None) -> str:
    """What `auto` stands for: trials asked for, objectives beside the accuracy, and seconds of a full evaluation.

    `tpe`; `nsga2` for thousands of trials; `gp` for a hundred slow ones with one or two objectives beside the accuracy,
    where its better suggestions are worth the seconds that they take.
    """
    if trials >= MANY:
        return "nsga2"
    if trials <= FEW and objectives <= 2 and seconds is not None and seconds >= SLOW:
        return "gp"
    return "tpe"
