"""What every weight of an untrained network is worth: the six scores of pruning at initialisation.

A score is a tensor for every convolution (transposed too) and linear layer, shaped as its weight with filters first;
the lowest are pruned. Biases and batch norm are never scored. The functions leave the network alone, run where it
lies, and give back scores on the CPU. `masks` (layer → boolean, filters first, True is kept) is what earlier iterations
have left: masked weights are zero during the scoring and score 0.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from workloads import VOID, Split, Workload, normalise

from .weights import filters_first

Scores = dict[str, Tensor]
Masks = Mapping[str, Tensor]
Batch = tuple[Tensor, Tensor]

GRASP_TEMPERATURE = 200.0
NTK_SAP_EPSILON = 0.01
IMAGES_PER_CLASS = 10
_SEGMENTATION_PIXELS = 2**20
"""A picture of a segmentation shows many classes at every pixel, so that few pictures say enough: six of 480×360."""
_PIXELS_AT_ONCE = 2**17
"""128 pictures of 32×32: GraSP, which needs the graph of the gradient too, then takes about 1.5 GB on VGG-16."""


def scored_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Layers whose weights are scored, by name, in network order."""
    kinds = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, kinds)}


def everything(module: nn.Module) -> dict[str, Tensor]:
    """Masks that keep every weight."""
    return {
        name: torch.ones(filters_first(layer).shape, dtype=torch.bool) for name, layer in scored_layers(module).items()
    }


def random(module: nn.Module, seed: int) -> Scores:
    """N(0, 1); the draws have nothing to do with those of the weights, whatever seed these come from."""
    return normal_like(module, torch.Generator().manual_seed(stream(seed, "random scores")))


def magnitude(module: nn.Module) -> Scores:
    """|θ|."""
    return {name: filters_first(layer).abs().cpu() for name, layer in scored_layers(module).items()}


def snip(module: nn.Module, masks: Masks, batches: Sequence[Batch]) -> Scores:
    """|θ·∂L/∂θ|: by how much the loss changes, to first order, when a weight is removed.

    L is the mean cross-entropy over all targets of `batches` (normalised images, targets); batch norm in train mode.
    SNIP, Lee et al., ICLR 2019, section 4, without its normalisation, which moves no rank.
    """
    net = _masked_copy(module, masks)
    weights = _weights(net)
    gradient = _gradient(net, weights, batches)
    return _scores(net, masks, [(w * g).abs() for w, g in zip(weights, gradient, strict=True)])


def grasp(module: nn.Module, masks: Masks, batches: Sequence[Batch], temperature: float = GRASP_TEMPERATURE) -> Scores:
    """θ⊙(H g), g = ∇L(logits/T) and H its Hessian: what removing a weight does to the gradient's flow.

    Both passes see the same batches; Hg = ∇(stop(g)ᵀ∇L). Batch norm in train mode. GraSP, Wang et al., ICLR 2020,
    section 4; the paper's score has the other sign and its highest are pruned.
    """
    net = _masked_copy(module, masks)
    weights = _weights(net)
    # A masked weight is no variable: nothing flows along it.
    kept = [mask.to(w.device) for w, mask in zip(weights, _in_weight_layout(net, masks), strict=True)]
    # Of a single batch the second pass has the gradient at hand.
    whole = _gradient(net, weights, batches, temperature) if len(batches) > 1 else None
    product = [torch.zeros_like(w) for w in weights]
    for loss in _losses(net, batches, temperature):
        second = torch.autograd.grad(loss, weights, create_graph=True)
        first = [g.detach() * m for g, m in zip(whole or second, kept, strict=True)]
        flow = torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)]).sum()
        for total, part in zip(product, torch.autograd.grad(flow, weights, allow_unused=True), strict=True):
            if part is not None:  # a network without curvature in this layer
                total += part
    return _scores(net, masks, [w.detach() * p for w, p in zip(weights, product, strict=True)])


def synflow(module: nn.Module, masks: Masks, input_shape: Sequence[int]) -> Scores:
    """θ⊙∂R/∂θ with R = Σ f(1), every parameter and buffer of f replaced by its absolute value: no data at all.

    Float64, for R is a product over all layers; batch norm in eval mode. `input_shape` is (C, H, W). SynFlow, Tanaka et
    al., NeurIPS 2020, section 6.
    """
    net = _masked_copy(module, masks).double()
    with torch.no_grad():
        for tensor in [*net.parameters(), *(b for b in net.buffers() if b.is_floating_point())]:
            tensor.abs_()
    weights = _weights(net)
    net.eval()
    ones = torch.ones(1, *input_shape, dtype=torch.float64, device=weights[0].device)
    gradient = torch.autograd.grad(net(ones).sum(), weights)
    return _scores(net, masks, [w.detach() * g for w, g in zip(weights, gradient, strict=True)])


def ntk_sap(
    draws: Iterable[tuple[nn.Module, Tensor, Mapping[str, Tensor]]], masks: Masks, epsilon: float = NTK_SAP_EPSILON
) -> Scores:
    """|Σ ∂/∂m ‖f(x; θ⊙m) − f(x; (θ + εξ)⊙m)‖²| over `draws`: what a weight's place does to the neural tangent kernel.

    Every draw is a freshly initialised network, inputs x (N, C, H, W) and noise ξ (layer → as its weight, filters
    first), both N(0, 1): the scores know neither data nor weights. Batch norm takes its statistics from x in one pass
    of the masked network, and holds them. NTK-SAP, Wang et al., ICLR 2023, algorithm 1.
    """
    total: dict[str, Tensor] = {}
    for module, inputs, noise in draws:
        net = _masked_copy(module, masks)
        for part in net.modules():
            if isinstance(part, _BatchNorm):
                part.momentum = 1.0  # running statistics become those of the next batch
        with torch.no_grad():
            net(inputs)
        net.eval()
        theta = {name: filters_first(layer) for name, layer in scored_layers(module).items()}
        mask = {name: masks[name].to(w).requires_grad_() for name, w in theta.items()}
        moved = {name: w + epsilon * noise[name].to(w) for name, w in theta.items()}
        apart = _run(net, theta, mask, inputs) - _run(net, moved, mask, inputs)
        gradient = torch.autograd.grad(apart.square().sum(), list(mask.values()))
        for name, slope in zip(mask, gradient, strict=True):
            total[name] = total[name] + slope if name in total else slope
    return {name: (score.abs() * masks[name].to(score.device)).cpu() for name, score in total.items()}


def normal_like(module: nn.Module, draw: torch.Generator) -> Scores:
    """N(0, 1) for every scored weight, filters first."""
    return {
        name: torch.randn(filters_first(layer).shape, generator=draw) for name, layer in scored_layers(module).items()
    }


def balanced_batches(workload: Workload, split: Split, seed: int, per_class: int = IMAGES_PER_CLASS) -> list[Batch]:
    """Batches of (normalised images, targets): `per_class` images of every class, without augmentation, of `split`.

    A segmentation's pictures hold many classes each: as many are drawn at random, of large ones fewer. Batches are as
    equal as can be and hold a bounded number of pixels. A class with fewer images gives all that it has.
    """
    order = np.random.default_rng([stream(seed, "scoring images")]).permutation(len(split))
    if workload.task == "segmentation":
        chosen = order[: _images(workload, per_class)]
    else:
        chosen = _balanced(split, order, workload.classes, per_class)
    pixels = workload.input_shape[1] * workload.input_shape[2]
    parts = np.split(chosen, np.cumsum(_equal_batches(len(chosen), pixels))[:-1])
    return [(normalise(images, workload), targets) for images, targets in map(split.batch, parts)]


def noise_batches(workload: Workload, draw: torch.Generator, per_class: int = IMAGES_PER_CLASS) -> Iterator[Tensor]:
    """N(0, 1) in the shapes of `balanced_batches`."""
    pixels = workload.input_shape[1] * workload.input_shape[2]
    for size in _equal_batches(_images(workload, per_class), pixels):
        yield torch.randn(size, *workload.input_shape, generator=draw)


def _images(workload: Workload, per_class: int) -> int:
    wanted = per_class * workload.classes
    if workload.task == "segmentation":
        return min(wanted, max(1, _SEGMENTATION_PIXELS // (workload.input_shape[1] * workload.input_shape[2])))
    return wanted


def _equal_batches(images: int, pixels: int) -> list[int]:
    """Sizes, equal to within one, of the fewest batches that hold a bounded number of pixels, or one image."""
    batches = min(images, -(-images * pixels // _PIXELS_AT_ONCE))
    return [len(part) for part in np.array_split(np.arange(images), batches)]


def _balanced(split: Split, order: np.ndarray, classes: int, per_class: int) -> np.ndarray:
    """The first `per_class` of every class along `order`; read in parts, for targets come with their pictures."""
    missing = np.full(classes, per_class)
    chosen: list[int] = []
    step = classes * per_class
    for start in range(0, len(order), step):
        part = order[start : start + step]
        for index, label in zip(part, split.batch(part)[1].numpy(), strict=True):
            if missing[label] > 0:
                missing[label] -= 1
                chosen.append(index)
        if not missing.any():
            break
    return np.array(chosen)


def _masked_copy(module: nn.Module, masks: Masks) -> nn.Module:
    """A copy with masked weights at zero, batch norm in train mode and all else (dropout) in eval mode."""
    net = copy.deepcopy(module).eval()
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    for name, layer in scored_layers(net).items():
        weight = filters_first(layer)
        weight.mul_(masks[name].to(weight.device))
        layer.weight.requires_grad_(True)
    for part in net.modules():
        if isinstance(part, _BatchNorm):
            part.train()
    return net


def _weights(net: nn.Module) -> list[Tensor]:
    return [net.get_parameter(f"{name}.weight") for name in scored_layers(net)]


def _in_weight_layout(net: nn.Module, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """Tensors that have filters first, as the layers' weights lie."""
    return [_swap(layer, tensors[name]) for name, layer in scored_layers(net).items()]


def _swap(layer: nn.Module, tensor: Tensor) -> Tensor:
    return tensor.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else tensor


def _scores(net: nn.Module, masks: Masks, values: Sequence[Tensor]) -> Scores:
    """Values in the weights' layout as scores: filters first, 0 where masked, on the CPU."""
    return {
        name: _swap(layer, value.detach()).cpu() * masks[name]
        for (name, layer), value in zip(scored_layers(net).items(), values, strict=True)
    }


def _losses(net: nn.Module, batches: Sequence[Batch], temperature: float) -> Iterator[Tensor]:
    """Of every batch its share of the mean cross-entropy over all targets that count."""
    targets_in_all = sum(int((targets != VOID).sum()) if targets.ndim > 1 else len(targets) for _, targets in batches)
    device = next(net.parameters()).device
    for images, targets in batches:
        void = VOID if targets.ndim > 1 else -100
        logits = net(images.to(device)) / temperature
        yield functional.cross_entropy(logits, targets.to(device), ignore_index=void, reduction="sum") / max(
            targets_in_all, 1
        )


def _gradient(
    net: nn.Module, weights: Sequence[Tensor], batches: Sequence[Batch], temperature: float = 1.0
) -> list[Tensor]:
    total = [torch.zeros_like(w) for w in weights]
    for loss in _losses(net, batches, temperature):
        for sum_, part in zip(total, torch.autograd.grad(loss, weights), strict=True):
            sum_ += part
    return total


def _run(net: nn.Module, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Outputs with `weights`⊙`masks` (filters first) in place of the network's own weights."""
    used = {f"{name}.weight": _swap(layer, weights[name] * masks[name]) for name, layer in scored_layers(net).items()}
    outputs: Tensor = functional_call(net, used, (inputs,))
    return outputs


def stream(*parts: int | str) -> int:
    """One seed of several numbers and words; streams of different words have nothing in common."""
    words = [list(part.encode()) if isinstance(part, str) else [part] for part in parts]
    return int(np.random.default_rng([n for word in words for n in word]).integers(2**62))
