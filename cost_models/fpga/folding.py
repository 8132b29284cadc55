"""How a layer is laid out in hardware: the folding of every block, given or chosen, and its JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workloads import InputError

from .block import Block

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Memory = Literal["bram", "uram", "dram"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


_Count = Annotated[int, Field(ge=1, le=2**20)]


class LayerFolding(_Strict):
    """P filters × M weights of a filter × V output pixels at once.

    Of a layer without weights (pool, add, concat, …) `filters` is the number of channels that pass in a cycle, and
    `weights`, `nonzeros`, `block` and `multiplier` say nothing.
    """

    kind: Literal["block"] = "block"
    filters: _Count = 1
    """P."""
    nonzeros: _Count = 1
    """M: weights of one filter that are multiplied at once."""
    pixels: _Count = 1
    """V: output pixels of a row that share the weights."""
    block: Literal["sparse", "dense"] | None = None
    """Whether zeros are skipped; None: where there are zeros."""
    multiplier: Literal["dsp", "lut"] = "dsp"
    weights: Memory = "bram"
    """Where the weights lie (memories of at most 64 words stand in LUTs); dram: they are streamed for every window."""
    buffer: Memory = "bram"
    """Where rows of the input, or the words waiting at a join, are kept."""
    stream: _Count | None = None
    """Words of a pixel that come in a cycle; None: as many as the block can take."""
    dsps: int = Field(default=0, ge=0, le=2**20)
    """DSPs beside the lanes: those of a scale or a mean."""


class ConvFolding(_Strict):
    """A dense block folded over input channels, output channels, groups and taps (fpgaConvNet)."""

    kind: Literal["conv"] = "conv"
    coarse_in: _Count = 1
    coarse_out: _Count = 1
    coarse_group: _Count = 1
    fine: _Count = 1
    multiplier: Literal["dsp", "lut"] = "dsp"


AnyFolding = LayerFolding | ConvFolding

_ONLY_CONV = set(ConvFolding.model_fields) - set(LayerFolding.model_fields)
_EXAMPLE = "see docs/fpga.md for an example"


class FoldingFile(_Strict):
    """A design as a file: the folding of every layer by name, and the clock in Hz that it runs at."""

    schema_: Literal[1] = Field(alias="schema")
    clock: float | None = Field(default=None, gt=0, le=1e10, allow_inf_nan=False)
    layers: dict[str, Annotated[LayerFolding | ConvFolding, Field(discriminator="kind")]]


def read_folding(path: Path) -> FoldingFile:
    """The folding file; raises `InputError` with one line where it is missing or damaged."""
    where = f"folding file {path}"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{where} cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from error
    try:
        data = json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise InputError(f"{where} is nested too deep; {_EXAMPLE}") from None
    except ValueError as error:
        raise InputError(f"{where} is not valid JSON: {error}; {_EXAMPLE}") from None
    if isinstance(data, dict):
        layers = data.get("layers")
        for folding in layers.values() if isinstance(layers, dict) else ():
            if isinstance(folding, dict):
                folding.setdefault("kind", "conv" if _ONLY_CONV & set(folding) else "block")
    try:
        return FoldingFile.model_validate(data)
    except ValidationError as error:
        raise InputError(f"{where}: {_told(error.errors()[0])}; {_EXAMPLE}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} is given twice")
    return data


def _told(error: ErrorDetails) -> str:
    """What is wrong in words of the file: the layer, the field, and what is allowed."""
    place = list(error["loc"])
    named = place[0] == "layers" and len(place) > 1 if place else False
    # Behind the layer's name the place names the form of its folding, which the file need not do.
    fields = place[3:] if named else place
    words = [f"layer {place[1]!r}"] if named else []
    words += [repr(field) for field in fields]
    kind = error["type"]
    if kind == "missing":
        told = "is missing"
    elif kind == "extra_forbidden":
        told = "is not a field of a folding" if named else "is not one of schema, clock and layers"
    elif kind in ("model_type", "model_attributes_type", "dict_type"):
        whole = (
            "is not an object with filters, nonzeros, pixels, …" if named else "is not an object with layers by name"
        )
        told = whole if place else "is not an object with schema and layers"
    elif kind == "union_tag_invalid":
        told = "its kind is neither 'block' nor 'conv'"
    else:
        told = error["msg"].replace("Input should be", "should be")
    return ": ".join([*words, told])


def check_folding(block: Block, folding: AnyFolding) -> None:
    """Raises `InputError`, one line naming the layer, where the folding asks for more than the layer has."""
    layer = block.layer
    if isinstance(folding, LayerFolding):
        _check_applies(block, folding)
    if isinstance(folding, ConvFolding):
        if not block.computes:
            raise InputError(f"layer {layer.name!r} is of kind {layer.kind}; coarse_in and fine fold convolutions only")
        taps = layer.kernel[0] * layer.kernel[1]
        limits = {
            "coarse_in": (folding.coarse_in, layer.in_channels // layer.groups, "input channels of a group"),
            "coarse_out": (folding.coarse_out, layer.out_channels // layer.groups, "filters of a group"),
            "coarse_group": (folding.coarse_group, layer.groups, "groups"),
            "fine": (folding.fine, taps, "weights of a kernel"),
        }
        if layer.groups % folding.coarse_group:
            raise InputError(
                f"layer {layer.name!r}: coarse_group {folding.coarse_group} does not divide its {layer.groups} groups"
            )
    elif block.computes:
        limits = {
            "filters": (folding.filters, layer.out_channels, "filters"),
            "nonzeros": (folding.nonzeros, block.filter_size, "weights of a filter"),
            "pixels": (folding.pixels, block.window_columns, "columns"),
        }
    else:
        channels = max(layer.in_channels, layer.out_channels)
        limits = {"filters": (folding.filters, channels, "channels")}
    if isinstance(folding, LayerFolding) and folding.stream is not None:
        limits["stream"] = (folding.stream, layer.in_channels, "input channels")
    for what, (given, most, unit) in limits.items():
        if given > most:
            raise InputError(f"layer {layer.name!r}: {what} is {given}, but the layer has only {most} {unit}")


def _check_applies(block: Block, folding: LayerFolding) -> None:
    """Refuses what would say nothing of the layer."""
    layer = block.layer
    if folding.buffer == "dram" and len(layer.inputs) < 2:
        raise InputError(
            f"layer {layer.name!r}: buffer is dram, but only what waits at a join can lie there; "
            "leave it out, or give bram or uram"
        )
    if block.computes:
        return
    for what, given in (("nonzeros", folding.nonzeros), ("pixels", folding.pixels)):
        if given > 1:
            raise InputError(
                f"layer {layer.name!r}: {what} is {given}, but a layer of kind {layer.kind} has no weights; "
                "only filters, the channels that pass in a cycle, can be more than 1"
            )
