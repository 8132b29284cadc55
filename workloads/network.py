"""The neutral description of a network: number formats, the layer table, and `trace()`, which makes one."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import torch.fx
from torch import Tensor, nn
from torch.nn import functional

from .errors import InputError

FormatKind = Literal["float", "bfloat", "tensorfloat", "int", "minifloat"]
LayerKind = Literal["input", "conv", "linear", "pool", "add", "concat", "upsample", "pad", "other"]

_PREFIX: dict[FormatKind, str] = {"float": "fp", "bfloat": "bf", "tensorfloat": "tf", "int": "int", "minifloat": "mf"}
_BITS: dict[FormatKind, tuple[int, ...]] = {
    "float": (16, 32),
    "bfloat": (16,),
    "tensorfloat": (32,),
    "int": tuple(range(1, 17)),
    "minifloat": tuple(range(3, 17)),
}


@dataclass(frozen=True, order=True)
class Format:
    """A number format: `fp32`, `fp16`, `bf16`, `tf32`, `int1`…`int16`, or `mf3`…`mf16` (minifloat, split per channel).

    `tf32` is stored as fp32 and multiplied with the 10 bits of fraction that a GPU's tensor cores take of it.
    """

    kind: FormatKind
    bits: int

    def __post_init__(self) -> None:
        if self.kind not in _BITS or self.bits not in _BITS[self.kind]:
            raise InputError(f"number format {self.kind!r} of {self.bits} bits is unknown; allowed: {_ALLOWED}")

    @classmethod
    def parse(cls, text: str) -> Format:
        """The format that `text` names; raises `InputError` for an unknown one."""
        match = re.fullmatch(r"(fp|bf|tf|int|mf)(\d{1,2})", text)
        if not match:
            raise InputError(f"number format {text!r} is unknown; allowed: {_ALLOWED}")
        kind = next(kind for kind, prefix in _PREFIX.items() if prefix == match[1])
        return cls(kind, int(match[2]))

    def __str__(self) -> str:
        return f"{_PREFIX[self.kind]}{self.bits}"


_ALLOWED = "fp16, fp32, bf16, tf32, int1 to int16, mf3 to mf16"
FP32 = Format("float", 32)


@dataclass(frozen=True)
class Layer:
    """One row of the network table.

    Batch norm and activation functions are folded into the layer that feeds them and have no row of their own.
    Sizes are those of one image. `nonzeros` counts stored weight slots of every filter (shape `(out_channels,)`), the
    dense count where nothing is masked; it is empty for layers without weights.
    """

    name: str
    kind: LayerKind
    inputs: tuple[str, ...]
    in_channels: int
    out_channels: int
    in_height: int = 1
    in_width: int = 1
    out_height: int = 1
    out_width: int = 1
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Top, bottom, left, right."""
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    bias: bool = False
    transposed: bool = False
    weight_format: Format = FP32
    activation_format: Format = FP32
    """Format of the layer's input activations."""
    nonzeros: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def weights(self) -> int:
        """Weights of the dense layer, without bias."""
        if self.kind not in ("conv", "linear"):
            return 0
        return self.out_channels * (self.in_channels // self.groups) * self.kernel[0] * self.kernel[1]

    @property
    def macs(self) -> int:
        """Multiply–accumulates of one image with every weight counted."""
        return self.weights * self._positions

    @property
    def effective_macs(self) -> int:
        """Multiply–accumulates of one image with stored (unmasked) weights only."""
        return int(self.nonzeros.sum()) * self._positions

    @property
    def _positions(self) -> int:
        return self.in_height * self.in_width if self.transposed else self.out_height * self.out_width


@dataclass(frozen=True)
class Network:
    """Layers in topological order; edges stand in `Layer.inputs` by name."""

    layers: tuple[Layer, ...]
    parameters: int
    """All trainable parameters: weights, biases and batch-norm scales and shifts."""

    def __getitem__(self, name: str) -> Layer:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)

    @property
    def compute_layers(self) -> tuple[Layer, ...]:
        """The convolutions and linear layers, in order."""
        return tuple(layer for layer in self.layers if layer.kind in ("conv", "linear"))


@dataclass(frozen=True)
class LayerFormats:
    """Weight format of a layer and format of its input activations."""

    weight: Format = FP32
    activation: Format = FP32


Formats = Mapping[str, LayerFormats]
"""Layer name → formats; a layer that is absent stays in fp32."""


def trace(
    module: nn.Module,
    example: Tensor,
    formats: Formats | None = None,
    nonzeros: Mapping[str, np.ndarray] | None = None,
) -> Network:
    """The layer table of `module`, read from its torch.fx graph.

    `example` is one input, shape (1, C, H, W). `formats` gives layers their number formats, `nonzeros` the stored
    weights of every filter, shape (out_channels,), where some are masked. A module that is called twice has two rows,
    the second named `NAME#2`. A module with an attribute `layer_kind` is one row of that kind, whatever it does inside.
    Raises `InputError` where the graph cannot be read.
    """
    graph_module = symbolic_graph(module)
    shapes = _Shapes(graph_module)
    with torch.no_grad():
        try:
            shapes.run(example)
        except Exception as error:
            raise InputError(
                f"network {type(module).__name__} does not run on an input of shape {tuple(example.shape)}: "
                f"{_line(error)}"
            ) from error
    table = _Table(graph_module, shapes.of, formats or {}, nonzeros or {})
    for node in graph_module.graph.nodes:
        table.visit(node)
    unknown = (set(formats or {}) | set(nonzeros or {})) - {layer.name for layer in table.layers}
    if unknown:
        raise InputError(f"the network has no layer {sorted(unknown)[0]!r}; its layers are {', '.join(table.weighted)}")
    return Network(tuple(table.layers), sum(p.numel() for p in module.parameters()))


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class _Tracer(torch.fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return hasattr(m, "layer_kind") or super().is_leaf_module(m, module_qualified_name)


def symbolic_graph(module: nn.Module) -> torch.fx.GraphModule:
    """The torch.fx graph of `module`, modules that have a `layer_kind` left whole; `InputError` where there is none."""
    try:
        return torch.fx.GraphModule(module, _Tracer().trace(module))
    except Exception as error:
        raise InputError(
            f"network {type(module).__name__} cannot be traced by torch.fx: {_line(error)}; "
            "its forward may not branch on the values or shapes of tensors"
        ) from error


class _Shapes(torch.fx.Interpreter):
    """Runs the graph once and keeps the shape of every tensor."""

    def __init__(self, graph_module: torch.fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.of: dict[torch.fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.of[n] = tuple(result.shape)
        return result


_FUNCTIONS: dict[Any, LayerKind] = {
    operator.add: "add",
    operator.iadd: "add",
    torch.add: "add",
    "add": "add",
    "add_": "add",
    torch.cat: "concat",
    torch.concat: "concat",
    functional.max_pool2d: "pool",
    functional.avg_pool2d: "pool",
    functional.adaptive_avg_pool2d: "pool",
    functional.adaptive_max_pool2d: "pool",
    torch.mean: "pool",
    "mean": "pool",
    functional.interpolate: "upsample",
    functional.pad: "pad",
}
_FOLDED_FUNCTIONS: frozenset[Any] = frozenset(
    {
        torch.relu, functional.relu, functional.relu6, functional.leaky_relu, functional.hardswish, functional.silu,
        functional.gelu, functional.hardsigmoid, torch.sigmoid, torch.tanh, torch.flatten, functional.dropout,
        functional.softmax, functional.log_softmax, "relu", "relu_", "sigmoid", "tanh", "flatten", "view", "reshape",
        "contiguous", "squeeze", "unsqueeze", torch.squeeze, torch.unsqueeze, torch.reshape,
    }
)  # fmt: skip
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_FOLDED_MODULES = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.GELU,
    nn.Sigmoid, nn.Tanh, nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten, nn.Softmax, nn.LogSoftmax,
)  # fmt: skip


class _Table:
    """Rows in the making; `source` says which row produced the value of a node."""

    def __init__(
        self,
        graph_module: torch.fx.GraphModule,
        shapes: Mapping[torch.fx.Node, tuple[int, ...]],
        formats: Formats,
        nonzeros: Mapping[str, np.ndarray],
    ) -> None:
        self.modules = dict(graph_module.named_modules())
        self.shapes, self.formats, self.nonzeros = shapes, formats, nonzeros
        self.layers: list[Layer] = []
        self.weighted: list[str] = []
        self.source: dict[torch.fx.Node, str] = {}
        self.calls: dict[str, int] = {}

    def visit(self, node: torch.fx.Node) -> None:
        if node.op == "output" or node not in self.shapes:
            return
        if node.op == "placeholder":
            self.row(node, node.name, "input")
        elif node.op == "call_module":
            self.module(node, str(node.target), self.modules[str(node.target)])
        elif node.op in ("call_function", "call_method"):
            kind = _FUNCTIONS.get(node.target)
            if kind in ("add", "concat") and len(self.producers(node)) < 2:
                kind = None
            if kind:
                self.row(node, node.name, kind, **(self.window(node) if kind in ("pool", "pad") else {}))
            else:
                self.folded_or_other(node, node.name, node.target in _FOLDED_FUNCTIONS)

    def module(self, node: torch.fx.Node, path: str, module: nn.Module) -> None:
        self.calls[path] = self.calls.get(path, 0) + 1
        name = path if self.calls[path] == 1 else f"{path}#{self.calls[path]}"
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            self.weight_row(
                node,
                name,
                path,
                "conv",
                module,
                per_filter=module.weight.numel() // module.out_channels,
                kernel=_pair(module.kernel_size),
                stride=_pair(module.stride),
                padding=_padding(module),
                dilation=_pair(module.dilation),
                groups=module.groups,
                transposed=isinstance(module, nn.ConvTranspose2d),
            )
        elif isinstance(module, nn.Linear):
            self.weight_row(node, name, path, "linear", module, per_filter=module.in_features)
        elif isinstance(module, _POOLS):
            window: dict[str, Any] = {}
            if isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)):
                top, left = _pair(module.padding)
                window = {
                    "kernel": _pair(module.kernel_size),
                    "stride": _pair(module.stride or module.kernel_size),
                    "padding": (top, top, left, left),
                }
            else:
                window = self.window(node)
            self.row(node, name, "pool", **window)
        elif isinstance(module, nn.ZeroPad2d):
            left, right, top, bottom = module.padding
            self.row(node, name, "pad", padding=(top, bottom, left, right))
        elif isinstance(module, nn.Upsample):
            self.row(node, name, "upsample")
        elif hasattr(module, "layer_kind"):
            self.row(node, name, cast(LayerKind, module.layer_kind))
        else:
            self.folded_or_other(node, name, isinstance(module, _FOLDED_MODULES))

    def window(self, node: torch.fx.Node) -> dict[str, Any]:
        """Window of a pool or padding called as a function, or of a pool that is told its output size."""
        if node.target is functional.pad:
            amounts = cast(Sequence[int], node.args[1] if len(node.args) > 1 else node.kwargs["pad"])
            left, right, top, bottom = [*amounts, 0, 0][:4]
            return {"padding": (top, bottom, left, right)}
        if node.target in (functional.max_pool2d, functional.avg_pool2d):
            given = dict(zip(("kernel_size", "stride", "padding"), node.args[1:], strict=False)) | node.kwargs
            kernel = _pair(given["kernel_size"])
            top, left = _pair(given.get("padding", 0))
            return {"kernel": kernel, "stride": _pair(given.get("stride") or kernel), "padding": (top, top, left, left)}
        taken, out = _size(self.shapes[node.all_input_nodes[0]]), _size(self.shapes[node])
        stride = (max(taken[0] // out[0], 1), max(taken[1] // out[1], 1))
        kernel = (taken[0] - (out[0] - 1) * stride[0], taken[1] - (out[1] - 1) * stride[1])
        return {"kernel": kernel, "stride": stride if out != (1, 1) else (1, 1)}

    def weight_row(
        self, node: torch.fx.Node, name: str, path: str, kind: LayerKind, module: Any, per_filter: int, **fields: Any
    ) -> None:
        """A conv or linear layer; `path` is the module's, under which formats and masks are filed."""
        filters = module.out_features if kind == "linear" else module.out_channels
        nonzeros = np.asarray(self.nonzeros.get(path, np.full(filters, per_filter)), dtype=np.int64)
        if nonzeros.shape != (filters,) or (nonzeros < 0).any() or (nonzeros > per_filter).any():
            raise InputError(
                f"layer {path!r} has {filters} filters of {per_filter} weights; the nonzeros given are of shape "
                f"{nonzeros.shape} in {nonzeros.min(initial=0)}…{nonzeros.max(initial=0)}"
            )
        chosen = self.formats.get(path, LayerFormats())
        self.weighted.append(path)
        self.row(
            node,
            name,
            kind,
            bias=module.bias is not None,
            nonzeros=nonzeros,
            weight_format=chosen.weight,
            activation_format=chosen.activation,
            **fields,
        )

    def producers(self, node: torch.fx.Node) -> list[str]:
        """Rows that feed this node, once an argument (x + x counts two)."""
        given: list[torch.fx.Node] = []

        def collect(argument: torch.fx.Node) -> torch.fx.Node:
            given.append(argument)
            return argument

        torch.fx.node.map_arg((node.args, node.kwargs), collect)
        return [self.source[argument] for argument in given if argument in self.source]

    def folded_or_other(self, node: torch.fx.Node, name: str, folded: bool) -> None:
        producers = self.producers(node)
        if folded and producers:
            self.source[node] = producers[0]
        elif producers:
            self.row(node, name, "other")

    def row(self, node: torch.fx.Node, name: str, kind: LayerKind, **fields: Any) -> None:
        before = node.all_input_nodes
        incoming = self.shapes.get(before[0], self.shapes[node]) if before else self.shapes[node]
        in_channels = sum(self.shapes[n][1] for n in before if n in self.shapes) if kind == "concat" else incoming[1]
        # A linear layer sees a flat vector; its row keeps 1×1 maps.
        (in_height, in_width), (out_height, out_width) = _size(incoming), _size(self.shapes[node])
        self.source[node] = name
        self.layers.append(
            Layer(
                name=name,
                kind=kind,
                inputs=tuple(self.producers(node)),
                in_channels=in_channels,
                out_channels=self.shapes[node][1],
                in_height=in_height,
                in_width=in_width,
                out_height=out_height,
                out_width=out_width,
                **fields,
            )
        )


def _size(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[2], shape[3]) if len(shape) == 4 else (1, 1)


def _pair(value: Any) -> tuple[int, int]:
    return (int(value[0]), int(value[1])) if isinstance(value, tuple | list) else (int(value), int(value))


def _padding(module: nn.Conv2d | nn.ConvTranspose2d) -> tuple[int, int, int, int]:
    if module.padding == "valid":
        return (0, 0, 0, 0)
    if module.padding == "same":
        total = [d * (k - 1) for d, k in zip(_pair(module.dilation), _pair(module.kernel_size), strict=True)]
        return (total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2)
    top, left = _pair(module.padding)
    return (top, top, left, left)
