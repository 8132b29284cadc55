"""The far side: measures and runs networks in ONNX Runtime, asked on standard input, answering on standard output.

`ssh_target` sends this file with every question, so the other machine needs nothing but shrinkboard. A question is a
line of JSON and then parts in bytes, whose lengths the line gives; the answer is a line of JSON.
"""

from __future__ import annotations

import base64
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

import shrinkboard as sb

LOCK_SECONDS = 600.0
"""Waits so long for another measurement on this machine to end."""


def describe(question: dict[str, Any], parts: Sequence[bytes]) -> dict[str, Any]:
    """What makes measurements here differ from those of another machine or runtime; nothing that names the host."""
    runtime = {"runtime": "onnxruntime over SSH", "version": onnxruntime.__version__, "threads": "1"}
    exact = sb.multiplies_int8_exactly(sb.processor())
    return {"fingerprint": sb.fingerprint(runtime), "runtime": runtime, "exact_int8": exact}


def measure(question: dict[str, Any], parts: Sequence[bytes]) -> dict[str, Any]:
    """The candidate beside the reference, in interleaved pairs."""
    candidate, reference = optimised(parts[0]), optimised(parts[1])
    image = np.frombuffer(parts[2], np.float32).reshape(question["shape"])
    with sb.exclusive("cpu", LOCK_SECONDS), sb.pinned() as pin:
        telemetry = sb.Telemetry()
        found = sb.compare(
            partial(prepare, candidate, image),
            partial(prepare, reference, image),
            sb.Effort(**question["effort"]),
            question["level"],
            pin.move,
            timer=sb.thread_timer(),
        )
        noise = telemetry.read()
    return {
        "ratio": found.ratio,
        "low": found.low,
        "high": found.high,
        "found_calm": found.found_calm,
        "reference": float(np.median(found.reference[found.calm])),
        "samples": {"latency": found.candidate.tolist(), "latency_reference": found.reference.tolist()},
        "telemetry": noise,
        "ran": structure(candidate),
    }


def predict(question: dict[str, Any], parts: Sequence[bytes]) -> dict[str, Any]:
    """Outputs of the network, float32."""
    images = np.frombuffer(parts[1], np.float32).reshape(question["shape"])
    outputs = prepare(optimised(parts[0]), images)()[0]
    return {"shape": outputs.shape, "values": base64.b64encode(outputs.astype(np.float32).tobytes()).decode()}


def prepare(graph: bytes, images: np.ndarray) -> Callable[[], list[np.ndarray]]:
    """A fresh session on an optimised graph, fed."""
    session = onnxruntime.InferenceSession(graph, settings("ORT_DISABLE_ALL"), providers=["CPUExecutionProvider"])
    return partial(session.run, None, {session.get_inputs()[0].name: images})


def optimised(graph: bytes) -> bytes:
    """The graph that the runtime makes for this processor: making it again for every session would take seconds."""
    with tempfile.TemporaryDirectory() as folder:
        options = settings("ORT_ENABLE_ALL")
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return Path(options.optimized_model_filepath).read_bytes()


def structure(graph: bytes) -> str:
    """The graph without its weights, in base64."""
    model = onnx.load_from_string(graph)
    del model.graph.initializer[:]
    return base64.b64encode(model.SerializeToString()).decode()


def settings(optimisation: str) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, optimisation)
    return options


def main() -> None:
    question = json.loads(sys.stdin.buffer.readline())
    parts = [sys.stdin.buffer.read(length) for length in question["lengths"]]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            answer = {"describe": describe, "measure": measure, "predict": predict}[question["do"]](question, parts)
    except Exception as error:
        # What it says may name this host.
        answer = {"error": type(error).__name__}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
