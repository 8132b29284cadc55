"""Entries and benchmarks for the tests of this room."""

from typing import Any

from leaderboard import Benchmark, Entry


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


def benchmark(**changed: Any) -> Benchmark:
    """A definition for the track that `cost` is on."""
    plain: dict[str, Any] = {
        "name": "digits-cnn-cpu",
        "version": 1,
        "workload": "digits/cnn",
        "target": "cpu-onnxruntime",
        "key": "cpu-onnxruntime@ab12cd34",
        "track": "measured",
        "reference_latency": 1e-3,
        "dense_accuracy": 0.96,
        "dense_seeds": [101, 102],
        "cap": 8.0,
        "trials": 20,
        "epochs": 2.0,
        "training_epochs": 10.0,
        "search_seeds": [1, 2, 3],
        "final_seeds": 5,
        "front": [[2.0, 0.95]],
        "front_source": "a paper",
    }
    return Benchmark.create(**plain | changed)


def layer(name: str, **changed: Any) -> dict[str, Any]:
    """What became of a layer: half of its channels, in eight bits."""
    whole = {"channels": 8, "dense_channels": 16, "density": 1.0, "weights": "int8", "activations": "int8"}
    return {"name": name, "macs": 100, "dense_macs": 400, **whole, **changed}


def layered(**changed: Any) -> Entry:
    """An entry of four layers: cut, cut and masked in three bits, a factor of one, and one that is gone."""
    factor = {"part_of": "body.second", "dense_channels": None, "dense_macs": None, "weights": "fp32"}
    layers = [
        layer("stem"),
        layer("body.first", weights="int3", density=0.25),
        layer("body.second.reduce", **factor),
        layer("body.third", channels=0, macs=0, density=0.0),
    ]
    return entry(layers=layers, **changed)
