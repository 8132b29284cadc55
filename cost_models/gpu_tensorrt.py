"""Target `gpu-tensorrt`: measured on this machine's NVIDIA GPU in TensorRT 10 or newer, fp32 or fp16, and int8.

Neither a card nor TensorRT was at hand when this was written: what calls TensorRT follows its documentation (11.4, and
the notes on what changed since 10) and has not run yet. What is handed to it is tested.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor

from workloads import FP32, Format, InputError, LayerFormats

from .base import Deployable
from .export import INPUT, OUTPUT, export_onnx, layer_of, quantise_onnx, runs_in_int8, weight_bytes
from .gpu import GpuClock, GpuSession, GpuTarget, does_not_run
from .measured import Program, Session
from .options import one_of

PRECISIONS = {"fp32": (FP32, torch.float32), "fp16": (Format("float", 16), torch.float16)}
"""Option → the format of what does not run in int8, and the type of the input and output."""
INT8 = Format("int", 8)
HALF_OPSET = 19
"""The first in which scales of QuantizeLinear and DequantizeLinear may be fp16."""

_MOVES = ("reformat", "constant", "noop", "shuffle")
"""Kinds of TensorRT's layers that only move or hold what a weighted layer reads."""


class GpuTensorrt(GpuTarget):
    """TensorRT's engine for one batch size, replayed as a CUDA graph.

    Layers whose formats are integers of at most 8 bits are handed over in int8 (QDQ, symmetric, as TensorRT wants it),
    all others in `precision`; tf32 is off. Networks are strongly typed, so TensorRT changes no format on its own.
    `Cost.executed` is what the engine's inspector tells; a layer that it does not tell of is given in `precision`, so
    that no int8 is claimed unseen. Tactics are timed anew in every process: no cache is read. Engines are built without
    holding the device, so who builds while another process measures disturbs it, and may choose other tactics.
    """

    base = "gpu-tensorrt"
    summary = "this machine's NVIDIA GPU in TensorRT, in fp32 or fp16, and int8"
    options: ClassVar = {**GpuTarget.options, "precision": one_of(*PRECISIONS)}

    def __init__(self, *efforts: Any, **options: Any) -> None:
        super().__init__(*efforts, **options)
        self.precision: str = self.settings["precision"]

    def executed(self, weight: Format, activation: Format) -> tuple[Format, Format]:
        form = INT8 if runs_in_int8(LayerFormats(weight, activation)) else PRECISIONS[self.precision][0]
        return form, form

    def missing(self) -> str | None:
        try:
            _tensorrt()
        except InputError as error:
            return str(error)
        return super().missing()

    def _runtime(self) -> dict[str, str]:
        version = "none" if self.missing() else str(_tensorrt().__version__)
        cache = "cold" if self.cold else "warm"
        told = super()._runtime() | {"runtime": "tensorrt", "version": version, "torch": torch.__version__}
        return told | {"precision": self.precision, "cache": cache}

    def _build(self, deployable: Deployable) -> Program:
        trt = _tensorrt()
        clock = self._clock()
        try:
            return _TensorrtProgram(trt, clock, deployable, self.precision)
        except InputError:
            raise
        except Exception as error:
            raise does_not_run(self.name, deployable.module, error) from error


class _TensorrtProgram(Program):
    """The network as ONNX, and one engine for every batch size asked for."""

    def __init__(self, trt: Any, clock: GpuClock, deployable: Deployable, precision: str) -> None:
        self._trt, self._clock = trt, clock
        form, self._kind = PRECISIONS[precision]
        self._model, nodes = tensorrt_onnx(deployable, precision)
        self._shape = tuple(deployable.example.shape[1:])
        self.memory = weight_bytes(self._model)
        self._logger = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._logger)
        self._engines: dict[int, Any] = {}
        told = self._engine(1).create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
        ran = executed_formats(told, nodes)
        self.executed = {
            layer.name: ran.get(layer.name.partition("#")[0], (form, form))
            for layer in deployable.network.compute_layers
        }

    def session(self, batch: int, threads: int) -> Session:
        engine, device = self._engine(batch), self._clock.accelerator.device
        context = engine.create_execution_context()
        given = torch.zeros((batch, *self._shape), dtype=self._kind, device=device)
        output = torch.zeros(tuple(engine.get_tensor_shape(OUTPUT)), dtype=self._kind, device=device)
        context.set_tensor_address(INPUT, given.data_ptr())
        context.set_tensor_address(OUTPUT, output.data_ptr())

        def launch() -> Tensor:
            if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
                raise InputError("TensorRT does not run the network that it built an engine for")
            return output

        return GpuSession(self._clock, given, launch)

    def _engine(self, batch: int) -> Any:
        if batch not in self._engines:
            self._engines[batch] = self._runtime.deserialize_cuda_engine(self._plan(batch))
        return self._engines[batch]

    def _plan(self, batch: int) -> Any:
        """The engine, serialised."""
        trt = self._trt
        builder = trt.Builder(self._logger)
        # Ignored since TensorRT 11, where every network is strongly typed.
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse(with_batch(self._model, batch).SerializeToString()):
            raise InputError(f"TensorRT cannot read the network: {parser.get_error(0).desc().strip().splitlines()[0]}")
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or the inspector tells names only
        config.clear_flag(trt.BuilderFlag.TF32)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise InputError("TensorRT builds no engine of the network; its log on stderr says why")
        return plan


def tensorrt_onnx(deployable: Deployable, precision: str) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The network as TensorRT reads it, and the names of its weighted nodes → paths of their layers."""
    layers = deployable.network.compute_layers
    formats = {layer.name: LayerFormats(layer.weight_format, layer.activation_format) for layer in layers}
    model = export_onnx(deployable.module, deployable.example)
    nodes = {node.name: layer for node in model.graph.node if (layer := layer_of(node))}
    quantised = quantise_onnx(model, deployable.calibration, formats, symmetric=True)
    return (in_half(quantised) if precision == "fp16" else quantised), nodes


def in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with everything that is fp32 in fp16, input, output and scales of int8 included."""
    half = onnx.version_converter.convert_version(model, HALF_OPSET)
    graph = half.graph
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        constant = node.attribute[0].t
        constant.name = node.output[0]
        graph.initializer.append(constant)
        graph.node.remove(node)
    single = {node.input[2] for node in graph.node if node.op_type == "Resize" and len(node.input) > 2}
    tensors = [tensor for tensor in graph.initializer if tensor.name not in single]
    for node in graph.node:
        tensors += [attribute.t for attribute in node.attribute if attribute.HasField("t")]
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
    for tensor in tensors:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in [*graph.input, *graph.output]:
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    del graph.value_info[:]
    return half


def with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """A copy of `model` for batches of one size."""
    fixed = onnx.ModelProto.FromString(model.SerializeToString())
    for value in [*fixed.graph.input, *fixed.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = batch
    del fixed.graph.value_info[:]
    return fixed


def executed_formats(inspected: str, nodes: Mapping[str, str]) -> dict[str, tuple[Format, Format]]:
    """Layer → (weight format, activation format) that an engine runs, for the layers of which it tells.

    `inspected` is the JSON of TensorRT's engine inspector at detailed verbosity, `nodes` the names of the weighted
    ONNX nodes → their layers. A row names its ONNX nodes in `Metadata`, or else joined in its own name.
    """
    found: dict[str, tuple[Format, Format]] = {}
    for row in json.loads(inspected)["Layers"]:
        if any(word in row["LayerType"].lower() for word in _MOVES):
            continue
        sources = re.findall(r"\[ONNX Layer: ([^\]]+)\]", row.get("Metadata", "")) or row["Name"].split(" + ")
        weight = _format(row.get("Weights", {}).get("Type", ""))
        read = [_format(given.get("Format/Datatype") or given.get("Datatype", "")) for given in row["Inputs"]]
        activation = (read or [None])[0] or weight
        for layer in {nodes[source] for source in sources if source in nodes}:
            # A row with weights says most; others of the same node may be what is fused round it.
            if activation and (weight or layer not in found):
                found[layer] = weight or activation, activation
    return found


def _format(told: str) -> Format | None:
    """The format that a text such as `Row major Int8 format` or `Half` names."""
    names = {"int8": INT8, "fp16": PRECISIONS["fp16"][0], "half": PRECISIONS["fp16"][0], "fp32": FP32, "float": FP32}
    return next((form for name, form in names.items() if name in told.lower()), None)


def _tensorrt() -> Any:
    """The package; raises `InputError` where it is not installed or does not load."""
    try:
        return importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        raise InputError(
            f"gpu-tensorrt needs the package tensorrt ({error}); to install it: pip install tensorrt"
        ) from error
