"""Every strategy passes the contract test that we ship, and the test fails for strategies that break it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from strategies import Compressed, Plan, Strategy, check_strategy, strategy, strategy_names
from strategies.testing import ContractViolation
from strategies.uniform import Uniform
from workloads import Dense, InputError


@pytest.mark.parametrize("name", [*strategy_names(), "pca_l1+int", "sentei+int"])
def test_every_strategy_keeps_the_contract(digits: Dense, name: str) -> None:
    check_strategy(strategy(name), digits)


class TouchesTheDense(Uniform):
    def compress(self, dense: Dense, plan: Plan) -> Compressed:
        with torch.no_grad():
            next(dense.module.parameters()).add_(1e-3)
        return super().compress(dense, plan)


class NotDeterministic(Uniform):
    def compress(self, dense: Dense, plan: Plan) -> Compressed:
        made = super().compress(dense, plan)
        with torch.no_grad():
            next(made.module.parameters()).add_(torch.rand(1))
        return made


class NotAsPlanned(Uniform):
    def compress(self, dense: Dense, plan: Plan) -> Compressed:
        made = super().compress(dense, plan)
        return Compressed(super().compress(dense, self.plan(dense, {"keep": 1.0})).module, made.plan, made.seed)


class WrongName(Uniform):
    def resolve(self, dense: Dense, knobs: Mapping[str, Any]) -> Plan:
        return super().resolve(dense, knobs).model_copy(update={"strategy": "other"})


class LosesItsMasks(type(strategy("sentei"))):  # type: ignore[misc]
    def tune(self, compressed: Compressed, dense: Dense, epochs: float, **options: Any) -> Any:
        return Strategy.tune(self, Compressed(compressed.module, compressed.plan, 0), dense, epochs, **options)


@pytest.mark.parametrize(
    ("broken", "breach"),
    [
        (TouchesTheDense, "changed the dense"),
        (NotDeterministic, "not deterministic"),
        (NotAsPlanned, "the plan says"),
        (WrongName, "names strategy"),
        (LosesItsMasks, "not zero"),
    ],
)
def test_a_broken_strategy_is_found(digits: Dense, broken: type[Strategy], breach: str) -> None:
    weights = {name: tensor.clone() for name, tensor in digits.module.state_dict().items()}
    try:
        with pytest.raises(ContractViolation, match=breach) as violation:
            check_strategy(broken(), digits)
        assert "\n" not in str(violation.value)
    finally:
        digits.module.load_state_dict(weights)


@pytest.mark.parametrize("name", ["", "unifrm", "uniform+", "int+uniform", "uniform+sentei", "uniform+int+int"])
def test_unknown_names_and_wrong_pipelines_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(InputError) as refusal:
        strategy(name)
    assert "\n" not in str(refusal.value)


def test_a_misspelt_name_gets_a_hint() -> None:
    with pytest.raises(InputError, match="did you mean 'uniform'"):
        strategy("unifrm")
