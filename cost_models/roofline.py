"""Targets `roofline-DEVICE`: the time that a device of given peak rate and bandwidth needs at the very least.

Williams, Waterman and Patterson, Roofline: an insightful visual performance model, CACM 52(4), 2009. A device is a TOML
file, ours in `devices/`, a user's own as `roofline:PATH.toml`; `Device` says what stands in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from workloads import FP32, Format, InputError, Layer, Network

from .base import Cost, CostModel, Deployable, Figure, Kind, Reference
from .device_file import read_device_file

DEVICES = Path(__file__).parent / "devices"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Published(_Strict):
    """A figure and where it comes from: a publication, or `derived:` and how."""

    value: float = Field(gt=0)
    source: str = Field(min_length=1)


class Power(_Strict):
    """Watts that the device draws; leave out what nobody published (a limit or a power mode is not what it draws)."""

    idle: Published | None = None
    typical: Published | None = None
    """While it computes a network: modelled energy is this × latency."""


class Device(_Strict):
    """A device as published: what one TOML file says."""

    schema_: Literal[1] = Field(alias="schema")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    summary: str
    rates: dict[str, Published]
    """Format (`fp32`, `bf16`, `int8`…) → peak multiply–accumulates a second, dense; `fp32` must be given."""
    bandwidth: Published
    """Bytes a second to and from main memory."""
    cache: Published | None = None
    """On-chip bytes in which one layer's activations can stay; None: they always go through main memory."""
    power: Power = Power()

    @field_validator("rates")
    @classmethod
    def _formats(cls, rates: dict[str, Published]) -> dict[str, Published]:
        for name in rates:
            if Format.parse(name).kind == "minifloat":
                raise ValueError(f"format {name!r} has no fixed layout; give the rates of fp, bf and int formats")
        if "fp32" not in rates:
            raise ValueError("the rate of fp32 must be given: what has no rate of its own runs in it")
        return rates

    def executed(self, weight: Format, activation: Format) -> Format:
        """The format of the arithmetic that runs weights and activations of these formats.

        Two integers run in the narrowest integer format with a rate that holds both; two equal 16-bit floats in theirs;
        everything else in fp32.
        """
        rated = [Format.parse(name) for name in self.rates]
        if weight.kind == activation.kind == "int":
            wide_enough = [f for f in rated if f.kind == "int" and f.bits >= max(weight.bits, activation.bits)]
            return min(wide_enough, key=lambda f: f.bits, default=FP32)
        return weight if weight == activation and weight in rated else FP32


def load_device(path: Path) -> Device:
    """The device that a TOML file describes; raises `InputError` with one line where it is missing or damaged."""
    return read_device_file(path, Device, "cost_models/devices/*.toml for examples")


def device_names() -> tuple[str, ...]:
    """Names of the devices that come with the tool."""
    return tuple(sorted(path.stem for path in DEVICES.glob("*.toml")))


def layer_seconds(layer: Layer, device: Device, batch: int = 1) -> float:
    """Least time of one layer for `batch` images: the larger of its arithmetic and its traffic with main memory.

    Zeros inside filters are computed and stored like other weights (dense execution). Weights are read once; the input
    and output maps of the whole batch are read and written too unless both fit in the cache. Layers without weights
    (pool, add, concat…) have traffic only; an input costs nothing.
    """
    if layer.kind == "input":
        return 0.0
    form = device.executed(layer.weight_format, layer.activation_format)
    maps = batch * (
        layer.in_channels * layer.in_height * layer.in_width + layer.out_channels * layer.out_height * layer.out_width
    )
    activations = maps * form.bits / 8
    if device.cache is not None and activations <= device.cache.value:
        activations = 0.0
    traffic = layer.weights * form.bits / 8 + activations
    return max(batch * layer.macs / device.rates[str(form)].value, traffic / device.bandwidth.value)


class Roofline(CostModel):
    """Latency, throughput, energy and memory of a network on a device that reaches its published peaks.

    Latency is the sum of `layer_seconds`, so a lower bound: no launch overhead, no idle lanes, layers one after the
    other. Throughput is the same at a batch of `THROUGHPUT_BATCH`. Memory is that of the weights, without biases, as
    executed.
    """

    THROUGHPUT_BATCH = 128

    kind: Kind = "modelled"
    figures = ("latency", "throughput", "energy", "memory")

    def __init__(self, device: Device) -> None:
        self.device = device
        self.name = f"roofline-{device.name}"
        self.summary = f"least time on: {device.summary}"

    def executed(self, weight: Format, activation: Format) -> tuple[Format, Format]:
        form = self.device.executed(weight, activation)
        return form, form

    def _latency(self, deployable: Deployable) -> float:
        return self._seconds(deployable.network, batch=1)

    def _cost(self, candidate: Deployable, reference: Reference) -> Cost:
        network = candidate.network
        latency = self._seconds(network, batch=1)
        weights = sum(
            layer.weights * self.executed(layer.weight_format, layer.activation_format)[0].bits / 8
            for layer in network.compute_layers
            if "#" not in layer.name  # a second call of a module stores nothing of its own
        )
        figures: Mapping[str, Figure] = {
            "latency": Figure(latency, self.kind),
            "throughput": Figure(self.THROUGHPUT_BATCH / self._seconds(network, self.THROUGHPUT_BATCH), self.kind),
            "energy": self._energy(latency),
            "memory": Figure(weights, self.kind),
        }
        return Cost(
            target=self.key,
            figures=figures,
            speedup=None if reference.latency is None else Figure(reference.latency / latency, self.kind),
            executed={
                layer.name: self.executed(layer.weight_format, layer.activation_format)
                for layer in network.compute_layers
            },
        )

    def _seconds(self, network: Network, batch: int) -> float:
        seconds = sum(layer_seconds(layer, self.device, batch) for layer in network.layers)
        if seconds == 0:
            raise InputError(f"target {self.name} cannot time a network without layers")
        return seconds

    def _energy(self, latency: float) -> Figure:
        typical = self.device.power.typical
        if typical is None:
            reason = f"no publication says what {self.device.name} draws while it computes a network"
            return Figure(None, self.kind, reason=reason)
        return Figure(typical.value * latency, self.kind)
