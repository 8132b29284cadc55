"""Target `cpu-torch`: measured on this machine's CPU in torch, compiled ahead of time by inductor, fp32 and int8."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import logging
import platform
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, fx, nn

from workloads import FP32, Format, InputError, LayerFormats
from workloads.folding import fold_batch_norm

from .base import Deployable
from .cpu import CpuTarget
from .cpu_onnxruntime import INT8
from .export import runs_in_int8
from .machine import multiplies_int8_exactly, processor
from .measured import Program, Quiet, Session

MAX_BATCH = 4096
"""Of the code that takes any batch; a batch of one has its own."""

_QUANTISABLE = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)
_INT8_CALL = re.compile(r"aoti_torch_cpu__q(?:conv|linear)\w*\(([^;]*);")
"""oneDNN's int8 kernels, as the generated C++ calls them."""


class CpuTorch(CpuTarget):
    """AOTInductor: `torch.export`, then C++ that is compiled for this processor, with weights folded and packed.

    Eager torch is no deployment proxy, so a network that inductor cannot compile, and a machine without a C++ compiler,
    raise `InputError`. `torch.compile` with freezing was 14 % slower on ResNet-20 and 29 % on MobileNetV2 at batch 1,
    for it calls every kernel from Python. A network is compiled twice, some 5 to 10 seconds each: for a batch of one,
    and for any other when that is asked for. Code for any batch is 3 to 4 % slower at 32 images than code for just 32,
    but 19 % (ResNet-20) to 75 % (MobileNetV2) slower at one.

    A layer whose weight and activation formats are integers of at most 8 bits runs in int8 where the processor is an
    x86 and torchao is installed: quantised by PT2E with static ranges (least and greatest value in the calibration
    images), weights symmetric per output channel on −127…127, so that those that lie on their grid stay there. All
    others run in fp32. `Cost.executed` says which layers the generated code hands to an int8 kernel.

    Torch never unloads compiled code, so sessions share it; activations are laid out anew at every inference anyway.
    """

    base = "cpu-torch"
    summary = "this machine's CPU in torch, compiled by inductor, fp32 and static int8"

    def executed(self, weight: Format, activation: Format) -> tuple[Format, Format]:
        in_int8 = _has_int8() and runs_in_int8(LayerFormats(weight, activation))
        return (INT8, INT8) if in_int8 else (FP32, FP32)

    def _runtime(self) -> dict[str, str]:
        return {
            "runtime": "torch-inductor",
            "version": torch.__version__,
            "compiler": _compiler() or "none",
            "int8": f"torchao {importlib.metadata.version('torchao')}" if _has_int8() else "none",
            "threads": str(self.threads),
        }

    def missing(self) -> str | None:
        if _compiler() is not None:
            return None
        return (
            "a C++ compiler is needed, and there is none: install g++ or clang++ (Debian: apt install g++), or name "
            "one in the variable CXX"
        )

    def _build(self, deployable: Deployable) -> Program:
        missing = self.missing()
        if missing:
            raise InputError(f"target {self.name}: {missing}")
        return _InductorProgram(deployable, self.threads)

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[Quiet]:
        before = torch.get_num_threads()
        with super()._quiet() as quiet:
            torch.set_num_threads(self.threads)
            try:
                yield quiet
            finally:
                torch.set_num_threads(before)


class _InductorProgram(Program):
    """The network as an exported graph, and the code made of it so far."""

    def __init__(self, deployable: Deployable, threads: int) -> None:
        self._name = type(deployable.module).__name__
        self._example, self._threads = deployable.example, threads
        layers = deployable.network.compute_layers
        in_int8 = {
            layer.name.partition("#")[0]
            for layer in layers
            if _has_int8() and runs_in_int8(LayerFormats(layer.weight_format, layer.activation_format))
        }
        folded = fold_batch_norm(deployable.module)
        with _compiling(self._name):
            self._graph = _export(folded, self._example, any_batch=True).module()
            if in_int8:
                self._graph = _quantised(self._graph, deployable.calibration, in_int8)
        self.memory = _stored_bytes(self._graph)
        self._single, code = self._compile(any_batch=False)
        self._any: Callable[[list[Tensor]], list[Tensor]] | None = None
        ran = _layers_in_int8(self._graph, code)
        self.executed: Mapping[str, tuple[Format, Format]] = {
            layer.name: (INT8, INT8) if layer.name.partition("#")[0] in ran else (FP32, FP32) for layer in layers
        }

    def session(self, batch: int, threads: int) -> Session:
        """As in the base class; inductor's own kernels keep the threads that they were compiled for, the other
        kernels take those of `torch.set_num_threads`."""
        if batch == 1:
            return _InductorSession(self._single)
        if self._any is None:
            self._any, _ = self._compile(any_batch=True)
        return _InductorSession(self._any)

    def _compile(self, any_batch: bool) -> tuple[Callable[[list[Tensor]], list[Tensor]], str]:
        """What runs the network, and the C++ that was generated for it."""
        from torch._inductor import aoti_compile_and_package, aoti_load_package
        from torch._inductor.config import patch

        with tempfile.TemporaryDirectory(prefix="shrinkboard-") as folder, _compiling(self._name):
            chosen = {
                "freezing": True,
                "cpp.threads": self._threads,
                # Inductor's own cache would keep the weights of every candidate for ever.
                "aot_inductor.output_path": folder,
                # Constants of up to 8 elements would be written into the code, and lose their name there.
                "always_keep_tensor_constants": True,
                # Only debuggers and profilers read these.
                "aot_inductor.enable_line_tables": False,
                "aot_inductor.enable_frame_pointer": False,
            }
            with patch(chosen):
                program = _export(self._graph, self._example, any_batch)
                package = aoti_compile_and_package(program, package_path=str(Path(folder) / "network.pt2"))
            compiled = aoti_load_package(package, run_single_threaded=True)
            code = "".join(path.read_text(encoding="utf-8") for path in Path(folder).glob("*.wrapper.cpp"))
        # Calling the package itself would parse the description of its arguments every time, some 20 µs.
        return compiled.loader.boxed_run, code


class _InductorSession(Session):
    def __init__(self, run: Callable[[list[Tensor]], list[Tensor]]) -> None:
        self._call = run
        self._images = torch.empty(0)
        self._output = torch.empty(0)

    def feed(self, images: np.ndarray) -> None:
        self._images = torch.tensor(images)

    def run(self) -> None:
        (self._output,) = self._call([self._images])

    def fetch(self) -> np.ndarray:
        return self._output.numpy()


def _has_int8() -> bool:
    """Whether int8 kernels can be had: inductor lowers to those of oneDNN for x86, torchao quantises."""
    return platform.machine().lower() in ("x86_64", "amd64") and importlib.util.find_spec("torchao") is not None


def _compiler() -> str | None:
    """Name and version of the C++ compiler that inductor takes; None where there is none."""
    from torch._inductor.cpp_builder import get_compiler_version_info, get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        said = get_compiler_version_info(get_cpp_compiler())
    except (InvalidCxxCompiler, RuntimeError):
        return None
    version = re.search(r"(?:gcc|clang) version [\d.]+", said)
    return version[0] if version else "unknown"


def _export(module: nn.Module, example: Tensor, any_batch: bool) -> torch.export.ExportedProgram:
    if not any_batch:
        return torch.export.export(module, (example,))
    # An axis of one in the example would be taken for a constant.
    free = ({0: torch.export.Dim("batch", min=1, max=MAX_BATCH)},)
    return torch.export.export(module, (torch.cat([example, example]),), dynamic_shapes=free)


def _quantised(graph: fx.GraphModule, calibration: Sequence[Tensor], layers: set[str]) -> fx.GraphModule:
    """`graph` with static int8 at these layers."""
    from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import QuantizationConfig, QuantizationSpec
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import X86InductorQuantizer

    if not calibration:
        raise InputError("int8 needs calibration images to find the ranges of the activations, and there are none")
    activation = QuantizationSpec(
        torch.uint8,
        MinMaxObserver,
        quant_min=0,
        # Without VNNI 16-bit sums of two products saturate unless one side keeps to 7 bits.
        quant_max=255 if multiplies_int8_exactly(processor()) else 127,
        qscheme=torch.per_tensor_affine,
    )
    weight = QuantizationSpec(
        torch.int8,
        PerChannelMinMaxObserver,
        quant_min=-127,
        quant_max=127,
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
    )
    quantiser = X86InductorQuantizer()
    quantiser.set_global(QuantizationConfig(activation, activation, weight, None))
    quantiser.set_function_type_qconfig(torch.mul, None)  # no layer, so no format was asked for
    for path in {_path(node) for node in graph.graph.nodes if node.target in _QUANTISABLE} - layers:
        quantiser.set_module_name_qconfig(path, None)
    prepared = prepare_pt2e(graph, quantiser)
    for batch in calibration:
        prepared(batch)
    return convert_pt2e(prepared)


def _path(node: fx.Node) -> str:
    """Module path of the layer that a node of an exported graph comes from."""
    return next(reversed(node.meta["nn_module_stack"].values()))[0]


def _layers_in_int8(graph: fx.GraphModule, code: str) -> set[str]:
    """Module paths of the layers that the generated C++ hands to int8 kernels.

    A layer is known there by the name of its weights' scales.
    """
    given = set(re.findall(r"\w+", " ".join(_INT8_CALL.findall(code))))
    weights = {_path(node): node.args[1] for node in graph.graph.nodes if node.target in _QUANTISABLE}
    return {path for path, node in weights.items() if node.op == "call_function" and node.args[1].target in given}


def _stored_bytes(graph: fx.GraphModule) -> int:
    """Of weights and biases, and of the weights' scales and zero points, which are as wide as the weights."""
    stored = {str(node.target): node for node in graph.graph.nodes if node.op == "get_attr"}
    tensors = {name: fx.graph_module._get_attr(graph, name) for name in stored}
    return sum(
        tensor.numel() if name.startswith("_zero_point") else tensor.nbytes
        for name, tensor in tensors.items()
        if isinstance(tensor, Tensor)
    )


@contextlib.contextmanager
def _compiling(name: str) -> Iterator[None]:
    """Without a word on the terminal; raises `InputError` for whatever stops a network from being compiled."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except Exception as error:
        line = (str(error).strip().splitlines() or [""])[0]
        raise InputError(
            f"network {name} cannot be compiled by inductor: {type(error).__name__}: {line}; take another target, "
            "such as cpu-onnxruntime"
        ) from error
    finally:
        logging.disable(disabled)
