"""How fast ResNet-20 gets in int8 at a point of accuracy lost: ours, uniform L1, and torch-pruning's group pruner.

    python scripts/benchmarks/speed_at_one_point.py --checkpoint FILE --out docs/results/speed_at_one_point

Ours is a short search of `depth+int` and `l1+int` on `cpu-onnxruntime`, screening and all; what lies on its front, is
clearly faster than dense int8 and loses less than twelve points there is a finalist. The others are swept over their
ratio. All are tuned from the same checkpoint for the same number of epochs with the same distillation, exported as
static int8, and timed in ONNX Runtime beside the dense fp32 network; accuracy is that of the exported network on the
test images. The fastest that loses at most a point of the dense network's test accuracy counts, for every method
alike: which of its networks that is, the test images decide.

Published checkpoints have seen the images that we validate on, so that losses on those mean little; the search ranks
by them all the same. Finished cells and the study are kept beside OUT; the same command goes on where it was cut off.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import torch_pruning
from latency_repeatability import Cell, Kept

STRATEGIES = ("depth+int", "l1+int")
RATIOS = (0.25, 0.5)
"""Pruned by torch-pruning; `uniform` keeps the rest."""
TARGET = "cpu-onnxruntime"
HOPELESS = 0.12
"""Accuracy lost in the search from which on a network is no finalist."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="weights of the dense network (default: trained, for hours)")
    parser.add_argument("--workload", default="cifar10/resnet20", help="default cifar10/resnet20")
    parser.add_argument("--data-dir", help="folder of the data sets (default: SHRINKBOARD_DATA)")
    parser.add_argument("--epochs", type=float, default=10.0, help="of tuning, for all (default 10)")
    parser.add_argument("--learning-rate", type=float, help="the highest of tuning, for all (default: the recipe's)")
    parser.add_argument("--search-epochs", type=float, default=2.0, help="of tuning in our search (default 2)")
    parser.add_argument("--trials", type=int, default=6, help="full evaluations of each of our strategies (default 6)")
    parser.add_argument("--time-budget", type=float, help="seconds after which our search begins no more trials")
    parser.add_argument("--out", type=Path, required=True, help="write OUT.json, OUT.md and OUT.db")
    arguments = parser.parse_args()
    if arguments.data_dir:
        os.environ["SHRINKBOARD_DATA"] = arguments.data_dir
    bench = Bench(arguments.workload, arguments.checkpoint, arguments.epochs, arguments.learning_rate)
    about = {"target": bench.model.key, "workload": arguments.workload, "epochs": str(arguments.epochs)}
    about |= {"search epochs": str(arguments.search_epochs), "learning rate": str(bench.learning_rate)}
    kept = Kept(arguments.out.with_suffix(".json"), about)
    rows = [kept.get("dense int8", partial(bench.row, "dense+int", {}, 0.0))]
    for ratio in RATIOS:
        knobs = {"keep": 1 - ratio, "align": 8}
        rows.append(kept.get(f"uniform {ratio}", partial(bench.row, "uniform+int", knobs, arguments.epochs)))
        rows.append(kept.get(f"torch-pruning {ratio}", partial(bench.group_pruned, ratio)))
    plans = bench.finalists(
        arguments.out.with_suffix(".db"),
        arguments.trials,
        arguments.search_epochs,
        faster=rows[0]["high"],
        seconds=arguments.time_budget,
    )
    for name, plan in plans.items():
        rows.append(kept.get(f"ours {name}", partial(bench.planned, plan)))
    text = markdown(bench, rows, len(plans))
    print(text)
    arguments.out.with_suffix(".md").write_text(
        f"# Speed of int8 at one point of accuracy\n\nMade by `python scripts/benchmarks/speed_at_one_point.py "
        f"--workload {arguments.workload} --epochs {arguments.epochs:g} --search-epochs {arguments.search_epochs:g} "
        f"--learning-rate {bench.learning_rate:g} --trials {arguments.trials}`; all figures "
        f"stand in `{arguments.out.name}.json`.\n\n{text}\n"
    )


class Bench:
    """The dense network, the target and the tuning that all methods share."""

    def __init__(self, workload: str, checkpoint: Path | None, epochs: float, learning_rate: float | None) -> None:
        from search import Evaluator, Subject

        weights = str(checkpoint) if checkpoint else None
        self.subject = Subject(workload, checkpoint=weights, learning_rate=learning_rate)
        self.evaluator = Evaluator(self.subject, [TARGET])
        self.dense, self.epochs = self.evaluator.dense, epochs
        self.learning_rate = self.dense.workload.recipe.tune_learning_rate
        self.model = self.evaluator.models[TARGET]

    @cached_property
    def reference(self) -> Any:
        return self.model.freeze(self.evaluator.reference_network)

    def row(self, strategy: str, knobs: dict[str, Any], epochs: float) -> Cell:
        """A plan of one of our strategies, tuned."""
        import shrinkboard as sb

        method = sb.strategy(strategy)
        plan = method.plan(self.dense, knobs | ({"distillation": 1.0} if epochs else {}))
        return self._tuned(strategy, method, method.compress(self.dense, plan), epochs)

    def planned(self, plan: Any) -> Cell:
        """A plan of our search, tuned anew as the others are."""
        import shrinkboard as sb

        method = sb.strategy(plan.strategy)
        return self._tuned(plan.strategy, method, method.compress(self.dense, plan), self.epochs)

    def group_pruned(self, ratio: float) -> Cell:
        """torch-pruning's GroupNormPruner with its group importance, widths rounded to 8 channels."""
        import shrinkboard as sb
        from strategies.ops.groups import PadShortcutPruner
        from workloads import PadShortcut

        method = sb.strategy("dense+int")
        plan = method.plan(self.dense, {"distillation": 1.0})
        compressed = method.compress(self.dense, plan)
        module = copy.deepcopy(self.dense.module)
        for parameter in module.parameters():
            parameter.requires_grad_(True)
        outputs = [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)]
        with torch.enable_grad():
            pruner = torch_pruning.pruner.GroupNormPruner(
                module,
                self.dense.workload.example,
                importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
                pruning_ratio=ratio,
                round_to=8,
                ignored_layers=outputs,
                customized_pruners={PadShortcut: PadShortcutPruner()},
            )
            pruner.step()
        compressed = replace(compressed, module=module.eval())
        return self._tuned(f"torch-pruning {ratio}", method, compressed, self.epochs)

    def finalists(self, path: Path, trials: int, epochs: float, faster: float, seconds: float | None) -> dict[str, Any]:
        """The plans on the front of our search that are worth a tuning, by name."""
        import shrinkboard as sb
        from leaderboard import Store, non_dominated
        from search import Campaign, Known, Staging, default_objectives, ranking_accuracy, run_campaign, values

        campaign = Campaign(
            name="front",
            subject=self.subject,
            strategies=STRATEGIES,
            targets=(TARGET,),
            epochs=epochs,
            training_epochs=epochs,
            sampler="ehvi",
            options={"distillation": 1.0},
            layout="guided",
            staging=Staging(True),
        )
        objectives = default_objectives([self.model])
        with Store(str(path)) as store:
            begun = any(True for _ in store.entries(study="front"))

            def listen(entry: Any, line: str) -> None:
                if entry is None:
                    print(line, file=sys.stderr, flush=True)
                    return
                told = (
                    f"{entry.strategy} {entry.trial} {ranking_accuracy(entry):.4f} {entry.costs[0].speedup.value:.2f}x"
                )
                print(told, file=sys.stderr, flush=True)

            run_campaign(
                campaign,
                store,
                trials=trials,
                time_budget=seconds,
                resume=begun,
                evaluator=self.evaluator,
                listen=listen,
            )
            entries = [entry for entry in store.entries(study="front") if entry.role == "candidate"]
        found = [values(Known.of(entry), objectives) for entry in entries]
        best = non_dominated(found, maximise=[True, False])
        return {
            f"{entry.strategy} {entry.trial}": sb.Plan.from_json(entry.plan)
            for entry, kept in zip(entries, best, strict=True)
            if kept
            and entry.costs[0].speedup.value > faster
            and ranking_accuracy(entry) > self.dense.validation.primary - HOPELESS
        }

    def _tuned(self, name: str, method: Any, compressed: Any, epochs: float) -> Cell:
        print(name, file=sys.stderr, flush=True)
        seconds = 0.0
        if epochs:
            seconds = method.tune(compressed, self.dense, epochs, total_epochs=epochs).cost.seconds
        deployed = self.evaluator.deployable(compressed)
        cost = self.model.cost(deployed, self.reference)
        assert cost.speedup is not None
        return {
            **{"name": name, "dropped": list(compressed.plan.dropped), "channels": dict(compressed.plan.channels)},
            **{"accuracy": self.accuracy(deployed), "speedup": cost.speedup.value},
            **{"low": cost.speedup.low, "high": cost.speedup.high, "unstable": cost.unstable},
            **{"macs": sum(layer.macs for layer in deployed.network.compute_layers), "seconds": seconds},
            "parameters": deployed.network.parameters,
            "dense": self.dense_accuracy,
        }

    def accuracy(self, deployed: Any) -> float:
        """On the test images, in the runtime."""
        from workloads import evaluate

        def outputs(images: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(self.model.predict(deployed, images.contiguous()))

        return evaluate(outputs, self.dense.splits.test, self.dense.workload).primary

    @cached_property
    def dense_accuracy(self) -> float:
        return self.accuracy(self.evaluator.reference_network)


def markdown(bench: Bench, rows: list[Cell], ours: int) -> str:
    """All networks, fastest first, and the fastest within a point of every method."""
    dense = rows[0]["dense"]
    method = {id(row): name for row, name in zip(rows, [*_methods(), *["ours"] * ours], strict=True)}
    lines = [
        f"{bench.subject.workload} on `{bench.model.key}`, dense fp32 {100 * dense:.2f} % on test; "
        f"{bench.epochs:g} epochs of tuning with distillation, learning rate {bench.learning_rate:g}.",
        "",
        "| method | fastest within a point | points | speed-up over dense fp32 |",
        "|---|---|---:|---:|",
    ]
    for name in dict.fromkeys(method.values()):
        near = [row for row in rows if method[id(row)] == name and dense - row["accuracy"] <= 0.01]
        if near:
            best = max(near, key=lambda row: row["speedup"])
            lines.append(
                f"| {name} | {best['name']} | {100 * (best['accuracy'] - dense):+.2f} | {best['speedup']:.2f} "
                f"({best['low']:.2f}–{best['high']:.2f}) |"
            )
        else:
            lines.append(f"| {name} | none | – | – |")
    lines += [
        "",
        "| network | method | points | speed-up | MMAC | parameters | blocks dropped | tuning, s | unstable |",
        "|---|---|---:|---:|---:|---:|---|---:|---|",
    ]
    for row in sorted(rows, key=lambda row: -row["speedup"]):
        lines.append(
            f"| {row['name']} | {method[id(row)]} | {100 * (row['accuracy'] - dense):+.2f} | {row['speedup']:.2f} "
            f"| {row['macs'] / 1e6:.1f} | {row['parameters']:.0f} | {', '.join(row['dropped']) or '–'} "
            f"| {row['seconds']:.0f} | {'yes' if row['unstable'] else 'no'} |"
        )
    return "\n".join(lines)


def _methods() -> list[str]:
    return ["dense int8", *(name for _ in RATIOS for name in ("uniform L1 + int8", "torch-pruning + int8"))]


if __name__ == "__main__":
    main()
