"""How many full evaluations, and how long, until a search is as good as a well set up one after many?

    python scripts/benchmarks/search_efficiency.py --scale digits --out docs/results/search_efficiency

Every method searches the same workload, strategy and target, from the same dense network of its seed:

- `ours`: a space shaped by sensitivity, its plans first; screening; the sampler `ehvi`. Full evaluations are too short
  for rungs here
- `ehvi`: that sampler in the space of `strong`, which is what the command takes by default where a training is shorter
  than the stages before it, as on digits
- `strong`: a ladder of uniform sizes, common levels with deviations, TPE: a study as an expert sets it up
- `tpe`, `nsga2`, `random`: every layer's ratio drawn on its own, cold
- `no sensitivity`, `no screening`, `no ehvi` (TPE), `with rungs`: ours with one of its parts less or more

Printed are means with 95 % intervals (Student's) over seeds of the hypervolume of accuracy in the runtime and measured
speed-up (`leaderboard.hypervolume`), after so many full evaluations and after so many seconds of everything: proxies,
measuring, sensitivity, the sampler's thinking. The best of 200 noisy accuracies flatters more than the best of 20, so
the networks of the front, after 20 evaluations and at the end, are also trained anew with other seeds and judged on
test images: what the plans are worth. `digits` and `fpga` (digits on a modelled device that rewards narrow integers)
take an hour or two, `resnet8` some; finished searches are kept in OUT.json, and the same command goes on where it was
cut off. `--methods` and `--seeds` choose a part. Where searches take hours, `--replay BOARD` simulates
cold ones from the board of a search by `strong` that `--boards` kept.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from latency_repeatability import Cell, Kept
from scipy import stats

from leaderboard import Entry
from search import RUNGS, Staging
from workloads import Dense

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OURS = {"layout": "guided", "staging": Staging(True), "sampler": "ehvi"}
COLD = {"layout": "flat", "staging": Staging()}
METHODS: dict[str, dict[str, Any]] = {
    "ours": OURS,
    "ehvi": {"layout": "levels", "staging": Staging(), "sampler": "ehvi"},
    "strong": {"layout": "levels", "staging": Staging()},
    "tpe": COLD,
    "nsga2": COLD | {"sampler": "nsga2"},
    "random": COLD | {"sampler": "random"},
    "no sensitivity": OURS | {"layout": "levels"},
    "no screening": OURS | {"staging": Staging()},
    "no ehvi": OURS | {"sampler": "tpe"},
    "with rungs": OURS | {"staging": Staging(True, RUNGS)},
}
FEW = ("ours", "no sensitivity", "no screening", "no ehvi", "with rungs")
"""Methods that get the small budget."""
SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"workload": "digits/cnn", "target": "counts", "few": 4, "many": 8, "epochs": 1.0, "seeds": 2, "anew": 1},
    "digits": {
        **{"workload": "digits/cnn", "target": "cpu-onnxruntime", "few": 20, "many": 200},
        **{"epochs": None, "seeds": 5, "anew": 5},
    },
    "resnet8": {
        **{"workload": "cifar10/resnet8", "target": "cpu-onnxruntime", "few": 20, "many": 200},
        **{"epochs": 1.0, "seeds": 1, "anew": 1},
    },
    "fpga": {
        **{"workload": "digits/cnn", "target": "fpga-zcu104", "few": 20, "many": 200},
        **{"epochs": None, "seeds": 5, "anew": 5},
    },
}
"""`few` and `many` full evaluations; training of each in epochs, None for the recipe's own; seeds of the whole, and of
what is trained anew."""
STRATEGY = "l1+int"
MARKS = (1, 2, 5, 10, 20, 50, 100, 200)
"""Full evaluations at which the table tells the hypervolume."""
REPLAYED = ("tpe", "nsga2", "random")
"""Methods that `--replay` simulates, each `REPLAYED_SEEDS` times."""
REPLAYED_SEEDS = 3
FIRST = 20
"""Those after which the front's networks are trained anew."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="smoke", help="smoke: two minutes (default)")
    parser.add_argument("--methods", default=",".join(METHODS), help="names with commas between them (default all)")
    parser.add_argument("--seeds", type=int, help="seeds (default by scale)")
    parser.add_argument("--data-dir", help="folder of the data sets (default: SHRINKBOARD_DATA)")
    parser.add_argument("--out", type=Path, help="write OUT.json, OUT.md and OUT.png")
    parser.add_argument("--boards", type=Path, help="folder in which the board of every search is kept, for `replay`")
    parser.add_argument(
        "--replay",
        type=Path,
        metavar="BOARD",
        help="replay cold methods from a board of `strong`, instead of searching",
    )
    parser.add_argument("--checkpoint", help="weights of the dense network in the place of a training (resnet8)")
    parser.add_argument("--search", nargs=3, metavar=("METHOD", "SCALE", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.data_dir:
        os.environ["SHRINKBOARD_DATA"] = arguments.data_dir
    if arguments.search:
        method, scale, seed = arguments.search
        print(json.dumps(searched(method, scale, int(seed), arguments.boards, arguments.checkpoint)))
        return
    if arguments.replay:
        replay(arguments.replay, arguments.seeds or REPLAYED_SEEDS, arguments.out)
        return
    scale = SCALES[arguments.scale]
    methods = [name for name in arguments.methods.split(",") if name]
    if unknown := [name for name in methods if name not in METHODS]:
        parser.error(f"method {unknown[0]!r} is unknown; allowed: {', '.join(METHODS)}")
    about = {"scale": arguments.scale, "target": key_of(scale["target"]), "strategy": STRATEGY}
    kept = Kept(arguments.out and arguments.out.with_suffix(".json"), about)
    for seed in range(arguments.seeds or scale["seeds"]):
        for method in methods:
            print(f"{method}, seed {seed}", file=sys.stderr, flush=True)
            kept.get(f"{method}, {seed}", partial(child, arguments, method, seed))
    text = markdown(about, kept.cells)
    print(text)
    if arguments.out:
        draw(kept.cells, arguments.out)
        arguments.out.with_suffix(".md").write_text(
            f"# What a search needs\n\nMade by `python scripts/benchmarks/search_efficiency.py --scale "
            f"{arguments.scale}`; every evaluation stands in `{arguments.out.name}.json`.\n\n{text}\n"
        )


def child(arguments: argparse.Namespace, method: str, seed: int) -> Cell:
    """One search in a fresh process."""
    command = [sys.executable, __file__, "--search", method, arguments.scale, str(seed)]
    command += ["--boards", str(arguments.boards)] if arguments.boards else []
    command += ["--checkpoint", arguments.checkpoint] if arguments.checkpoint else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{method}, seed {seed} failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def key_of(name: str) -> str:
    from cost_models import target

    return target(name).key


def searched(method: str, scale: str, seed: int, boards: Path | None = None, checkpoint: str | None = None) -> Cell:
    """All full evaluations of one search in their order: seconds since its start, accuracy, speed-up."""
    from leaderboard import CAP, Store
    from search import Campaign, Evaluator, Subject, ranking_accuracy, run_campaign

    chosen, settings = SCALES[scale], METHODS[method]
    evaluator = Evaluator(Subject(chosen["workload"], seed=seed, checkpoint=checkpoint), [chosen["target"]])
    recipe, dense = evaluator.dense.workload.recipe, evaluator.dense  # its training is the same for all
    campaign = Campaign(
        name="efficiency",
        subject=evaluator.subject,
        strategies=(STRATEGY,),
        targets=(chosen["target"],),
        epochs=recipe.tune_epochs if chosen["epochs"] is None else chosen["epochs"],
        training_epochs=float(recipe.epochs),
        sampler=settings.get("sampler", "tpe"),
        layout=settings["layout"],
        staging=settings["staging"],
    )
    told: list[dict[str, float]] = []
    entries: list[Entry] = []
    began = time.monotonic()

    def listen(entry: Entry | None, line: str) -> None:
        if entry is not None and entry.role == "candidate":
            [cost] = entry.costs
            faster = cost.speedup.value if cost.speedup else entry.dense_macs / entry.macs
            seconds, accuracy = time.monotonic() - began, ranking_accuracy(entry)
            entries.append(entry)
            told.append(
                {"seconds": round(seconds, 2), "accuracy": round(accuracy, 6), "speedup": round(float(faster or 0), 4)}
            )

    with tempfile.TemporaryDirectory() as folder:
        board = Path(folder) / "board.db"
        if boards:
            boards.mkdir(parents=True, exist_ok=True)
            board = boards / f"{scale}, {method}, {seed}.db"
            for left in boards.glob(f"{board.name}*"):
                left.unlink()  # of a search that was cut off
        trials = chosen["few" if method in FEW else "many"]
        with Store(str(board)) as store:
            summary = run_campaign(campaign, store, trials=trials, evaluator=evaluator, listen=listen)
    cell = {
        **{"method": method, "seed": seed, "dense": dense.validation.primary, "evaluations": told},
        "cap": CAP[next(iter(evaluator.models.values())).kind],
        **{"seconds": time.monotonic() - began, "let_go": summary.let_go, "failed": len(summary.failed)},
    }
    return cell | {"anew": anew(dense, cell, entries, campaign.epochs, chosen["anew"])}


def anew(dense: Dense, cell: Cell, entries: Sequence[Entry], epochs: float, seeds: int) -> dict[str, Any]:
    """Test accuracy of the dense network, and by place of the front's networks, the mean over trainings."""
    from leaderboard import front
    from strategies import Plan, Simulated, strategy
    from workloads import calibration_batches, evaluate

    def judged(network: Any) -> float:
        return evaluate(network, dense.splits.test, dense.workload).primary

    seen, places = cell["evaluations"], set[int]()
    for count in (FIRST, len(seen)):
        faster, accuracy = (np.array([one[name] for one in seen[:count]]) for name in ("speedup", "accuracy"))
        places |= set(front(faster, accuracy).tolist())
    method, calibration = strategy(STRATEGY), calibration_batches(dense.workload, dense.splits.train, 256, 64)
    found = {}
    for place in sorted(places):
        accuracies = []
        for other in range(1, seeds + 1):
            subject = replace(dense, seed=1000 * other + dense.seed)
            compressed = method.compress(subject, Plan.from_json(entries[place].plan))
            method.tune(compressed, subject, epochs)
            accuracies.append(judged(Simulated(compressed.deployed(calibration), compressed.formats, calibration)))
        found[str(place)] = round(float(np.mean(accuracies)), 6)
    return {"dense": judged(dense.module), "accuracy": found}


def worth(cell: Cell, evaluations: int | None) -> float:
    """Hypervolume of the front after so many evaluations (None: all), trained anew and judged on test images."""
    from leaderboard import front, hypervolume

    seen, again = cell["evaluations"][:evaluations], cell["anew"]
    faster = np.array([one["speedup"] for one in seen])
    places = front(faster, np.array([one["accuracy"] for one in seen]))
    accuracy = [again["accuracy"][str(place)] for place in places]
    return hypervolume(faster[places], accuracy, again["dense"], cell["cap"])


def curve(cell: Cell) -> tuple[np.ndarray, np.ndarray]:
    """Seconds and hypervolume after every full evaluation, (n,) each."""
    from leaderboard import hypervolume

    seen = cell["evaluations"]
    faster, accuracy = (np.array([one[name] for one in seen]) for name in ("speedup", "accuracy"))
    covered = [hypervolume(faster[: n + 1], accuracy[: n + 1], cell["dense"], cell["cap"]) for n in range(len(seen))]
    return np.array([one["seconds"] for one in seen]), np.array(covered)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of the 95 % interval (Student's); 0 of a single value."""
    count = len(values)
    half = float(stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count)) if count > 1 else 0.0
    return float(np.mean(values)), half


def replay(board: Path, seeds: int, out: Path | None) -> None:
    """Prints the hypervolume of searches that are simulated from the record of one (`search.replay`)."""
    import optuna

    from leaderboard import Store
    from search import Evaluator
    from search.replay import Recorded, Setup, simulate
    from search.spaces import flat
    from search.surrogate import Surrogate

    with Store(str(board)) as store:
        recorded = Recorded.read(store, optuna.storages.RDBStorage(store.url), "efficiency", STRATEGY)
    settings = recorded.settings
    middles = {family.name: family.base for family in flat(settings.space).families}

    class AnyLayout(Surrogate):
        def levels(self, knobs: Any) -> Any:
            # Where every layer is drawn on its own there is no common level: layers go from the middle.
            return super().levels(middles | dict(knobs))

    asking = settings.asking
    surrogate = AnyLayout(recorded.table, settings.space, asking.objectives, asking.limits, recorded.gain)
    evaluator = Evaluator(settings.subject, [])
    found: dict[str, list[dict[str, Any]]] = {}
    for method in REPLAYED:
        chosen = METHODS[method]
        own = replace(recorded, settings=replace(settings, asking=replace(asking, layout=chosen["layout"])))
        setup = Setup(chosen.get("sampler", "tpe"), 1)
        for seed in range(seeds):
            print(f"{method}, seed {seed}", file=sys.stderr, flush=True)
            run = simulate(
                own, surrogate, evaluator, setup, trials=settings.trials, seed=seed, staging=chosen["staging"]
            )
            found.setdefault(method, []).append(
                {"seconds": run.seconds.round(1).tolist(), "hypervolume": run.hypervolume.round(6).tolist()}
            )
    marks = [mark for mark in MARKS if mark <= settings.trials]
    lines = [
        f"{settings.subject.workload}, `{STRATEGY}`: simulated from the record of `strong`, {seeds} seeds, hypervolume "
        f"± 95 % interval. Of {len(recorded.table.full)} recorded networks a forest ranks those that it has not seen "
        "with a correlation of "
        + ", ".join(f"{fit.spearman:.2f} ({fit.value})" for fit in surrogate.fits if fit.spearman is not None)
        + "; it never goes beyond the record.",
        "",
        f"| method | {' | '.join(f'after {mark}' for mark in marks)} |",
        "|---|" + "---:|" * len(marks),
    ]
    for method, runs in found.items():
        after = [told([run["hypervolume"][min(mark, len(run["hypervolume"])) - 1] for run in runs]) for mark in marks]
        lines.append(f"| {method} | {' | '.join(after)} |")
    text = "\n".join(lines)
    print(text)
    if out:
        out.with_suffix(".json").write_text(json.dumps(found) + "\n")
        out.with_suffix(".md").write_text(
            "# Searches replayed\n\nMade by `python scripts/benchmarks/search_efficiency.py --replay BOARD`, with the "
            f"board that `--methods strong --boards FOLDER` keeps; every curve stands in `{out.name}.json`.\n\n{text}\n"
        )


def by_method(cells: dict[str, Cell]) -> dict[str, dict[int, tuple[np.ndarray, np.ndarray]]]:
    """Method → seed → its curve, in the order of `METHODS`."""
    return {
        method: found
        for method in METHODS
        if (found := {cell["seed"]: curve(cell) for cell in cells.values() if cell["method"] == method})
    }


def markdown(about: dict[str, str], cells: dict[str, Cell]) -> str:
    """Hypervolume after so many full evaluations, and the seconds until the strong baseline's last hypervolume."""
    curves = by_method(cells)
    marks = [mark for mark in MARKS if any(len(c) >= mark for found in curves.values() for _, c in found.values())]
    strong = {seed: float(c[-1]) for seed, (_, c) in curves.get("strong", {}).items()}
    lines = [
        f"{SCALES[about['scale']]['workload']}, `{about['strategy']}`, target `{about['target']}`. Hypervolume ± 95 % "
        f"interval over seeds; beside strong's end: at the method's own end, of the same seed. Worth: hypervolume "
        "of the front's networks trained anew with other seeds and judged on test images.",
        "",
        f"| method | seeds | {' | '.join(f'after {mark}' for mark in marks)} | at the end | seconds "
        f"| beside strong's end | seconds to it | worth after {FIRST} | worth at the end | beside strong's |",
        "|---|---:|" + "---:|" * (len(marks) + 7),
    ]
    for method, found in curves.items():
        every = list(found.values())
        after = [
            told([c[mark - 1] for _, c in every]) if all(len(c) >= mark for _, c in every) else "–" for mark in marks
        ]
        # Seeds have dense networks of their own, which differ more than methods do: compared seed by seed.
        beside = [float(c[-1]) - strong[seed] for seed, (_, c) in found.items() if seed in strong]
        reach = [
            float(s[np.argmax(c >= strong[seed])])
            for seed, (s, c) in found.items()
            if seed in strong and c[-1] >= strong[seed]
        ]
        judged = [cell for cell in cells.values() if "anew" in cell]  # older results are not
        own = {cell["seed"]: cell for cell in judged if cell["method"] == method}
        early, late = ([worth(cell, count) for cell in own.values()] for count in (FIRST, None))
        against = [
            worth(cell, None) - worth(cells[f"strong, {seed}"], None)
            for seed, cell in own.items()
            if "anew" in cells.get(f"strong, {seed}", {})
        ]
        arrives = f"{np.mean(reach):.0f} ({len(reach)} of {len(found)})" if reach else "–"
        lines.append(
            f"| {method} | {len(found)} | {' | '.join(after)} | {told([c[-1] for _, c in every])} "
            f"| {np.mean([s[-1] for s, _ in every]):.0f} | {told(beside) if beside else '–'} | {arrives} "
            f"| {' | '.join(told(values) if values else '–' for values in (early, late, against))} |"
        )
    return "\n".join(lines)


def told(values: Sequence[float]) -> str:
    """Mean ± half width in words."""
    mean, half = interval(values)
    return f"{mean:.3f} ± {half:.3f}" if len(values) > 1 else f"{mean:.3f}"


def draw(cells: dict[str, Cell], out: Path) -> None:
    """Hypervolume against full evaluations and against seconds: the mean over seeds."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    for place, (method, curves) in enumerate(by_method(cells).items()):
        found = list(curves.values())
        style: dict[str, Any] = {"color": f"C{place}", "label": method, "linewidth": 2.2 if method == "ours" else 1.3}
        shortest = min(len(c) for _, c in found)
        mean = np.mean([c[:shortest] for _, c in found], axis=0)
        axes[0].plot(np.arange(1, shortest + 1), mean, **style)
        moments = np.geomspace(max(s[0] for s, _ in found), min(s[-1] for s, _ in found), 60)
        axes[1].plot(moments, np.mean([step(s, c, moments) for s, c in found], axis=0), **style)
    for axis, name in zip(axes, ("full evaluations", "seconds, everything counted"), strict=True):
        axis.set(xlabel=name, xscale="log")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("hypervolume")
    axes[1].legend(fontsize=8)
    figure.savefig(out.with_suffix(".png"), dpi=120)


def step(seconds: np.ndarray, covered: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """The hypervolume at each moment, (m,): that of the last evaluation before it."""
    place = np.searchsorted(seconds, moments, side="right") - 1
    return np.where(place >= 0, covered[np.maximum(place, 0)], 0.0)


if __name__ == "__main__":
    main()
