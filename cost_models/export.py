"""A network as ONNX: exported from torch with batch norm folded, and quantised statically to int8 (QDQ) for a runtime.

Models are `onnx.ModelProto` in memory. A weighted node keeps the module path of its layer in the name of its weight,
`PATH.weight`, so that formats by layer name reach the nodes, whatever the exporter called them.
"""

from __future__ import annotations

import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from workloads import InputError, LayerFormats, PadShortcut
from workloads.folding import fold_batch_norm

INPUT, OUTPUT = "image", "output"
"""Names of the input and the output of every exported network."""
OPSET = 17

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# onnxruntime has no int8 kernel for transposed convolutions on CPU: quantised, they would run in fp32 and convert
# besides.
_QUANTISABLE = ("Conv", "Gemm", "MatMul")
# Stays in int8 where all that feeds it is in int8. Relu and Clip vanish there: the range of the output says what they
# do.
_GLUE = (
    "Add", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "Relu", "Clip", "Pad", "Slice", "Gather",
    "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze",
)  # fmt: skip
_COPYING = ".copies"
"""End of the name of weights that only move channels: they are of no layer, and as much glue as what they stand for."""


def export_onnx(module: nn.Module, example: Tensor) -> onnx.ModelProto:
    """`module` in eval mode as fp32 ONNX with the batch size left free.

    `example` is one input, shape (1, C, H, W). Batch norm is folded into the layer before it. Raises `InputError` where
    the network cannot be exported.
    """
    folded = fold_batch_norm(module)
    stream = io.BytesIO()
    with warnings.catch_warnings(), _quiet_logging():
        # The TorchScript exporter is deprecated, but it needs no package beyond onnx, takes a tenth of the time of its
        # successor on small CNNs and keeps the names of the weights.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                folded,
                (example,),
                stream,  # type: ignore[arg-type]  # taken by this exporter, whatever the signature says
                dynamo=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
                opset_version=OPSET,
            )
        except Exception as error:
            line = (str(error).strip().splitlines() or [""])[0]
            raise InputError(
                f"network {type(module).__name__} cannot be exported to ONNX: {type(error).__name__}: {line}"
            ) from error
    model = onnx.load_from_string(stream.getvalue())
    _give_every_layer_its_own_weights(model)
    return model


def quantise_onnx(
    model: onnx.ModelProto,
    calibration: Sequence[Tensor],
    formats: Mapping[str, LayerFormats],
    reduce_range: bool = False,
    symmetric: bool = False,
) -> onnx.ModelProto:
    """`model` with static QDQ int8 at the layers whose weight and activation formats are integers of at most 8 bits.

    Weights are symmetric int8 per output channel, activations asymmetric uint8 per tensor, ranges the least and
    greatest value in `calibration` (batches (N, C, H, W), normalised). Weights of fewer bits lie on their grid in
    `model` already and are stored as int8. Layers that are absent from `formats` stay in fp32. `reduce_range` keeps
    weights to 7 bits, which x86 processors without VNNI need: their 16-bit sums of two uint8 × int8 products saturate.
    `symmetric` is the form that TensorRT takes: activations in int8 without zero point, biases in floating point, and
    nothing quantised between a weighted layer and its activation function. Raises `InputError` where there is nothing
    to calibrate with.
    """
    chosen, excluded = _quantised_nodes(model, {layer for layer, form in formats.items() if runs_in_int8(form)})
    if not chosen:
        return model
    if not calibration:
        raise InputError("int8 needs calibration images to find the ranges of the activations, and there are none")
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory() as folder, _quiet_logging():
        path = Path(folder) / "int8.onnx"
        quantize_static(
            # quantize_static moves the weights of the model that it is given into files of its own.
            onnx.ModelProto.FromString(model.SerializeToString()),
            path,
            _Reader(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*_QUANTISABLE, *_GLUE],
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=excluded,
            extra_options={
                "ActivationSymmetric": symmetric,
                "WeightSymmetric": True,
                "QuantizeBias": not symmetric,
                "OpTypesToExcludeOutputQuantization": list(_WEIGHTED) if symmetric else [],
            },
        )
        return onnx.load(path)


def copying_shortcuts(module: nn.Module) -> nn.Module:
    """A copy of `module` in which shortcuts that move and pad channels are convolutions 1×1 of ones and zeros.

    The values are the same. onnxruntime has no Pad in int8, so that each would run in fp32 between two conversions:
    without them ResNet-20 takes 4 % less time in int8.
    """
    changed = copy.deepcopy(module)
    for name, part in list(changed.named_modules()):
        if isinstance(part, PadShortcut):
            changed.set_submodule(name, _Copies(part))
    return changed


class _Copies(nn.Module):
    """Copies channels by a convolution."""

    copies: Tensor

    def __init__(self, shortcut: PadShortcut) -> None:
        super().__init__()
        self.stride = shortcut.stride
        copies = torch.zeros(shortcut.out_channels, shortcut.in_channels, 1, 1)
        for channel, source in enumerate(shortcut.source):
            if source >= 0:
                copies[channel, source] = 1.0
        self.register_buffer("copies", copies)

    def forward(self, images: Tensor) -> Tensor:
        return functional.conv2d(images, self.copies, stride=self.stride)


def runs_in_int8(formats: LayerFormats) -> bool:
    """Whether a layer of these formats is stored and computed in int8: both are integers of at most 8 bits."""
    return all(form.kind == "int" and form.bits <= 8 for form in (formats.weight, formats.activation))


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all that the model stores: weights and biases, with scales and zero points where it is quantised."""
    return sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer)


class _Reader:
    """Feeds calibration batches to onnxruntime; what it must look like is `CalibrationDataReader`."""

    def __init__(self, calibration: Sequence[Tensor]) -> None:
        self._batches = iter(calibration)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch.numpy()}


def _give_every_layer_its_own_weights(model: onnx.ModelProto) -> None:
    """Undoes the exporter's sharing of equal tensors.

    It stores equal weights (two biases of zeros) once and hands them to other layers through Identity nodes, which the
    quantiser does not see through, and which take the layer's name off the weight.
    """
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in list(graph.node):
        if node.op_type == "Identity" and node.input[0] in stored:
            copy = onnx.TensorProto()
            copy.CopyFrom(stored[node.input[0]])
            copy.name = node.output[0]
            graph.initializer.append(copy)
            stored[copy.name] = copy
            graph.node.remove(node)


def layer_of(node: onnx.NodeProto) -> str | None:
    """Module path of the layer that a weighted node computes, None for other nodes.

    A linear layer on maps of more than two axes loses the name of its weight (it is transposed); its node is then named
    after its scope, `/PATH/MatMul` with slashes for dots.
    """
    if node.op_type not in _WEIGHTED or len(node.input) < 2 or _only_copies(node):
        return None
    if node.input[1].endswith(".weight"):
        return node.input[1].removesuffix(".weight")
    return _scope(node)


def _only_copies(node: onnx.NodeProto) -> bool:
    return node.op_type == "Conv" and node.input[1].endswith(_COPYING)


def layers_in_int8(optimised: onnx.ModelProto) -> set[str]:
    """Module paths of the layers that run in int8 arithmetic in a graph that onnxruntime has optimised."""
    found = set()
    for node in optimised.graph.node:
        if node.op_type in ("QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat"):
            weights = [name for name in node.input if name.endswith(".weight_quantized")]
            layer = weights[0].removesuffix(".weight_quantized") if weights else _scope(node)
            found |= {layer} if layer else set()
    return found


def _scope(node: onnx.NodeProto) -> str | None:
    """Module path of `/body/body.0/linear/MatMul`: children of a container are named after it, once more."""
    parts = node.name.split("/")[1:-1]
    below = [*parts[1:], ""]
    path = [part for part, child in zip(parts, below, strict=True) if not child.startswith(f"{part}.")]
    return ".".join(path) or None


def _quantised_nodes(model: onnx.ModelProto, layers: set[str]) -> tuple[list[str], list[str]]:
    """Names of the nodes to quantise for these int8 layers, and of those to leave in fp32.

    Glue is quantised where all that feeds it comes from int8 layers, so that no conversion to and fro is added.
    """
    comes_from_int8: dict[str, bool] = {}
    chosen: list[str] = []
    excluded: list[str] = []
    constant = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if all(name in constant for name in node.input if name):  # such as where a Slice begins
            constant |= set(node.output)
            continue
        layer = layer_of(node)
        sources = [comes_from_int8.get(name, False) for name in node.input if name and name not in constant]
        fed_by_int8 = bool(sources) and all(sources)
        glue = node.op_type in _GLUE or _only_copies(node)
        asked_for = layer in layers and node.op_type in _QUANTISABLE
        in_int8 = fed_by_int8 and glue if layer is None else asked_for
        if layer is not None or glue:
            (chosen if in_int8 else excluded).append(node.name)
        for name in node.output:
            comes_from_int8[name] = in_int8
    return chosen, excluded


@contextmanager
def _quiet_logging() -> Iterator[None]:
    """Keeps the exporter and the quantiser, which log to the root logger, from printing or installing a handler."""
    root = logging.getLogger()
    handlers, disabled = list(root.handlers), root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
