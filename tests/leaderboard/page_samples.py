"""Boards for the tests of the page: hostile names, and finals with a benchmark that ranks them."""

from __future__ import annotations

from board_samples import benchmark, cost, entry

from leaderboard import Benchmark, Entry

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>document.title='owned'</script>",
    "<!--<script>",
    "\"'><img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "\u202egnp.exe\u2066",
    "{{script}}{{data}}",
    "&lt;b&gt; ${1} `x` $(reboot) '; rm -rf ~",
    "javascript:alert(1)",
    "__proto__",
    "constructor",
    "n" * 200,
]
"""Names that a page, a template, a shell or a script might take for more than text."""

RANKED = "fpga-z7020"
"""The target of `finals`."""


def finals(strategies: list[str]) -> list[Entry]:
    """Three searches of each strategy, their finalists on two fresh seeds each, and the dense network's.

    The first strategy is the best by far, the others are alike.
    """
    made = []
    seeds = [(search, fresh) for search in range(3) for fresh in range(2)]
    for place, strategy in enumerate(strategies):
        for search, trial in ((search, trial) for search in range(3) for trial in range(3)):
            speedup = 2.0**trial * (4 if place == 0 else 1.5) * (1 + search / 50 + (place == search) / 20)
            named = {"strategy": strategy, "trial": trial, "costs": [cost(RANKED, speedup)]}
            seen = {"validation": {"top1": 0.97 - trial / 100}, "dense_validation": 0.98}
            searched = entry(**named, study=f"search {search}", seed=search, accuracy=seen)
            origin = {"entry": searched.id, "study": f"search {search}", "trial": trial, "seed": search}
            made.append(searched)
            made += [
                entry(
                    **named,
                    study=f"finals {search} {fresh}",
                    seed=100 + 10 * search + fresh,
                    role="finalist",
                    accuracy={**seen, "test": {"top1": 0.965 - trial / 100 + fresh / 1000}, "dense_test": 0.975},
                    origin={**origin, "targets": [RANKED]},
                )
                for fresh in range(2)
            ]
    scores = {"validation": {"top1": 0.98}, "dense_validation": 0.98, "test": {"top1": 0.975}, "dense_test": 0.975}
    control = {"strategy": "dense", "role": "control", "accuracy": scores, "costs": [cost(RANKED, 1.0)]}
    made += [entry(**control, study=f"finals {s} {f}", seed=100 + 10 * s + f) for s, f in seeds]
    return made


def ranked_benchmark() -> Benchmark:
    """That `finals` are ranked by."""
    return benchmark(
        name="digits-cnn-fpga-z7020",
        target=RANKED,
        key=RANKED,
        track="modelled",
        dense_accuracy=0.975,
        dense_seeds=[0, 1, 2],
        cap=64.0,
        trials=3,
        search_seeds=[0, 1, 2],
        final_seeds=2,
        front=[],
        front_source=None,
    )
