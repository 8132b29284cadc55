"""Every strategy passes the contract test that we ship, and the test fails for strategies that break it."""

from __future__ import annotations

import copy
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
    method = strategy(name)
    check_strategy(method, None if method.drop_share else digits)


STRUCTURES = "uniform global_l1 pca_l1 pai_pat snip snip_structured frequency conventional"
JOINED = "l1+int sentei+int low_rank+int depth+int dense+int l1@shuffle depth@shuffle depth@scratch-e"


@pytest.mark.parametrize("name", f"{STRUCTURES} {JOINED}".split())
def test_the_contract_holds_where_residual_branches_are_dropped(name: str) -> None:
    check_strategy(strategy(name))


class TouchesTheDense(Uniform):
    def _compress(self, dense: Dense, plan: Plan) -> Compressed:
        with torch.no_grad():
            next(dense.module.parameters()).add_(1e-3)
        return super()._compress(dense, plan)


class NotDeterministic(Uniform):
    def _compress(self, dense: Dense, plan: Plan) -> Compressed:
        made = super()._compress(dense, plan)
        with torch.no_grad():
            next(made.module.parameters()).add_(torch.rand(1))
        return made


class NotAsPlanned(Uniform):
    def _compress(self, dense: Dense, plan: Plan) -> Compressed:
        made = super()._compress(dense, plan)
        return Compressed(super()._compress(dense, self.plan(dense, {"keep": 1.0})).module, made.plan, made.seed)


class KeepsAllBranches(Uniform):
    def compress(self, dense: Dense, plan: Plan) -> Compressed:
        plan = self.plan(dense, {"keep": 1.0, "drop": len(plan.dropped)})
        return Compressed(copy.deepcopy(dense.module), plan, dense.seed)


def test_a_branch_that_is_still_there_is_found() -> None:
    with pytest.raises(ContractViolation, match=r"'block1\.conv1' belongs to a dropped branch"):
        check_strategy(KeepsAllBranches())


class WrongName(Uniform):
    def _resolve(self, dense: Dense, knobs: Mapping[str, Any]) -> Plan:
        return super()._resolve(dense, knobs).model_copy(update={"strategy": "other"})


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
