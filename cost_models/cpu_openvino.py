"""Target `cpu-openvino`: measured on this machine's CPU in OpenVINO, fp32 and static int8."""

from __future__ import annotations

import contextlib
import functools
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np
import onnx

from workloads import FP32, Format, InputError, LayerFormats

from .base import Deployable
from .cpu import CpuTarget
from .cpu_onnxruntime import INT8, quantised_onnx
from .export import layer_of, runs_in_int8, weight_bytes
from .measured import Program, Session

try:
    import openvino
except ImportError as error:
    raise InputError(
        "target cpu-openvino needs OpenVINO, which is not installed: pip install 'shrinkboard[openvino]'"
    ) from error

BLOBS_KEPT = 2
"""Compiled forms held of one network: each has a batch size of its own, and all the weights."""

# What the runtime model calls a number format.
_FORMATS = {"f32": FP32, "f16": Format("float", 16), "bf16": Format("bfloat", 16), "u8": INT8, "i8": INT8}
_WEIGHTED = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")


class CpuOpenVino(CpuTarget):
    """OpenVINO's CPU plugin with its precision hint at f32: its default is bf16 where the processor has it.

    A layer whose weight and activation formats are integers of at most 8 bits is stored and run in int8 (QDQ, the
    graph that `cpu-onnxruntime` runs); all others run in fp32. `Cost.executed` is read from the runtime model.

    On one thread, the default, an inference runs in the thread that calls it: its own time counts the work and nothing
    else, and pinning reaches it. More threads are OpenVINO's, shared by the process; they may use every CPU that the
    process may, only the calling one is pinned.
    """

    base = "cpu-openvino"
    summary = "this machine's CPU in OpenVINO, fp32 and static int8"

    def executed(self, weight: Format, activation: Format) -> tuple[Format, Format]:
        return (INT8, INT8) if runs_in_int8(LayerFormats(weight, activation)) else (FP32, FP32)

    def _runtime(self) -> dict[str, str]:
        return {
            "runtime": "openvino",
            "version": openvino.__version__,
            "threads": str(self.threads),
            "precision_hint": _settings(self.threads)["INFERENCE_PRECISION_HINT"],
        }

    def _build(self, deployable: Deployable) -> Program:
        return _OpenVinoProgram(quantised_onnx(deployable), deployable, self.threads)


class _OpenVinoProgram(Program):
    """The graph as ONNX, and compiled for the batch sizes that were asked for last."""

    def __init__(self, model: onnx.ModelProto, deployable: Deployable, threads: int) -> None:
        self.memory = weight_bytes(model)
        self._data = model.SerializeToString()
        self._image = tuple(deployable.example.shape[1:])
        self._blobs: dict[int, bytes] = {}
        compiled = self._compile(1, threads)
        most = compiled.get_property("INFERENCE_NUM_THREADS")
        if most < threads:
            raise InputError(
                f"OpenVINO runs at most {most} threads on this machine, not {threads}; give threads={most}"
            )
        ran = _formats_run(compiled, _layers_by_name(model))
        # A layer of which the runtime model does not tell is not claimed to run in int8.
        self.executed = {
            layer.name: ran.get(layer.name.partition("#")[0], (FP32, FP32))
            for layer in deployable.network.compute_layers
        }

    def session(self, batch: int, threads: int) -> Session:
        if batch not in self._blobs:
            self._compile(batch, threads)
        # An import lays all memory out anew; a further request of one compiled model only its input and output (seen by
        # the growth of the process: 26 MB against 8 MB).
        with _errors_in_one_line():
            model = _core().import_model(io.BytesIO(self._blobs[batch]), "CPU", _settings(threads))
            return _OpenVinoSession(model.create_infer_request())

    def _compile(self, batch: int, threads: int) -> openvino.CompiledModel:
        """Compiles for a batch size and keeps the result: importing it took a quarter to a seventh of the time."""
        with _errors_in_one_line():
            model = _core().read_model(self._data)
            model.reshape([batch, *self._image])
            compiled = _core().compile_model(model, "CPU", _settings(threads))
            self._blobs[batch] = compiled.export_model().getvalue()
        while len(self._blobs) > BLOBS_KEPT:
            del self._blobs[next(size for size in self._blobs if size != 1)]
        return compiled


class _OpenVinoSession(Session):
    def __init__(self, request: openvino.InferRequest) -> None:
        self._request = request
        self._input = request.get_input_tensor().data

    def feed(self, images: np.ndarray) -> None:
        self._input[:] = images

    def run(self) -> None:
        # `start_async` would run it in a thread of OpenVINO's, whose time is not the caller's. Seen with one thread and
        # another process on the same CPU: 0.90 ms an inference by the wall clock, 0.45 ms of the calling thread's time
        # and just as much of the whole process's.
        self._request.infer(share_outputs=True)

    def fetch(self) -> np.ndarray:
        return np.array(self._request.get_output_tensor().data)


@functools.cache
def _core() -> openvino.Core:
    return openvino.Core()


def _settings(threads: int) -> dict[str, str]:
    return {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
        "ENABLE_CPU_PINNING": "NO",
    }


@contextlib.contextmanager
def _errors_in_one_line() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        # Lines of where in OpenVINO it happened, then what happened.
        line = (str(error).strip().splitlines() or ["no reason given"])[-1]
        raise InputError(f"OpenVINO cannot take this network: {line}") from error


def _layers_by_name(model: onnx.ModelProto) -> dict[str, str]:
    """Module path of a layer by the names that its node and output have in ONNX, quantised or not."""
    stored = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    found: dict[str, str] = {}
    for node in model.graph.node:
        plain = onnx.NodeProto()
        plain.CopyFrom(node)
        if len(node.input) > 1:
            plain.input[1] = stored.get(node.input[1], node.input[1]).removesuffix("_quantized")
        layer = layer_of(plain)
        if layer is not None:
            found |= dict.fromkeys([node.name, *node.output], layer)
    return found


def _formats_run(compiled: openvino.CompiledModel, layers: Mapping[str, str]) -> dict[str, tuple[Format, Format]]:
    """Layer → formats of weights and activations in the runtime model.

    Its nodes name those of the ONNX graph that were fused into them, `/conv/Conv/WithoutBiases,/conv/Conv,/Relu`; only
    a linear layer on maps goes by the name of its addition, but what transposes its weight tells. A layer that is
    called twice counts by its wider formats.
    """
    seen: defaultdict[str, set[tuple[Format, Format]]] = defaultdict(set)
    for node in compiled.get_runtime_model().get_ops():
        told = node.get_rt_info()
        if told["layerType"].astype(str) not in _WEIGHTED:
            continue
        weight = node.input_value(1)
        formats = _FORMATS[weight.get_element_type().get_type_name()], _FORMATS[told["runtimePrecision"].astype(str)]
        for name in (*told["originalLayersNames"].astype(str).split(","), weight.get_node().get_friendly_name()):
            layer = _known(name, layers)
            if layer is not None:
                seen[layer].add(formats)
    return {layer: max(formats, key=lambda pair: pair[0].bits + pair[1].bits) for layer, formats in seen.items()}


def _known(name: str, layers: Mapping[str, str]) -> str | None:
    """The layer of a name, or of the longest part of it that is known: what OpenVINO adds stands behind a slash."""
    while name and name not in layers:
        name = name.rpartition("/")[0]
    return layers.get(name)
