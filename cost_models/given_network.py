"""The network that a command names: a workload, an ONNX file, a network as JSON, or a published design."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from workloads import (
    Format,
    InputError,
    Network,
    initial,
    network_from_onnx,
    read_network,
    trace,
    workload,
    workload_names,
)

if TYPE_CHECKING:
    from .fpga.folding import AnyFolding

_LARGEST = 64 * 2**20
"""Bytes of a JSON file that are looked at to tell what it is."""


@dataclass(frozen=True)
class GivenNetwork:
    """A network, and the folding that came with it where it is a published design."""

    title: str
    network: Network
    folding: Mapping[str, AnyFolding] | None = None


def given_network(text: str, data_dir: Path | None = None) -> GivenNetwork:
    """What `text` names: a file that ends in `.onnx` or `.json`, or a workload.

    Of a workload it is the untrained network; no data are read and nothing is trained (the classes of a folder of
    images are counted in `data_dir`). Raises `InputError` with one line where it cannot be had.
    """
    path = Path(text)
    if path.suffix == ".onnx":
        return GivenNetwork(path.name, network_from_onnx(path))
    if path.suffix == ".json":
        return _from_json(path)
    if path.is_file():
        raise InputError(f"network {text}: a network file ends in .onnx or .json, a workload is named like digits/cnn")
    try:
        subject = workload(text, data_dir=data_dir)
    except InputError as error:
        if text in workload_names() or ":" in text:
            raise
        raise InputError(f"{error}; or a file that ends in .onnx or .json") from error
    return GivenNetwork(text, trace(initial(subject, seed=0), subject.example))


def with_widths(network: Network, widths: str) -> Network:
    """`network` with `widths`, such as `W8A8` or `Wmf6A8`, wherever a format is neither an integer nor a minifloat."""
    match = re.fullmatch(r"W(mf)?([0-9]{1,2})A(mf)?([0-9]{1,2})", widths)
    found = [f"{match[i] or 'int'}{match[i + 1]}" for i in (1, 3)] if match else []
    try:
        weight, activation = map(Format.parse, found)
    except ValueError:  # no match, or a width that the format does not have
        raise InputError(
            f"bits {widths!r} are unknown; give W1 to W16 or, for minifloats, Wmf3 to Wmf16, and A likewise: W8A8"
        ) from None
    return replace(
        network,
        layers=tuple(
            replace(
                layer,
                weight_format=weight if _floats(layer.weight_format) and layer.weights else layer.weight_format,
                activation_format=activation if _floats(layer.activation_format) else layer.activation_format,
            )
            for layer in network.layers
        ),
    )


def floating_layers(network: Network) -> int:
    """How many layers with weights compute in a floating-point format."""
    return sum(_floats(layer.weight_format) or _floats(layer.activation_format) for layer in network.compute_layers)


def _floats(form: Format) -> bool:
    return form.kind in ("float", "bfloat", "tensorfloat")


def _from_json(path: Path) -> GivenNetwork:
    if not _is_published_design(path):
        return GivenNetwork(path.name, read_network(path))
    from .fpga.boards import read_fpgaconvnet

    design = read_fpgaconvnet(path)
    return GivenNetwork(path.name, design.network, design.folding)


def _is_published_design(path: Path) -> bool:
    """Whether the file is one of fpgaConvNet's; what cannot be read at all, the reader of networks refuses."""
    try:
        if path.stat().st_size > _LARGEST:
            return False
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and "partition" in data
