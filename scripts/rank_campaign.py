"""A whole ranking by the command alone: searches by several seeds, finalists on fresh seeds, the ranks, as committed
under `docs/results/rank_*`.

    python scripts/rank_campaign.py digits --board digits.db --time-budget 3h
    python scripts/rank_campaign.py resnet8 --board resnet8.db --time-budget 1h --checkpoint resnet8.safetensors

Resumable: the same command goes on where it was stopped; the board says what is done. `--scale smoke` takes a minute.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from search.commands import parse_duration
from workloads import InputError

RESULTS = Path(__file__).parent.parent / "docs" / "results"
PRUNERS = (
    *("uniform", "random", "l1", "global_l1", "pca_l1", "pai_pat", "frequency", "low_rank", "conventional", "sentei"),
    *("snip", "grasp", "synflow", "ntk_sap", "magnitude", "random_mask"),
    *("snip_structured", "grasp_structured", "synflow_structured", "ntk_sap_structured", "magnitude_structured"),
)
INTERRUPTED = 130


@dataclass(frozen=True)
class Campaign:
    """What is ranked."""

    workload: str
    targets: tuple[str, ...]
    strategies: tuple[str, ...]
    searches: int
    """Search seeds, from 0 on; one more is the pilot's, whose finalists give the reference front."""
    trials: int
    seeds: int
    """Fresh seeds of the finalists of each search."""
    points: int
    epochs: float | None = None
    scratch: bool = True
    stages: str = "none"
    """By name: which pay is found by timing, and all searches of a ranking have to have the same ones."""


CAMPAIGNS = {
    # Every pruner in integers, the formats alone, one pruner in minifloat, and in fp32 what a CPU runs well so.
    "digits": Campaign(
        "digits/cnn",
        ("cpu-onnxruntime", "fpga-zcu104"),
        (*(f"{name}+int" for name in PRUNERS), "int", "minifloat", "pca_l1+minifloat", "pca_l1", "l1", "uniform"),
        searches=7,
        trials=10,
        seeds=5,
        points=3,
    ),
    # The four best of digits/cnn on the CPU, without pca_l1+minifloat, which runs there as pca_l1 does.
    "resnet8": Campaign(
        "cifar10/resnet8",
        ("cpu-onnxruntime",),
        ("l1", "uniform", "pca_l1", "l1+int"),
        searches=3,
        trials=6,
        seeds=5,
        points=2,
        epochs=1.0,
        scratch=False,
        stages="sensitivity",
    ),
}


def scaled(campaign: Campaign, scale: str) -> Campaign:
    """The campaign, or one of a minute."""
    if scale == "full":
        return campaign
    return replace(campaign, strategies=campaign.strategies[:2], searches=2, trials=2, seeds=2, points=2)


class Clock:
    """Seconds that all runs of a campaign have taken, kept beside the board."""

    def __init__(self, path: Path, budget: float) -> None:
        self._path, self._began = path, time.monotonic()
        self._before = json.loads(path.read_text())["seconds"] if path.exists() else 0.0
        self._budget = budget

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._began

    @property
    def left(self) -> float:
        return self._budget - self.seconds

    def keep(self) -> None:
        self._path.write_text(json.dumps({"seconds": round(self.seconds, 1)}))


def run(arguments: list[str], clock: Clock) -> None:
    """One command, to its end or to that of the time; what it did stays either way."""
    if clock.left < 5:
        sys.exit("the time budget is spent; the same command with a larger --time-budget goes on")
    budget = ["--time-budget", f"{clock.left:.0f}s"]
    print("$ shrinkboard", " ".join([*arguments, *budget]), flush=True)
    try:
        code = subprocess.run([sys.executable, "-m", "shrinkboard", *arguments, *budget]).returncode
    finally:
        clock.keep()
    if code == INTERRUPTED:
        sys.exit(code)
    # Strategies may fail on this network, which the ranking tells; a refused command stops the campaign.
    if code == 2:
        sys.exit(f"refused: shrinkboard {' '.join(arguments)}")


def without_front(board: str, workload: str) -> list[str]:
    """Names of the benchmarks of a workload whose highest version has no reference front yet."""
    command = [sys.executable, "-m", "shrinkboard", "benchmarks", "--format", "json", "--storage", board]
    known = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    newest = {one["name"]: one for one in sorted(known, key=lambda one: one["version"]) if one["workload"] == workload}
    return [name for name, one in newest.items() if not one["front"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("campaign", choices=CAMPAIGNS)
    parser.add_argument("--board", required=True, help="storage of studies and board; made or gone on with")
    parser.add_argument("--time-budget", default="3h", help="of all runs together: 90s, 10m or 2h")
    parser.add_argument("--checkpoint", help="of the dense network, for which training takes long; all seeds share it")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--scale", choices=("full", "smoke"), default="full")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the tables and pictures")
    options = parser.parse_args()
    asked = scaled(CAMPAIGNS[options.campaign], options.scale)
    try:
        budget = parse_duration(options.time_budget)
    except InputError as error:
        parser.error(str(error))
    clock = Clock(Path(f"{options.board}.seconds.json"), budget)

    common = ["--storage", options.board, "--workers", str(options.workers)]
    studies = [f"{options.campaign}-{seed}" for seed in range(asked.searches + 1)]  # the last one is the pilot
    for seed, study in enumerate(studies):
        what = ["--workload", asked.workload, "--target", ",".join(asked.targets)]
        ways = ["--strategy", ",".join(asked.strategies), "--trials", str(asked.trials)]
        ways += ["--stages", asked.stages]
        ways += [] if asked.epochs is None else ["--epochs", str(asked.epochs)]
        ways += [] if options.checkpoint is None else ["--checkpoint", options.checkpoint]
        run(["search", *what, *ways, "--seed", str(seed), "--study", study, "--resume", *common], clock)
    *ranked, pilot = studies
    points = ["--points", str(asked.points)]
    scratch = [] if asked.scratch else ["--no-scratch"]
    run(["finalists", "--study", ",".join(ranked), "--seeds", str(asked.seeds), *points, *scratch, *common], clock)
    run(["finalists", "--study", pilot, "--seeds", "2", *points, "--no-scratch", *common], clock)
    for name in without_front(options.board, asked.workload):
        front = ["benchmarks", "front", name, "--study", pilot, "--storage", options.board]
        subprocess.run([sys.executable, "-m", "shrinkboard", *front], check=True)

    for target in asked.targets:
        stem = options.out / f"rank_{options.campaign}_{target.replace('-', '_')}"
        what = ["--workload", asked.workload, "--target", target, "--storage", options.board]
        for form, suffix in (("json", "json"), ("markdown", "md")):
            told = subprocess.run(
                [sys.executable, "-m", "shrinkboard", "rank", *what, "--format", form],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            ).stdout
            if form == "markdown":
                made = f"python scripts/rank_campaign.py {options.campaign} --board {options.campaign}.db"
                told = f"{told.rstrip()}\n\nMade by `{made}` in {clock.seconds / 60:.0f} minutes.\n"
            stem.with_suffix(f".{suffix}").write_text(told)
        for kind in ("attainment", "convergence"):
            out = f"{stem}_{kind}.svg"
            subprocess.run([sys.executable, "-m", "shrinkboard", "plot", kind, *what, "--out", out], check=True)
        print(f"written: {stem}.md, {stem}.json", flush=True)


if __name__ == "__main__":
    main()
