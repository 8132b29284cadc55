"""An ONNX file made ready to be read: checked, its constants computed, the shape and type of every tensor known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .errors import InputError
from .network import FP32, Format

QUANTISERS = ("Quant", "BipolarQuant")
"""QONNX operators: Pappalardo et al., QONNX (arXiv:2206.07527)."""
_QONNX_DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")
_ONNX_DOMAINS = ("", "ai.onnx")

_MAX_BYTES = 2**31 - 1
_MAX_NODES = 50_000
# Elements that all computed constants may have together; far above the weights of any network that a device holds.
_MAX_ELEMENTS = 2**29
_MAX_ROUNDS = 8

FOLDABLE = frozenset(
    {
        "Constant", "ConstantOfShape", "Shape", "Identity", "Cast", "Concat", "Reshape", "Slice", "Gather", "Transpose",
        "Squeeze", "Unsqueeze", "Flatten", "Add", "Sub", "Mul", "Div", "Floor", "Ceil", "QuantizeLinear",
        "DequantizeLinear", *QUANTISERS,
    }
)  # fmt: skip
"""Operators that are computed where all their inputs are constants (Shape: where the shape is known)."""
_SAME_VALUES = ("Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", *QUANTISERS)
_ROUNDING = {"ROUND": np.rint, "CEIL": np.ceil, "FLOOR": np.floor, "ROUND_TO_ZERO": np.trunc}

_TYPES: dict[int, Format] = {
    TensorProto.FLOAT: FP32,
    TensorProto.FLOAT16: Format("float", 16),
    TensorProto.BFLOAT16: Format("bfloat", 16),
    **{
        getattr(TensorProto, f"{sign}INT{bits}"): Format("int", bits)
        for bits in (2, 4, 8, 16)
        for sign in ("", "U")
        if hasattr(TensorProto, f"{sign}INT{bits}")
    },
}


@dataclass
class OnnxGraph:
    """The nodes that compute on activations, in topological order, and all that is known of their tensors."""

    where: str
    """What messages start with."""
    nodes: list[onnx.NodeProto]
    inputs: list[str]
    outputs: list[str]
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    roots: dict[str, str] = field(default_factory=dict)
    """Constant → the stored tensor that it was computed from."""
    grids: dict[str, int] = field(default_factory=dict)
    """Tensor → bits of the integers that its values are multiples of, where it was quantised."""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Tensor → shape, batch first; a batch that was left open is 1."""
    types: dict[str, int] = field(default_factory=dict)
    """Tensor → element type of `onnx.TensorProto`."""

    def refusal(self, node: onnx.NodeProto, reason: str) -> InputError:
        return InputError(f"{self.where}: node {node_name(node)!r} ({node.op_type}) {reason}")

    def shape(self, node: onnx.NodeProto, tensor: str) -> tuple[int, ...]:
        """The shape of one of the tensors of `node`; `InputError` where it is unknown."""
        shape = self.shapes.get(tensor)
        if not shape or min(shape) < 1:
            raise self.refusal(node, f"has the tensor {tensor!r}, whose shape is not known; export it with fixed sizes")
        return shape

    def format(self, node: onnx.NodeProto, tensor: str) -> Format:
        """The number format of the values of one of the tensors of `node`; `InputError` for one without a name."""
        bits = self.grids.get(tensor)
        try:
            form = _TYPES.get(self.types.get(tensor, 0)) if bits is None else Format("int", bits)
        except InputError:
            form = None
        if form is None:
            kind = f"{bits}-bit integers" if bits else _type_name(self.types.get(tensor, 0))
            raise self.refusal(node, f"takes {tensor!r} in {kind}; allowed: fp32, fp16, bf16 and integers of 1–16 bits")
        return form


def node_name(node: onnx.NodeProto) -> str:
    return node.name or next(iter(node.output), "")


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """An attribute of `node`, `default` where it is left out; strings as text."""
    found = next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else found


def load_onnx(model: str | Path | onnx.ModelProto, readable: frozenset[str]) -> OnnxGraph:
    """Reads a model whose operators are among `readable` and `FOLDABLE`; anything else raises `InputError`."""
    if isinstance(model, onnx.ModelProto):
        where, proto = "ONNX network", onnx.ModelProto()
        proto.CopyFrom(model)
    else:
        where, proto = f"ONNX file {model}", _parse(model)
    _refuse_what_stands_elsewhere(proto, where)
    for node in proto.graph.node:
        allowed = _ONNX_DOMAINS if node.op_type not in QUANTISERS else _QONNX_DOMAINS
        if node.op_type not in readable | FOLDABLE or node.domain not in allowed:
            operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise InputError(
                f"{where}: node {node_name(node)!r} has the operator {operator}, which cannot be read; "
                "docs/network.md says which can"
            )
    try:
        onnx.checker.check_model(proto)
    except Exception as error:
        raise InputError(f"{where} is not a valid ONNX network: {_line(error)}") from error
    graph = OnnxGraph(where, [], _fixed_inputs(proto, where), [value.name for value in proto.graph.output])
    _compute(proto, graph)
    return graph


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _parse(path: str | Path) -> onnx.ModelProto:
    where = f"ONNX file {path}"
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"{where} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > _MAX_BYTES:
        raise InputError(f"{where} has more than the 2 GB that an ONNX file may have")
    try:
        return onnx.ModelProto.FromString(content)
    except Exception as error:  # of protobuf, which has no types
        raise InputError(f"{where} is not ONNX: it does not parse as a model") from error


def _refuse_what_stands_elsewhere(model: onnx.ModelProto, where: str) -> None:
    graph = model.graph
    if len(graph.node) > _MAX_NODES:
        raise InputError(f"{where} has {len(graph.node)} nodes; at most {_MAX_NODES} are allowed")
    if model.functions:
        raise InputError(f"{where} holds local functions; inline them with onnx.inliner.inline_local_functions first")
    if graph.sparse_initializer:
        raise InputError(f"{where} holds sparse tensors; store them dense, zeros are counted as pruned")
    for tensor in (*graph.initializer, *_tensors(graph.node)):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise InputError(
                f"{where} keeps tensor {tensor.name!r} in another file; save it with all of its data inside"
            )


def _tensors(nodes: Any) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for one in node.attribute:
            if one.HasField("t"):
                yield one.t


def _fixed_inputs(model: onnx.ModelProto, where: str) -> list[str]:
    """Names of the inputs, their open batch made 1 in the model, and all stated shapes of other tensors removed."""
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    for value in inputs:
        dims = value.type.tensor_type.shape.dim
        if len(dims) not in (2, 4):
            raise InputError(
                f"{where}: input {value.name!r} has {len(dims)} axes; it needs (batch, channels, height, width) or "
                "(batch, features)"
            )
        if not dims[0].HasField("dim_value"):
            dims[0].dim_value = 1
        for axis, dim in enumerate(dims):
            if not dim.HasField("dim_value") or dim.dim_value < 1:
                given = repr(dim.dim_param) if dim.HasField("dim_param") else dim.dim_value or "open"
                raise InputError(
                    f"{where}: input {value.name!r} has axis {axis} of size {given}; only the batch, axis 0, may be "
                    "left open: export it with fixed sizes"
                )
    # They may name the batch that was open.
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    return [value.name for value in inputs]


def _compute(model: onnx.ModelProto, graph: OnnxGraph) -> None:
    """Fills `graph`: infers shapes and computes constants in turns, until nothing is left to compute."""
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    quantisers = {}
    for node in model.graph.node:
        if node.op_type in QUANTISERS:
            original = onnx.NodeProto()
            original.CopyFrom(node)
            quantisers[node.output[0]] = original
            # Shape inference does not know them; they keep shape and type.
            node.op_type, node.domain = "Identity", ""
            del node.input[1:], node.attribute[:]
    for tensor in model.graph.initializer:
        try:
            graph.constants[tensor.name] = numpy_helper.to_array(tensor)
        except Exception as error:
            raise InputError(f"{graph.where}: tensor {tensor.name!r} cannot be read: {_line(error)}") from error
        graph.roots[tensor.name] = tensor.name
        graph.types[tensor.name] = tensor.data_type
    for _ in range(_MAX_ROUNDS):
        _infer(model, graph)
        if not _fold(model, graph, quantisers, opsets):
            break
    graph.nodes = [quantisers.get(next(iter(node.output), ""), node) for node in model.graph.node]


def _infer(model: onnx.ModelProto, graph: OnnxGraph) -> None:
    try:
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    except Exception as error:
        raise InputError(f"{graph.where}: its sizes do not follow from each other: {_line(error)}") from error
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        tensor = value.type.tensor_type
        graph.types[value.name] = tensor.elem_type
        if tensor.HasField("shape"):
            graph.shapes[value.name] = tuple(
                dim.dim_value if dim.HasField("dim_value") else 0 for dim in tensor.shape.dim
            )


def _fold(
    model: onnx.ModelProto, graph: OnnxGraph, quantisers: dict[str, onnx.NodeProto], opsets: dict[str, int]
) -> bool:
    """Computes the nodes whose inputs are constants and whose shape is known; says whether there were any."""
    left = []
    elements = sum(array.size for array in graph.constants.values())
    for node in model.graph.node:
        asked = quantisers.get(next(iter(node.output), ""), node)
        if not _is_constant(asked, graph):
            left.append(node)
            continue
        name = node.output[0]
        elements += math.prod(graph.shapes[name])
        if elements > _MAX_ELEMENTS:
            raise graph.refusal(node, f"makes the constants more than {_MAX_ELEMENTS} elements; store fewer")
        try:
            value = _quantised(asked, graph) if asked.op_type in QUANTISERS else _evaluate(asked, graph, opsets)
        except InputError:
            raise
        except Exception as error:
            raise graph.refusal(node, f"cannot be computed: {_line(error)}") from error
        graph.constants[name] = value
        graph.types[name] = helper.np_dtype_to_tensor_dtype(value.dtype)
        graph.roots[name] = name
        if asked.op_type in ("QuantizeLinear", "DequantizeLinear", *_SAME_VALUES):
            graph.roots[name] = graph.roots[asked.input[0]]
        note_grid(asked, graph)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    changed = len(left) < len(model.graph.node)
    if changed:
        del model.graph.node[:]
        model.graph.node.extend(left)
    return changed


def _is_constant(node: onnx.NodeProto, graph: OnnxGraph) -> bool:
    if node.op_type not in FOLDABLE or len(node.output) != 1 or 0 in graph.shapes.get(node.output[0], (0,)):
        # A size of zero is an unknown one, or the empty list that nobody needs.
        return False
    if node.op_type == "Shape":
        return node.input[0] in graph.constants or 0 not in graph.shapes.get(node.input[0], (0,))
    return all(name in graph.constants for name in node.input if name)


def _evaluate(node: onnx.NodeProto, graph: OnnxGraph, opsets: dict[str, int]) -> np.ndarray:
    from onnx.reference import ReferenceEvaluator

    if node.op_type == "Shape":
        shape = np.array(graph.shapes[node.input[0]], dtype=np.int64)
        return shape[attribute(node, "start", 0) : attribute(node, "end", None)]
    given = {name: graph.constants[name] for name in node.input if name}
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in given.items()
    ]
    outputs = [helper.make_tensor_value_info(node.output[0], TensorProto.UNDEFINED, None)]
    versions = dict(opsets)
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        # They mean the same in older versions, which onnx cannot compute.
        versions[""] = max(versions.get("", 21), 21)
    alone = helper.make_model(
        helper.make_graph([node], "node", inputs, outputs),
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in versions.items()],
    )
    return np.asarray(ReferenceEvaluator(alone).run(None, given)[0])


def _quantised(node: onnx.NodeProto, graph: OnnxGraph) -> np.ndarray:
    """The values of a constant behind a QONNX quantiser."""
    value, scale = graph.constants[node.input[0]], graph.constants[node.input[1]]
    if node.op_type == "BipolarQuant":
        return np.where(value >= 0, scale, -scale).astype(value.dtype)
    zero, bits = graph.constants[node.input[2]], quantiser_bits(node, graph)
    narrow = attribute(node, "narrow", 0)
    if attribute(node, "signed", 1):
        low, high = -(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1
    else:
        low, high = 0, 2**bits - 1 - narrow
    mode = attribute(node, "rounding_mode", "ROUND").upper()
    if mode not in _ROUNDING:
        raise graph.refusal(node, f"rounds by {mode}; allowed: {', '.join(_ROUNDING)}")
    return ((_ROUNDING[mode](np.clip(value / scale + zero, low, high)) - zero) * scale).astype(value.dtype)


def quantiser_bits(node: onnx.NodeProto, graph: OnnxGraph) -> int:
    """The width that a QONNX quantiser gives its values; `InputError` where it is not a constant whole number."""
    if node.op_type == "BipolarQuant":
        return 1
    width = graph.constants.get(node.input[3]) if len(node.input) > 3 else None
    if (
        width is None
        or width.size != 1
        or not 1 <= float(width.reshape(-1)[0]) <= 32
        or float(width.reshape(-1)[0]) % 1
    ):
        raise graph.refusal(node, "has no constant whole bit width in 1…32")
    return int(width.reshape(-1)[0])


def note_grid(node: onnx.NodeProto, graph: OnnxGraph) -> None:
    """Files the width of what a quantiser gives; through what only moves values, it is that of what goes in."""
    name = node.output[0]
    if node.op_type in QUANTISERS:
        graph.grids[name] = quantiser_bits(node, graph)
    elif node.op_type == "DequantizeLinear":
        kind = _type_name(graph.types.get(node.input[0], 0))
        if "int" in kind:
            graph.grids[name] = int(kind.rpartition("int")[2])
        else:
            raise graph.refusal(node, f"reads {kind}; allowed: integers of 2–32 bits")
    elif node.op_type in _SAME_VALUES and node.input[0] in graph.grids:
        graph.grids[name] = graph.grids[node.input[0]]


def _type_name(kind: int) -> str:
    return TensorProto.DataType.Name(kind).lower() if kind in TensorProto.DataType.values() else f"type {kind}"
