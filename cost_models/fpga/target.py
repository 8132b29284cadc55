"""Targets `fpga-DEVICE`: the fastest pipelined design of a network that the device holds."""

from __future__ import annotations

from workloads import Format

from ..base import Cost, CostModel, Deployable, Figure, Kind, Reference
from .block import executed
from .design import Design, estimate
from .device import RESOURCES, FpgaDevice
from .power import design_power


class Fpga(CostModel):
    """Latency, throughput, energy, power, memory and resources of the design that `estimate` allocates.

    Latency is the mean of the two recurrences, which stand as its bounds; throughput is one image every initiation
    interval. Memory is what the weights take as stored, indices and padding included. Floating-point formats run in
    16-bit fixed point: the reference too. A network that the device cannot hold raises `InputError`.
    """

    kind: Kind = "modelled"
    figures = ("latency", "throughput", "energy", "power", "memory", *RESOURCES)

    def __init__(self, device: FpgaDevice) -> None:
        self.device = device
        # Figures of different versions of a device are never ranked together.
        self.name = f"fpga-{device.name}" + (f"-v{device.version}" if device.version > 1 else "")
        self.summary = f"pipelined zero-skipping accelerator on: {device.summary}"

    def executed(self, weight: Format, activation: Format) -> tuple[Format, Format]:
        return executed(weight), executed(activation)

    def _latency(self, deployable: Deployable) -> float:
        return _seconds(estimate(deployable.network, self.device))

    def _cost(self, candidate: Deployable, reference: Reference) -> Cost:
        design = estimate(candidate.network, self.device)
        latency, power = _seconds(design), design_power(design)
        bracket = design.latency
        used = design.resources.sum(0)
        return Cost(
            target=self.key,
            figures={
                "latency": Figure(
                    latency,
                    self.kind,
                    low=float(bracket.optimistic) / design.clock,
                    high=float(bracket.pessimistic) / design.clock,
                ),
                "throughput": Figure(design.throughput, self.kind),
                "energy": power.energy,
                "power": power.power,
                "memory": Figure(design.weight_bytes, self.kind),
                **{name: Figure(float(used[r]), self.kind) for r, name in enumerate(RESOURCES)},
            },
            speedup=None if reference.latency is None else Figure(reference.latency / latency, self.kind),
            executed={
                layer.name: self.executed(layer.weight_format, layer.activation_format)
                for layer in candidate.network.compute_layers
            },
        )


def _seconds(design: Design) -> float:
    return float(design.latency.mean) / design.clock
