"""SENTEI: equal filters, after compressing, after training, and in the exported file; at once, gradually, and 2:4."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from cost_models import export_onnx, quantise_onnx
from strategies import Choice, Compressed, Plan, Space, Strategy, check_strategy, on_grid, strategy
from strategies.ops.masks import kept_per_filter, top_of_groups, top_per_filter
from strategies.sentei import Sentei
from workloads import Dense, InputError, calibration_batches, fold_batch_norm, steps_in, workload

from .subjects import decoder, untrained


@given(st.integers(1, 5000), st.floats(0, 0.99))
def test_slots_are_a_multiple_of_four_at_least_what_is_asked(weights: int, sparsity: float) -> None:
    kept = kept_per_filter(weights, sparsity)
    assert kept == weights or kept % 4 == 0
    assert (1 - sparsity) * weights - 1e-6 <= kept <= weights
    assert kept < (1 - sparsity) * weights + 4


def test_slots_of_round_figures() -> None:
    assert [kept_per_filter(40, s) for s in (0.0, 0.9, 0.5, 0.89)] == [40, 4, 20, 8]


@given(st.integers(1, 6), st.integers(1, 30), st.data())
def test_mask_keeps_the_largest_of_every_filter(filters: int, weights: int, data: st.DataObject) -> None:
    kept = data.draw(st.integers(1, weights))
    values = data.draw(st.lists(st.integers(-3, 3), min_size=filters * weights, max_size=filters * weights))
    weight = torch.tensor(values, dtype=torch.float32).view(filters, weights)
    mask = top_per_filter(weight, kept)
    assert mask.sum(1).tolist() == [kept] * filters
    for row, chosen in zip(weight.abs(), mask, strict=True):
        assert chosen.all() or row[chosen].min() >= row[~chosen].max()


@pytest.mark.parametrize("gradual", [False, True])
@pytest.mark.parametrize("name", ["sentei", "sentei+int"])
def test_equal_filters_survive_training_and_export(digits: Dense, name: str, gradual: bool) -> None:
    method = strategy(name)
    plan = method.plan(digits, {"sparsity": {"conv2": 0.75, "conv3": 0.9}, "gradual": gradual})
    compressed = method.compress(digits, plan)
    method.tune(compressed, digits, 1.0)
    expected = {"conv2": kept_per_filter(32 * 9, 0.75), "conv3": kept_per_filter(64 * 9, 0.9)}
    assert set(compressed.masks) == set(expected)
    for layer, slots in expected.items():
        trained = compressed.module.get_submodule(layer).weight.detach()
        assert (compressed.masks[layer].flatten(1).sum(1) == slots).all()
        assert ((trained != 0).flatten(1).sum(1) <= slots).all()
        assert (compressed.nonzeros()[layer] == slots).all()

    deployed = on_grid(fold_batch_norm(compressed.module), compressed.formats)
    calibration = calibration_batches(digits.workload, digits.splits.train, images=64)
    model = quantise_onnx(export_onnx(deployed, torch.zeros(1, 1, 8, 8)), calibration, compressed.formats)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for layer, slots in expected.items():
        exported = stored[f"{layer}.weight_quantized" if name.endswith("int") else f"{layer}.weight"]
        outside = exported[~compressed.masks[layer].numpy()]
        assert (outside == 0).all()  # only slots hold weights; a slot may hold a zero
        assert ((exported != 0).reshape(len(exported), -1).sum(1) <= slots).all()
    onnx.checker.check_model(model)


def test_first_layer_and_classifier_stay_dense(digits: Dense) -> None:
    method = strategy("sentei")
    everywhere = {name: 0.95 for name in ("conv1", "conv2", "conv3", "linear")}
    assert set(method.plan(digits, {"sparsity": everywhere}).layers) == {"conv2", "conv3"}


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(0, 999))
def test_two_of_every_four_inputs_are_kept(filters: int, groups: int, kernel: int, seed: int) -> None:
    """Against each group by itself, in the order (filters, k, k, inputs); equal weights are common."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randint(-3, 4, (filters, 4 * groups, kernel, kernel), generator=draw).float()
    mask = top_of_groups(weight)
    assert mask.shape == weight.shape
    assert (mask.flatten(1).sum(1) == mask[0].numel() / 2).all()  # so every filter keeps as many
    product = weight.permute(0, 2, 3, 1).reshape(filters, -1)
    chosen = mask.permute(0, 2, 3, 1).reshape(filters, -1)
    for row, kept in zip(product, chosen, strict=True):
        for start in range(0, len(row), 4):
            four, two = row[start : start + 4].abs(), kept[start : start + 4]
            assert two.sum() == 2 and four[two].min() >= four[~two].max()


def test_pattern_of_sparse_tensor_cores(digits: Dense) -> None:
    method = strategy("sentei")
    plan = method.plan(digits, {"pattern": "2:4"})
    assert {name: layer.sparsity for name, layer in plan.layers.items()} == {"conv2": 0.5, "conv3": 0.5}
    compressed = method.compress(digits, plan)
    method.tune(compressed, digits, 0.5)
    for name in plan.layers:
        stored = compressed.module.get_submodule(name).weight.movedim(1, -1).reshape(-1, 4) != 0
        assert (stored.sum(1) <= 2).all()
        assert len(set(compressed.nonzeros()[name])) == 1


def test_layers_whose_inputs_do_not_divide_by_four_stay_dense() -> None:
    subject = decoder()  # `join` reads 14 channels
    assert set(strategy("sentei").plan(subject, {"pattern": "2:4"}).layers) == {"deep", "up"}


STRETCHED = 5  # refreshes


@pytest.fixture
def patient(digits: Dense) -> Dense:
    """Digits with so long a recipe that a gradual plan has five refreshes; the tests train for less."""
    steps = 100 * STRETCHED / 0.6
    recipe = replace(digits.workload.recipe, tune_epochs=steps / steps_in(1, digits.workload, digits.splits.train))
    return replace(digits, workload=replace(digits.workload, recipe=recipe), memo={})


def _gradual(subject: Dense, **knobs: object) -> tuple[Strategy, Compressed]:
    method = strategy("sentei")
    sparsity = {"conv2": 0.75, "conv3": 0.9}
    return method, method.compress(subject, method.plan(subject, {"sparsity": sparsity, "gradual": True, **knobs}))


FINAL = {"conv2": kept_per_filter(32 * 9, 0.75), "conv3": kept_per_filter(64 * 9, 0.9)}


def _slots(compressed: Compressed) -> dict[str, list[int]]:
    """Layer → the different numbers of slots that its filters have."""
    return {name: sorted(set(counts.tolist())) for name, counts in compressed.nonzeros().items()}


def test_a_gradual_plan_starts_dense_and_follows_the_cubic_law(patient: Dense) -> None:
    method, compressed = _gradual(patient)
    assert compressed.plan.settings["refreshes"] == STRETCHED
    assert compressed.masks == {}
    for stage in range(STRETCHED):
        method.advance(compressed, patient, stage, {})
        part = 1 - (1 - (stage + 1) / STRETCHED) ** 3
        for name, weights in (("conv2", 32 * 9), ("conv3", 64 * 9)):
            final = 1 - FINAL[name] / weights
            wanted = 4 * np.ceil(round((1 - part * final) * weights, 6) / 4)
            assert _slots(compressed)[name] == [wanted]
            weight = compressed.module.get_submodule(name).weight
            assert (weight[~compressed.masks[name]] == 0).all()
    assert _slots(compressed) == {name: [slots] for name, slots in FINAL.items()}


@given(st.integers(1, 50), st.integers(1, 20000))
def test_refreshes_end_at_sixty_percent_of_the_training(refreshes: int, steps: int) -> None:
    stages = strategy("sentei").stages(Plan(strategy="sentei", settings={"refreshes": refreshes}), steps)
    end = max(1, round(0.6 * steps))
    taken = [step for step in stages if step > 0]
    assert len(stages) == refreshes and stages[-1] == end
    assert taken == sorted(set(taken)) and len(taken) == min(refreshes, end)
    assert steps == 1 or end < steps
    if end >= refreshes:
        gaps = np.diff([0, *stages])
        assert gaps.max() - gaps.min() <= 1  # evenly, so 100 steps apart in a recipe of 100 · refreshes / 0.6


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20])
def test_however_short_the_training_its_masks_are_final(patient: Dense, steps: int) -> None:
    method, compressed = _gradual(patient)
    method.tune(compressed, patient, steps / steps_in(1, patient.workload, patient.splits.train))
    assert _slots(compressed) == {name: [slots] for name, slots in FINAL.items()}
    for name in FINAL:
        assert (compressed.module.get_submodule(name).weight[~compressed.masks[name]] == 0).all()


def test_without_training_recalibration_masks(patient: Dense) -> None:
    method, compressed = _gradual(patient)
    method.recalibrate(compressed, patient)
    assert _slots(compressed) == {name: [slots] for name, slots in FINAL.items()}


def test_gradual_training_in_parts_equals_training_at_once(patient: Dense) -> None:
    method, at_once = _gradual(patient)
    _, in_parts = _gradual(patient)
    one = method.tune(at_once, patient, 2.0)
    state = None
    for epochs in (0.3, 0.9, 0.8):
        state = method.tune(in_parts, patient, epochs, total_epochs=2.0, state=state)
    assert state is not None
    assert all(torch.equal(at_once.masks[name], in_parts.masks[name]) for name in FINAL)
    for name, weight in at_once.module.state_dict().items():
        assert torch.equal(weight, in_parts.module.state_dict()[name])
    assert all(torch.equal(momentum, state.optimizer[name]) for name, momentum in one.optimizer.items())


def test_newly_masked_weights_lose_their_momentum(patient: Dense) -> None:
    method, compressed = _gradual(patient)
    momenta = {name: torch.ones_like(p) for name, p in compressed.module.named_parameters()}
    method.advance(compressed, patient, 1, momenta)
    for name, momentum in momenta.items():
        layer = name.removesuffix(".weight")
        wanted = compressed.masks[layer].float() if layer in compressed.masks else torch.ones_like(momentum)
        assert torch.equal(momentum, wanted)


@pytest.mark.parametrize("gradual", [False, True])
def test_filters_of_transposed_convolutions_are_equal_too(gradual: bool) -> None:
    """Their weights lie inputs first: slots are counted filter by filter."""
    method, subject = strategy("sentei"), decoder()
    compressed = method.compress(subject, method.plan(subject, {"sparsity": {"up": 0.5}, "gradual": gradual}))
    momenta = {"up.weight": torch.ones(12, 6, 2, 2)}
    if gradual:
        method.advance(compressed, subject, 0, momenta)
        assert torch.equal(momenta["up.weight"], compressed.masks["up"].transpose(0, 1).float())
    weight = compressed.module.up.weight
    assert weight.shape == (12, 6, 2, 2)
    assert (weight != 0).sum((0, 2, 3)).tolist() == [kept_per_filter(12 * 4, 0.5)] * 6


@pytest.mark.parametrize(
    "knobs",
    [
        {"pattern": "1:4"},
        {"pattern": "2:4", "gradual": True},
        {"pattern": "2:4", "sparsity": {"conv2": 0.5}},
        {"temperature": 0.0},
        {"distillation": -1.0},
        {"pairwise": -1.0},
        {"sparsity": {"conv2": 1.0}},
    ],
)
def test_bad_knobs_are_refused_in_one_line(digits: Dense, knobs: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"allowed|leave out|must") as refusal:
        strategy("sentei").plan(digits, knobs)
    assert "\n" not in str(refusal.value)


def test_a_search_chooses_distillation_and_schedule(digits: Dense) -> None:
    method = strategy("sentei")
    space = method.space(digits)
    assert {"distillation", "temperature", "gradual", "sparsity"} <= set(space.ranges())
    start = method.plan(digits, space.decode({}))
    assert start == method.plan(digits, {}) and "refreshes" not in start.settings
    assert (start.settings["distillation"], start.settings["temperature"]) == (1.0, 4.0)
    off = method.plan(digits, {"distillation": 0.0, "temperature": 2.0})
    assert off == method.plan(digits, {"distillation": 0.0}) and off.settings == {}


class _Gradual(Sentei):
    def _space(self, dense: Dense, widths: frozenset[int] = frozenset()) -> Space:
        space = super()._space(dense)
        return replace(space, choices=(Choice("gradual", (True,), 0), Choice("pairwise", (0.5,), 0)))


def test_gradual_segmentation_with_similar_features_keeps_the_contract() -> None:
    unet = workload("camvid/unet", data_dir=".").build
    check_strategy(_Gradual(), untrained(unet, 16, "segmentation", classes=11))
