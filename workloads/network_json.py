"""A network as JSON: the `Network` table read from and written to a file; `docs/network.md` describes the schema."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from .errors import InputError
from .network import FP32, Format, Layer, LayerKind, Network

SCHEMA = 1

# Far above any real network, low enough that a hostile file stays cheap to refuse.
_MAX_BYTES = 64 * 2**20
_MAX_LAYERS = 10_000
_MAX_FILTERS = 4_000_000
_MAX_SIZE = 2**20
_MAX_PARAMETERS = 2**53


def read_network(path: str | Path) -> Network:
    """The network that a JSON file describes; raises `InputError` with one line naming the file and the layer."""
    where = f"network file {path}"
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"{where} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > _MAX_BYTES:
        raise InputError(f"{where} has more than the {_MAX_BYTES // 2**20} MB that are allowed")
    try:
        data = json.loads(content.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise InputError(f"{where} is nested too deep; docs/network.md shows the schema") from None
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{where} is not valid JSON: {reason}; docs/network.md shows the schema") from None
    return _network(data, where)


def write_network(network: Network, path: str | Path) -> None:
    """Writes `network` as JSON, one layer a line; raises `InputError` where its table is not one that can be read."""
    data = network_to_json(network)
    lines = ",\n".join(f"  {json.dumps(layer)}" for layer in data.pop("layers"))
    head = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in data.items())
    try:
        Path(path).write_text(f'{{\n{head},\n "layers": [\n{lines}\n ]\n}}\n', encoding="utf-8")
    except OSError as error:
        raise InputError(f"network file {path} cannot be written: {error.strerror}") from error


def network_to_json(network: Network) -> dict[str, Any]:
    """`network` as plain data that `network_from_json` gives back; raises `InputError` where it would refuse it."""
    data = {
        "schema": SCHEMA,
        "parameters": network.parameters,
        "layers": [_plain(layer) for layer in network.layers],
    }
    network_from_json(data)
    return data


def network_from_json(data: dict[str, Any]) -> Network:
    """The network that plain data describes (dicts, lists, strings, integers); raises `InputError` with one line.

    What is left out is derived: inputs (the layer before), sizes, dense nonzeros, fp32. What is given is checked.
    """
    return _network(data, "network")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the field {_quoted(next(key for key in keys if keys.count(key) > 1))} is given twice")
    return data


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _quoted(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _one_line(text: str) -> str:
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        raise ValueError("should hold no control characters and no line breaks")
    return text


def _repeated(value: Any) -> Any:
    """One integer in place of [height, width]."""
    return [value, value] if isinstance(value, int) else value


def _around(value: Any) -> Any:
    """One integer in place of [top, bottom, left, right]."""
    return [value] * 4 if isinstance(value, int) else value


def _format(value: Any) -> Format:
    if not isinstance(value, str):
        raise ValueError("should be the name of a number format, such as int8")
    return Format.parse(value)


Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_one_line)]
Size = Annotated[int, Field(ge=1, le=_MAX_SIZE)]
Border = Annotated[int, Field(ge=0, le=_MAX_SIZE)]
Pair = Annotated[list[Size], Field(min_length=2, max_length=2), BeforeValidator(_repeated)]
Sides = Annotated[list[Border], Field(min_length=4, max_length=4), BeforeValidator(_around)]
NumberFormat = Annotated[Format, BeforeValidator(_format)]


class _Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, arbitrary_types_allowed=True
    )


class _File(_Strict):
    schema_: Literal[1] = Field(alias="schema")
    parameters: Annotated[int, Field(ge=0, le=_MAX_PARAMETERS)] | None = None
    layers: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=_MAX_LAYERS)]


class _Row(_Strict):
    """A layer as written; None is what was left out."""

    name: Name
    kind: LayerKind
    inputs: list[Name] | None = None
    in_channels: Size | None = None
    in_height: Size | None = None
    in_width: Size | None = None
    out_channels: Size | None = None
    out_height: Size | None = None
    out_width: Size | None = None
    kernel: Pair | None = None
    stride: Pair = [1, 1]
    padding: Sides = [0, 0, 0, 0]
    dilation: Pair = [1, 1]
    groups: Size = 1
    bias: bool = False
    transposed: bool = False
    weight_format: NumberFormat = FP32
    activation_format: NumberFormat = FP32
    nonzeros: list[Border] | None = None


_WINDOW = {"kernel", "stride", "padding", "dilation"}
_WEIGHTED = {"bias", "weight_format", "nonzeros"}
_SPECIFIC: dict[LayerKind, set[str]] = {
    "conv": _WINDOW | _WEIGHTED | {"groups", "transposed"},
    "linear": _WEIGHTED,
    "pool": _WINDOW,
    "pad": {"padding"},
}
"""Fields that only some kinds of layers have."""
_EVERY_KIND = set(_Row.model_fields) - set().union(*_SPECIFIC.values())
_FILE, _ROW = TypeAdapter(_File), TypeAdapter(_Row)

Shape = tuple[int, int, int]
"""Channels, height, width."""


def _plain(layer: Layer) -> dict[str, Any]:
    """The layer's fields, those left out that have their default."""
    row: dict[str, Any] = {"name": layer.name, "kind": layer.kind}
    if layer.kind != "input":
        row["inputs"] = list(layer.inputs)
    taken = (layer.in_channels, layer.in_height, layer.in_width)
    if layer.kind != "input" or taken != _shape(layer):
        row |= {"in_channels": taken[0], "in_height": taken[1], "in_width": taken[2]}
    row |= {"out_channels": layer.out_channels, "out_height": layer.out_height, "out_width": layer.out_width}
    usual = Layer(layer.name, layer.kind, (), 1, 1)
    for name in ("kernel", "stride", "padding", "dilation"):
        # A pool without a kernel takes in the whole map.
        if getattr(layer, name) != getattr(usual, name) or (name == "kernel" and layer.kind == "pool"):
            row[name] = list(getattr(layer, name))
    for name in ("groups", "bias", "transposed"):
        if getattr(layer, name) != getattr(usual, name):
            row[name] = getattr(layer, name)
    for name in ("weight_format", "activation_format"):
        if getattr(layer, name) != FP32:
            row[name] = str(getattr(layer, name))
    if layer.kind in _SPECIFIC and int(layer.nonzeros.sum()) != layer.weights:
        row["nonzeros"] = layer.nonzeros.tolist()
    return row


def _network(data: Any, where: str) -> Network:
    try:
        file = _FILE.validate_python(data)
    except ValidationError as error:
        raise InputError(f"{where}: {_complaint(error)}") from None
    layers: dict[str, Layer] = {}
    filters = 0
    for place, raw in enumerate(file.layers):
        given = raw.get("name")
        who = f"{where}: layer {_quoted(given) if isinstance(given, str) else place}"
        try:
            layer = _layer(_ROW.validate_python(raw), list(raw), layers)
            filters += layer.nonzeros.size
            if filters > _MAX_FILTERS:
                raise ValueError(f"is beyond the {_MAX_FILTERS} filters that a network may have")
        except ValidationError as error:
            raise InputError(f"{who}: {_complaint(error)}") from None
        except ValueError as error:
            raise InputError(f"{who} {error}") from None
        layers[layer.name] = layer
    table = tuple(layers.values())
    own = (layer for layer in table if "#" not in layer.name)
    stored = sum(layer.weights + (layer.out_channels if layer.bias else 0) for layer in own)
    return Network(table, stored if file.parameters is None else file.parameters)


def _complaint(error: ValidationError) -> str:
    """The first complaint of pydantic, as one line in our words."""
    first = error.errors(include_url=False, include_context=False)[0]
    path = ".".join(str(part) if re.fullmatch(r"\w{1,40}", str(part)) else _quoted(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{path} is not a field; docs/network.md shows the schema"
    if first["type"] == "missing":
        return f"{path} is missing; docs/network.md shows the schema"
    expected = re.sub(r"^(Value error,|Input|List|String|Dictionary) ", "", first["msg"])
    if first["type"] == "value_error":
        expected = expected if expected.startswith("should") else f"is wrong: {expected}"
    subject = f"{path} is {_quoted(first['input'])}; it" if path else f"{_quoted(first['input'])} is given; it"
    return " ".join(f"{subject} {expected}".split())


def _layer(row: _Row, given: list[str], before: Mapping[str, Layer]) -> Layer:
    """The row with all that it leaves out; raises `ValueError` saying what is wrong with the layer."""
    kind = row.kind
    foreign = [name for name in given if name not in _EVERY_KIND | _SPECIFIC.get(kind, set())]
    if foreign:
        raise ValueError(f"is of kind {kind}, which has no {foreign[0]}; remove it")
    if row.name in before:
        raise ValueError("has a name that an earlier layer has; names are unique, NAME#2 is the second call of NAME")
    inputs = _inputs(row, before)
    entering = _entering(row, [before[name] for name in inputs])
    kernel = _kernel(row, entering)
    leaving = _leaving(row, entering, kernel)
    for side, name in ((entering[0], "input"), (leaving[0], "output")):
        if side % row.groups:
            raise ValueError(f"has {row.groups} groups, which do not divide its {side} {name} channels")
    layer = Layer(
        name=row.name,
        kind=kind,
        inputs=inputs,
        in_channels=entering[0],
        in_height=entering[1],
        in_width=entering[2],
        out_channels=leaving[0],
        out_height=leaving[1],
        out_width=leaving[2],
        kernel=kernel,
        stride=(row.stride[0], row.stride[1]),
        padding=(row.padding[0], row.padding[1], row.padding[2], row.padding[3]),
        dilation=(row.dilation[0], row.dilation[1]),
        groups=row.groups,
        bias=row.bias,
        transposed=row.transposed,
        weight_format=row.weight_format,
        activation_format=row.activation_format,
    )
    _check_call(layer, before)
    return Layer(**{**vars(layer), "nonzeros": _nonzeros(row, layer)})


def _inputs(row: _Row, before: Mapping[str, Layer]) -> tuple[str, ...]:
    inputs = row.inputs
    if inputs is None:
        inputs = [] if row.kind in ("input", "add", "concat") else list(before)[-1:]
    unknown = next((name for name in inputs if name not in before), None)
    if unknown is not None:
        raise ValueError(f"has the input {_quoted(unknown)}, which is no layer that stands before it")
    least, most = {"input": (0, 0), "add": (2, None), "concat": (2, None), "other": (1, None)}.get(row.kind, (1, 1))
    if len(inputs) < least or (most is not None and len(inputs) > most):
        wanted = "no inputs" if most == 0 else f"{'exactly' if most else 'at least'} {least}"
        raise ValueError(f"of kind {row.kind} has {len(inputs)} inputs; it needs {wanted}")
    return tuple(inputs)


def _shape(layer: Layer) -> Shape:
    return layer.out_channels, layer.out_height, layer.out_width


def _text(shape: Shape) -> str:
    return "×".join(map(str, shape))


def _entering(row: _Row, producers: list[Layer]) -> Shape:
    """Shape of the maps that the layer takes in, checked against what feeds it."""
    given = (row.in_channels, row.in_height, row.in_width)
    if row.kind == "input":
        if row.in_channels is None and row.out_channels is None:
            raise ValueError("of kind input needs out_channels, and out_height and out_width for images")
        leaving = (row.out_channels, row.out_height, row.out_width)
        return _filled(given, _filled(leaving, (row.in_channels or 1, row.in_height or 1, row.in_width or 1)))
    shapes = [_shape(producer) for producer in producers]
    first, whole = shapes[0], shapes[0]
    if row.kind == "add" and any(shape != first for shape in shapes):
        raise ValueError(f"adds maps of different shapes: {', '.join(map(_text, shapes))}")
    if row.kind == "concat":
        if any(shape[1:] != first[1:] for shape in shapes):
            raise ValueError(f"joins maps of different sizes: {', '.join(map(_text, shapes))}")
        whole = (sum(shape[0] for shape in shapes), *first[1:])
    if row.kind == "linear":
        whole = (first[0] * first[1] * first[2], 1, 1)
    taken = _filled(given, whole)
    # A reshape, which has no row, stands before or behind linear layers; what other layers give or take is their own.
    reshaped = producers[0].kind == "linear" and taken[0] * taken[1] * taken[2] == first[0]
    if taken != whole and not reshaped and "other" not in (row.kind, producers[0].kind):
        raise ValueError(f"takes in {_text(taken)} (channels×height×width), but its inputs give {_text(whole)}")
    return taken


def _filled(given: tuple[int | None, int | None, int | None], derived: Shape) -> Shape:
    channels, height, width = (own if own is not None else other for own, other in zip(given, derived, strict=True))
    return channels, height, width


def _kernel(row: _Row, entering: Shape) -> tuple[int, int]:
    if row.kernel is not None:
        return row.kernel[0], row.kernel[1]
    return entering[1:] if row.kind == "pool" else (1, 1)


def _leaving(row: _Row, entering: Shape, kernel: tuple[int, int]) -> Shape:
    """Shape of the maps that the layer gives, checked against the sizes that follow from what it takes in."""
    if row.kind in ("conv", "linear") and row.out_channels is None:
        raise ValueError(f"of kind {row.kind} needs out_channels")
    if row.kind == "upsample" and (row.out_height is None or row.out_width is None):
        raise ValueError("of kind upsample needs out_height and out_width")
    usual = [_follows(row, axis, entering[1 + axis], kernel[axis]) for axis in (0, 1)]
    leaving = _filled((row.out_channels, row.out_height, row.out_width), (entering[0], usual[0], usual[1]))
    for axis, side in ((0, "out_height"), (1, "out_width")):
        size, out = entering[1 + axis], leaving[1 + axis]
        if usual[axis] < 1:
            raise ValueError(f"has a window that is larger than the map that it takes in, {_text(entering)}")
        if out > _MAX_SIZE:
            raise ValueError(f"has {side} {out}; at most {_MAX_SIZE} is allowed")
        if not _may_be(row, axis, size, usual[axis], out):
            raise ValueError(f"has {side} {out}, but {usual[axis]} follows from the {size} that it takes in")
    if leaving[0] != entering[0] and row.kind in ("input", "pool", "add", "concat", "upsample"):
        raise ValueError(f"of kind {row.kind} has out_channels {leaving[0]}, but takes in {entering[0]} channels")
    return leaving


def _follows(row: _Row, axis: int, size: int, kernel: int) -> int:
    """The output size along one axis that follows from the input size; below 1 where the window does not fit."""
    stride, reach = row.stride[axis], row.dilation[axis] * (kernel - 1) + 1
    border = row.padding[2 * axis] + row.padding[2 * axis + 1]
    if row.kind == "conv" and row.transposed:
        return (size - 1) * stride - border + reach
    if row.kind in ("conv", "pool"):
        return (size + border - reach) // stride + 1
    return size + border


def _may_be(row: _Row, axis: int, size: int, usual: int, out: int) -> bool:
    """Whether the layer can have `out` output pixels along one axis."""
    stride = row.stride[axis]
    if row.kind == "conv" and row.transposed:
        return usual <= out < usual + max(stride, row.dilation[axis])  # the output padding has no field of its own
    if row.kind == "pool":
        return out in (usual, usual + 1) and (out == usual or stride > 1)  # pools may round up
    if row.kind == "pad" and usual == size:
        # One that only moves channels may also take every n-th pixel, as shortcuts without weights do.
        return -(-size // -(-size // out)) == out
    if row.kind == "upsample":
        return out >= size
    return out == usual or row.kind == "other"


def _check_call(layer: Layer, before: Mapping[str, Layer]) -> None:
    """A second call of a module shares its weights, so it must fit them."""
    if "#" not in layer.name:
        return
    first, _, call = layer.name.rpartition("#")
    if not re.fullmatch(r"[2-9]|[1-9]\d{1,5}", call) or first not in before:
        raise ValueError("is named as the second call of a layer; NAME#2 stands after NAME, as do NAME#3 and so on")
    called = before[first]
    weights = [(one.weights, one.out_channels, one.groups, one.kernel, one.bias) for one in (layer, called)]
    if layer.kind != called.kind or (layer.weights and weights[0] != weights[1]):
        raise ValueError(f"is a second call of {_quoted(first)}, but has weights of another shape")


def _nonzeros(row: _Row, layer: Layer) -> np.ndarray:
    if layer.kind not in ("conv", "linear"):
        return np.zeros(0, dtype=np.int64)
    if layer.out_channels > _MAX_FILTERS:
        raise ValueError(f"has {layer.out_channels} filters; at most {_MAX_FILTERS} are allowed")
    per_filter = layer.weights // layer.out_channels
    if row.nonzeros is None:
        return np.full(layer.out_channels, per_filter, dtype=np.int64)
    if len(row.nonzeros) != layer.out_channels:
        raise ValueError(f"has {layer.out_channels} filters, but nonzeros of {len(row.nonzeros)}; give one a filter")
    if max(row.nonzeros) > per_filter:
        raise ValueError(f"has filters of {per_filter} weights, but nonzeros of up to {max(row.nonzeros)}")
    return np.array(row.nonzeros, dtype=np.int64)
