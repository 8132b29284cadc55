"""The worked example of `docs/add_a_strategy.md` is what the page shows, loads as a plug-in and keeps the contract."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from torch import nn

from strategies import check_strategy, registry, strategy, strategy_names
from workloads import Dense, InputError, untrained, workload

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "strategy_plugin"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the example were installed: its module on the path, its entry points known."""
    declared = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]["entry-points"]
    points = {
        group: [EntryPoint(name, value, group) for name, value in named.items()] for group, named in declared.items()
    }
    monkeypatch.syspath_prepend(EXAMPLE)
    monkeypatch.setattr(registry, "entry_points", lambda group: points.get(group, []))


@pytest.mark.usefixtures("installed")
def test_it_keeps_the_contract_alone_and_in_a_pipeline(digits: Dense) -> None:
    assert "bn_scale" in strategy_names()
    for name in ("bn_scale", "bn_scale+int", "bn_scale@shuffle"):
        check_strategy(strategy(name), digits)


@pytest.mark.usefixtures("installed")
def test_a_network_without_batch_norm_is_refused_in_one_line() -> None:
    layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    plain = untrained(replace(workload("digits/cnn"), build=lambda: nn.Sequential(*layers)), 0)
    with pytest.raises(InputError, match="no batch norm") as refusal:
        strategy("bn_scale").plan(plain, {})
    assert "\n" not in str(refusal.value)


@pytest.mark.usefixtures("installed")
def test_its_own_tests_pass(digits: Dense) -> None:
    tests = [test for name, test in vars(import_module("test_bn_scale")).items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test(digits)


def test_the_page_shows_the_example_as_it_is() -> None:
    page = (ROOT / "docs" / "add_a_strategy.md").read_text()
    assert f"```python\n{(EXAMPLE / 'bn_scale.py').read_text()}```" in page
    assert 'bn_scale = "bn_scale:BatchNormScale"' in page
