"""What every block of a pipeline has to do: the layers of a `Network` as the accelerator's model sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from workloads import Format, InputError, Layer, Network

from .equations import ceil_div
from .pipeline import Stage, needed_rows

Order = Literal["natural", "sorted", "equal"]
ORDERS: tuple[Order, ...] = ("natural", "sorted", "equal")
"""In which order filters are processed: as they stand, by their number of nonzeros (a free permutation, made before
synthesis), or as if all filters of the layer had the same number, but for what does not divide. Filters of grouped
convolutions are not sorted: their place says which channels they read."""

WIDEST = Format("int", 16)
"""What floating-point formats run as: an accelerator of this kind computes in fixed point."""


@dataclass(frozen=True)
class Waiting:
    """One input of a join that comes before the slowest one and is held back in a FIFO."""

    words: int
    """Depth of the FIFO in words."""
    of: int
    """Words of the whole map."""


@dataclass(frozen=True)
class Block:
    """The work of one layer for one image."""

    layer: Layer
    weight: Format
    """Executed format of the weights: an integer or a minifloat."""
    activation: Format
    """Executed format of the words that come in."""
    out_bits: int
    """Bits of a word that goes out."""
    nonzeros: np.ndarray
    """Stored weights of every filter in the order of processing, shape (F,); empty without weights."""
    waiting: tuple[Waiting, ...] = ()
    """Inputs of a join that wait for its slowest one."""
    result_bytes: float = 0.0
    """What goes to external memory where no other block takes the result."""

    @property
    def name(self) -> str:
        return self.layer.name

    @property
    def computes(self) -> bool:
        """True for convolutions and linear layers."""
        return self.layer.kind in ("conv", "linear")

    @property
    def filter_size(self) -> int:
        """Weights of a dense filter: C/g·K²."""
        return self.layer.in_channels // self.layer.groups * self.layer.kernel[0] * self.layer.kernel[1]

    @property
    def dense(self) -> bool:
        """True where no weight is left out."""
        return bool((self.nonzeros == self.filter_size).all())

    @property
    def window_rows(self) -> int:
        """Rows of windows; those of a transposed convolution lie on its input."""
        return self.layer.in_height if self.layer.transposed else self.layer.out_height

    @property
    def window_columns(self) -> int:
        return self.layer.in_width if self.layer.transposed else self.layer.out_width


def executed(form: Format) -> Format:
    """The format that the accelerator runs for `form`: integers and minifloats as they are, the rest in 16 bits."""
    return form if form.kind in ("int", "minifloat") else WIDEST


def blocks(network: Network, order: Order = "sorted") -> tuple[Block, ...]:
    """The blocks of `network`, one a layer, in its order; raises `InputError` for a table that contradicts itself."""
    check(network)
    bits = _activation_formats(network)
    waiting = _waiting(network)
    taken = {name for layer in network.layers for name in layer.inputs}
    fixed = _order_matters(network)
    made = []
    for layer in network.layers:
        nonzeros = np.asarray(layer.nonzeros, dtype=np.int64)
        if order == "equal" and len(nonzeros):
            total, filters = int(nonzeros.sum()), len(nonzeros)
            nonzeros = total // filters + (np.arange(filters) < total % filters)
        elif order == "sorted" and layer.name not in fixed and layer.groups == 1:
            nonzeros = np.sort(nonzeros)[::-1]
        incoming = executed(layer.activation_format) if layer.kind in ("conv", "linear") else bits[layer.name]
        made.append(
            Block(
                layer,
                weight=executed(layer.weight_format),
                activation=incoming,
                out_bits=bits[layer.name].bits,
                nonzeros=nonzeros,
                waiting=waiting.get(layer.name, ()),
                result_bytes=0.0 if layer.name in taken else _map_words(layer) * bits[layer.name].bits / 8,
            )
        )
    return tuple(made)


def stages(work: Sequence[Block]) -> list[Stage]:
    """The graph of `work` for the row recurrence (`pipeline.latency`)."""
    position = {block.name: i for i, block in enumerate(work)}
    rows = {block.name: block.layer.out_height for block in work}
    return [
        Stage(
            inputs=tuple(position[name] for name in block.layer.inputs),
            need=_need(block.layer, max((rows[name] for name in block.layer.inputs), default=1)),
            columns=block.layer.out_width,
            passes=block.layer.kind in ("add", "concat", "upsample", "pad", "other"),
        )
        for block in work
    ]


def check(network: Network) -> None:
    """Raises `InputError`, one line naming the layer, for sizes that cannot be or do not fit together."""
    known: dict[str, Layer] = {}
    if not network.layers:
        raise InputError("the network has no layers")
    for layer in network.layers:
        _check_sizes(layer)
        if layer.name in known:
            raise InputError(f"layer {layer.name!r} stands twice in the network; names must differ")
        for name in layer.inputs:
            if name not in known:
                raise InputError(f"layer {layer.name!r} takes {name!r}, which is no layer before it")
        if not layer.inputs and layer.kind != "input":
            raise InputError(f"layer {layer.name!r} has no input; only layers of kind input have none")
        known[layer.name] = layer


def _check_sizes(layer: Layer) -> None:
    sizes = {
        "in_channels": layer.in_channels,
        "out_channels": layer.out_channels,
        "in_height": layer.in_height,
        "in_width": layer.in_width,
        "out_height": layer.out_height,
        "out_width": layer.out_width,
        "kernel height": layer.kernel[0],
        "kernel width": layer.kernel[1],
        "stride": min(layer.stride),
        "dilation": min(layer.dilation),
        "groups": layer.groups,
    }
    for what, size in sizes.items():
        if not 1 <= size <= 2**24:
            raise InputError(f"layer {layer.name!r}: {what} is {size}; allowed: 1 to {2**24}")
    if min(layer.padding) < 0:
        raise InputError(f"layer {layer.name!r}: padding is {layer.padding}; it cannot be negative")
    if layer.kind not in ("conv", "linear"):
        return
    if layer.in_channels % layer.groups or layer.out_channels % layer.groups:
        raise InputError(
            f"layer {layer.name!r}: {layer.groups} groups do not divide {layer.in_channels} input and "
            f"{layer.out_channels} output channels"
        )
    size = layer.weights // layer.out_channels
    nonzeros = np.asarray(layer.nonzeros)
    if nonzeros.shape != (layer.out_channels,):
        raise InputError(
            f"layer {layer.name!r}: nonzeros are given for {nonzeros.size} filters, it has {layer.out_channels}"
        )
    if nonzeros.min() < 0 or nonzeros.max() > size:
        worst = nonzeros.max() if nonzeros.max() > size else nonzeros.min()
        raise InputError(f"layer {layer.name!r}: a filter of {size} weights has {worst} nonzeros; allowed: 0 to {size}")


def _consumers(network: Network) -> Mapping[str, list[Layer]]:
    found: dict[str, list[Layer]] = {layer.name: [] for layer in network.layers}
    for layer in network.layers:
        for name in layer.inputs:
            found[name].append(layer)
    return found


def _activation_formats(network: Network) -> Mapping[str, Format]:
    """Format of the words that leave every layer: the widest that a consumer takes, the layer's own at an output."""
    consumers = _consumers(network)
    out: dict[str, Format] = {}
    for layer in reversed(network.layers):
        wanted = [
            executed(after.activation_format) if after.kind in ("conv", "linear") else out[after.name]
            for after in consumers[layer.name]
        ]
        own = executed(layer.activation_format) if layer.kind in ("conv", "linear") else WIDEST
        out[layer.name] = max(wanted, key=lambda form: form.bits, default=own)
    return out


def _order_matters(network: Network) -> set[str]:
    """Weighted layers whose channels meet those of another layer at an add or a concat before they are weighted."""
    consumers = _consumers(network)

    def meets(layer: Layer) -> bool:
        return any(
            after.kind in ("add", "concat", "other") or (after.kind not in ("conv", "linear") and meets(after))
            for after in consumers[layer.name]
        )

    return {layer.name for layer in network.compute_layers if meets(layer)}


def _need(layer: Layer, rows_before: int) -> np.ndarray:
    """Output row → last row of the input that it needs (of the producer's rows, where the input is flattened)."""
    rows = layer.out_height
    if layer.kind == "input":
        return np.zeros(rows, dtype=np.int64)
    if layer.kind == "linear":
        return np.full(rows, rows_before - 1)
    if layer.kind == "conv" and layer.transposed:
        return np.clip((np.arange(rows) + layer.padding[0]) // layer.stride[0], 0, layer.in_height - 1)
    if layer.kind == "conv" or (layer.kind == "pool" and layer.kernel != (1, 1)):
        reach = (layer.kernel[0] - 1) * layer.dilation[0] + 1
        return needed_rows(rows, layer.in_height, reach, layer.stride[0], layer.padding[0])
    if layer.kind == "pad":
        return np.clip(np.arange(rows) - layer.padding[0], 0, layer.in_height - 1)
    # Up-sampling repeats rows; a pool without a kernel divides the map evenly; the rest goes row by row.
    return np.clip(ceil_div((np.arange(rows) + 1) * layer.in_height, rows) - 1, 0, layer.in_height - 1)


def _waiting(network: Network) -> Mapping[str, tuple[Waiting, ...]]:
    """Join → what of its inputs piles up while the slowest one arrives.

    A window layer gives its first row after the rows that it needs and a row of its own; counted in shares of the
    image these lags add up along a path, whatever the folding, so this is an upper bound for balanced blocks.
    """
    lag: dict[str, float] = {}
    held: dict[str, tuple[Waiting, ...]] = {}
    sizes = {layer.name: layer for layer in network.layers}
    for layer in network.layers:
        before = [lag[name] for name in layer.inputs]
        latest = max(before, default=0.0)
        rows_before = max((sizes[name].out_height for name in layer.inputs), default=1)
        if layer.kind in ("conv", "linear", "pool"):
            first = int(_need(layer, rows_before)[0])
            lag[layer.name] = latest + first / rows_before + 1 / layer.out_height
        else:
            lag[layer.name] = latest
        if len(before) > 1:
            held[layer.name] = tuple(
                Waiting(
                    (int(np.ceil((latest - own) * sizes[name].out_height)) + 1) * _row_words(sizes[name]),
                    sizes[name].out_height * _row_words(sizes[name]),
                )
                for own, name in zip(before, layer.inputs, strict=True)
                if own < latest
            )
    return held


def _row_words(layer: Layer) -> int:
    return layer.out_width * layer.out_channels


def _map_words(layer: Layer) -> int:
    return layer.out_height * _row_words(layer)


def with_dense_weights(block: Block) -> Block:
    """The block with every weight stored: what a dense block computes, zeros included."""
    return replace(block, nonzeros=np.full(len(block.nonzeros), block.filter_size))
