"""Target `cpu-onnxruntime`: measured on this machine's CPU in ONNX Runtime, fp32 and static int8."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from workloads import FP32, Format, LayerFormats

from .base import Deployable
from .cpu import CpuTarget
from .export import (
    INPUT,
    copying_shortcuts,
    export_onnx,
    layers_in_int8,
    quantise_onnx,
    runs_in_int8,
    weight_bytes,
)
from .machine import multiplies_int8_exactly, processor
from .measured import Program, Session

INT8 = Format("int", 8)


class CpuOnnxRuntime(CpuTarget):
    """ONNX Runtime's CPU provider.

    A layer whose weight and activation formats are integers of at most 8 bits is stored and run in int8 (QDQ); all
    others run in fp32, for which ONNX Runtime has no faster kernel on CPU. `Cost.executed` says what the optimised
    graph really ran.
    """

    base = "cpu-onnxruntime"
    summary = "this machine's CPU in ONNX Runtime, fp32 and static int8"

    def executed(self, weight: Format, activation: Format) -> tuple[Format, Format]:
        both_small = all(form.kind == "int" and form.bits <= 8 for form in (weight, activation))
        return (INT8, INT8) if both_small else (FP32, FP32)

    def _runtime(self) -> dict[str, str]:
        return {"runtime": "onnxruntime", "version": onnxruntime.__version__, "threads": str(self.threads)}

    def _build(self, deployable: Deployable) -> Program:
        model = quantised_onnx(deployable)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "optimised.onnx"
            _session(model.SerializeToString(), 1, optimised=path)
            data = path.read_bytes()
        return _OnnxProgram(data, weight_bytes(model), deployable)


def quantised_onnx(deployable: Deployable) -> onnx.ModelProto:
    """The network as ONNX, with int8 where its formats ask for it and this processor's arithmetic allowed for."""
    formats = {
        layer.name: LayerFormats(layer.weight_format, layer.activation_format)
        for layer in deployable.network.compute_layers
    }
    some = any(runs_in_int8(form) for form in formats.values())
    module = copying_shortcuts(deployable.module) if some else deployable.module
    return quantise_onnx(
        export_onnx(module, deployable.example),
        deployable.calibration,
        formats,
        reduce_range=not multiplies_int8_exactly(processor()),
    )


class _OnnxProgram(Program):
    """The graph as optimised for this processor."""

    def __init__(self, data: bytes, memory: int, deployable: Deployable) -> None:
        self.memory = memory
        in_int8 = layers_in_int8(onnx.load_from_string(data))
        self.executed = {
            layer.name: (INT8, INT8) if layer.name.partition("#")[0] in in_int8 else (FP32, FP32)
            for layer in deployable.network.compute_layers
        }
        self._data = data

    def session(self, batch: int, threads: int) -> Session:
        return _OnnxSession(_session(self._data, threads))


class _OnnxSession(Session):
    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._feed: dict[str, np.ndarray] = {}
        self._output: np.ndarray | None = None

    def feed(self, images: np.ndarray) -> None:
        self._feed = {INPUT: images}

    def run(self) -> None:
        self._output = self._session.run(None, self._feed)[0]

    def fetch(self) -> np.ndarray:
        return np.asarray(self._output)


def _session(data: bytes, threads: int, optimised: Path | None = None) -> onnxruntime.InferenceSession:
    """A session; writes the graph that the runtime made to `optimised`, if given.

    Graphs that were written so are loaded as they are: optimising them again takes most of the time of making a
    session.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3  # it warns that a written graph fits this processor only, which is wanted
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimised is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
