"""What every reproduction shares: arguments, cells that survive a kill, the way of one network, tables and plots.

A reproduction is a script beside this file:

    run = start(__doc__, "pca_l1_table", workload={"smoke": "digits/cnn", "cpu": "cifar10/resnet8", …})
    dense = run.dense(seed)
    row = run.cell({"method": "P", "rho": 0.43, "seed": 0}, lambda: evaluate(dense, "pca_l1", {"rho": 0.43}, epochs=2))
    run.write(title, text, tables, plot)

A cell is one finished line of `WORK/NAME-SCALE-DEVICE.jsonl`: a run that was killed goes on after the last one. Delete
the file to begin anew. `write` makes OUT/NAME.md and .json (of the scales smoke and full: NAME_SCALE), and the plot as
.svg and .png.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib
import torch

import shrinkboard as sb

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SCALES = ("smoke", "cpu", "full")
Row = dict[str, Any]


@dataclass
class Run:
    """One run of a reproduction: its arguments and its finished cells."""

    name: str
    scale: str
    device: str
    data_dir: Path | None
    out: Path
    work: Path
    workloads: Mapping[str, str]
    """Scale → name of the workload."""
    checkpoint: Path | None = None
    """Trained weights that the command line gives, where a reproduction takes some."""
    began: float = field(default_factory=time.monotonic)

    def workload(self, name: str | None = None, **recipe: Any) -> Any:
        """The scale's workload, or another by name, on this run's device; `recipe` replaces fields of its recipe."""
        found = sb.workload(name or self.workloads[self.scale], data_dir=self.data_dir)
        return replace(found, device=self.device, recipe=replace(found.recipe, **recipe))

    def dense(self, seed: int = 0, workload: Any = None) -> Any:
        """The dense network of a seed, trained once and cached; of the scale's workload unless another is given."""
        chosen = workload or self.workload()
        self.say(f"dense {chosen.name}, seed {seed}, {chosen.recipe.epochs} epochs (cached once trained)")
        tenths: set[int] = set()

        def progress(done: int, steps: int) -> None:
            tenth = 10 * done // steps
            if tenth not in tenths:
                tenths.add(tenth)
                self.say(f"dense {chosen.name}: {done} of {steps} steps")

        return sb.dense(chosen, seed, progress=progress)

    def cell(self, key: Mapping[str, Any], compute: Callable[[], Row]) -> Row:
        """The key and what `compute` gave for it, from the finished cells where it is among them."""
        wanted = json.loads(json.dumps(dict(key)))
        for row in self._finished():
            if row["key"] == wanted:
                return {**wanted, **row["value"]}
        started = time.monotonic()
        value = json.loads(json.dumps(compute()))
        line = json.dumps({"key": wanted, "value": value, "seconds": time.monotonic() - started})
        self._cells.parent.mkdir(parents=True, exist_ok=True)
        with self._cells.open("a+") as file:
            file.seek(0)
            # A line that a kill cut off is ended first: it is no cell, and the next one must not run on from it.
            whole = file.read()
            file.write(("\n" if whole and not whole.endswith("\n") else "") + line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.say(f"{json.dumps(wanted)}: {time.monotonic() - started:.0f} s")
        return {**wanted, **value}

    def say(self, line: str) -> None:
        """A line of progress on stderr, with the seconds since the start."""
        print(f"[{time.monotonic() - self.began:6.0f} s] {line}", file=sys.stderr, flush=True)

    def write(
        self, title: str, text: str, tables: Mapping[str, Sequence[Row]], plot: Callable[[Any], None] | None = None
    ) -> None:
        """Writes the page: `text`, then every table under its heading; `plot(plt)` draws onto the current figure.

        Rows of a table may have different columns; an absent value is an empty field. `text` states epochs, seeds and
        what was published.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        stem = self.name if self.scale == "cpu" else f"{self.name}_{self.scale}"
        about = {
            "command": f"python scripts/reproduce/{self.name}.py --scale {self.scale}"
            + (f" --checkpoint {self.checkpoint.name}" if self.checkpoint else ""),
            "machine": machine(self.device),
            "versions": {name: version(name) for name in ("shrinkboard", "torch", "onnxruntime")},
            "seconds": sum(row["seconds"] for row in self._finished()) or time.monotonic() - self.began,
        }
        (self.out / f"{stem}.json").write_text(json.dumps({**about, "tables": tables}, indent=1) + "\n")
        parts = [
            f"# {title}",
            f"Made by `{about['command']}` on {about['machine']}, torch {version('torch')}, in "
            f"{about['seconds'] / 60:.0f} minutes without the dense networks. The same rows as data: `{stem}.json`.",
            text.strip(),
        ]
        if plot:
            plt.figure(figsize=(8, 5), layout="constrained")
            plot(plt)
            plt.savefig(self.out / f"{stem}.svg", metadata={"Date": None})
            plt.savefig(self.out / f"{stem}.png", dpi=120)
            plt.close()
            parts.append(f"![{title}]({stem}.svg)")
        for heading, rows in tables.items():
            parts += [f"## {heading}", markdown(rows)]
        (self.out / f"{stem}.md").write_text("\n\n".join(parts) + "\n")
        self.say(f"wrote {self.out / stem}.md")

    @property
    def _cells(self) -> Path:
        return self.work / f"{self.name}-{self.scale}-{self.device}.jsonl"

    def _finished(self) -> list[Row]:
        if not self._cells.exists():
            return []
        finished = []
        for line in self._cells.read_text().splitlines():
            try:
                finished.append(json.loads(line))
            except ValueError:  # cut off by a kill: the cell is done again
                continue
        return finished


def start(description: str | None, name: str, workload: Mapping[str, str], checkpoint: str | None = None) -> Run:
    """The run that the command line asks for; `workload` names the one of every scale.

    `checkpoint` says for which network the option --checkpoint takes trained weights; None: there is no such option.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--scale",
        choices=SCALES,
        default="smoke",
        help="smoke: digits, seconds; cpu: a small network on the real data, within 45 minutes on two cores; "
        "full: the published setting, for a GPU",
    )
    parser.add_argument("--device", default="cpu", help="where to train: cpu or cuda")
    parser.add_argument("--data-dir", type=Path, help="folder with the data sets (default: SHRINKBOARD_DATA)")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of tables and plots")
    parser.add_argument("--work", type=Path, default=Path("build/reproduce"), help="folder of finished cells")
    if checkpoint:
        parser.add_argument("--checkpoint", type=Path, help=f"safetensors file with trained weights of {checkpoint}")
    given = parser.parse_args()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {given.device}: PyTorch {torch.__version__} finds no CUDA device here; use cpu")
    torch.set_num_threads(min(torch.get_num_threads(), os.cpu_count() or 1))
    weights = given.checkpoint if checkpoint else None
    return Run(name, given.scale, given.device, given.data_dir, given.out, given.work, workload, weights)


def evaluate(dense: Any, strategy: str, knobs: Mapping[str, Any], *, epochs: float | None = None) -> Row:
    """One network from plan to final accuracy: accuracies in %, sizes, density and training seconds.

    `epochs` default to a full evaluation of the strategy by the workload's recipe; 0 evaluates it untrained. The
    accuracy is that of the last epoch, in fp32.
    """
    method, recipe = sb.strategy(strategy), dense.workload.recipe
    plan = method.plan(dense, knobs)
    compressed = method.compress(dense, plan)
    if epochs is None:
        epochs = method.epochs(dense, plan, recipe.tune_epochs, recipe.epochs)
    seconds = 0.0
    if epochs > 0:
        seconds = method.tune(compressed, dense, epochs, total_epochs=epochs).cost.seconds
    else:
        method.recalibrate(compressed, dense)
    return {
        **accuracy(compressed.module, dense, "validation"),
        **accuracy(compressed.module, dense, "test"),
        **size(compressed, dense),
        "epochs": epochs,
        "seconds": seconds,
        "notes": dict(plan.notes),
    }


def accuracy(predict: Any, dense: Any, part: str) -> Row:
    """Top-1 and top-5, or mIoU, in % on `validation` or `test`: {"validation_top1": …}."""
    found = sb.evaluate(predict, getattr(dense.splits, part), dense.workload)
    scores = {"top1": found.top1, "top5": found.top5, "miou": found.miou}
    return {f"{part}_{name}": 100 * value for name, value in scores.items() if value is not None}


def size(compressed: Any, dense: Any) -> Row:
    """Parameters and MACs of the module as it is, ρ = 1 − P'/P, and density: weights that no mask removes ÷ dense."""
    networks = {
        "compressed": sb.trace(compressed.module, dense.workload.example, {}, compressed.nonzeros()),
        "dense": sb.trace(dense.module, dense.workload.example),
    }
    kept = sum(int(layer.nonzeros.sum()) for layer in networks["compressed"].compute_layers)
    weights = sum(layer.weights for layer in networks["dense"].compute_layers)
    parameters = {"compressed": _parameters(compressed.module), "dense": _parameters(dense.module)}
    return {
        "parameters": parameters["compressed"],
        "rho": 1 - parameters["compressed"] / parameters["dense"],
        "macs": sum(layer.macs for layer in networks["compressed"].compute_layers),
        "density": kept / weights,
    }


def _parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def machine(device: str) -> str:
    """What computed, in words: the GPU's name, or the processor and the threads that PyTorch used."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{sb.processor().model or platform.machine()}, {threads} thread{'s' if threads > 1 else ''}"


def markdown(rows: Sequence[Row]) -> str:
    """A table of rows; columns in the order of their first appearance, floats with four significant digits."""
    columns = list(dict.fromkeys(name for row in rows for name in row if name != "notes"))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_field(row.get(name)) for name in columns) + " |" for row in rows]
    return "\n".join(lines)


def _field(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"
