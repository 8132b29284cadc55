"""Entries for the tests of this room."""

from typing import Any

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


def fields(**changed: Any) -> dict[str, Any]:
    """The fields of a plausible entry, with some changed."""
    return {
        "workload": "digits/cnn",
        "strategy": "pca_l1+int",
        "study": "first",
        "trial": 0,
        "role": "candidate",
        "seed": 1,
        "plan": {"ratio": 0.5, "groups": {"conv1": {"keep": 0.25, "bits": 8}}, "mode": "variance"},
        "plan_digest": "ab12",
        "knobs": {"ratio": 0.5, "bits": 8},
        "epochs": 2.0,
        "accuracy": {"validation": {"top1": 0.97, "top5": 1.0}, "dense_validation": 0.98},
        "parameters": 1000,
        "macs": 20000,
        "bytes": 4000,
        "dense_parameters": 9000,
        "dense_macs": 90000,
        "costs": [cost()],
        "training": training(),
        "environment": {
            "python": "3.11.7",
            "torch": "2.13.0",
            "onnxruntime": None,
            "shrinkboard": "0.1",
            "platform": "Linux x86_64",
            "cpu": "some CPU",
        },
        "dense_digest": "cd34",
        **changed,
    }


def training(**changed: Any) -> dict[str, Any]:
    return {"epochs": 2.0, "seconds": 3.5, "images": 2000, "dense_epochs": 10.0, "dense_seconds": 12.0, **changed}


def cost(key: str = "cpu-onnxruntime@ab12cd34", speedup: float | None = 2.0, **changed: Any) -> dict[str, Any]:
    """A cost on one target; no speed-up and no latency where `speedup` is None."""
    latency: dict[str, Any] = {"value": None, "unit": "s", "reason": "not timed"}
    ratio: dict[str, Any] = {"value": None, "reason": "not timed"}
    if speedup is not None:
        latency = {"value": 1e-3 / speedup, "unit": "s"}
        ratio = {"value": speedup, "low": speedup * 0.97, "high": speedup * 1.03}
    return {
        "target": key.split("@")[0],
        "key": key,
        "kind": "measured" if "@" in key else "modelled",
        "figures": {"latency": latency, "energy": {"value": None, "unit": "J", "reason": "no meter"}},
        "speedup": ratio,
        "executed": {"conv1": ["int8", "int8"]},
        "telemetry": {"steal": None, "switches": 3},
        "samples": {"candidate": [[0.001, 0.0011], [0.001]]},
        **changed,
    }


def entry(**changed: Any) -> Entry:
    return Entry.create(**fields(**changed))


def scored(trial: int, accuracy: float, speedup: float | None, **changed: Any) -> Entry:
    """An entry at a place in the picture."""
    return entry(
        trial=trial,
        accuracy={"validation": {"top1": accuracy}, "dense_validation": 0.98},
        costs=[cost(speedup=speedup)],
        **changed,
    )


RANKED = "fpga-zcu104"
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


def benchmark() -> Benchmark:
    """That `finals` are ranked by."""
    return Benchmark.create(
        name="digits-cnn-fpga-zcu104",
        version=1,
        workload="digits/cnn",
        target=RANKED,
        key=RANKED,
        track="modelled",
        reference_latency=1e-3,
        dense_accuracy=0.975,
        dense_seeds=[0, 1, 2],
        cap=64.0,
        trials=3,
        epochs=2.0,
        training_epochs=10.0,
        search_seeds=[0, 1, 2],
        final_seeds=2,
    )
