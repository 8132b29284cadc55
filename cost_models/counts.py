"""Target `counts`: what can be counted in the layer table without any device."""

from __future__ import annotations

from workloads import Format, Layer

from .base import Cost, CostModel, Deployable, Figure, Kind, Reference


class Counts(CostModel):
    """Parameters, multiply–accumulates, bytes of the weights and bit-operations of a network; no latency.

    A masked weight costs nothing here: it is neither stored nor multiplied. So these figures are those of an ideal
    machine that skips every zero for free, and the target to compare with papers, not with devices. A search minimises
    `bit_operations`, the only one of the four that rewards narrower widths, masks and fewer bits alike.
    """

    name = "counts"
    kind: Kind = "modelled"
    summary = "parameters, MACs, bytes and bit-operations of an ideal machine that skips zeros; no latency"
    figures = ("parameters", "macs", "memory", "bit_operations")
    objective = "bit_operations"

    def _latency(self, deployable: Deployable) -> None:
        return None

    def _cost(self, candidate: Deployable, reference: Reference) -> Cost:
        network = candidate.network
        # A module that is called twice has a second row, NAME#2, which computes again but stores nothing of its own.
        stored = [layer for layer in network.compute_layers if "#" not in layer.name]
        masked = sum(layer.weights - int(layer.nonzeros.sum()) for layer in stored)
        values = {
            "parameters": network.parameters - masked,
            "macs": sum(layer.effective_macs for layer in network.compute_layers),
            "memory": sum(stored_bits(layer) for layer in stored) / 8,
            "bit_operations": sum(bit_operations(layer) for layer in network.compute_layers),
        }
        return Cost(
            target=self.key,
            figures={name: Figure(float(value), self.kind) for name, value in values.items()},
            executed={layer.name: (layer.weight_format, layer.activation_format) for layer in network.compute_layers},
        )


def stored_bits(layer: Layer) -> int:
    """Bits that the weights of one layer take in memory: stored (unmasked) slots × bits of the format, and its scales.

    The indices that tell where the stored slots lie are not counted, nor are biases. An `int` format adds a scale of 32
    bits a channel; a minifloat adds 19 bits a channel, of which 3 say the exponent's width and 16 the clipping value.
    """
    return int(layer.nonzeros.sum()) * layer.weight_format.bits + layer.out_channels * scale_bits(layer.weight_format)


def scale_bits(weight: Format) -> int:
    """Bits of the scale that each output channel carries in this format."""
    return {"int": 32, "minifloat": 3 + 16}.get(weight.kind, 0)


def bit_operations(layer: Layer) -> int:
    """Effective multiply–accumulates × bits of a weight × bits of an activation (Baskin et al., UNIQ, 2018, without the
    accumulator's term)."""
    return layer.effective_macs * layer.weight_format.bits * layer.activation_format.bits
