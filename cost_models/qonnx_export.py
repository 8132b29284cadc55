"""A network as QONNX: fp32 ONNX with a quantiser at the input of every layer and at its weights.

QONNX (Pappalardo et al., arXiv:2206.07527) is what flows for FPGAs read. Its operators `Quant` and `FloatQuant` (qonnx
1.0, domain `qonnx.custom_op.general`) take floating-point numbers to the nearest point of a grid, and give
floating-point numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper
from torch import Tensor, nn

from workloads import Grid, Grids, InputError, IntegerGrid, LayerGrids, MinifloatGrid

from .export import export_onnx, layer_of

DOMAIN = "qonnx.custom_op.general"


def export_qonnx(module: nn.Module, example: Tensor, grids: Grids) -> onnx.ModelProto:
    """`module` in eval mode as QONNX, for one image at a time, as such flows want it.

    `example` is one input, shape (1, C, H, W). Its weights lie on their grids already; they are stored as they are,
    each behind its quantiser. Numbers of layers that `grids` leaves out stay in fp32, as does what is added, pooled and
    joined between layers. Filters whose minifloats have other exponent widths have quantisers of their own, for
    `FloatQuant` takes one width. Raises `InputError` where there is nothing to quantise, or QONNX has no such numbers.
    """
    chosen = {name: own for name, own in grids.items() if own.weight or own.activation}
    if not chosen:
        raise InputError(
            "no layer of the network has a number format that QONNX could tell, int or minifloat; export it as onnx"
        )
    model = export_onnx(module, example)
    _fix_batch(model)
    writer = _Writer(model.graph)
    missing = set(chosen)
    nodes: list[onnx.NodeProto] = []
    for node in list(model.graph.node):
        layer = layer_of(node)
        if layer in chosen:
            missing.discard(layer)
            nodes += writer.before(node, layer, chosen[layer])
        nodes.append(node)
    if missing:
        raise InputError(f"layer {min(missing)!r} has a number format, and the exported network has no such layer")
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return model


def _fix_batch(model: onnx.ModelProto) -> None:
    """Makes the open batch 1, and states the shapes of all tensors."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.value_info[:]
    model.graph.CopyFrom(onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph)


@dataclass
class _Writer:
    """Quantisers on their way into a graph; of equal ones at one tensor there is one."""

    graph: onnx.GraphProto
    written: dict[tuple[str, object], str] = field(default_factory=dict)
    """Tensor and grid → its quantised self."""

    def __post_init__(self) -> None:
        told = {value.name: value.type.tensor_type.shape.dim for value in (*self.graph.input, *self.graph.value_info)}
        self.shapes = {name: [dim.dim_value for dim in dims] for name, dims in told.items()}
        self.stored = {tensor.name: tensor for tensor in self.graph.initializer}
        self.shapes |= {name: list(tensor.dims) for name, tensor in self.stored.items()}

    def before(self, node: onnx.NodeProto, layer: str, grids: LayerGrids) -> Iterator[onnx.NodeProto]:
        """What stands before the node of a layer, which is made to read it."""
        if grids.activation is not None:
            yield from self.quantised(node, 0, grids.activation, 0, f"{layer}.input")
        if grids.weight is not None:
            yield from self.quantised(node, 1, grids.weight, _filter_axis(node), f"{layer}.weight")

    def quantised(self, node: onnx.NodeProto, place: int, grid: Grid, axis: int, name: str) -> Iterator[onnx.NodeProto]:
        tensor = node.input[place]
        key = tensor, _key(grid)
        if key not in self.written:
            self.written[key] = f"{name}_quantised" if place else f"{tensor}_for_{name}"
            if isinstance(grid, MinifloatGrid) and grid.exponent.ndim:
                yield from self.by_exponent(tensor, self.written[key], grid, axis)
            else:
                yield from self.whole(tensor, self.written[key], grid, axis)
        node.input[place] = self.written[key]

    def whole(self, tensor: str, output: str, grid: Grid, axis: int) -> Iterator[onnx.NodeProto]:
        """One quantiser for a tensor."""
        if isinstance(grid, IntegerGrid):
            if grid.bits == 1:
                raise InputError(f"{output}: QONNX has no integers of one bit with a zero among them")
            numbers = self.numbers(output, zero=grid.zero, bits=grid.bits)
            narrow = {"signed": int(grid.signed), "narrow": int(grid.signed)}
            yield self.node("Quant", tensor, output, self.along(tensor, grid.scale, axis), numbers, narrow)
            return
        exponent = int(grid.exponent.flat[0])
        mantissa, bias = grid.bits - 1 - exponent, 2 ** (exponent - 1) - 1
        # Divided as our own quantiser divides: the largest code is a whole number, and what is left a power of two.
        largest = 2.0 ** (2**exponent - 2) * (2.0 ** (mantissa + 1) - 1)
        unit = grid.clip.astype(np.float32) / np.float32(largest)
        scale = np.where(unit > 0, unit, 1) * np.float32(2.0 ** (bias + mantissa - 1))
        numbers = self.numbers(
            output,
            exponent_bits=exponent,
            mantissa_bits=mantissa,
            exponent_bias=bias,
            largest=largest * 2.0 ** (1 - bias - mantissa),
        )
        plain = {"has_inf": 0, "has_nan": 0, "has_subnormal": 1, "saturation": 1}
        yield self.node("FloatQuant", tensor, output, self.along(tensor, scale, axis), numbers, plain)

    def node(
        self,
        operator: str,
        tensor: str,
        output: str,
        scale: np.ndarray,
        numbers: Sequence[str],
        attributes: Mapping[str, int],
    ) -> onnx.NodeProto:
        self.shapes[output] = self.shapes[tensor]
        self.tell(output)
        inputs = [tensor, self.put(f"{output}.scale", scale), *numbers]
        return helper.make_node(
            operator, inputs, [output], name=output, domain=DOMAIN, rounding_mode="ROUND", **attributes
        )

    def tell(self, tensor: str) -> None:
        """Puts the shape of a tensor into the graph: shape inference stops at operators that it does not know."""
        self.graph.value_info.append(helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, self.shapes[tensor]))

    def by_exponent(self, tensor: str, output: str, grid: MinifloatGrid, axis: int) -> Iterator[onnx.NodeProto]:
        """Filters of one exponent width after another, each behind their quantiser, and then in their old order."""
        weight = numpy_helper.to_array(self.stored[tensor])
        parts, order = [], []
        for exponent in np.unique(grid.exponent):
            filters = np.flatnonzero(grid.exponent == exponent)
            stored = self.put(f"{tensor}.exponent{exponent}", weight.take(filters, axis))
            parts.append(f"{output}.exponent{exponent}")
            order += filters.tolist()
            own = MinifloatGrid(grid.bits, np.asarray(exponent), grid.clip[filters])
            yield from self.whole(stored, parts[-1], own, axis)
        self.graph.initializer.remove(self.stored.pop(tensor))
        places = self.put(f"{output}.order", np.argsort(order).astype(np.int64))
        for joined in (f"{output}.parts", output):
            self.shapes[joined] = list(weight.shape)
            self.tell(joined)
        yield helper.make_node("Concat", parts, [f"{output}.parts"], name=f"{output}.parts", axis=axis)
        yield helper.make_node("Gather", [f"{output}.parts", places], [output], name=output, axis=axis)

    def along(self, tensor: str, scale: np.ndarray, axis: int) -> np.ndarray:
        """The scales of filters in a shape that goes with the weight's."""
        if not scale.ndim:
            return scale.astype(np.float32)
        shape = [1] * len(self.stored[tensor].dims)
        shape[axis] = scale.size
        return scale.reshape(shape).astype(np.float32)

    def numbers(self, output: str, **values: float) -> Sequence[str]:
        return [self.put(f"{output}.{name}", np.asarray(value, dtype=np.float32)) for name, value in values.items()]

    def put(self, name: str, value: np.ndarray) -> str:
        self.stored[name] = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
        self.shapes[name] = list(value.shape)
        self.graph.initializer.append(self.stored[name])
        return name


def _filter_axis(node: onnx.NodeProto) -> int:
    """Axis of a node's weight along which its filters lie."""
    if node.op_type == "Gemm":
        return 0 if helper.get_node_attr_value(node, "transB") else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": 1}[node.op_type]


def _key(grid: Grid) -> object:
    return type(grid), *(value.tobytes() if isinstance(value, np.ndarray) else value for value in vars(grid).values())
