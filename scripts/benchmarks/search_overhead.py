"""What a trial costs beside its evaluation and the sampler's own suggestion, at a thousand recorded trials.

    python scripts/benchmarks/search_overhead.py --out docs/results/search_overhead

A campaign of `l1` on digits runs on an evaluator that answers at once, written through to SQLite as in a real search.
Of every hundred trials the table says what one took in all, what of that the sampler took, and what is left: plans, the
board, the log, the loop.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import optuna

TRIALS, EVERY = 1000, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=TRIALS, help=f"recorded trials (default {TRIALS})")
    parser.add_argument("--samplers", default="random,nsga2,ehvi", help="with commas (default random,nsga2,ehvi)")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    arguments = parser.parse_args()
    found = {name: campaign(name, arguments.trials) for name in arguments.samplers.split(",")}
    lines = [
        "| sampler | trials | ms a trial | of that the sampler | evaluation | left |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, rows in found.items():
        for row in rows:
            whole, sampler, evaluation = (1e3 * row[part] / row["count"] for part in ("whole", "sampler", "evaluation"))
            lines.append(
                f"| {name} | {row['trials']} | {whole:.1f} | {sampler:.1f} | {evaluation:.1f} "
                f"| {whole - sampler - evaluation:.1f} |"
            )
    text = "\n".join(lines)
    print(text)
    if arguments.out:
        arguments.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
        arguments.out.with_suffix(".md").write_text(
            f"# Overhead of a trial\n\nMade by `python scripts/benchmarks/search_overhead.py --trials "
            f"{arguments.trials} --samplers {arguments.samplers}`: the last {EVERY} trials before each number."
            f"\n\n{text}\n"
        )


def campaign(sampler: str, trials: int) -> list[dict[str, float]]:
    """Seconds of every hundred trials, by where they went."""
    from leaderboard import Entry, Store
    from search import Campaign, Evaluator, Subject, run_campaign

    spent = {"sampler": 0.0, "evaluation": 0.0}

    def timed(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                spent[what] += time.perf_counter() - began

        return call

    class Instant(Evaluator):
        """Answers a template with other figures."""

        template: Entry | None = None

        def run(self, job: Any) -> Any:
            began = time.perf_counter()
            if self.template is None:
                self.template = super().run(job)
            told = json.loads(self.template.to_json()) | {
                "strategy": job.strategy,
                "trial": job.trial,
                "role": job.role,
            }
            told |= {"plan": dict(job.plan), "knobs": dict(job.knobs), "epochs": job.epochs}
            told["plan_digest"] = plan_digest(job.plan)
            told["costs"][0]["figures"]["bit_operations"]["value"] = 1e6 + job.trial
            told.pop("id")
            entry = Entry.create(**told)
            spent["evaluation"] += time.perf_counter() - began
            return entry

    evaluator = Instant(Subject("digits/cnn"), ["counts"])
    chosen = Campaign("overhead", evaluator.subject, ("l1",), ("counts",), 0.0, 0.0, sampler=sampler)
    rows: list[dict[str, float]] = []
    marks = [(time.perf_counter(), dict(spent))]

    def listen(entry: Entry | None, line: str) -> None:
        if entry is not None and entry.role == "candidate" and (entry.trial + 1) % EVERY == 0:
            now, (before, was) = time.perf_counter(), marks[-1]
            marks.append((now, dict(spent)))
            parts = {name: spent[name] - was[name] for name in spent}
            rows.append({"trials": entry.trial + 1, "count": EVERY, "whole": now - before, **parts})

    asking = patch.object(optuna.Study, "ask", timed("sampler", optuna.Study.ask))
    with asking, tempfile.TemporaryDirectory() as folder, Store(str(Path(folder) / "board.db")) as store:
        run_campaign(chosen, store, trials=trials, evaluator=evaluator, listen=listen)
    return rows


def plan_digest(plan: Any) -> str:
    from strategies import Plan

    return Plan.from_json(plan).digest


if __name__ == "__main__":
    main()
