"""`mcu-efr32xg24`: a microcontroller described by a table of measured layer latencies.

`efr32xg24.csv` holds what Silicon Labs measured on an EFR32xG24 (Cortex-M33 with the accelerator MVP, 78 MHz, int8,
TensorFlow Lite Micro): "Model Profiling Report" of the models image_classification, visual_wake_words,
anomaly_detection and image_example1, and the padding of keyword_spotting_mobilenetv2; column Time (s),
github.com/SiliconLabs/mltk, commit 01a8b7b. Left out are conversions from and to floating point, reshapes and softmax,
for which a network's table has no rows, and linear layers of at most 60 µs: two ticks of the clock that they were
measured with.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from scipy.optimize import isotonic_regression

import shrinkboard as sb

TABLE = Path(__file__).parent / "efr32xg24.csv"
FLASH, RAM = 1536 * 1024, 256 * 1024
"""Bytes, of the largest parts: EFR32MG24 data sheet."""
INT8 = sb.Format("int", 8)


class Efr32xg24(sb.CostModel):
    """Every layer at the speed of the table's rows of its kind; all runs in int8, for which alone the table has rows.

    A layer takes `count` × the seconds of one, which depend on a size: see `work`. Latency is the sum over layers. A
    network whose weights exceed the flash, or whose activations exceed the RAM, raises `InputError`, and so does one
    with a layer of a kind that the table lacks. What the program itself takes of both is not known, so a network that
    is taken may still be too large by that. The reference need not fit: it only sets the scale.
    """

    name = "mcu-efr32xg24"
    kind = "modelled"
    summary = "microcontroller EFR32xG24 (Cortex-M33 with MVP, 78 MHz), int8, from measured latencies of layers"
    figures = ("latency", "energy", "memory")

    def __init__(self, table: Path = TABLE) -> None:
        self.curves = curves(table)

    def executed(self, weight: sb.Format, activation: sb.Format) -> tuple[sb.Format, sb.Format]:
        return INT8, INT8

    def _latency(self, deployable: sb.Deployable) -> float:
        seconds = sum(self.seconds(layer) for layer in deployable.network.layers if layer.kind != "input")
        if seconds == 0:
            raise sb.InputError(f"target {self.name} cannot time a network without layers")
        return float(seconds)

    def _cost(self, candidate: sb.Deployable, reference: sb.Reference) -> sb.Cost:
        network = candidate.network
        latency, weights = self._latency(candidate), weight_bytes(network)
        for what, needed, there in (("flash", weights, FLASH), ("RAM", activation_bytes(network), RAM)):
            if needed > there:
                raise sb.InputError(
                    f"target {self.name} has {there} bytes of {what}, the network needs {needed}; take a smaller one"
                )
        return sb.Cost(
            target=self.key,
            figures={
                "latency": sb.Figure(latency, self.kind),
                "energy": sb.Figure(None, self.kind, reason="the table was measured without a power meter"),
                "memory": sb.Figure(float(weights), self.kind),
            },
            speedup=None if reference.latency is None else sb.Figure(reference.latency / latency, self.kind),
            executed={layer.name: (INT8, INT8) for layer in network.compute_layers},
        )

    def seconds(self, layer: sb.Layer) -> float:
        """Of one layer: between the table's sizes on a straight line, above the largest in proportion to the size."""
        kind = "depthwise" if layer.groups == layer.in_channels == layer.out_channels > 1 else layer.kind
        if kind not in self.curves or layer.transposed or (layer.groups > 1 and kind != "depthwise"):
            raise sb.InputError(
                f"target {self.name} knows no latency of layer {layer.name!r} ({layer.kind}, {layer.groups} groups"
                f"{', transposed' if layer.transposed else ''}); its table has {', '.join(sorted(self.curves))}"
            )
        count, size = work(kind, layer.in_channels, layer.out_channels, layer.kernel, layer.out_height, layer.out_width)
        sizes, seconds = self.curves[kind]
        return count * float(np.interp(size, sizes, seconds)) * max(1.0, size / sizes[-1])


def work(
    kind: str, in_channels: int, out_channels: int, kernel: tuple[int, int], height: int, width: int
) -> tuple[float, int]:
    """How many pieces a layer of that output is made of, and the size of each, on which the time of a piece depends.

    Convolution and linear: an output value, and the products that it sums. Depthwise: a position for every nine of the
    kernel's weights, and its channels. Pool: an output value, and its window. Addition and padding: an output value,
    all of one size. An odd number of channels counts as the next even one, to which the network should be padded: the
    MVP works on pairs and is slower on odd numbers (Silicon Labs, Machine Learning, "MVP Accelerator").
    """
    area, pairs, outputs = kernel[0] * kernel[1], in_channels + in_channels % 2, out_channels * height * width
    if kind == "depthwise":
        return height * width * area / 9, pairs
    return outputs, {"pool": area, "add": 1, "pad": 1}.get(kind, area * pairs)


def curves(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Kind → (sizes, seconds of a piece), from a table of layers; both of the shape (sizes,).

    More work never takes less time (the promise of a modelled target), but measured rows scatter: seconds are the
    isotonic regression of the means of the rows of one size, weighted by their pieces.
    """
    measured: dict[str, dict[int, list[float]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            numbers = {name: int(value) for name, value in row.items() if name not in ("network", "kind", "seconds")}
            kernel = numbers.pop("kernel_height"), numbers.pop("kernel_width")
            height, width = numbers.pop("out_height"), numbers.pop("out_width")
            count, size = work(row["kind"], **numbers, kernel=kernel, height=height, width=width)
            total = measured.setdefault(row["kind"], {}).setdefault(size, [0.0, 0.0])
            total[0] += count
            total[1] += float(row["seconds"])
    found = {}
    for kind, of_size in measured.items():
        sizes = np.array(sorted(of_size))
        counts, seconds = np.array([of_size[size] for size in sizes]).T
        found[kind] = sizes, isotonic_regression(seconds / counts, weights=counts).x
    return found


def weight_bytes(network: sb.Network) -> int:
    """Of the flash: a byte a weight, with a bias and a scale of 32 bits a filter."""
    stored = [layer for layer in network.compute_layers if "#" not in layer.name]  # NAME#2 is a second call of NAME
    return sum(layer.weights + 8 * layer.out_channels for layer in stored)


def activation_bytes(network: sb.Network) -> int:
    """Of the RAM: the most that maps in int8 take at a time, each kept from its layer to the last one that reads it."""
    last = {name: index for index, layer in enumerate(network.layers) for name in (layer.name, *layer.inputs)}
    size = {layer.name: layer.out_channels * layer.out_height * layer.out_width for layer in network.layers}
    alive: set[str] = set()
    peak = 0
    for index, layer in enumerate(network.layers):
        alive.add(layer.name)
        peak = max(peak, sum(size[name] for name in alive))
        alive = {name for name in alive if last[name] > index}
    return peak
