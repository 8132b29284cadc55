"""One layer as a product of smaller ones: channel split, spatial split, Tucker-2, and its low-rank reconstruction.

All of them are truncated singular value decompositions of an unfolding of the layer's weight, computed in float64 on
the CPU. The schemes:

- `A`: the weight W, as a matrix (Cout, Cin·k²), is replaced by its best approximation of rank r; the layer stays.
- `B`: a k×k convolution Cin → r and a 1×1 convolution r → Cout (Zhang et al., Accelerating Very Deep Convolutional
  Networks, TPAMI 2016, section 3.1); a linear layer becomes two.
- `spatial`: a kh×1 convolution Cin → r and a 1×kw convolution r → Cout (Jaderberg et al., Speeding up Convolutional
  Neural Networks with Low Rank Expansions, BMVC 2014, scheme 2).
- `tucker`: 1×1, k×k and 1×1 convolutions, Cin → r_in → r_out → Cout (Kim et al., Compression of Deep Convolutional
  Neural Networks, ICLR 2016, section 3.1), by a higher-order SVD of both channel unfoldings.

A kernel of one row or column has nothing to split in space: `spatial` and `tucker` treat it, and linear layers, as `B`.
Grouped, depthwise and transposed convolutions are not factored.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init
from torch.utils.hooks import RemovableHandle

from workloads import eval_mode

from .spectrum import Covariance, contribution_width

Scheme = Literal["A", "B", "spatial", "tucker"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
Ranks = tuple[int, ...]
"""(r,), and (r_out, r_in) for Tucker-2."""

_RIDGE = 1e-6
"""Share of the weight's own energy in a data-aware decomposition: directions of the input that the data never shows
are then approximated too, at a cost in the output's error that is a millionth of its energy."""
_ROWS_AT_ONCE = 2**15


@dataclass(frozen=True)
class Basis:
    """Left singular vectors of an unfolding, the strongest first, and what each of them carries."""

    vectors: Tensor
    """Float64, shape (rows, n), n = min(rows, columns)."""
    energies: Tensor
    """Squared singular values, shape (n,), descending, not negative."""
    mean: Tensor | None = None
    """Of a data-aware basis: the mean of the layer's outputs without its bias, shape (rows,)."""

    def rank(self, tau: float) -> int:
        """Least r with Σσ²_{≤r} / Σσ² ≥ `tau`, at least 1."""
        return contribution_width(self.energies.numpy(), tau)


def basis(matrix: Tensor, outputs: Covariance | None = None) -> Basis:
    """The left singular vectors and squared singular values of W, or of W·Cov_x^{1/2} where `outputs` is given.

    `matrix` is W, float64 (rows, columns); `outputs` is the covariance W·Cov_x·Wᵀ of Wx. The vectors are those of the
    Gram matrix, which is small where the decomposition of W itself would be long, and which needs no root of Cov_x.
    """
    rows, columns = matrix.shape
    if outputs is None and rows > columns:
        vectors, singular, _ = torch.linalg.svd(matrix, full_matrices=False)
        return Basis(vectors, singular.square())
    gram = matrix @ matrix.T
    if outputs is not None:
        covariance, energy = outputs.matrix(), gram.trace()
        gram = covariance + _RIDGE * (covariance.trace() / energy if energy > 0 else 0.0) * gram
    energies, vectors = torch.linalg.eigh(gram)
    kept = min(rows, columns)
    return Basis(
        vectors.flip(1)[:, :kept], energies.flip(0)[:kept].clamp(min=0), None if outputs is None else outputs.mean()
    )


def can_factor(layer: nn.Module) -> bool:
    """Linear layers and convolutions of one group whose weight, as a matrix, has more than one row and column.

    Classes derived from them may compute something else, and are left alone.
    """
    if type(layer) is nn.Conv2d:
        return layer.groups == 1 and min(layer.weight.flatten(1).shape) > 1
    return type(layer) is nn.Linear and min(layer.weight.shape) > 1


def applied(layer: nn.Module, scheme: Scheme) -> Scheme:
    """What `scheme` does to this layer: `B` in place of `spatial` and `tucker` where there is no kernel to split."""
    if scheme in ("spatial", "tucker") and not (isinstance(layer, nn.Conv2d) and min(layer.kernel_size) > 1):
        return "B"
    return scheme


def bases(layer: nn.Module, scheme: Scheme, outputs: Covariance | None = None) -> tuple[Basis, ...]:
    """The bases that `factor` needs: one, and for Tucker-2 those of the output and the input unfolding.

    `outputs` makes `A` and `B` data-aware: see `output_covariances`. The other schemes' factors cannot be found from
    it and leave it out.
    """
    weight, scheme = _weight(layer), applied(layer, scheme)
    if scheme == "spatial":
        return (basis(_spatial_unfolding(weight)),)
    if scheme == "tucker":
        return basis(weight.flatten(1)), basis(weight.transpose(0, 1).flatten(1))
    return (basis(weight.flatten(1), outputs),)


def output_covariances(module: nn.Module, layers: Sequence[str], batches: Iterable[Tensor]) -> dict[str, Covariance]:
    """Layer → mean and covariance of Wx over every position of every image of `batches`, normalised (N, C, H, W).

    x are the layer's inputs: convolution patches as im2col lays them out, padding included. Wx is the layer's output
    without its bias, so that its covariance W·Cov_x·Wᵀ is all that has to be kept: Cout² numbers, not (Cin·k²)².
    """
    found: dict[str, Covariance] = {}

    def listen(name: str) -> RemovableHandle:
        def hook(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            rows = output.movedim(1, -1).flatten(0, -2)
            covariance = found.setdefault(name, Covariance(rows.shape[1]))
            for part in rows.split(_ROWS_AT_ONCE):
                covariance.add(part if layer.bias is None else part.double() - layer.bias.double())

        return module.get_submodule(name).register_forward_hook(hook)

    handles = [listen(name) for name in layers]
    try:
        with eval_mode(module), torch.no_grad():
            for images in batches:
                module(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def full_ranks(layer: nn.Module, scheme: Scheme) -> Ranks:
    """The ranks at which nothing is lost."""
    weight, scheme = _weight(layer), applied(layer, scheme)
    rank = min(weight.flatten(1).shape)
    if scheme == "spatial":
        outputs, inputs, height, width = weight.shape
        return (min(outputs * width, inputs * height),)
    return (rank, min(weight.transpose(0, 1).flatten(1).shape)) if scheme == "tucker" else (rank,)


def dense_cost(layer: nn.Module) -> int:
    """Multiply–accumulates of the layer as it is, an output position: Cout·Cin·k²."""
    return _weight(layer).numel()


def cost(layer: nn.Module, scheme: Scheme, ranks: Ranks) -> int:
    """Multiply–accumulates of the factors, an output position of the layer.

    Where a stride makes an earlier factor run at more positions than there are outputs, it counts as many times as
    that: the cost is at least the number of weights. Scheme `A` shortens nothing.
    """
    outputs, inputs, height, width, down, across = _sizes(layer)
    match applied(layer, scheme):
        case "A":
            return dense_cost(layer)
        case "B":
            return ranks[0] * (inputs * height * width + outputs)
        case "spatial":
            return ranks[0] * (inputs * height * across + outputs * width)
        case "tucker":
            out, inner = ranks
            return inputs * inner * down * across + inner * out * height * width + out * outputs


def break_even(layer: nn.Module, scheme: Scheme) -> float:
    """The rank, not whole, at which the factors cost what the layer does (`cost`); above it they cost more.

    B: Cout·Cin·k² / (Cout + Cin·k²), spatial: Cout·Cin·k² / (Cout·k + Cin·k) at stride 1. For Tucker-2 both ranks are
    the same share s of their channels, s²·Cout·Cin·k² + s·(Cin² + Cout²) = Cout·Cin·k², and the rank is s·Cout. `A`
    has the full rank: there its approximation changes nothing.
    """
    outputs, inputs, height, width, down, across = _sizes(layer)
    match applied(layer, scheme):
        case "A":
            return float(full_ranks(layer, scheme)[0])
        case "tucker":
            kernel, ends = outputs * inputs * height * width, inputs**2 * down * across + outputs**2
            share = (math.sqrt(ends**2 + 4 * kernel**2) - ends) / (2 * kernel)
            return share * outputs
        case other:
            return dense_cost(layer) / cost(layer, other, (1,))


def pays(layer: nn.Module, scheme: Scheme, ranks: Ranks) -> bool:
    """Whether factors of these ranks cost less than the layer; for `A`, whether they change it."""
    if applied(layer, scheme) == "A":
        return ranks < full_ranks(layer, scheme)
    return cost(layer, scheme, ranks) < dense_cost(layer)


def ranks_of(layer: nn.Module, scheme: Scheme, rank: int) -> Ranks:
    """The ranks that one number stands for: for Tucker-2 it is r_out, and r_in is the same share of its channels."""
    full = full_ranks(layer, scheme)
    if len(full) == 1:
        return (min(rank, full[0]),)
    outputs, inputs = _sizes(layer)[:2]
    return min(rank, full[0]), min(max(round(rank * inputs / outputs), 1), full[1])


def factor(layer: nn.Module, scheme: Scheme, ranks: Ranks, found: Sequence[Basis]) -> nn.Module:
    """What takes the place of `layer`: one layer for `A`, else a sequence of factors by name; `found` is `bases`.

    The factors' rows and columns have equal norms, √Σ on either side; the last factor has the layer's bias, and one of
    its own where the bases are data-aware. Strides, paddings and dilations go with the rows and columns of the kernel
    that they belong to.
    """
    weight = _weight(layer)
    match applied(layer, scheme):
        case "A":
            return _rebuilt(layer, weight, found[0], ranks[0])
        case "B":
            return _channel_split(layer, weight, found[0], ranks[0])
        case "spatial":
            return _spatial_split(layer, weight, found[0].vectors[:, : ranks[0]])
        case "tucker":
            return _tucker(layer, weight, found[0].vectors[:, : ranks[0]], found[1].vectors[:, : ranks[1]])


def _rebuilt(layer: Any, weight: Tensor, found: Basis, rank: int) -> nn.Module:
    vectors, bias = found.vectors[:, :rank], _bias(layer, found, rank)
    if isinstance(layer, nn.Linear):
        rebuilt: nn.Module = skip_init(nn.Linear, layer.in_features, layer.out_features, bias=bias is not None)
    else:
        rebuilt = _conv(layer, layer.in_channels, layer.out_channels, bias=bias is not None)
    _set(rebuilt, (vectors @ (vectors.T @ weight.flatten(1))).view_as(weight), bias)
    return rebuilt


def _channel_split(layer: Any, weight: Tensor, found: Basis, rank: int) -> nn.Sequential:
    left, right = _balanced(found.vectors[:, :rank], weight.flatten(1))
    bias = _bias(layer, found, rank)
    if isinstance(layer, nn.Linear):
        reduce: nn.Module = skip_init(nn.Linear, layer.in_features, rank, bias=False)
        expand: nn.Module = skip_init(nn.Linear, rank, layer.out_features, bias=bias is not None)
    else:
        reduce = _conv(layer, layer.in_channels, rank)
        expand = _pointwise(rank, layer.out_channels, bias is not None)
    _set(reduce, right.reshape(rank, *weight.shape[1:]), None)
    _set(expand, left.reshape(len(left), rank, *[1] * (weight.ndim - 2)), bias)
    return nn.Sequential(OrderedDict(reduce=reduce, expand=expand))


def _spatial_split(layer: Any, weight: Tensor, vectors: Tensor) -> nn.Sequential:
    outputs, inputs, height, width = weight.shape
    left, right = _balanced(vectors, _spatial_unfolding(weight))
    rank = vectors.shape[1]
    vertical = _conv(layer, inputs, rank, rows=True, columns=False)
    horizontal = _conv(layer, rank, outputs, rows=False, columns=True, bias=layer.bias is not None)
    _set(vertical, right.view(rank, inputs, height, 1), None)
    _set(horizontal, left.view(outputs, width, rank).transpose(1, 2)[:, :, None, :], layer.bias)
    return nn.Sequential(OrderedDict(vertical=vertical, horizontal=horizontal))


def _tucker(layer: Any, weight: Tensor, outward: Tensor, inward: Tensor) -> nn.Sequential:
    small = torch.einsum("oihw,op,iq->pqhw", weight, outward, inward)
    reduce = _pointwise(weight.shape[1], inward.shape[1], bias=False)
    core = _conv(layer, inward.shape[1], outward.shape[1])
    expand = _pointwise(outward.shape[1], weight.shape[0], layer.bias is not None)
    # Orthonormal columns have norm √r; scaled so, all three factors have the same.
    norms = [math.sqrt(inward.shape[1]), float(small.norm()) or 1.0, math.sqrt(outward.shape[1])]
    same = math.prod(norms) ** (1 / 3)
    _set(reduce, same / norms[0] * inward.T[:, :, None, None], None)
    _set(core, same / norms[1] * small, None)
    _set(expand, same / norms[2] * outward[:, :, None, None], layer.bias)
    return nn.Sequential(OrderedDict(reduce=reduce, core=core, expand=expand))


def _balanced(vectors: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """U√Σ (rows, r) and √Σ⁻¹·Uᵀ·W (r, columns), which is √Σ·Vᵀ for the singular vectors of W itself."""
    right = vectors.T @ matrix
    root = right.norm(dim=1).sqrt()
    root = torch.where(root > 0, root, torch.ones_like(root))
    return vectors * root, right / root[:, None]


def _bias(layer: Any, found: Basis, rank: int) -> Tensor | None:
    """The layer's bias; where the basis is data-aware, it also gives back the mean output that the rank leaves out."""
    own: Tensor | None = None if layer.bias is None else layer.bias.detach().cpu().double()
    if found.mean is None:
        return own
    vectors = found.vectors[:, :rank]
    lost = found.mean - vectors @ (vectors.T @ found.mean)
    return lost if own is None else own + lost


def _spatial_unfolding(weight: Tensor) -> Tensor:
    """W (Cout, Cin, kh, kw) as a matrix (Cout·kw, Cin·kh)."""
    outputs, inputs, height, width = weight.shape
    return weight.permute(0, 3, 1, 2).reshape(outputs * width, inputs * height)


def _weight(layer: Any) -> Tensor:
    weight: Tensor = layer.weight.detach().cpu().double()
    return weight


def _sizes(layer: Any) -> tuple[int, int, int, int, int, int]:
    """Cout, Cin, kernel height and width, stride down and across."""
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features, 1, 1, 1, 1
    return (layer.out_channels, layer.in_channels, *layer.kernel_size, *layer.stride)


def _conv(
    like: nn.Conv2d, inputs: int, outputs: int, *, rows: bool = True, columns: bool = True, bias: bool = False
) -> nn.Module:
    """A convolution with the kernel, stride, padding and dilation of `like` down its rows, across its columns, or
    both."""

    def along(value: tuple[int, ...], none: int) -> tuple[int, int]:
        return value[0] if rows else none, value[1] if columns else none

    padding = like.padding if isinstance(like.padding, str) else along(like.padding, 0)
    return skip_init(
        nn.Conv2d,
        inputs,
        outputs,
        along(like.kernel_size, 1),
        along(like.stride, 1),
        padding,
        along(like.dilation, 1),
        bias=bias,
        padding_mode=like.padding_mode,
    )


def _pointwise(inputs: int, outputs: int, bias: bool) -> nn.Module:
    return skip_init(nn.Conv2d, inputs, outputs, 1, bias=bias)


def _set(layer: Any, weight: Tensor, bias: Tensor | None) -> None:
    """Writes the weight, and the bias where one is given."""
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
