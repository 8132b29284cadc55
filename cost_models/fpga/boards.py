"""Designs that others measured on boards: a reader of fpgaConvNet's layer JSON, and what was measured.

The format is that of fpgaconvnet-model (`fpgaconvnet.proto`, printed as JSON): partitions of layers, each with its
sizes, its folding and the streams that join it to others. Fields that say nothing about time or multipliers are passed
over.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workloads import Format, InputError, Layer, Network
from workloads.network import LayerKind

from .block import blocks
from .equations import product_dsps
from .folding import AnyFolding, ConvFolding, LayerFolding, check_folding

DEFAULT_BITS: Final = 16
"""Width where the file states none, as in fpgaconvnet-model."""
RECIPROCAL_BITS: Final = 18
"""A mean is multiplied by 1/n held in the narrower port of a DSP."""

_STREAMING: Final[Mapping[str, LayerKind]] = {
    "SQUEEZE": "other",
    "RESHAPE": "other",
    "FLATTEN": "other",
    "NOP": "other",
    "SPLIT": "other",
    "CHOP": "other",
    "BATCH_NORM": "other",
    "ACTIVATION": "other",
    "RELU": "other",
    "THRESHOLDEDRELU": "other",
    "SIGMOID": "other",
    "HARD_SIGMOID": "other",
    "SILU": "other",
    "HARD_SWISH": "other",
    "ELTWISE": "add",
    "CONCAT": "concat",
    "RESIZE": "upsample",
}
_POOLS: Final = ("POOLING", "AVERAGE_POOLING", "GLOBAL_POOLING")
_TYPES: Final = ("CONVOLUTION", "INNER_PRODUCT", *_POOLS, *_STREAMING)


@dataclass(frozen=True)
class PublishedDesign:
    """A network and how every layer of it is laid out."""

    network: Network
    """One row a layer of the file, and one for every stream that comes from outside."""
    folding: Mapping[str, AnyFolding]
    types: Mapping[str, str]
    """Layer → its type in the file; INPUT for the rows that the file does not have."""


@dataclass(frozen=True)
class MeasuredBoard:
    """What was published of a board."""

    name: str
    """Also the name of its file, without `.json`."""
    summary: str
    device: str
    """The part of the catalogue whose external memory it has."""
    clock: float
    """Hz."""
    inferences_per_second: float
    """One image at a time."""
    dsp: int
    source: str

    @property
    def cycles(self) -> float:
        """Cycles of one image."""
        return self.clock / self.inferences_per_second


def measured_boards() -> tuple[MeasuredBoard, ...]:
    """The boards whose measured figures come with the tool; their layer files do not."""
    data = tomllib.loads((Path(__file__).parent / "boards.toml").read_text(encoding="utf-8"))
    return tuple(MeasuredBoard(**board, source=data["source"]) for board in data["boards"])


def read_fpgaconvnet(path: str | Path) -> PublishedDesign:
    """The design that a layer file of fpgaConvNet describes.

    Raises `InputError`, one line naming file and layer, for a file that is damaged or contradicts itself, and for what
    is not modelled: several partitions that take turns on the device, weights that are reloaded, sparse engines, 3-D.
    """
    where = f"fpgaConvNet file {path}"
    partition = _partition(_json(Path(path), where), where)
    try:
        return _design(partition.layers)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


_Size = Annotated[int, Field(ge=1, le=2**16)]
_Border = Annotated[int, Field(ge=0, le=2**12)]
_Fold = Annotated[int, Field(ge=1, le=2**20)]


class _Fixed(_Lenient):
    width: Annotated[int, Field(ge=1, le=64)] | None = None


class _Parameters(_Lenient):
    rows_in: _Size | None = None
    cols_in: _Size | None = None
    channels_in: _Size | None = None
    rows_out: _Size | None = None
    cols_out: _Size | None = None
    channels_out: _Size | None = None
    depth_in: _Size = 1
    kernel_depth: _Size = 1
    rows_in_array: list[_Size] = []
    cols_in_array: list[_Size] = []
    channels_in_array: list[_Size] = []
    rows_out_array: list[_Size] = []
    cols_out_array: list[_Size] = []
    channels_out_array: list[_Size] = []
    split: list[_Size] = []
    coarse: _Fold | None = None
    coarse_in: _Fold | None = None
    coarse_out: _Fold | None = None
    coarse_group: _Fold = 1
    fine: _Fold = 1
    groups: _Size = 1
    filters: _Size | None = None
    kernel_rows: _Size | None = None
    kernel_cols: _Size | None = None
    kernel_size: list[_Size] = []
    stride_rows: _Size | None = None
    stride_cols: _Size | None = None
    stride: list[_Size] = []
    pad_top: _Border = 0
    pad_bottom: _Border = 0
    pad_left: _Border = 0
    pad_right: _Border = 0
    has_bias: int | bool = 0
    use_dsp: bool = True
    sparsity: float | list[float] = 0.0
    data_t: _Fixed = _Fixed()
    input_t: _Fixed = _Fixed()
    weight_t: _Fixed = _Fixed()
    acc_t: _Fixed = _Fixed()
    scale_t: _Fixed = _Fixed()
    input_scale_arr: list[float] = []
    output_scale: float | None = None


class _Stream(_Lenient):
    name: str
    coarse: _Fold = 1
    node: str | None = None


class _Layer(_Lenient):
    name: Annotated[str, Field(min_length=1, max_length=500)]
    type: str
    op_type: str | None = None
    streams_in: Annotated[list[_Stream], Field(min_length=1, max_length=1000)]
    streams_out: list[_Stream] = []
    parameters: _Parameters


class _Partition(_Lenient):
    weights_reloading_factor: int = 1
    layers: Annotated[list[_Layer], Field(min_length=1, max_length=10_000)]


def _json(path: Path, where: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{where} cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON: {' '.join(str(error).split())}") from error


def _partition(data: Any, where: str) -> _Partition:
    partitions = data.get("partition") if isinstance(data, dict) else None
    if not isinstance(partitions, list) or not partitions:
        raise InputError(f"{where} has no list 'partition'; give the JSON that fpgaConvNet's optimiser writes")
    if len(partitions) > 1:
        raise InputError(
            f"{where} has {len(partitions)} partitions that take turns on the device; only designs with one, all of "
            "whose layers work at once, are modelled"
        )
    try:
        partition = _Partition.model_validate(partitions[0])
    except ValidationError as error:
        raise InputError(f"{where}: {_fault(error, partitions[0])}") from error
    if partition.weights_reloading_factor != 1:
        raise InputError(
            f"{where}: weights are loaded {partition.weights_reloading_factor} times an image; only designs that keep "
            "theirs (weights_reloading_factor 1) are modelled"
        )
    return partition


def _fault(error: ValidationError, partition: Any) -> str:
    """The first fault that pydantic found, with the layer's name in place of its number."""
    first = error.errors()[0]
    location: Sequence[int | str] = first["loc"]
    told = "should be an object" if first["type"] == "model_type" else first["msg"].removeprefix("Input ")
    if first["type"] != "missing":
        given = repr(first["input"])
        told = f"is {given if len(given) <= 40 else given[:39] + '…'}; {told}"
    if len(location) < 2 or location[0] != "layers":
        return f"{'.'.join(map(str, location)) or 'partition'} {told}"
    found = partition["layers"][int(location[1])]
    name = found.get("name") if isinstance(found, dict) else None
    layer = f"layer {name!r}" if isinstance(name, str) and name else f"layer number {int(location[1]) + 1}"
    return " ".join([f"{layer}:" if location[2:] else layer, *filter(None, [".".join(map(str, location[2:]))]), told])


def _design(layers: Sequence[_Layer]) -> PublishedDesign:
    by_name = {layer.name: layer for layer in layers}
    if len(by_name) < len(layers):
        names = [layer.name for layer in layers]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"layer {twice!r} stands twice; names must differ")
    senders = {stream.name: layer.name for layer in layers for stream in layer.streams_out}
    feeds = {layer.name: [_sender(layer, stream, by_name, senders) for stream in layer.streams_in] for layer in layers}
    rows: list[Layer] = []
    folding: dict[str, AnyFolding] = {}
    types: dict[str, str] = {}

    def add(row: Layer, folded: AnyFolding, kind: str) -> None:
        rows.append(row)
        folding[row.name] = folded
        types[row.name] = kind

    for name in _order(feeds):
        layer = by_name[name]
        inputs = []
        for port, (stream, sender) in enumerate(zip(layer.streams_in, feeds[name], strict=True)):
            if sender is None:
                entry = f"{name}:in{port or ''}"
                height, width, channels = _incoming(layer, port)
                add(_row(entry, "input", (), (height, width, channels)), LayerFolding(filters=stream.coarse), "INPUT")
                inputs.append(entry)
            else:
                _check_joint(by_name[sender], layer, port)
                inputs.append(sender)
        add(*_converted(layer, tuple(inputs)), layer.type)
    network = Network(tuple(rows), sum(_parameters(by_name[row.name], row) for row in rows if row.name in by_name))
    for block in blocks(network):
        check_folding(block, folding[block.name])
    return PublishedDesign(network, folding, types)


def _sender(layer: _Layer, stream: _Stream, by_name: Mapping[str, _Layer], senders: Mapping[str, str]) -> str | None:
    """The layer that a stream comes from; None where it comes from outside: the file then names the layer itself."""
    sender = stream.node if stream.node is not None else senders.get(stream.name)
    if sender is None or sender == layer.name:
        return None
    if sender not in by_name:
        raise InputError(
            f"layer {layer.name!r}: stream {stream.name!r} comes from {sender!r}, which is no layer of the file"
        )
    return sender


def _order(feeds: Mapping[str, Sequence[str | None]]) -> Iterator[str]:
    graph = {name: [sender for sender in senders if sender is not None] for name, senders in feeds.items()}
    try:
        yield from tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise InputError(
            f"layer {error.args[1][0]!r} feeds itself through {' → '.join(map(repr, error.args[1]))}"
        ) from error


def _converted(layer: _Layer, inputs: tuple[str, ...]) -> tuple[Layer, AnyFolding]:
    _check_modelled(layer)
    if layer.type == "CONVOLUTION":
        return _convolution(layer, inputs)
    if layer.type == "INNER_PRODUCT":
        return _inner_product(layer, inputs)
    if layer.type in _POOLS:
        return _pool(layer, inputs)
    kind = _STREAMING[layer.type]
    if layer.type == "ELTWISE" and len(inputs) < 2:
        raise InputError(f"layer {layer.name!r} is an ELTWISE of {len(inputs)} stream; it joins two or more")
    if kind == "other" and len(inputs) > 1:
        raise InputError(f"layer {layer.name!r} is a {layer.type} of {len(inputs)} streams; it takes one")
    before, after = _total_in(layer), _outgoing(layer)
    if kind != "upsample" and np.prod(before) != np.prod(after):
        raise InputError(
            f"layer {layer.name!r}: {_product(before)} words come in and {_product(after)} go out; "
            f"a {layer.type} keeps them"
        )
    if before == after == (1, before[1], 1):  # a vector, written as columns of one channel
        before = after = (1, 1, before[1])
    return _row(layer.name, kind, inputs, before, after), LayerFolding(filters=_coarse(layer), dsps=_scale_dsps(layer))


def _check_modelled(layer: _Layer) -> None:
    q = layer.parameters
    sparse = np.atleast_1d(np.asarray(q.sparsity, dtype=np.float64))
    if layer.type == "CONVOLUTION_SPARSE" or "sparse" in (layer.op_type or "") or (sparse != 0).any():
        raise InputError(f"layer {layer.name!r} is sparse; the reader takes fpgaConvNet's dense engines only")
    if layer.type not in _TYPES:
        raise InputError(f"layer {layer.name!r} is of type {layer.type!r}; allowed: {', '.join(_TYPES)}")
    if q.depth_in != 1 or q.kernel_depth != 1:
        raise InputError(f"layer {layer.name!r} has a depth of {max(q.depth_in, q.kernel_depth)}; only 2-D is modelled")


def _convolution(layer: _Layer, inputs: tuple[str, ...]) -> tuple[Layer, AnyFolding]:
    q = layer.parameters
    before, after = _total_in(layer), _outgoing(layer)
    kernel, stride = _kernel(layer), _stride(layer)
    _check_window(layer, kernel, stride, before, after)
    if before[2] % q.groups or after[2] % q.groups:
        raise InputError(
            f"layer {layer.name!r}: {q.groups} groups do not divide {before[2]} input and {after[2]} output channels"
        )
    row = _row(
        layer.name,
        "conv",
        inputs,
        before,
        after,
        kernel=kernel,
        stride=stride,
        padding=(q.pad_top, q.pad_bottom, q.pad_left, q.pad_right),
        groups=q.groups,
        **_weighted(layer, after[2], before[2] // q.groups * kernel[0] * kernel[1]),
    )
    folding = ConvFolding(
        coarse_in=_required(layer, "coarse_in"),
        coarse_out=_required(layer, "coarse_out"),
        coarse_group=q.coarse_group,
        fine=q.fine,
        multiplier="dsp" if q.use_dsp else "lut",
    )
    return row, folding


def _inner_product(layer: _Layer, inputs: tuple[str, ...]) -> tuple[Layer, AnyFolding]:
    features, filters = int(np.prod(_total_in(layer))), int(np.prod(_outgoing(layer)))
    row = _row(layer.name, "linear", inputs, (1, 1, features), (1, 1, filters), **_weighted(layer, filters, features))
    folding = ConvFolding(
        coarse_in=_required(layer, "coarse_in"),
        coarse_out=_required(layer, "coarse_out"),
        multiplier="dsp" if layer.parameters.use_dsp else "lut",
    )
    return row, folding


def _pool(layer: _Layer, inputs: tuple[str, ...]) -> tuple[Layer, AnyFolding]:
    q = layer.parameters
    before, after = _total_in(layer), _outgoing(layer)
    if before[2] != after[2]:
        raise InputError(f"layer {layer.name!r}: {before[2]} channels come in and {after[2]} go out; a pool keeps them")
    if q.kernel_rows is not None or q.kernel_size:
        kernel, stride = _kernel(layer), _stride(layer)
    elif after[:2] == (1, 1):
        kernel = stride = before[:2]
    else:
        raise InputError(f"layer {layer.name!r}: a pool without a kernel gives one pixel, not {after[0]}×{after[1]}")
    _check_window(layer, kernel, stride, before, after)
    pixels, lanes = kernel[0] * kernel[1], _coarse(layer)
    mean = (layer.op_type or ("max" if layer.type == "POOLING" else "avg")) == "avg"
    multiplied = mean and pixels & (pixels - 1) != 0  # a mean of 2^k pixels is a shift
    dsps = lanes * int(product_dsps(_bits(q.acc_t, q.data_t), RECIPROCAL_BITS)) if multiplied else 0
    padding = (q.pad_top, q.pad_bottom, q.pad_left, q.pad_right)
    row = _row(layer.name, "pool", inputs, before, after, kernel=kernel, stride=stride, padding=padding)
    return row, LayerFolding(filters=lanes, dsps=dsps)


def _weighted(layer: _Layer, filters: int, filter_size: int) -> dict[str, Any]:
    q = layer.parameters
    if q.filters is not None and q.filters != filters:
        raise InputError(f"layer {layer.name!r} has {q.filters} filters, but {filters} output channels")
    return {
        "bias": bool(q.has_bias),
        "weight_format": _format(layer, "weight_t"),
        "activation_format": _format(layer, "input_t"),
        "nonzeros": np.full(filters, filter_size, dtype=np.int64),
    }


def _format(layer: _Layer, field: str) -> Format:
    bits = _bits(getattr(layer.parameters, field))
    if bits > 16:
        raise InputError(f"layer {layer.name!r}: {field} is {bits} bits wide; allowed: 1 to 16")
    return Format("int", bits)


def _bits(*given: _Fixed) -> int:
    """The first of the widths that is stated."""
    return next((one.width for one in given if one.width is not None), DEFAULT_BITS)


def _scale_dsps(layer: _Layer) -> int:
    """DSPs of a layer without weights, as its widths ask for them: scales of quantised maps, products of maps.

    Activation functions count none; of those that multiply, the file does not say how they do it.
    """
    q, lanes = layer.parameters, _coarse(layer)
    if layer.type == "BATCH_NORM":
        word = _bits(q.input_t, q.data_t)
        return lanes * int(product_dsps(word, q.scale_t.width or word))
    if layer.type == "ELTWISE":
        # Every scale is as wide as the sum it leads to, and what it scales is brought to that width first.
        wide = _bits(q.acc_t, q.data_t)
        scales = len(q.input_scale_arr) + (q.output_scale is not None)
        word = _bits(q.data_t)
        products = len(layer.streams_in) - 1 if layer.op_type == "mul" else 0
        return lanes * (scales * int(product_dsps(wide, wide)) + products * int(product_dsps(word, word)))
    return 0


def _coarse(layer: _Layer) -> int:
    """Words of a pixel that pass in a cycle: the narrower of a layer's two sides."""
    q = layer.parameters
    sides = [side for side in (q.coarse_in, q.coarse_out) if side is not None]
    if not sides and q.coarse is None:
        raise InputError(f"layer {layer.name!r} has neither coarse nor coarse_in and coarse_out")
    return min([*sides, q.coarse or min(sides)])


Shape = tuple[int, int, int]  # rows, columns, channels


def _incoming(layer: _Layer, port: int) -> Shape:
    """Shape of the map at one of the layer's inputs."""
    return _side(layer, "rows_in", port), _side(layer, "cols_in", port), _side(layer, "channels_in", port)


def _total_in(layer: _Layer) -> Shape:
    """Shape of the map that the layer works on: that of its input, of a CONCAT all channels together."""
    rows, columns, channels = _incoming(layer, 0)
    if layer.type == "CONCAT":
        channels = sum(_side(layer, "channels_in", port) for port in range(len(layer.streams_in)))
    return rows, columns, channels


def _outgoing(layer: _Layer) -> Shape:
    """Shape of the map that leaves the layer; of a CHOP all its parts together."""
    q = layer.parameters
    parts = q.split or q.channels_out_array
    channels = sum(parts) if layer.type == "CHOP" and parts else _side(layer, "channels_out", 0)
    return _side(layer, "rows_out", 0), _side(layer, "cols_out", 0), channels


def _side(layer: _Layer, field: str, port: int) -> int:
    """A size of one port: of the list where the file has one, else the one number for all ports."""
    listed = getattr(layer.parameters, f"{field}_array")
    if listed:
        if port >= len(listed):
            raise InputError(
                f"layer {layer.name!r}: {field}_array has {len(listed)} entries for {port + 1} streams or more"
            )
        return int(listed[port])
    return _required(layer, field)


def _required(layer: _Layer, field: str) -> int:
    value = getattr(layer.parameters, field)
    if value is None:
        raise InputError(f"layer {layer.name!r} has no {field}")
    return int(value)


def _kernel(layer: _Layer) -> tuple[int, int]:
    return _pair(layer, "kernel_rows", "kernel_cols", "kernel_size")


def _stride(layer: _Layer) -> tuple[int, int]:
    return _pair(layer, "stride_rows", "stride_cols", "stride")


def _pair(layer: _Layer, rows: str, columns: str, both: str) -> tuple[int, int]:
    values = getattr(layer.parameters, both)
    if getattr(layer.parameters, rows) is None and len(values) == 2:
        return int(values[0]), int(values[1])
    return _required(layer, rows), _required(layer, columns)


def _check_window(layer: _Layer, kernel: tuple[int, int], stride: tuple[int, int], before: Shape, after: Shape) -> None:
    q = layer.parameters
    borders = (q.pad_top + q.pad_bottom, q.pad_left + q.pad_right)
    for axis, name in enumerate(("rows", "columns")):
        room = before[axis] + borders[axis] - kernel[axis]
        if room < 0:
            raise InputError(
                f"layer {layer.name!r}: a kernel of {kernel[axis]} {name} does not fit {before[axis]} {name} and "
                f"{borders[axis]} of padding"
            )
        # Whether the last, incomplete step counts is a matter of rounding that frameworks differ in.
        if after[axis] not in (room // stride[axis] + 1, -(-room // stride[axis]) + 1):
            raise InputError(
                f"layer {layer.name!r}: {after[axis]} {name} go out, but its kernel, stride and padding give "
                f"{room // stride[axis] + 1} of {before[axis]}"
            )


def _check_joint(sender: _Layer, layer: _Layer, port: int) -> None:
    """Raises where a layer does not take as many words as the one before it gives."""
    sent, taken = _outgoing(sender), _incoming(layer, port)
    parts = sender.parameters.split or sender.parameters.channels_out_array
    if sender.type == "CHOP" and sent[:2] == taken[:2] and (taken[2] in parts if parts else taken[2] <= sent[2]):
        return
    if layer.type == "ELTWISE" and sent == (1, 1, taken[2]):  # one value a channel for the whole map
        return
    if np.prod(sent) != np.prod(taken):
        raise InputError(
            f"layer {layer.name!r} takes {_product(taken)} words of {sender.name!r}, which gives {_product(sent)}"
        )


def _product(shape: Shape) -> str:
    return "×".join(map(str, shape))


def _parameters(layer: _Layer, row: Layer) -> int:
    scales = 2 * row.out_channels if layer.type == "BATCH_NORM" else 0
    return row.weights + row.out_channels * row.bias + scales


def _row(
    name: str, kind: LayerKind, inputs: tuple[str, ...], before: Shape, after: Shape | None = None, **fields: Any
) -> Layer:
    after = after or before
    return Layer(
        name,
        kind,
        inputs,
        in_height=before[0],
        in_width=before[1],
        in_channels=before[2],
        out_height=after[0],
        out_width=after[1],
        out_channels=after[2],
        **fields,
    )
