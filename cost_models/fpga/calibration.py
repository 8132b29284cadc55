"""Published powers of whole boards (`power.toml`), and a model of the designs that drew them.

Of the published designs only the network and the interval between images are known, so each is taken to be the smallest
one that keeps up with that interval, folded as FINN folds: LUTs multiply, P (its PE) divides the filters, and M (its
SIMD) the weights of a filter. Smallest means the least sum of shares of the device, which every layer reaches
by itself.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workloads import Format, InputError, Layer, Network

from .block import Block, blocks
from .design import Design, estimate
from .device import FpgaDevice
from .folding import LayerFolding
from .layout import MEMORIES, Foldings, costs

_DATA = tomllib.loads((Path(__file__).parent / "power.toml").read_text(encoding="utf-8"))

CALIBRATED: str = _DATA["device"]
"""The device whose power was published."""

_CONVOLUTIONS = ((64, False), (64, True), (128, False), (128, True), (256, False), (256, False))
_LINEAR = (512, 512)
_CLASSES = 10
_WIDTH = 2
"""QuTiBench counts 469.4 million operations for all channels and 118.9 for half: its CNV is twice as wide as FINN's."""
_IMAGE_BITS = 8


@dataclass(frozen=True)
class Measured:
    """One published measurement."""

    bits: int
    """Of weights and activations."""
    channels_kept: float
    interval: float
    """Seconds from image to image."""
    idle: float
    """Watts of the board with the design loaded and waiting."""
    watts: float
    """Watts of the board while it computes."""
    fitted: bool
    """False where it is held back, to judge the fit by."""


def power_measurements() -> tuple[Measured, ...]:
    """The published measurements, all of the device `CALIBRATED`."""
    return tuple(Measured(**row) for row in _DATA["measurements"])


def modelled_design(measured: Measured, device: FpgaDevice) -> Design:
    """The smallest design of the measured network that keeps up with the measured interval on `device`."""
    network = cnv(measured.bits, measured.channels_kept)
    interval = int(measured.interval * device.clock.value)
    folding = {block.name: smallest_folding(block, interval, device) for block in blocks(network) if block.computes}
    return estimate(network, device, folding)


def smallest_folding(block: Block, interval: int, device: FpgaDevice) -> LayerFolding:
    """The dense folding without DSPs that keeps up with `interval` cycles and takes the least of `device`.

    Raises `InputError` where none keeps up.
    """
    ultra = [MEMORIES.index("uram")] if device.resources.uram.value else []
    filters, weights, memory = (
        axis.ravel()
        for axis in np.meshgrid(
            _divisors(block.layer.out_channels), _divisors(block.filter_size), [MEMORIES.index("bram"), *ultra]
        )
    )
    ones = np.ones_like(filters)
    foldings = Foldings(
        filters=filters,
        nonzeros=weights,
        pixels=ones,
        sparse=ones == 0,
        dsp=ones == 0,
        weights=memory,
        buffer=ones * MEMORIES.index("bram"),
    )
    found = costs(block, foldings)
    shares = (found.resources / np.maximum(device.budget, 0.5)).sum(1)
    keeping_up = np.where(found.cycles <= interval, shares, np.inf)
    if not np.isfinite(keeping_up).any():
        raise InputError(
            f"layer {block.name!r} takes {int(found.cycles.min())} cycles at least; {interval} are allowed"
        )
    return foldings.folding(int(keeping_up.argmin()))


def cnv(bits: int, channels_kept: float) -> Network:
    """QuTiBench's CNV for 32×32×3 images with so much of its channels, weights and activations of `bits` bits.

    Six 3×3 convolutions without padding, pools after the second and the fourth, three linear layers (Umuroglu et al.,
    FINN, FPGA 2017, at twice its width); the image has 8 bits.
    """
    rows = [Layer("image", "input", (), 3, 3, 32, 32, 32, 32)]
    for i, (channels, pooled) in enumerate(_CONVOLUTIONS):
        rows.append(_weighted(rows[-1], f"conv{i}", round(_WIDTH * channels * channels_kept), 3, bits))
        if pooled:
            rows.append(_pool(rows[-1], f"pool{i}"))
    for i, features in enumerate((*_LINEAR, _CLASSES)):
        width = features if features == _CLASSES else round(_WIDTH * features * channels_kept)
        rows.append(_weighted(rows[-1], f"linear{i}", width, 1, bits))
    return Network(tuple(rows), parameters=sum(row.weights for row in rows))


def _weighted(before: Layer, name: str, filters: int, kernel: int, bits: int) -> Layer:
    size = before.out_height - kernel + 1
    return Layer(
        name,
        "conv" if name.startswith("conv") else "linear",
        (before.name,),
        before.out_channels,
        filters,
        before.out_height,
        before.out_width,
        size,
        size,
        kernel=(kernel, kernel),
        weight_format=Format("int", bits),
        activation_format=Format("int", _IMAGE_BITS if before.kind == "input" else bits),
        nonzeros=np.full(filters, before.out_channels * kernel * kernel),
    )


def _pool(before: Layer, name: str) -> Layer:
    channels, size = before.out_channels, before.out_height
    return Layer(
        name, "pool", (before.name,), channels, channels, size, size, size // 2, size // 2, kernel=(2, 2), stride=(2, 2)
    )


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
