"""Controls keep what they should keep of a method, and only that; options that every strategy has."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from strategies import Compressed, strategy
from workloads import Dense, InputError, initial, normalise, trace


def made(digits: Dense, name: str, knobs: dict | None = None) -> Compressed:
    method = strategy(name)
    return method.compress(digits, method.plan(digits, knobs or {}))


def widths(compressed: Compressed, digits: Dense) -> list[int]:
    return [layer.out_channels for layer in trace(compressed.module, digits.workload.example).compute_layers]


@pytest.mark.parametrize("control", ["shuffle", "reinit", "scratch-e", "scratch-b"])
def test_a_control_has_the_structure_of_its_method_and_other_weights(digits: Dense, control: str) -> None:
    method, controlled = made(digits, "pca_l1"), made(digits, f"pca_l1@{control}")
    assert widths(method, digits) == widths(controlled, digits)
    assert not torch.equal(method.module.get_submodule("conv3").weight, controlled.module.get_submodule("conv3").weight)
    assert controlled.plan.strategy == f"pca_l1@{control}"


def test_shuffled_masks_keep_as_much_of_every_layer_elsewhere_and_the_weights_of_those_places(digits: Dense) -> None:
    method, shuffled = made(digits, "sentei"), made(digits, "sentei@shuffle")
    for name, mask in method.masks.items():
        other = shuffled.masks[name]
        assert mask.sum() == other.sum()
        overlap = float((mask & other).sum() / mask.sum())
        assert overlap == pytest.approx(float(mask.float().mean()), abs=0.05)  # as chance has it
        weight = shuffled.module.get_submodule(name).weight
        assert torch.equal(weight[other], digits.module.get_submodule(name).weight[other])
        assert not weight[~other].any()


def test_shuffled_channels_come_from_the_dense_network(digits: Dense) -> None:
    first = made(digits, "uniform@shuffle", {"keep": 0.5}).module.get_submodule("conv1").weight
    whole = digits.module.get_submodule("conv1").weight
    assert all(any(torch.equal(kept, channel) for channel in whole) for kept in first)


def test_reinitialised_masks_hold_and_weights_are_new(digits: Dense) -> None:
    method, fresh = made(digits, "sentei"), made(digits, "sentei@reinit")
    for name, mask in method.masks.items():
        assert torch.equal(mask, fresh.masks[name])
        assert not fresh.module.get_submodule(name).weight[~mask].any()
    assert torch.equal(
        fresh.module.get_submodule("bn1").weight, initial(digits.workload, 0).get_submodule("bn1").weight
    )


def test_scratch_trains_as_long_as_the_dense_network_in_epochs_or_operations(digits: Dense) -> None:
    for name, expected in (("scratch-e", 10.0), ("reinit", 2.0), ("shuffle", 2.0)):
        method = strategy(f"uniform@{name}")
        assert method.epochs(digits, method.plan(digits, {}), 2.0, 10.0) == expected
    whole = strategy("uniform@scratch-b")
    assert whole.epochs(digits, whole.plan(digits, {"keep": 1.0}), 2.0, 10.0) == 10.0
    assert 10.0 < whole.epochs(digits, whole.plan(digits, {"keep": 0.9}), 2.0, 10.0) < 20.0
    assert whole.epochs(digits, whole.plan(digits, {"keep": 0.1}), 2.0, 10.0) == 20.0


def test_a_staged_method_is_controlled_in_its_one_shot_form_or_not_at_all(digits: Dense) -> None:
    plan = strategy("pca_l1@scratch-e").plan(digits, {"rounds": 3})
    assert "rounds" not in plan.settings
    assert "rounds" not in strategy("pca_l1@scratch-e").space(digits).ranges()
    with pytest.raises(InputError, match="changes its structure"):
        strategy("pai_pat@shuffle").plan(digits, {})


@pytest.mark.parametrize("name", ["pca_l1@nonsense", "int@shuffle", "dense@reinit", "nonsense@shuffle"])
def test_unknown_controls_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(InputError) as refusal:
        strategy(name)
    assert "\n" not in str(refusal.value)


def test_distillation_is_an_option_of_every_strategy_and_off_by_default(digits: Dense) -> None:
    for name in ("uniform", "pca_l1+int", "snip", "l1@scratch-e"):
        method = strategy(name)
        plain, taught = method.plan(digits, {}), method.plan(digits, {"distillation": 0.5})
        assert "distillation" not in plain.settings
        assert taught.settings["distillation"] == 0.5 and taught.settings["temperature"] == 4.0
        assert plain.digest != taught.digest
        assert method.loss(method.compress(digits, plain), digits) is None
        assert method.loss(method.compress(digits, taught), digits) is not None


def test_sentei_learns_from_the_dense_network_unless_told_not_to(digits: Dense) -> None:
    method = strategy("sentei")
    assert method.plan(digits, {}).settings["distillation"] == 1.0
    assert "distillation" not in method.plan(digits, {"distillation": 0}).settings


def test_distillation_makes_outputs_more_like_the_teachers(digits: Dense) -> None:
    pictures, _ = digits.splits.validation.batch(np.arange(200))
    images, distance = normalise(pictures, digits.workload), []
    for knobs in ({"keep": 0.3}, {"keep": 0.3, "distillation": 0.5}):
        method = strategy("uniform")
        compressed = method.compress(digits, method.plan(digits, knobs))
        method.tune(compressed, digits, 2.0)
        with torch.no_grad():
            student, teacher = compressed.module(images).softmax(1), digits.module(images).softmax(1)
        distance.append(float((student - teacher).abs().mean()))
    assert distance[1] < 0.8 * distance[0]


@pytest.mark.parametrize(
    "knobs", [{"distillation": -1}, {"distillation": 1, "temperature": 0}, {"straight_through": True}]
)
def test_options_that_make_no_sense_are_refused_in_one_line(digits: Dense, knobs: dict) -> None:
    with pytest.raises(InputError) as refusal:
        strategy("uniform").plan(digits, knobs)
    assert "\n" not in str(refusal.value)
