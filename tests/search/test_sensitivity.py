"""What each part of a network is worth: the same figures as whole runs give, monotone, kept, and sound of data."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from search import rerun, sensitivity
from search.rerun import Rerun
from search.sensitivity import Curve, Sensitivity, format_sensitivity, width_sensitivity
from strategies import Simulated, channel_groups, l1_scores, on_grid, shrink, strategy
from tests.strategies.subjects import residual, segmenter
from workloads import Dense, Format, LayerFormats, fold_batch_norm, normalise
from workloads.dense_network import digest
from workloads.models.resnet_cifar import resnet_cifar

INT = [Format("int", bits) for bits in range(2, 9)]


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHRINKBOARD_CACHE", str(tmp_path))
    return tmp_path / "sensitivity"


class InPlace(nn.Module):
    """Spoils what it is given, as many networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = self.b(x)
        return self.c(self.relu(x) + y).flatten(1)


@pytest.mark.parametrize("build", [lambda: resnet_cifar(10, 8), InPlace])
def test_a_run_from_anywhere_ends_like_a_whole_one(build: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module = build().eval()
    batches = [torch.randn(n, 3, 16, 16) for n in (4, 4, 2)]
    layers = [name for name, part in module.named_modules() if isinstance(part, nn.Conv2d)]
    rerun = Rerun(module, batches)
    for layer in layers:
        rerun.advance(rerun.place([layer]))
        changed = copy.deepcopy(module)
        with torch.no_grad():
            changed.get_submodule(layer).weight.mul_(0.5)
            for _ in range(2):
                for output, batch in zip(rerun.outputs(changed), batches, strict=True):
                    assert torch.allclose(output, changed(batch.clone()), atol=1e-6)
        assert len(list(rerun.outputs(module, 1))) == 1


def subset(dense: Dense) -> Iterator[tuple[Tensor, Tensor]]:
    """The calibration subset, from the words of the docstrings."""
    split = dense.splits.train
    chosen = np.random.default_rng(0).permutation(len(split))[: sensitivity.IMAGES]
    for start in range(0, len(chosen), 256):
        images, targets = split.batch(chosen[start : start + 256])
        yield normalise(images, dense.workload), targets


def whole_loss(dense: Dense, module: nn.Module, renew: bool = False) -> float:
    """Cross-entropy by whole runs; `renew` takes batch norm from the first batch, as for pictures of 8×8."""
    loss = count = 0.0
    with torch.no_grad():
        for images, targets in subset(dense):
            if renew and not count:
                for part in module.modules():
                    if isinstance(part, nn.BatchNorm2d):
                        part.momentum = 1.0
                module.train()
                module(images)
                module.eval()
            loss += float(functional.cross_entropy(module(images), targets, reduction="sum"))
            count += len(targets)
    return loss / count


def test_a_cut_costs_what_whole_runs_say(digits: Dense, empty_cache: Path) -> None:
    curves, groups = width_sensitivity(digits), channel_groups(digits)
    assert list(curves) == [group.name for group in groups]
    untouched = whole_loss(digits, copy.deepcopy(digits.module), renew=True)
    for group in groups:
        curve = curves[group.name]
        assert curve.levels[-1] == 1 and curve.loss[-1] == 0 and curve.accuracy[-1] == 0
        for place in (0, 2):
            width = round(curve.levels[place] * group.channels)
            small = shrink(digits.module, groups, {group.name: group.keep(l1_scores(digits.module, group), width)})
            # Earlier batch norms keep their statistics while those behind the cut are taken: nearly, not wholly equal.
            assert curve.loss[place] == pytest.approx(whole_loss(digits, small, renew=True) - untouched, rel=0.1)


def test_bits_cost_what_whole_runs_say(digits: Dense, empty_cache: Path) -> None:
    folded = fold_batch_norm(digits.module)
    untouched = whole_loss(digits, folded)
    weights = format_sensitivity(digits, "weight", {"conv2": INT, "conv3": INT})
    inputs = format_sensitivity(digits, "activation", {"conv2": INT})
    assert weights["conv2"].levels == (2, 3, 4, 6, 8)
    first = next(iter(subset(digits)))[0]
    two = {"conv2": LayerFormats(weight=INT[0]), "conv3": LayerFormats(weight=INT[0])}
    for name, form in two.items():
        expected = whole_loss(digits, on_grid(folded, {name: form})) - untouched
        assert weights[name].loss[0] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    simulated = Simulated(folded, {"conv2": LayerFormats(activation=INT[0])}, [first])
    assert inputs["conv2"].loss[0] == pytest.approx(whole_loss(digits, simulated) - untouched, rel=1e-3, abs=1e-6)
    assert weights["conv2"].loss[-1] < 1e-3 < weights["conv2"].loss[0]


def test_channels_that_nothing_reads_cost_nothing(digits: Dense, empty_cache: Path) -> None:
    module = copy.deepcopy(digits.module)
    with torch.no_grad():
        module.conv2.weight[::2] *= 1e-3  # cut first
        module.conv3.weight[:, ::2] = 0
    curve = width_sensitivity(replace(digits, module=module, digest=digest(module.state_dict()), memo={}))["conv2"]
    assert max(loss for level, loss in zip(curve.levels, curve.loss, strict=True) if level > 0.5) < 1e-4
    assert curve.loss[0] > 0.05


def test_where_little_may_be_kept_the_figures_are_the_same(
    digits: Dense, empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = format_sensitivity(digits, "weight", {"conv3": INT[:2]})
    monkeypatch.setenv("SHRINKBOARD_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(rerun, "KEPT_BYTES", 0)
    assert format_sensitivity(digits, "weight", {"conv3": INT[:2]})["conv3"].loss == pytest.approx(usual["conv3"].loss)


def test_equal_questions_are_answered_once(digits: Dense, empty_cache: Path) -> None:
    told: list[tuple[int, int]] = []
    first = width_sensitivity(digits, (0.3, 0.6), lambda done, total: told.append((done, total)))
    assert told == [(done, 6) for done in range(1, 7)]
    assert width_sensitivity(digits, (0.6, 0.3), lambda done, total: told.append((done, total))) == first
    assert len(told) == 6
    (file,) = empty_cache.iterdir()
    assert json.loads(file.read_text()).keys() == first.keys()
    for damage in ("", "{", '{"conv1": 1}', file.read_text().replace("0.", '"0.', 1), file.read_text()[:-9]):
        file.write_text(damage)
        assert width_sensitivity(digits, (0.3, 0.6)) == first
    assert list(empty_cache.iterdir()) == [file]


def test_other_questions_are_not_answered_with_it(digits: Dense, empty_cache: Path) -> None:
    questions = [
        lambda: width_sensitivity(digits, (0.5,)),
        lambda: width_sensitivity(digits, (0.4,)),
        lambda: width_sensitivity(replace(digits, digest="other"), (0.5,)),
        lambda: width_sensitivity(replace(digits, splits=replace(digits.splits, train=digits.splits.test)), (0.5,)),
        lambda: format_sensitivity(digits, "weight", {"conv2": INT[:1]}),
        lambda: format_sensitivity(digits, "activation", {"conv2": INT[:1]}),
        lambda: format_sensitivity(digits, "weight", {"conv2": [Format("minifloat", 3)]}),
    ]
    for count, question in enumerate(questions, 1):
        question()
        assert len(list(empty_cache.iterdir())) == count


@pytest.mark.parametrize("make", [residual, segmenter])
def test_every_kind_of_task_is_measured_and_left_as_it_was(make: type[Dense], empty_cache: Path) -> None:
    dense = make()
    before = digest(dense.module.state_dict())
    curves = width_sensitivity(dense, (0.25,))
    assert all(math.isfinite(loss) for curve in curves.values() for loss in curve.loss)
    assert digest(dense.module.state_dict()) == before
    assert not any(part.training for part in dense.module.modules())


scores = st.builds(sensitivity._Score, st.floats(0, 50) | st.just(math.nan) | st.just(math.inf), st.floats(0, 1))


@given(st.lists(scores, min_size=1, max_size=6), st.floats(0, 3), st.lists(st.floats(0, 9), max_size=5))
def test_curves_fall_and_never_promise_a_gain(
    found: list[sensitivity._Score], untouched: float, levels: list[float]
) -> None:
    curve = sensitivity.curve(range(1, len(found) + 1), found, sensitivity._Score(untouched, 0.5))
    assert list(curve.loss) == sorted(curve.loss, reverse=True)
    between = curve.loss_at(sorted(levels))
    assert (np.diff(between) <= 1e-12).all()
    assert ((between >= curve.loss[-1]) & (between <= curve.loss[0])).all() and curve.loss[-1] >= 0
    assert Curve.model_validate_json(curve.model_dump_json()) == curve


def test_a_plan_loses_what_its_parts_lose(digits: Dense) -> None:
    keep = Curve(levels=(0.5, 1.0), loss=(2.0, 0.0), accuracy=(-0.5, 0.0))
    bits = Curve(levels=(2.0, 8.0), loss=(3.0, 0.0), accuracy=(-0.5, 0.0))
    table = Sensitivity({"conv1": keep, "conv3": keep}, {"conv2": bits}, {"conv3": bits})
    method = strategy("l1+int")
    small = {"conv1": 0.5, "conv2": 0.1, "conv3": 0.75}
    knobs = {"keep": small, "weight_bits": {"conv2": 2}, "activation_bits": {"conv3": 5}}
    assert table.loss(method.plan(digits, knobs)) == pytest.approx(2 + 1 + 3 + 1.5)
    assert table.loss(strategy("dense").plan(digits, {})) == 0
