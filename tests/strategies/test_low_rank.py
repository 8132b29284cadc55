"""Low rank: every factoring against NumPy's own decompositions, and the strategies that prune what is left."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx
import pytest
import scipy.sparse
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from cost_models import export_onnx, quantise_onnx
from cost_models.export import layer_of
from strategies import Compressed, csr_bytes, on_grid, prune_to_drop, strategy
from strategies.conventional import prune_smallest
from strategies.ops.low_rank import (
    SCHEMES,
    Scheme,
    applied,
    bases,
    break_even,
    can_factor,
    cost,
    dense_cost,
    factor,
    full_ranks,
    output_covariances,
    pays,
    ranks_of,
)
from strategies.ops.spectrum import Covariance
from strategies.plan import LayerPlan, Plan
from workloads import (
    Accuracy,
    ArraySplit,
    Dense,
    InputError,
    Recipe,
    Splits,
    TrainingCost,
    Workload,
    calibration_batches,
    evaluate,
    fold_batch_norm,
    trace,
)
from workloads.models.resnet_mlperf_tiny import ResNet8
from workloads.models.unet import UNet

from .networks import Decoder, Grouped

SPLITS: tuple[Scheme, ...] = ("B", "spatial", "tucker")


@st.composite
def convolutions(draw: st.DrawFn) -> nn.Conv2d:
    """Of any kernel, stride, padding and dilation, all of them different down and across."""
    pair = lambda low, high: st.tuples(st.integers(low, high), st.integers(low, high))  # noqa: E731
    torch.manual_seed(draw(st.integers(0, 2**31 - 1)))
    return nn.Conv2d(
        draw(st.integers(2, 7)),
        draw(st.integers(2, 7)),
        draw(pair(1, 4)),
        draw(pair(1, 3)),
        draw(pair(0, 2)),
        draw(pair(1, 2)),
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "replicate", "circular"])),
    )


@given(convolutions(), st.sampled_from(SCHEMES))
@settings(deadline=None)
def test_full_rank_is_the_identity(layer: nn.Conv2d, scheme: Scheme) -> None:
    images = torch.randn(2, layer.in_channels, 11, 13)
    factored = factor(layer, scheme, full_ranks(layer, scheme), bases(layer, scheme))
    with torch.no_grad():
        torch.testing.assert_close(factored(images), layer(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
def test_full_rank_of_a_linear_layer_is_the_identity(scheme: Scheme, shape: tuple[int, int]) -> None:
    layer, images = nn.Linear(*shape), torch.randn(4, shape[0])
    factored = factor(layer, scheme, full_ranks(layer, scheme), bases(layer, scheme))
    torch.testing.assert_close(factored(images), layer(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_same_padding_of_an_even_kernel_survives(scheme: Scheme) -> None:
    layer, images = nn.Conv2d(4, 5, (4, 2), padding="same"), torch.randn(2, 4, 9, 8)
    factored = factor(layer, scheme, full_ranks(layer, scheme), bases(layer, scheme))
    torch.testing.assert_close(factored(images), layer(images), rtol=1e-5, atol=1e-5)


def composed(factored: Any) -> np.ndarray:
    """The one weight that a factored convolution stands for, (Cout, Cin, kh, kw) or (Cout, Cin)."""
    if not isinstance(factored, nn.Sequential):
        return factored.weight.detach().double().numpy()
    parts = {name: part.weight.detach().double().numpy() for name, part in factored.named_children()}
    if "vertical" in parts:
        return np.einsum("orw,rih->oihw", parts["horizontal"][:, :, 0, :], parts["vertical"][..., 0])
    if "core" in parts:
        return np.einsum("op,pqhw,qi->oihw", parts["expand"][..., 0, 0], parts["core"], parts["reduce"][..., 0, 0])
    if parts["expand"].ndim == 2:
        return parts["expand"] @ parts["reduce"]
    return np.einsum("or,rihw->oihw", parts["expand"][..., 0, 0], parts["reduce"])


def unfolded(weight: np.ndarray, scheme: Scheme) -> np.ndarray:
    if scheme == "spatial":
        outputs, inputs, height, width = weight.shape
        return weight.transpose(0, 3, 1, 2).reshape(outputs * width, inputs * height)
    return weight.reshape(len(weight), -1)


@given(convolutions(), st.sampled_from(["A", "B", "spatial"]), st.data())
@settings(deadline=None)
def test_truncation_loses_the_tail_of_the_spectrum(layer: nn.Conv2d, scheme: Scheme, data: st.DataObject) -> None:
    """Eckart–Young: no approximation of that rank comes nearer, in the unfolding that the scheme decomposes."""
    assume(applied(layer, scheme) == scheme)
    rank = data.draw(st.integers(1, full_ranks(layer, scheme)[0]))
    weight = layer.weight.detach().double().numpy()
    approximate = composed(factor(layer, scheme, (rank,), bases(layer, scheme)))
    singular = np.linalg.svd(unfolded(weight, scheme), compute_uv=False)
    assert ((weight - approximate) ** 2).sum() == pytest.approx((singular[rank:] ** 2).sum(), rel=1e-4, abs=1e-9)
    assert np.linalg.matrix_rank(unfolded(approximate, scheme), tol=1e-4) <= rank


def test_factors_share_the_magnitude() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 8, 3)
    for scheme in SPLITS:
        parts = factor(layer, scheme, ranks_of(layer, scheme, 3), bases(layer, scheme))
        norms = [float(part.weight.detach().norm()) for part in parts.children()]
        assert norms == pytest.approx([norms[0]] * len(norms), rel=1e-4)


def test_tucker_equals_a_naive_higher_order_svd() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 8, 3)
    weight = layer.weight.detach().double().numpy()
    outward = np.linalg.svd(weight.reshape(8, -1))[0][:, :4]
    inward = np.linalg.svd(weight.transpose(1, 0, 2, 3).reshape(6, -1))[0][:, :3]
    expected = np.einsum("oihw,op,iq,np,mq->nmhw", weight, outward, inward, outward, inward)
    ours = composed(factor(layer, "tucker", (4, 3), bases(layer, "tucker")))
    np.testing.assert_allclose(ours, expected, atol=1e-6)


@given(st.integers(0, 2**31 - 1), st.floats(0.05, 1.0))
@settings(deadline=None)
def test_rank_is_the_least_that_keeps_the_energy(seed: int, tau: float) -> None:
    torch.manual_seed(seed)
    layer = nn.Conv2d(4, 6, 3)
    energies = np.linalg.svd(layer.weight.detach().double().numpy().reshape(6, -1), compute_uv=False) ** 2
    # A sum may reach tau by a rounding error alone: right are the ranks of every tau next to the one given.
    right = {
        next(r for r in range(1, 7) if r == 6 or energies[:r].sum() >= near * energies.sum())
        for near in (tau - 1e-12, tau, tau + 1e-12)
    }
    assert bases(layer, "B")[0].rank(tau) in right


def patches(images: Tensor, layer: nn.Conv2d) -> Tensor:
    """im2col of a layer's inputs, float64 (samples, Cin·k²)."""
    columns = functional.unfold(
        images.double(),
        layer.kernel_size,
        layer.dilation,
        layer.padding,
        layer.stride,
    )
    return columns.transpose(1, 2).flatten(0, 1)


@pytest.mark.parametrize("scheme", ["A", "B"])
@pytest.mark.parametrize("bias", [True, False])
def test_data_aware_reaches_the_least_error_of_the_output(scheme: Scheme, bias: bool) -> None:
    """Against W·Cov_x^{1/2} decomposed as it stands, over patches that im2col lays out."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=(2, 1), padding=1, bias=bias))
    mixing = torch.randn(3, 3)
    images = torch.einsum("ij,njhw->nihw", mixing, torch.randn(40, 3, 9, 9).cumsum(-1)) + torch.tensor(2.0)
    layer = net[0]
    assert isinstance(layer, nn.Conv2d)
    x = patches(images, layer).numpy()
    weight = layer.weight.detach().double().numpy().reshape(8, -1)
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    singular = np.linalg.svd(weight @ (vectors * np.sqrt(values.clip(0))) @ vectors.T, compute_uv=False)

    outputs = output_covariances(net, ["0"], images.split(7))["0"]
    np.testing.assert_allclose(outputs.matrix().numpy(), weight @ np.cov(x.T, bias=True) @ weight.T, rtol=1e-4)
    with torch.no_grad():
        exact = layer(images)
    worse = 0
    for rank in range(1, 9):
        errors = []
        for found in (bases(layer, scheme, outputs), bases(layer, scheme)):
            with torch.no_grad():
                lost = factor(layer, scheme, (rank,), found)(images) - exact
            errors.append(float(lost.double().square().sum(1).mean()))
        assert errors[0] == pytest.approx((singular[rank:] ** 2).sum(), rel=1e-3, abs=1e-4)
        assert errors[0] <= errors[1] + 1e-4
        worse += errors[1] > 2 * errors[0] + 1e-3
    assert worse  # on these images the two decompositions do differ


def test_data_aware_full_rank_is_the_identity_where_inputs_are_never_seen() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 6)
    outputs = Covariance(6)
    seen = torch.randn(50, 4) * torch.tensor([1.0, 1.0, 0.0, 0.0])
    with torch.no_grad():
        outputs.add(seen @ layer.weight.T)
        factored = factor(layer, "B", (4,), bases(layer, "B", outputs))
        images = torch.randn(5, 4)
        torch.testing.assert_close(factored(images), layer(images), rtol=1e-4, atol=1e-4)


@given(convolutions(), st.sampled_from(SPLITS), st.data())
@settings(deadline=None)
def test_break_even_is_where_the_factors_cost_what_the_layer_does(
    layer: nn.Conv2d, scheme: Scheme, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(1, full_ranks(layer, scheme)[0]))
    ranks = ranks_of(layer, scheme, rank)
    if applied(layer, scheme) == "tucker":
        # With one share for both ranks, unrounded, the cost at break-even is the layer's.
        share = break_even(layer, scheme) / layer.out_channels
        inner, outer = share * layer.in_channels, share * layer.out_channels
        positions = layer.stride[0] * layer.stride[1]
        kernel = layer.kernel_size[0] * layer.kernel_size[1]
        whole = layer.in_channels * inner * positions + inner * outer * kernel + outer * layer.out_channels
        assert whole == pytest.approx(dense_cost(layer))
    elif applied(layer, scheme) == scheme or max(layer.stride) == 1:
        assert pays(layer, scheme, ranks) == (rank < break_even(layer, scheme) * (1 - 1e-12))
    if pays(layer, scheme, ranks):
        factored = factor(layer, scheme, ranks, bases(layer, scheme))
        weights = sum(part.weight.numel() for part in factored.children())
        assert weights <= cost(layer, scheme, ranks) < dense_cost(layer)


def test_break_even_of_the_channel_split_is_the_formula() -> None:
    layer = nn.Conv2d(16, 32, 3)
    assert break_even(layer, "B") == pytest.approx(32 * 144 / (32 + 144))
    assert break_even(layer, "spatial") == pytest.approx(32 * 144 / (3 * (32 + 16)))


@pytest.mark.parametrize("scheme", SPLITS)
@pytest.mark.parametrize("data_aware", [False, True])
def test_parameters_and_multiplications_fall(digits: Dense, scheme: Scheme, data_aware: bool) -> None:
    method, example = strategy("low_rank"), digits.workload.example
    before = trace(digits.module, example)
    sizes = []
    for tau in (0.3, 0.6, 0.9):
        plan = method.plan(digits, {"scheme": scheme, "tau": tau, "sparsity": 0.0, "data_aware": data_aware})
        after = trace(method.compress(digits, plan).module, example)
        sizes.append((sum(layer.macs for layer in after.compute_layers), after.parameters))
        assert plan.layers
    assert sizes == sorted(sizes)
    assert sizes[-1] < (sum(layer.macs for layer in before.compute_layers), before.parameters)


def test_a_share_of_the_break_even_rank_overrides_tau(digits: Dense) -> None:
    method = strategy("low_rank")
    ranks = {}
    for tau in (0.7, 0.99):
        plan = method.plan(digits, {"tau": tau, "rank": {"conv2": 0.5, "conv3": "skip", "linear": 1.0}})
        ranks[tau] = {name: layer.rank for name, layer in plan.layers.items()}
        assert "conv3" not in ranks[tau]
        even = break_even(digits.module.get_submodule("conv2"), "B")
        assert even == pytest.approx(64 * 288 / (64 + 288))
        assert ranks[tau]["conv2"] == int(0.5 * even)
        assert ranks[tau]["linear"] == 9  # of 1280 / 138 = 9.3
    assert ranks[0.7] != ranks[0.99] or "conv1" not in ranks[0.99]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_plan_alone_makes_the_network(digits: Dense, scheme: Scheme) -> None:
    """Ranks chosen by energy, both of Tucker-2, come back from a plan that went through JSON and another process."""
    method = strategy("low_rank")
    plan = method.plan(digits, {"scheme": scheme, "tau": 0.8})
    stranger = Dense(**{**digits.__dict__, "memo": {}})
    one = method.compress(digits, plan).module
    other = method.compress(stranger, Plan.from_json(plan.to_json())).module
    for (name, a), (_, b) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    for name, layer in plan.layers.items():
        original = digits.module.get_submodule(name)
        wanted = tuple(basis.rank(0.8) for basis in bases(original, scheme))
        assert layer.rank == wanted[0]
        part = one.get_submodule(name)
        if isinstance(part, nn.Sequential) and len(part) == 3:
            core = part.get_submodule("core")
            assert isinstance(core, nn.Conv2d)
            assert (core.out_channels, core.in_channels) == wanted


@pytest.mark.parametrize("scheme", ["A", "B"])
def test_data_aware_loses_less_accuracy_of_outputs_in_the_whole_network(digits: Dense, scheme: Scheme) -> None:
    """conv3 alone, at one rank: its own outputs on training images are nearer to the dense network's."""
    method = strategy("low_rank")
    batches = calibration_batches(digits.workload, digits.splits.train, 512)

    def outputs(module: nn.Module) -> Tensor:
        front = nn.Sequential(*list(module.children())[:8])  # up to conv3
        with torch.no_grad():
            return torch.cat([front(batch) for batch in batches])

    errors = []
    for data_aware in (True, False):
        settings_: dict[str, Any] = {"scheme": scheme, "data_aware": True} if data_aware else {"scheme": scheme}
        plan = Plan(strategy="low_rank", layers={"conv3": LayerPlan(rank=20)}, settings=settings_)
        module = method.compress(digits, plan).module
        errors.append(float((outputs(module) - outputs(digits.module)).square().mean()))
    assert errors[0] < errors[1]


@given(st.floats(0, 0.999), st.integers(0, 2**31 - 1))
@settings(deadline=None, max_examples=30)
def test_sparsity_is_exact_to_one_weight_even_among_ties(sparsity: float, seed: int) -> None:
    module = Decoder()
    draw = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randint(-2, 3, parameter.shape, generator=draw).float()
    compressed = Compressed(module, Plan(strategy="conventional"), 0)
    total = sum(layer.weight.numel() for layer in module.children())
    prune_smallest(compressed, sparsity / 2, {})
    first = {name: mask.clone() for name, mask in compressed.masks.items()}
    momenta = {name: torch.ones_like(value) for name, value in module.named_parameters()}
    prune_smallest(compressed, sparsity, momenta)
    assert sum(int((~mask).sum()) for mask in compressed.masks.values()) == round(sparsity * total)
    for name, mask in compressed.masks.items():
        assert not (mask & ~first[name]).any()  # what is masked never comes back
        weight, momentum = module.get_submodule(name).weight, momenta[f"{name}.weight"]
        turned = name == "up"  # a transposed convolution holds its filters second
        shape = mask.transpose(0, 1) if turned else mask
        assert isinstance(weight, Tensor)
        assert (weight[~shape] == 0).all()
        assert torch.equal(momentum, shape.float())
        assert (momenta[f"{name}.bias"] == 1).all()


@pytest.mark.parametrize(("name", "knobs"), [("low_rank", {"tau": 0.8}), ("conventional", {})])
def test_sparsity_rises_step_by_step_and_masks_hold(digits: Dense, name: str, knobs: dict[str, Any]) -> None:
    method = strategy(name)
    plan = method.plan(digits, {**knobs, "sparsity": 0.6, "steps": 3})
    compressed = method.compress(digits, plan)
    assert not compressed.masks
    total = sum(
        layer.weight.numel() for layer in compressed.module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    )
    state, seen = None, []
    for _ in range(4):
        state = method.tune(compressed, digits, 0.5, total_epochs=2.0, state=state)
        seen.append(sum(int((~mask).sum()) for mask in compressed.masks.values()))
        for layer, mask in compressed.masks.items():
            weight = compressed.module.get_submodule(layer).weight
            assert isinstance(weight, Tensor)
            assert (weight[~mask] == 0).all()
    assert seen == [round(total * sparsity) for sparsity in (0.2, 0.4, 0.6, 0.6)]
    assert evaluate(compressed.module, digits.splits.validation, digits.workload).primary > 0.9


def test_one_shot_prunes_before_tuning(digits: Dense) -> None:
    method = strategy("conventional")
    plan = method.plan(digits, {"sparsity": 0.7, "steps": 0})
    assert not method.stages(plan, 1000)
    compressed = method.compress(digits, plan)
    kept = sum(int(mask.sum()) for mask in compressed.masks.values())
    weights = torch.cat(
        [digits.module.get_submodule(name).weight.detach().abs().flatten() for name in compressed.masks]
    )
    assert kept == len(weights) - round(0.7 * len(weights))
    stays = torch.cat([mask.flatten() for mask in compressed.masks.values()])
    assert weights[stays].min() >= weights[~stays].max()


def made(module: nn.Module, task: str, shape: tuple[int, int, int], classes: int) -> Dense:
    """An untrained network on noise, ready for a strategy."""
    draw = torch.Generator().manual_seed(0)
    size = (16, *shape[1:]) if task == "segmentation" else (16,)
    split = ArraySplit(
        torch.randint(0, 256, (16, *shape), generator=draw, dtype=torch.uint8),
        torch.randint(0, classes, size, generator=draw),
    )
    workload = Workload(
        name="test/network",
        summary="",
        task=task,
        classes=classes,
        input_shape=shape,
        mean=(128.0,) * shape[0],
        std=(64.0,) * shape[0],
        build=lambda: copy.deepcopy(module),
        load=lambda folder: Splits(split, split, split),
        recipe=Recipe(epochs=1, tune_epochs=1.0, batch_size=4, learning_rate=0.01, tune_learning_rate=0.01),
    )
    cost = TrainingCost(1.0, 1.0, 16)
    return Dense(workload, 0, module.eval(), Splits(split, split, split), Accuracy(top1=0.5), cost, "")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", ["residual", "unet", "decoder"])
def test_runs_on_residual_and_segmentation_networks(kind: str, scheme: Scheme) -> None:
    torch.manual_seed(0)
    dense = {
        "residual": lambda: made(ResNet8(), "classification", (3, 32, 32), 10),
        "unet": lambda: made(UNet(classes=4, width=4), "segmentation", (3, 16, 24), 4),
        "decoder": lambda: made(nn.Sequential(Decoder(), nn.Upsample(scale_factor=2)), "segmentation", (3, 8, 8), 4),
    }[kind]()
    method = strategy("low_rank")
    plan = method.plan(dense, {"scheme": scheme, "tau": 0.5, "sparsity": 0.5, "steps": 1})
    compressed = method.compress(dense, plan)
    assert any(layer.rank for layer in plan.layers.values())
    method.tune(compressed, dense, 1.0)
    kept = sum(int(mask.sum()) for mask in compressed.masks.values())
    total = sum(mask.numel() for mask in compressed.masks.values())
    assert kept == total - round(0.5 * total)
    network = trace(compressed.module, dense.workload.example, compressed.formats, compressed.nonzeros())
    assert sum(int(layer.nonzeros.sum()) for layer in network.compute_layers) == kept
    if kind == "decoder":
        assert isinstance(compressed.module.get_submodule("0.up"), nn.ConvTranspose2d)


def test_grouped_convolutions_stay_as_they_are() -> None:
    dense = made(Grouped(), "classification", (3, 8, 8), 3)
    method = strategy("low_rank")
    compressed = method.compress(dense, method.plan(dense, {"tau": 0.3}))
    assert not can_factor(dense.module.get_submodule("grouped"))
    assert isinstance(compressed.module.get_submodule("grouped"), nn.Conv2d)
    assert isinstance(compressed.module.get_submodule("conv"), nn.Sequential)


@pytest.mark.parametrize("name", ["low_rank", "low_rank+int"])
def test_factors_keep_names_and_formats_through_export(digits: Dense, name: str) -> None:
    method = strategy(name)
    knobs = {"tau": 0.8, "sparsity": 0.5, "steps": 1, "weight_bits": {"conv2": 4}, "activation_bits": {"conv2": 6}}
    plan = method.plan(digits, knobs)
    assert plan.layers["conv2"].rank and plan.layers["conv3"].rank
    compressed = method.compress(digits, plan)
    method.tune(compressed, digits, 1.0)
    deployed = on_grid(fold_batch_norm(compressed.module), compressed.formats)
    calibration = calibration_batches(digits.workload, digits.splits.train, images=64)
    model = quantise_onnx(export_onnx(deployed, torch.zeros(1, 1, 8, 8)), calibration, compressed.formats)
    onnx.checker.check_model(model)
    network = trace(compressed.module, digits.workload.example, compressed.formats, compressed.nonzeros())
    exported = {layer_of(node) for node in model.graph.node} - {None, ""}
    assert {"conv2.reduce", "conv2.expand", "conv3.reduce", "conv3.expand"} <= exported
    assert {layer.name for layer in network.compute_layers} <= exported
    if name.endswith("int"):
        for part in ("conv2.reduce", "conv2.expand"):
            layer = network[part]
            assert (str(layer.weight_format), str(layer.activation_format)) == ("int4", "int6")
            filters = deployed.get_submodule(part).weight.detach().flatten(1)
            assert max(len(row.unique()) for row in filters) <= 15
        assert "conv2.reduce.weight_quantized" in {tensor.name for tensor in model.graph.initializer}


def test_compressing_leaves_the_random_generator_alone(digits: Dense) -> None:
    before = torch.random.get_rng_state()
    for scheme in SCHEMES:
        strategy("low_rank").compress(digits, strategy("low_rank").plan(digits, {"scheme": scheme, "tau": 0.5}))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("knobs", "about"),
    [
        ({"scheme": "C"}, "scheme 'C'"),
        ({"tau": 0.0}, "tau is 0"),
        ({"tau": 1.5}, "tau is 1.5"),
        ({"rank": {"conv9": 0.5}}, "conv9"),
        ({"rank": {"conv2": 1.5}}, "conv2"),
        ({"rank": {"conv2": "all"}}, "conv2"),
        ({"sparsity": 1.0}, "sparsity is 1"),
        ({"steps": -1}, "steps is -1"),
    ],
)
def test_bad_knobs_are_refused_in_one_line(digits: Dense, knobs: dict[str, Any], about: str) -> None:
    with pytest.raises(InputError, match=about) as refusal:
        strategy("low_rank").plan(digits, knobs)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("layers", [{"conv2": 65}, {"conv9": 3}])
def test_bad_plans_are_refused_in_one_line(digits: Dense, layers: dict[str, int]) -> None:
    plan = Plan(strategy="low_rank", layers={name: LayerPlan(rank=rank) for name, rank in layers.items()})
    with pytest.raises(InputError, match=next(iter(layers))) as refusal:
        strategy("low_rank").compress(digits, plan)
    assert "\n" not in str(refusal.value)


def test_a_network_without_anything_to_factor_is_refused_before_any_work() -> None:
    depthwise = nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    dense = made(depthwise, "classification", (3, 8, 8), 3)
    for knobs in ({}, {"data_aware": True}):
        with pytest.raises(InputError, match="no layer that low_rank can factor") as refusal:
            strategy("low_rank").plan(dense, knobs)
        assert "\n" not in str(refusal.value)
    assert not dense.memo.keys() - {"branches"}


def test_no_rank_below_break_even_leaves_the_network_as_it_is(digits: Dense) -> None:
    method = strategy("low_rank")
    plan = method.plan(digits, {"tau": 1.0, "sparsity": 0.0})
    assert not plan.layers and not plan.settings
    compressed = method.compress(digits, plan)
    assert compressed.module.state_dict().keys() == digits.module.state_dict().keys()


@pytest.mark.parametrize("name", ["low_rank", "conventional"])
def test_the_loop_prunes_until_the_accuracy_drops(digits: Dense, name: str) -> None:
    result = prune_to_drop(strategy(name), digits, {"tau": 0.95}, drop=0.02, step=0.6, max_fine_tunes=9)
    assert result.fine_tunes == len(result.history) == result.history[-1].fine_tunes <= 9
    first = 0.0 if name == "low_rank" else 0.6  # conventional pruning has nothing to repair before its first step
    kept = [1 - first]
    kept += [kept[0] * 0.4**k for k in range(1, len(result.history))]
    assert [told.sparsity for told in result.history] == pytest.approx([1 - share for share in kept])
    assert [told.bytes for told in result.history] == sorted((told.bytes for told in result.history), reverse=True)
    least = digits.validation.primary - 0.02
    assert all(told.validation >= least for told in result.history[:-1])
    assert result.history[-1].validation < least  # 60 % of what is left, nine times, is more than a network bears
    assert result.last is not None and result.reached == result.history[-2]
    found = evaluate(result.last.module, digits.splits.validation, digits.workload).primary
    assert found == result.reached.validation
    assert csr_bytes(result.last) == result.reached.bytes
    masked = sum(int((~mask).sum()) for mask in result.last.masks.values())
    total = sum(mask.numel() for mask in result.last.masks.values())
    if result.last.masks:
        assert masked == round(result.reached.sparsity * total) and total - masked == result.reached.weights


def test_a_drop_that_is_missed_at_once_leaves_no_network(digits: Dense) -> None:
    result = prune_to_drop(strategy("low_rank"), digits, {"tau": 0.1}, drop=-1.0, tune_epochs=0.1)
    assert result.last is None and result.reached is None and result.fine_tunes == 1


def test_bytes_are_those_of_scipys_sparse_rows(digits: Dense) -> None:
    method = strategy("conventional")
    for sparsity in (0.0, 0.3, 0.9):
        compressed = method.compress(digits, method.plan(digits, {"sparsity": sparsity, "steps": 0}))
        expected = 0
        for layer in digits.module.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                name = next(n for n, part in digits.module.named_modules() if part is layer)
                weight = compressed.module.get_submodule(name).weight.detach().flatten(1).numpy()
                rows = scipy.sparse.csr_matrix(weight)
                stored = rows.data.nbytes + rows.indices.nbytes + rows.indptr.nbytes
                expected += min(stored, weight.nbytes)
        assert csr_bytes(compressed) == expected
