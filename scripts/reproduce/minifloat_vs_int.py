"""Minifloats fitted to every channel beside integers: how few bits can weights have?

    python scripts/reproduce/minifloat_vs_int.py --scale cpu --data-dir DIR

Trained networks, their batch norm folded, are quantised after training to 8, 6, 5 and 4 bits a weight: min-max
integers, integers clipped by ACIQ, and minifloats whose exponent width and clip are solved for every output channel; at
8 bits also FP8 with its fixed splits E4M3 and E5M2. The first layer and the classifier have 8 bits throughout. Then the
networks are tuned at 4 bits with the formats in sight (straight-through), and, for comparison, without.

ResNet-20 and, in `full`, ResNet-56 are published networks: DIR/checkpoints must hold the files that `CHECKPOINTS`
names.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from harness import Row, Run, accuracy, start

import shrinkboard as sb

WIDTHS = {"smoke": (8, 3), "cpu": (8, 6, 5, 4), "full": (8, 6, 5, 4, 3)}
METHODS = {"int": "min-max int", "aciq": "ACIQ int", "mf": "minifloat"}
FP8 = {"e4m3": "FP8 E4M3", "e5m2": "FP8 E5M2"}
CHECKPOINTS = {
    "cifar10/resnet20": "cifar10_resnet20_akamaster.safetensors",
    "cifar10/resnet56": "cifar10_resnet56_akamaster.safetensors",
}
"""Of akamaster/pytorch_resnet_cifar10, as safetensors: 91.73 and 93.39 % on the test set."""


@dataclass(frozen=True)
class Subject:
    """What is done to one network."""

    workload: str
    corrected: tuple[int, ...] = (8, 6, 5, 4, 3)
    """Widths that are evaluated with corrected biases as well."""
    tune_epochs: float = 0.0
    """At 4 bits; 0: no tuning."""


SUBJECTS = {
    "smoke": [Subject("digits/cnn", tune_epochs=0.5)],
    "cpu": [
        Subject("cifar10/resnet8", tune_epochs=1.0),
        Subject("cifar10/resnet20", corrected=(5, 4)),
    ],
    "full": [Subject(name, tune_epochs=10.0) for name in ("cifar10/resnet20", "cifar10/resnet56")],
}

POPULATIONS = {"uniform": (48.1, 48.1), "Gaussian": (42.7, 40.5), "Laplace": (39.4, 35.2)}
"""Best SQNR in dB of a minifloat of 8 bits, and of integers with the best clip, by numerical integration."""


class Network:
    """A trained network, folded, and what is needed to quantise it."""

    def __init__(self, run: Run, subject: Subject) -> None:
        self.run, self.subject, self.name = run, subject, subject.workload
        self.published = self.name in CHECKPOINTS

    @cached_property
    def dense(self) -> Any:
        workload = self.run.workload(self.name)
        if self.published:
            folder = self.run.data_dir or Path(os.environ.get("SHRINKBOARD_DATA", "."))
            workload = replace(workload, checkpoint=folder / "checkpoints" / CHECKPOINTS[self.name])
        return self.run.dense(0, workload)

    @cached_property
    def folded(self) -> Any:
        return sb.fold_batch_norm(self.dense.module)

    @cached_property
    def calibration(self) -> list[torch.Tensor]:
        return sb.calibration_batches(self.dense.workload, self.dense.splits.train)

    @property
    def parts(self) -> tuple[str, ...]:
        """A published network has seen our validation pictures in its training."""
        return ("test",) if self.published else ("validation", "test")

    def bits(self, width: int) -> dict[str, int]:
        """Layer → bits of its weights: the first layer and the classifier have 8."""
        plan = sb.strategy("int").plan(self.dense, {"weight_bits": dict.fromkeys(self._layers, width)})
        return {name: sb.Format.parse(layer.weight_format).bits for name, layer in plan.layers.items()}

    @cached_property
    def _layers(self) -> list[str]:
        return [layer.name for layer in sb.trace(self.dense.module, self.dense.workload.example).compute_layers]

    def unquantised(self) -> Row:
        return self.scores(self.folded)

    def scores(self, predict: Any) -> Row:
        found: Row = {}
        for part in self.parts:
            found |= accuracy(predict, self.dense, part)
        return {name: value for name, value in found.items() if "top5" not in name}


def main() -> None:
    run = start(__doc__, "minifloat_vs_int", {scale: subjects[0].workload for scale, subjects in SUBJECTS.items()})
    tables: dict[str, list[Row]] = {}
    curves: dict[str, list[Row]] = {}
    for subject in SUBJECTS[run.scale]:
        network = Network(run, subject)
        rows = [run.cell({"network": network.name, "weights": "fp32"}, network.unquantised)]
        for width in WIDTHS[run.scale]:
            names = [f"{method}{width}" for method in METHODS] + (list(FP8) if width == 8 else [])
            rows += [row for name in names for row in after_training(run, network, width, name)]
        curves[network.name] = rows
        tables[f"{network.name}: after training"] = side_by_side(rows)
        if subject.tune_epochs:
            tables[f"{network.name}: tuned at 4 bits, layers' inputs at 8"] = tuned(run, network)
        tables[f"{network.name}: share of channels by exponent width E"] = exponent_shares(run, network)
    tables["Samples of known distributions, minifloat of 8 bits, SQNR in dB"] = populations(run)
    run.write("Minifloats beside integers", text(run), tables, lambda plt: plot(plt, curves))


def after_training(run: Run, network: Network, width: int, name: str) -> list[Row]:
    """Rows of one format: as it is, with corrected biases, and that with layers' inputs of 8 bits as well."""
    found = []
    for corrected, inputs in ((False, False), (True, False), (True, True)):
        if corrected and width not in network.subject.corrected:
            continue
        key = {"network": network.name, "weights": name, "biases corrected": corrected, "inputs at 8 bits": inputs}
        found.append(run.cell(key, partial(quantised, network, width, name, corrected, inputs)))
    return found


def quantised(network: Network, width: int, name: str, corrected: bool, inputs: bool) -> Row:
    """Accuracy and SQNR with weights in `name`, of `width` bits; 8 bits where a layer's width is fixed."""
    bits = network.bits(width)
    quantisers = {
        layer: sb.weight_quantiser(name if name in FP8 else f"{name.rstrip('0123456789')}{of_layer}")
        for layer, of_layer in bits.items()
    }
    module = sb.quantised(network.folded, quantisers, network.calibration if corrected else None)
    free = [layer for layer in bits if width == 8 or bits[layer] == width]
    noise = {"SQNR": sqnr([network.folded.get_submodule(n) for n in free], [module.get_submodule(n) for n in free])}
    if inputs:
        # Integers have integer inputs, minifloats and FP8 those in minifloat.
        kind = "int" if name.startswith(("int", "aciq")) else "minifloat"
        formats = {layer: sb.LayerFormats(activation=sb.Format(kind, 8)) for layer in bits}
        module = sb.Simulated(module, formats, network.calibration)
    return {**noise, **network.scores(module)}


def sqnr(layers: Sequence[Any], quantised: Sequence[Any]) -> float:
    """Mean over output channels of 10·log₁₀ Σw²/Σ(w − Q(w))², in dB; channels that lie on the grid are left out."""
    found = []
    for before, after in zip(layers, quantised, strict=True):
        weight, rounded = (layer.weight.detach().double().flatten(1) for layer in (before, after))
        ratio = weight.square().sum(1) / (weight - rounded).square().sum(1)
        found.append(10 * ratio[ratio.isfinite() & (ratio > 0)].log10())
    return float(torch.cat(found).mean())


def tuned(run: Run, network: Network) -> list[Row]:
    """Both formats at 4 bits: untuned, tuned without seeing the format, and tuned straight through."""
    rows = []
    for strategy in ("int", "minifloat"):
        for tuning in ("none", "blind", "straight-through"):
            key = {"network": network.name, "format": strategy, "tuning": tuning}
            rows.append(run.cell(key, partial(tune, network, strategy, tuning)))
    return [{name: value for name, value in row.items() if name != "network"} for row in rows]


def tune(network: Network, strategy: str, tuning: str) -> Row:
    """One row of the comparison; biases are corrected where training has not seen the quantised weights."""
    dense, method, epochs = network.dense, sb.strategy(strategy), network.subject.tune_epochs
    sees = tuning == "straight-through"
    knobs = {"weight_bits": network.bits(4), "straight_through": sees, "bias_correction": not sees}
    plan = method.plan(dense, knobs)
    compressed = method.compress(dense, plan)
    seconds = 0.0
    if tuning != "none":
        seconds = method.tune(compressed, dense, epochs, total_epochs=epochs).cost.seconds
    deployed = compressed.deployed(network.calibration)
    scores = network.scores(sb.Simulated(deployed, compressed.formats, network.calibration))
    return {**scores, "epochs": epochs if tuning != "none" else 0.0, "seconds": seconds}


def exponent_shares(run: Run, network: Network) -> list[Row]:
    """Of all channels whose width is free: how many want which exponent width, in %."""

    def shares(width: int) -> Row:
        free = [name for name, bits in network.bits(width).items() if bits == width]
        weights = [network.folded.get_submodule(name).weight for name in free]
        chosen = torch.cat([sb.best_split(weight, width)[0] for weight in weights])
        return {f"E = {e}": 100 * float((chosen == e).double().mean()) for e in range(1, max(1, width - 2) + 1)}

    rows = [
        run.cell({"network": network.name, "bits": width, "shares": "E"}, partial(shares, width))
        for width in WIDTHS[run.scale]
    ]
    return [{name: value for name, value in row.items() if name not in ("network", "shares")} for row in rows]


def populations(run: Run) -> list[Row]:
    """SQNR of a minifloat fitted to a sample, beside the best for the whole population."""
    count = 10**5 if run.scale == "smoke" else 10**6
    samples = {
        "uniform": lambda draw: 2 * torch.rand(1, count, generator=draw, dtype=torch.float64) - 1,
        "Gaussian": lambda draw: torch.randn(1, count, generator=draw, dtype=torch.float64),
        # The difference of two exponential variables is Laplace.
        "Laplace": lambda draw: torch.rand(2, count, generator=draw, dtype=torch.float64).log().diff(dim=0),
    }
    rows = []
    for name, (best, best_int) in POPULATIONS.items():
        values = samples[name](torch.Generator().manual_seed(0))
        noise = (values - sb.weight_quantiser("mf8")(values)).square().sum()
        rows.append(
            {
                "distribution": name,
                "E": int(sb.best_split(values, 8)[0]),
                "ours": 10 * math.log10(float(values.square().sum() / noise)),
                "optimum": best,
                "optimum of integers": best_int,
            }
        )
    return rows


def side_by_side(rows: Sequence[Row]) -> list[Row]:
    """One line a format: the variants of a format become columns."""
    lines: dict[str, Row] = {}
    for row in rows:
        name = row["weights"]
        kind = name.rstrip("0123456789")
        label = "fp32" if name == "fp32" else FP8.get(name) or f"{METHODS[kind]}, {name[len(kind) :]} bits"
        line = lines.setdefault(name, {"weights": label, "SQNR, dB": row.get("SQNR")})
        how = "corrected, inputs at 8 bits" if row.get("inputs at 8 bits") else "corrected"
        for part in ("validation_top1", "test_top1"):
            if part in row:
                line[part + (f", {how}" if row.get("biases corrected") else "")] = row[part]
    return list(lines.values())


def text(run: Run) -> str:
    subjects = SUBJECTS[run.scale]
    tuning = ", ".join(f"{s.workload} (epochs: {s.tune_epochs:g})" for s in subjects if s.tune_epochs)
    published = """
ResNet-20 and ResNet-56 are published networks (akamaster/pytorch_resnet_cifar10) that were trained on all 50,000
training pictures, our validation pictures among them: only their test accuracy says anything.
"""
    return f"""
Weights are quantised per output channel after batch norm is folded; the first layer and the classifier have 8 bits
throughout. Accuracies are top-1 in %, seed 0; nothing was chosen by those of the test set. *Corrected*: biases take up
the mean shift of the outputs, found on 128 training pictures. *Inputs at 8 bits*: asymmetric integers where weights are
integers, else minifloats, fitted to the same pictures. FP8 is scaled per channel so that the largest weight is the
largest code. SQNR is the mean over channels of the signal over the error of the weights, in dB. Tuned:
{tuning}, by the workload's recipe at its tuning rate; *blind* tuning does not see the format.
{published if any(subject.workload in CHECKPOINTS for subject in subjects) else ""}
The source of the method gives no accuracies of such networks; what can be checked is the optimum for known
distributions, in the last table. The squared error of a minifloat is never larger than that of min-max integers of as
many bits, for those are one of the splits that are searched (E = 1, clip at the largest weight).
"""


def plot(plt: Any, curves: dict[str, list[Row]]) -> None:
    """Loss of test accuracy against bits, one panel a network."""
    panels = plt.gcf().subplots(1, len(curves), squeeze=False)[0]
    for panel, (network, rows) in zip(panels, curves.items(), strict=True):
        dense = rows[0]["test_top1"]
        for kind, label in METHODS.items():
            for corrected, style in ((False, ":"), (True, "-")):
                points = [
                    (int(row["weights"].removeprefix(kind)), dense - row["test_top1"])
                    for row in rows[1:]
                    if row["weights"].rstrip("0123456789") == kind
                    and row["biases corrected"] == corrected
                    and not row["inputs at 8 bits"]
                ]
                colour = f"C{list(METHODS).index(kind)}"
                panel.plot(*zip(*points, strict=True), style + "o", color=colour, label=label if corrected else None)
        panel.set_title(network)
        panel.set_xlabel("bits of a weight")
        panel.set_xticks(sorted({point for line in panel.lines for point in line.get_xdata()}))
        panel.set_yscale("symlog", linthresh=1)
        panel.invert_xaxis()
    panels[0].set_ylabel("loss of test accuracy, points (dotted: biases not corrected)")
    panels[0].legend()


if __name__ == "__main__":
    main()
