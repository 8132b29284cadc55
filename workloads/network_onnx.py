"""The layer table of a network in an ONNX file, the same as `trace()` reads from a module."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from .errors import InputError
from .network import Layer, LayerKind, Network
from .network_json import network_to_json
from .onnx_graph import QUANTISERS, OnnxGraph, attribute, load_onnx, node_name, note_grid

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_POOLS = ("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "ReduceMean", "ReduceMax")
_UPSAMPLING = ("Resize", "Upsample")
_MOVING = ("Pad", "Slice", "Gather")
_COMBINING = ("Add", "Sum", "Sub", "Mul", "Div", "Min", "Max", "Pow")
_FOLDED = (
    "BatchNormalization", "Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu",
    "Selu", "Celu", "Softplus", "Softsign", "Erf", "Gelu", "Mish", "Softmax", "LogSoftmax", "Dropout", "Identity",
    "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Cast", "QuantizeLinear", "DequantizeLinear", *QUANTISERS,
)  # fmt: skip
_READABLE = frozenset({*_WEIGHTED, *_POOLS, *_UPSAMPLING, *_MOVING, *_COMBINING, *_FOLDED, "Concat"})
# They give some of the values that they take in, and perhaps zeros: what was quantised stays so.
_KEEP_GRID = ("Identity", "Dropout", "MaxPool", "GlobalMaxPool", "Relu", "Pad", "Slice", "Gather")


def network_from_onnx(model: str | Path | onnx.ModelProto) -> Network:
    """The layer table of an ONNX file, or of a model in memory.

    Batch norm and activation functions are folded into the layer that feeds them, as in `trace()`; a weight of zero is
    a pruned one, so nonzeros are counted filter by filter. Formats come from QuantizeLinear and DequantizeLinear, or
    from the quantisers of QONNX, otherwise from the types of the tensors. A weighted layer is named after its weight
    (`PATH.weight`), others after their node. The batch may be open, no other size. Raises `InputError` with one line
    that names the node and its operator where something cannot be read; weights in other files are refused.
    """
    graph = load_onnx(model, _READABLE)
    table = _Table(graph)
    for name in graph.inputs:
        table.input(name)
    for node in graph.nodes:
        try:
            table.visit(node)
        except InputError:
            raise
        except Exception as error:
            raise graph.refusal(
                node, f"cannot be read: {type(error).__name__}: {' '.join(str(error).split())}"
            ) from error
    network = Network(tuple(table.layers.values()), sum(table.parameters.values()))
    try:
        network_to_json(network)
    except InputError as error:
        raise InputError(f"{graph.where}: {str(error).removeprefix('network: ')}") from error
    return network


class _Table:
    """Rows in the making; `source` says which row produced a tensor."""

    def __init__(self, graph: OnnxGraph) -> None:
        self.graph = graph
        self.layers: dict[str, Layer] = {}
        self.source: dict[str, str] = {}
        self.parameters: dict[str, int] = {}
        """Stored tensor → its elements, for those that are trained."""
        self.uses = Counter([name for node in graph.nodes for name in node.input] + graph.outputs)
        self.called: dict[str, list[str]] = {}
        """Stored weight → the rows that use it."""
        self.moved: set[str] = set()
        """Rows that only pad, slice or pick channels."""
        self.without_bias: dict[str, str] = {}
        """Tensor → the weighted layer that gives it, where that has no bias."""

    def input(self, tensor: str) -> None:
        node = onnx.helper.make_node("Input", [], [tensor], name=tensor)
        self.row(node, self.free(tensor), "input", [tensor])

    def visit(self, node: onnx.NodeProto) -> None:
        activations = [name for name in node.input if name and name not in self.graph.constants]
        unknown = next((name for name in activations if name not in self.source), None)
        if not activations:
            raise self.graph.refusal(
                node, "works on constants alone and cannot be computed; simplify the network first"
            )
        if unknown is not None:
            raise self.graph.refusal(node, f"takes {unknown!r}, which no input of the network leads to")
        if node.op_type in _WEIGHTED:
            self.weighted(node, activations)
        elif node.op_type in _POOLS:
            self.pool(node)
        elif node.op_type in _UPSAMPLING:
            self.upsample(node)
        elif node.op_type in _MOVING:
            self.move(node, activations)
        elif node.op_type in _COMBINING:
            self.combine(node, activations)
        elif node.op_type == "Concat":
            self.concat(node, activations)
        elif node.op_type in _FOLDED:
            self.fold(node, activations)
        else:
            raise self.graph.refusal(node, "works on activations; it can be read on constants only")

    def weighted(self, node: onnx.NodeProto, activations: Sequence[str]) -> None:
        if activations != [node.input[0]]:
            raise self.graph.refusal(node, "multiplies two activations; its second input must be constant weights")
        weight = self.graph.constants[node.input[1]]
        stored = weight != 0
        fields: dict[str, Any] = {}
        if node.op_type in ("Gemm", "MatMul"):
            kind: LayerKind = "linear"
            taken = self.graph.shape(node, node.input[0])
            if len(taken) != 2 or weight.ndim != 2 or attribute(node, "transA", 0):
                raise self.graph.refusal(node, f"works on {len(taken)} axes; only (batch, features) can be read")
            filters = stored if attribute(node, "transB", 0) else stored.T
            nonzeros = filters.sum(axis=1)
        else:
            kind, filters = "conv", stored
            fields = self.window(node, weight.shape[2:]) | {"groups": attribute(node, "group", 1)}
            nonzeros = self.filters(node, stored, fields["groups"])
        bias = len(node.input) > 2 and node.input[2] != ""
        name = self.call(node)
        self.row(
            node,
            name,
            kind,
            node.input[:1],
            bias=bias,
            nonzeros=nonzeros.astype(np.int64),
            weight_format=self.graph.format(node, node.input[1]),
            **fields,
        )
        for tensor in node.input[1 : 3 if bias else 2]:
            self.trained(tensor)
        if not bias:
            self.without_bias[node.output[0]] = name

    def filters(self, node: onnx.NodeProto, stored: np.ndarray, groups: int) -> np.ndarray:
        """Nonzeros of every filter of a convolution, shape (out_channels,)."""
        channels = self.graph.shape(node, node.input[0])[1]
        if stored.ndim != 4 or groups < 1:
            raise self.graph.refusal(
                node, f"has weights of {stored.ndim} axes in {groups} groups; only 2-D can be read"
            )
        if node.op_type == "ConvTranspose":
            if stored.shape[0] != channels or channels % groups:
                raise self.graph.refusal(node, f"has weights {stored.shape} for {channels} channels in {groups} groups")
            # Stored as (in_channels, out_channels / groups, K, K).
            split = stored.reshape(groups, channels // groups, *stored.shape[1:])
            return split.sum(axis=(1, 3, 4)).reshape(-1)
        if stored.shape[1] * groups != channels:
            raise self.graph.refusal(node, f"has weights {stored.shape} for {channels} channels in {groups} groups")
        return stored.sum(axis=(1, 2, 3))

    def call(self, node: onnx.NodeProto) -> str:
        """The name of a weighted layer: its own the first time, `NAME#2` where its weights are used again."""
        root = self.graph.roots[node.input[1]]
        calls = self.called.setdefault(root, [])
        path = re.fullmatch(r"(.+)\.weight(_quantized)?", root)
        # The exporter renames a weight that it transposes, but names the node /PATH/MatMul.
        scope = node.name.rpartition("/")[0] or node_name(node)
        name = f"{calls[0]}#{len(calls) + 1}" if calls else self.free(path[1] if path else scope)
        calls.append(name)
        return name

    def free(self, name: str) -> str:
        """`name` in one line and without `#`, which marks second calls, changed where another row has it already."""
        plain = "".join(c if c.isprintable() and c != "#" else "_" for c in name.strip("/").replace("/", "."))[:180]
        plain = plain or "node"
        chosen, count = plain, 1
        while chosen in self.layers:
            count += 1
            chosen = f"{plain}_{count}"
        return chosen

    def window(self, node: onnx.NodeProto, kernel: Sequence[int]) -> dict[str, Any]:
        """Kernel, stride, padding and dilation of a convolution or pool on maps."""
        taken = self.graph.shape(node, node.input[0])
        given = attribute(node, "kernel_shape", list(kernel))
        strides, dilations = attribute(node, "strides", [1, 1]), attribute(node, "dilations", [1, 1])
        pads = attribute(node, "pads", [0, 0, 0, 0])
        if len(taken) != 4 or [len(x) for x in (kernel, strides, dilations, pads)] != [2, 2, 2, 4]:
            raise self.graph.refusal(
                node, f"works on {len(taken)} axes; only (batch, channels, height, width) can be read"
            )
        if list(given) != list(kernel) or min(*kernel, *strides, *dilations) < 1 or min(pads) < 0:
            raise self.graph.refusal(
                node, f"has kernel {given}, strides {strides}, dilations {dilations} and pads {pads}, which do not fit"
            )
        automatic = attribute(node, "auto_pad", "NOTSET")
        if automatic in ("SAME_UPPER", "SAME_LOWER") and node.op_type != "ConvTranspose":
            pads = [0, 0, 0, 0]
            for axis in (0, 1):
                size, stride, reach = taken[2 + axis], strides[axis], dilations[axis] * (kernel[axis] - 1) + 1
                total = max((-(-size // stride) - 1) * stride + reach - size, 0)
                small, large = total // 2, total - total // 2
                pads[axis], pads[2 + axis] = (small, large) if automatic == "SAME_UPPER" else (large, small)
        elif automatic not in ("NOTSET", "VALID") or attribute(node, "output_shape", []):
            raise self.graph.refusal(node, "leaves its padding to be found; export it with explicit pads")
        fields: dict[str, Any] = {
            "kernel": (int(kernel[0]), int(kernel[1])),
            "stride": tuple(strides),
            "padding": (pads[0], pads[2], pads[1], pads[3]),
            "dilation": tuple(dilations),
        }
        return fields | ({"transposed": True} if node.op_type == "ConvTranspose" else {})

    def pool(self, node: onnx.NodeProto) -> None:
        taken = self.graph.shape(node, node.input[0])
        if node.op_type in ("MaxPool", "AveragePool"):
            fields = self.window(node, attribute(node, "kernel_shape", []))
        else:
            axes = attribute(node, "axes", None)
            if len(node.input) > 1 and node.input[1]:
                axes = self.constant(node, 1).tolist()
            reduced = {axis % 4 for axis in axes} if axes is not None else set()
            if len(taken) != 4 or (node.op_type.startswith("Reduce") and reduced != {2, 3}):
                raise self.graph.refusal(
                    node, f"reduces axes {axes} of {len(taken)}; only height and width can be read"
                )
            fields = {"kernel": taken[2:]}
        if node.op_type in _KEEP_GRID:
            self.keep_grid(node)
        self.row(node, self.free(node_name(node)), "pool", node.input[:1], **fields)

    def upsample(self, node: onnx.NodeProto) -> None:
        taken, given = (self.graph.shape(node, name) for name in (node.input[0], node.output[0]))
        if len(taken) != 4 or taken[:2] != given[:2] or taken[2] > given[2] or taken[3] > given[3]:
            raise self.graph.refusal(node, f"makes {given} of {taken}; only larger maps can be read")
        if attribute(node, "mode", "nearest") == "nearest":
            self.keep_grid(node)
        self.row(node, self.free(node_name(node)), "upsample", node.input[:1])

    def move(self, node: onnx.NodeProto, activations: Sequence[str]) -> None:
        """Padding, and shortcuts that take every n-th pixel and pad channels: one row for such a chain."""
        if activations != [node.input[0]]:
            raise self.graph.refusal(node, "is steered by activations; only constants can be read")
        padding = self.padding(node)
        if node.op_type == "Gather" and (attribute(node, "axis", 0) != 1 or self.constant(node, 1).ndim != 1):
            raise self.graph.refusal(node, "does not pick channels; only axis 1 and a list of indices can be read")
        self.keep_grid(node)
        kind: LayerKind = "pad" if node.op_type == "Pad" else "other"
        before = self.layers[self.source[node.input[0]]]
        chained = before.name in self.moved and self.uses[node.input[0]] == 1
        if chained and not any(padding) and not any(before.padding):
            channels, height, width = self.maps(node, node.output[0])
            self.layers[before.name] = replace(
                before,
                kind="pad" if "pad" in (kind, before.kind) else "other",
                out_channels=channels,
                out_height=height,
                out_width=width,
            )
            self.source[node.output[0]] = before.name
        else:
            name = self.free(node_name(node))
            self.row(node, name, kind, node.input[:1], padding=padding)
            self.moved.add(name)

    def padding(self, node: onnx.NodeProto) -> tuple[int, int, int, int]:
        """Top, bottom, left, right of a Pad; zeros for other nodes."""
        if node.op_type != "Pad":
            return (0, 0, 0, 0)
        rank = len(self.graph.shape(node, node.input[0]))
        given = attribute(node, "pads", None) if len(node.input) < 2 else self.constant(node, 1).tolist()
        axes = self.constant(node, 3).tolist() if len(node.input) > 3 and node.input[3] else list(range(rank))
        amount = {axis % rank: (given[i], given[i + len(axes)]) for i, axis in enumerate(axes)}
        if rank != 4 or any(amount.get(0, ())) or any(x < 0 for pair in amount.values() for x in pair):
            raise self.graph.refusal(node, f"pads by {given}; only zero or more channels and pixels can be read")
        (top, bottom), (left, right) = amount.get(2, (0, 0)), amount.get(3, (0, 0))
        return (top, bottom, left, right)

    def combine(self, node: onnx.NodeProto, activations: Sequence[str]) -> None:
        """Sums and products of activations; with a constant, or within one activation function (x·σ(x)), no row."""
        layer = self.without_bias.get(activations[0])
        if node.op_type == "Add" and len(activations) == 1 and layer is not None and self.uses[activations[0]] == 1:
            bias = next(name for name in node.input if name in self.graph.constants)
            if self.graph.constants[bias].size == self.layers[layer].out_channels:
                self.layers[layer] = replace(self.layers[layer], bias=True)
                self.trained(bias)
        rows = [self.source[name] for name in activations]
        sums = node.op_type in ("Add", "Sum") and len(rows) > 1
        if not sums and len(set(rows)) == 1:
            self.fold(node, activations)
            return
        same = len({self.graph.shape(node, name) for name in activations}) == 1
        self.row(node, self.free(node_name(node)), "add" if sums and same else "other", activations)

    def concat(self, node: onnx.NodeProto, activations: Sequence[str]) -> None:
        rank = len(self.graph.shape(node, node.output[0]))
        if len(activations) < len(node.input) or attribute(node, "axis", 0) % rank != 1:
            raise self.graph.refusal(node, "joins constants or axes other than channels; only channels can be read")
        if len(activations) == 1:
            self.fold(node, activations)
            return
        widths = [self.graph.grids.get(name, 0) for name in activations]
        if all(widths):
            self.graph.grids[node.output[0]] = max(widths)
        self.row(node, self.free(node_name(node)), "concat", activations)

    def fold(self, node: onnx.NodeProto, activations: Sequence[str]) -> None:
        self.keep_grid(node)
        if node.op_type in ("BatchNormalization", "PRelu"):
            for place in range(1, min(len(node.input), 3)):
                self.constant(node, place)
                self.trained(node.input[place])
        self.source[node.output[0]] = self.source[activations[0]]

    def keep_grid(self, node: onnx.NodeProto) -> None:
        note_grid(node, self.graph)
        if node.op_type in _KEEP_GRID + _UPSAMPLING and node.input[0] in self.graph.grids:
            self.graph.grids[node.output[0]] = self.graph.grids[node.input[0]]

    def constant(self, node: onnx.NodeProto, place: int) -> np.ndarray:
        value = self.graph.constants.get(node.input[place])
        if value is None:
            raise self.graph.refusal(node, f"has the input {node.input[place]!r}, which is not constant")
        return value

    def trained(self, tensor: str) -> None:
        self.parameters[self.graph.roots[tensor]] = self.graph.constants[tensor].size

    def maps(self, node: onnx.NodeProto, tensor: str) -> tuple[int, int, int]:
        """Channels, height and width of a tensor; a vector of features has maps of 1×1."""
        shape = self.graph.shape(node, tensor)
        if len(shape) not in (2, 4):
            raise self.graph.refusal(
                node,
                f"works on {len(shape)} axes; only (batch, channels, height, width) and (batch, features) can be read",
            )
        return (shape[1], shape[2], shape[3]) if len(shape) == 4 else (shape[1], 1, 1)

    def row(self, node: onnx.NodeProto, name: str, kind: LayerKind, inputs: Sequence[str], **fields: Any) -> None:
        taken = [self.maps(node, tensor) for tensor in inputs]
        channels, height, width = self.maps(node, node.output[0])
        self.layers[name] = Layer(
            name=name,
            kind=kind,
            inputs=() if kind == "input" else tuple(self.source[tensor] for tensor in inputs),
            in_channels=sum(shape[0] for shape in taken) if kind == "concat" else taken[0][0],
            out_channels=channels,
            in_height=taken[0][1],
            in_width=taken[0][2],
            out_height=height,
            out_width=width,
            activation_format=self.graph.format(node, inputs[0]),
            **fields,
        )
        self.source[node.output[0]] = name
