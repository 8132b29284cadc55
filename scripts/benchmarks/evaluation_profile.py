"""Where the seconds of an evaluation go: its stages, a training step, and what the number format of training is worth.

    python scripts/benchmarks/evaluation_profile.py --checkpoint FILE --out docs/results/evaluation_profile

One candidate, half of the widths in int8, of a workload (default cifar10/resnet20) on `cpu-onnxruntime`. Stages are
timed one by one as a search runs them; a training step is split by what torch and we spend it on; steps in fp32 and
bf16, channels last, and in fp32, channels first, are timed by turns on the same batch, so that their ratios count.
"""

from __future__ import annotations

import argparse
import copy
import cProfile
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

STEPS = 12
"""Of the training that is split up."""
ROUNDS = 5
"""Steps in each format, by turns."""
PARTS = {
    "backward": "run_backward",
    "optimiser": "_fused_sgd_",
    "pictures from memory": "batch",
    "crops and flips": "augment",
    "normalising": "normalise",
}
"""Part of a step → the function whose time it is; the rest of `train` is the forward pass and our loop."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", default="cifar10/resnet20", help="default cifar10/resnet20")
    parser.add_argument("--checkpoint", help="weights of the dense network (default: trained)")
    parser.add_argument("--data-dir", help="folder of the data sets (default: SHRINKBOARD_DATA)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default 2)")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    arguments = parser.parse_args()
    if arguments.data_dir:
        os.environ["SHRINKBOARD_DATA"] = arguments.data_dir
    torch.set_num_threads(arguments.threads)
    found = profile(arguments.workload, arguments.checkpoint)
    text = markdown(found)
    print(text)
    if arguments.out:
        arguments.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
        arguments.out.with_suffix(".md").write_text(
            f"# Where an evaluation's seconds go\n\nMade by `python scripts/benchmarks/evaluation_profile.py "
            f"--workload {arguments.workload} --threads {arguments.threads}` (`{arguments.out.name}.json`).\n\n{text}\n"
        )


def profile(workload: str, checkpoint: str | None) -> dict[str, Any]:
    """All that is told, in seconds and shares."""
    import shrinkboard as sb
    from search import Evaluator, Subject

    evaluator = Evaluator(Subject(workload, checkpoint=checkpoint), ["cpu-onnxruntime"])
    dense = evaluator.dense
    evaluator.freeze({})
    method = sb.strategy("uniform+int")
    compressed = method.compress(dense, method.plan(dense, {"keep": 0.5}))
    [model] = evaluator.models.values()
    deployed = evaluator.deployable(compressed)
    stages = {
        "compress": lambda: method.compress(dense, compressed.plan),
        "fold, quantise, trace": lambda: evaluator.deployable(compressed),
        "export and latency": lambda: evaluator._cost(model, deployed),
        "accuracy untrained": lambda: evaluator._proxy(method, compressed),
        "accuracy simulated": lambda: evaluator._simulated(compressed, dense.splits.validation),
        "accuracy in the runtime": lambda: evaluator._runtime_accuracy(model, deployed),
        "seconds of an epoch": lambda: evaluator._epoch_seconds(compressed.module),
    }
    seconds = {name: timed(stage) for name, stage in stages.items()}
    steps = max(1, len(dense.splits.train) // dense.workload.recipe.batch_size)
    parts = split_step(method, compressed, dense, steps)
    seconds["training, an epoch"] = parts.pop("step") * steps
    return {
        "workload": workload,
        "stages": seconds,
        "step": parts,
        "formats": formats(compressed.module, dense),
        "threads": torch.get_num_threads(),
    }


def timed(work: Callable[[], object]) -> float:
    """Seconds of the second of two runs: the first opens and compiles."""
    work()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def split_step(method: Any, compressed: Any, dense: Any, steps: int) -> dict[str, float]:
    """Seconds of a training step (`step`), and the shares of its parts."""
    network, epochs = copy.deepcopy(compressed), STEPS / steps
    method.tune(copy.deepcopy(compressed), dense, epochs, total_epochs=epochs)
    profiler = cProfile.Profile()
    began = time.perf_counter()
    profiler.runcall(method.tune, network, dense, epochs, total_epochs=epochs)
    whole = time.perf_counter() - began
    spent = dict.fromkeys(PARTS, 0.0)
    for entry in profiler.getstats():
        for part, name in PARTS.items():
            # Functions of torch's own are text, such as <built-in method torch._fused_sgd_>.
            ours = not isinstance(entry.code, str) and entry.code.co_name == name
            torchs = isinstance(entry.code, str) and name.startswith(("run", "_")) and name in entry.code
            if ours or torchs:
                spent[part] = max(spent[part], entry.totaltime)
    shares = {part: seconds / whole for part, seconds in spent.items()}
    return {"step": whole / STEPS, **shares, "forward and the rest": 1 - sum(shares.values())}


def formats(module: torch.nn.Module, dense: Any) -> dict[str, float]:
    """Milliseconds of forward and backward on one batch, the least of some rounds by turns."""
    from workloads import normalise, recipe_loss

    workload = dense.workload
    images, targets = dense.splits.train.batch(torch.arange(workload.recipe.batch_size).numpy())
    batch, loss = normalise(images, workload), recipe_loss(workload)
    layouts = {
        "fp32, channels first": (torch.contiguous_format, False),
        "fp32, channels last": (torch.channels_last, False),
        "bf16, channels last": (torch.channels_last, True),
    }
    found = dict.fromkeys(layouts, float("inf"))
    networks = {name: copy.deepcopy(module).train().to(memory_format=layout) for name, (layout, _) in layouts.items()}
    for _ in range(ROUNDS + 1):
        for name, (layout, half) in layouts.items():
            given = batch.contiguous(memory_format=layout)
            began = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                value = loss(networks[name](given).float(), targets, given)
            value.backward()
            found[name] = min(found[name], 1e3 * (time.perf_counter() - began))
    return found


def markdown(found: dict[str, Any]) -> str:
    """Three tables."""
    base = found["formats"]["fp32, channels last"]
    lines = [f"`{found['workload']}`, {found['threads']} threads.", "", "| stage | seconds |", "|---|---:|"]
    lines += [f"| {name} | {seconds:.2f} |" for name, seconds in found["stages"].items()]
    lines += ["", "| part of a training step | share |", "|---|---:|"]
    lines += [f"| {name} | {share:.1%} |" for name, share in found["step"].items()]
    lines += ["", "| forward and backward | ms | beside fp32, channels last |", "|---|---:|---:|"]
    lines += [f"| {name} | {value:.1f} | {base / value:.2f}× |" for name, value in found["formats"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
