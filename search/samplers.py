"""The samplers that a search can be led by, our own and those of Optuna, and which one suits how many trials."""

from __future__ import annotations

from collections.abc import Callable

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.trial import FrozenTrial

from strategies import Space
from workloads import InputError

from .ehvi import ExpectedHypervolume, Foretold, Goal

MANY = 1000
"""Trials from which on modelling them costs more than it gains: TPE takes 0.6 s a suggestion at 2,000, NSGA-II 1 ms."""
MODELLED = 3
"""Objectives beside the accuracy up to which the integral over them is worth its points."""


class _NsgaTwo(optuna.samplers.NSGAIISampler):
    """Knows its space; Optuna's own looks through all trials for it at every suggestion."""

    def __init__(self, space: Space, seed: int, population_size: int) -> None:
        super().__init__(seed=seed, population_size=population_size)
        self._space: dict[str, BaseDistribution] = {
            name: IntDistribution(*bounds) for name, bounds in sorted(space.ranges().items())
        }

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space


def _tpe(space: Space, seed: int, trials: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=seed)


def _gp(space: Space, seed: int, trials: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.GPSampler(seed=seed, deterministic_objective=False)


def _nsga2(space: Space, seed: int, trials: int) -> optuna.samplers.BaseSampler:
    # The default of 50 would leave a short search in its first, random generation.
    return _NsgaTwo(space, seed, max(4, min(50, trials // 8)))


def _random(space: Space, seed: int, trials: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


def _qmc(space: Space, seed: int, trials: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)


_MAKERS: dict[str, Callable[[Space, int, int], optuna.samplers.BaseSampler]] = {
    "tpe": _tpe,
    "gp": _gp,
    "nsga2": _nsga2,
    "random": _random,
    "qmc": _qmc,
}
SAMPLERS = ("auto", "ehvi", *_MAKERS)


def check_sampler(name: str) -> None:
    """Raises `InputError` for a sampler that there is not."""
    if name not in SAMPLERS:
        raise InputError(f"sampler {name!r} is unknown; allowed: {', '.join(SAMPLERS)}")


def make_sampler(
    name: str, seed: int, trials: int, space: Space, goal: Goal, foretold: Foretold | None
) -> optuna.samplers.BaseSampler:
    """The sampler of that name for a study of so many trials; `auto` has been chosen before.

    Optuna's own learn space and goal from the study.
    """
    check_sampler(name)
    return ExpectedHypervolume(space, goal, seed, foretold) if name == "ehvi" else _MAKERS[name](space, seed, trials)


def choose_sampler(trials: int, objectives: int) -> str:
    """What `auto` stands for: trials asked for, objectives beside the accuracy.

    `ehvi`; `tpe` where there are more objectives than it models well; `nsga2` for thousands of trials.
    """
    if trials >= MANY:
        return "nsga2"
    return "ehvi" if objectives <= MODELLED else "tpe"
