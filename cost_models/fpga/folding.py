"""How a layer is laid out in hardware: the folding of every block, given or chosen, and its JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workloads import InputError

from .block import Block

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


class FoldingFile(_Strict):
    """A design as a file: the folding of every layer by name, and the clock in Hz that it runs at."""

    schema_: Literal[1] = Field(alias="schema")
    clock: float | None = Field(default=None, gt=0, le=1e10, allow_inf_nan=False)
    layers: dict[str, Annotated[LayerFolding | ConvFolding, Field(discriminator="kind")]]


def read_folding(path: Path) -> FoldingFile:
    """The folding file; raises `InputError` with one line where it is missing or damaged."""
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"folding file {path} cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8 text'}"
        ) from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"folding file {path} is not JSON: {error}") from error
    if isinstance(data, dict):
        layers = data.get("layers")
        for folding in layers.values() if isinstance(layers, dict) else ():
            if isinstance(folding, dict):
                folding.setdefault("kind", "conv" if {"coarse_in", "coarse_out", "fine"} & set(folding) else "block")
    try:
        return FoldingFile.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part not in ("block", "conv")) or "file"
        raise InputError(f"folding file {path}: {place}: {first['msg']}; see docs/fpga.md for an example") from error


def check_folding(block: Block, folding: AnyFolding) -> None:
    """Raises `InputError`, one line naming the layer, where the folding asks for more than the layer has."""
    layer = block.layer
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
