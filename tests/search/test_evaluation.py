"""An evaluation records what its training cost, the dense network's beside it."""

from __future__ import annotations

import pytest

from cost_models import Counts, Frozen
from search import Evaluator, Job, Subject
from strategies import Plan, strategy
from workloads import Dense, InputError


@pytest.fixture
def evaluator(digits: Dense) -> Evaluator:
    return Evaluator(Subject("digits/cnn"), ["counts"], {"counts": Frozen(None)})


def job(evaluator: Evaluator, name: str, epochs: float) -> Job:
    plan = strategy(name).plan(evaluator.dense, {})
    return Job("study", name, 0, "candidate", plan.to_json(), {}, epochs)


def test_a_trained_candidate_records_its_epoch_beside_the_dense_one(evaluator: Evaluator) -> None:
    training = evaluator.run(job(evaluator, "uniform", 0.5)).training
    assert training.starts_from == "trained"
    assert training.total_epochs == evaluator.dense.cost.epochs + 0.5
    assert training.total_seconds == evaluator.dense.cost.seconds + training.seconds
    assert training.epoch_fp32 and training.dense_epoch_fp32
    assert (training.epoch_bf16 is None) == (training.dense_epoch_bf16 is None)


def test_the_learning_rate_of_tuning_can_be_told(evaluator: Evaluator) -> None:
    own = evaluator.dense.workload.recipe
    told = Evaluator(Subject("digits/cnn", learning_rate=own.tune_learning_rate / 1000), ["counts"])
    recipe = told.dense.workload.recipe
    assert recipe.tune_learning_rate == own.tune_learning_rate / 1000 and recipe.learning_rate == own.learning_rate
    assert told.dense.digest == evaluator.dense.digest  # no other dense network
    moved = []
    for one in (evaluator, told):
        compressed = strategy("uniform").compress(one.dense, strategy("uniform").plan(one.dense, {}))
        before = compressed.module.get_parameter("conv1.weight").detach().clone()
        strategy("uniform").tune(compressed, one.dense, 0.2)
        moved.append(float((compressed.module.get_parameter("conv1.weight").detach() - before).abs().mean()))
    assert moved[1] < moved[0] / 100


def test_what_was_not_trained_has_no_epoch(evaluator: Evaluator) -> None:
    training = evaluator.run(job(evaluator, "dense", 0.0)).training
    assert training.epoch_fp32 is training.dense_epoch_bf16 is None
    assert training.total_seconds == evaluator.dense.cost.seconds


def test_an_entry_tells_the_widths_that_stages_left(evaluator: Evaluator) -> None:
    entry = evaluator.run(job(evaluator, "pai_pat", 1.0))
    final = {name: value for name, value in entry.plan["notes"].items() if name.startswith("width.")}
    assert final and all(value < 128 for value in final.values())
    assert Plan.from_json(entry.plan).digest == entry.plan_digest
    assert not any(name.startswith("width.") for name in evaluator.run(job(evaluator, "uniform", 0.5)).plan["notes"])


def test_a_target_that_this_machine_lacks_is_refused_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Counts, "missing", lambda self: "no abacus")
    with pytest.raises(InputError, match=r"target counts cannot be measured on this machine: no abacus"):
        Evaluator(Subject("digits/cnn"), ["counts"])


@pytest.mark.parametrize("name", ["uniform+int", "sentei", "low_rank+minifloat", "pai_pat", "snip", "dense"])
def test_an_entry_says_what_became_of_every_layer(evaluator: Evaluator, name: str) -> None:
    entry = evaluator.run(job(evaluator, name, 0.0 if name == "dense" else 0.2))
    assert sum(layer.macs for layer in entry.layers) == entry.macs
    assert list(dict.fromkeys(layer.part_of or layer.name for layer in entry.layers)) == [
        "conv1",
        "conv2",
        "conv3",
        "linear",
    ]
    asked = entry.costs[0].executed  # `counts` runs what it is asked to
    assert {layer.name: (layer.weights, layer.activations) for layer in entry.layers} == asked
    if not any(layer.part_of for layer in entry.layers):
        assert sum(layer.dense_macs or 0 for layer in entry.layers) == entry.dense_macs


def test_a_layer_that_is_gone_is_told_with_nothing_left() -> None:
    from torch import nn

    from search.evaluation import layer_shapes
    from workloads import trace, workload

    net = workload("cifar10/resnet8")
    whole = net.build()
    dense = trace(whole, net.example)
    branch = next(name for name, _ in whole.named_modules() if name.endswith("conv1") and "." in name).rpartition(".")[
        0
    ]
    assert isinstance(whole.get_submodule(branch), nn.Module)
    layers = [layer for layer in dense.layers if not layer.name.startswith(branch)]
    shapes = layer_shapes(dense, type(dense)(tuple(layers), dense.parameters))
    assert [shape["name"] for shape in shapes] == [layer.name for layer in dense.compute_layers]
    gone = [shape["name"] for shape in shapes if shape["channels"] == 0]
    assert gone == [layer.name for layer in dense.compute_layers if layer.name.startswith(branch)] != []
