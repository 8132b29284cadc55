"""Target `gpu-torch`: measured on this machine's NVIDIA GPU in torch, as a CUDA graph in one precision."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from workloads import FP32, Format, InputError
from workloads.folding import fold_batch_norm

from .base import Cost, Deployable, Reference
from .gpu import GpuClock, GpuSession, GpuTarget, does_not_run
from .measured import Program, Session
from .options import one_of

PRECISIONS = {
    "fp32": (FP32, torch.float32),
    "tf32": (Format("tensorfloat", 32), torch.float32),
    "fp16": (Format("float", 16), torch.float16),
    "bf16": (Format("bfloat", 16), torch.bfloat16),
}
"""Option → the format that is executed, and the type that tensors have."""
LEAST_CAPABILITY = {"tf32": (8, 0), "bf16": (8, 0), "2:4": (8, 0)}
"""Compute capability (Ampere) from which tensor cores have them; torch emulates bf16 on older cards."""
SPARSE_BLOCK = 32, 64
"""Outputs and inputs of a linear layer must be multiples of these to run in 2:4: the stricter of torch's two kernels
(torch/sparse/semi_structured.py, `_DTYPE_SHAPE_CONSTRAINTS`)."""


class GpuTorch(GpuTarget):
    """torch on an NVIDIA GPU: channels-last, batch norm folded, captured once as a CUDA graph and replayed.

    The whole network runs in `precision`; integers have no kernel in torch on GPUs and run in it too, as the values of
    their grid. In tf32 every layer is let use tensor cores; which kernel it gets is cuDNN's choice. With
    `sparsity=2:4`, linear layers in fp16 or bf16 whose weights have at most two nonzeros in every four, and whose shape
    the kernel takes, run in that kernel; convolutions have none in torch. `sparse_layers` in the telemetry counts them.
    """

    base = "gpu-torch"
    summary = "this machine's NVIDIA GPU in torch, as a CUDA graph in fp32, tf32, fp16 or bf16"
    options: ClassVar = {
        **GpuTarget.options,
        "precision": one_of(*PRECISIONS),
        "sparsity": one_of("none", "2:4"),
    }

    def __init__(self, *efforts: Any, **options: Any) -> None:
        super().__init__(*efforts, **options)
        self.precision: str = self.settings["precision"]
        self.sparse = self.settings["sparsity"] == "2:4"
        if self.sparse and self.precision not in ("fp16", "bf16"):
            raise InputError(
                f"target {self.name}: sparsity=2:4 has kernels for precision=fp16 and bf16, not {self.precision}"
            )

    def executed(self, weight: Format, activation: Format) -> tuple[Format, Format]:
        form, _ = PRECISIONS[self.precision]
        return form, form

    def _runtime(self) -> dict[str, str]:
        return super()._runtime() | {
            "precision": self.precision,
            "sparsity": "2:4" if self.sparse else "none",
            "cache": "cold" if self.cold else "warm",
            "cudnn_benchmark": "off",
        }

    def _build(self, deployable: Deployable) -> Program:
        found = self._accelerator()
        for wanted in (self.precision, "2:4" if self.sparse else "none"):
            least = LEAST_CAPABILITY.get(wanted, (0, 0))
            if found.capability < least:
                has, needs = (".".join(map(str, number)) for number in (found.capability, least))
                raise InputError(
                    f"target {self.name}: {wanted} needs compute capability {needs}, and {found.name} has {has}"
                )
        return _TorchProgram(self, self._clock(), deployable)

    def _cost(self, candidate: Deployable, reference: Reference) -> Cost:
        cost = super()._cost(candidate, reference)
        program = self._program(candidate)
        assert isinstance(program, _TorchProgram)
        return replace(cost, telemetry={**cost.telemetry, "sparse_layers": float(len(program.sparse_layers))})


class _TorchProgram(Program):
    """The folded network on the CPU, in the type that it runs in."""

    def __init__(self, target: GpuTorch, clock: GpuClock, deployable: Deployable) -> None:
        self._target, self._clock = target, clock
        self._folded = fold_batch_norm(deployable.module).to(PRECISIONS[target.precision][1]).requires_grad_(False)
        self._shape = tuple(deployable.example.shape[1:])
        self.sparse_layers = two_of_four_layers(self._folded) if target.sparse else []
        self.memory = stored_bytes(self._folded, self.sparse_layers)
        form, _ = PRECISIONS[target.precision]
        self.executed = {layer.name: (form, form) for layer in deployable.network.compute_layers}

    def session(self, batch: int, threads: int) -> Session:
        try:
            with arithmetic(tf32=self._target.precision == "tf32"):
                return self._captured(batch)
        except InputError:
            raise
        except Exception as error:
            raise does_not_run(self._target.name, self._folded, error) from error

    def _captured(self, batch: int) -> GpuSession:
        device, kind = self._clock.accelerator.device, PRECISIONS[self._target.precision][1]
        module: nn.Module = copy.deepcopy(self._folded).to(device)
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # stubs miss it
        for name in self.sparse_layers:
            layer = module.get_submodule(name)
            compressed = self._clock.accelerator.compressed(layer.get_parameter("weight").detach())
            layer.weight = nn.Parameter(compressed, requires_grad=False)
        shape = (batch, *self._shape)
        given = torch.empty(shape, dtype=kind, device=device, memory_format=torch.channels_last).zero_()
        return GpuSession(self._clock, given, lambda: module(given))


@contextlib.contextmanager
def arithmetic(tf32: bool) -> Iterator[None]:
    """Fixes how kernels are chosen, undone at the end: tf32 in fp32 layers or not, no timing of algorithms by cuDNN.

    What cuDNN's benchmark picks changes from process to process, and latency with it; its rules of thumb do not.
    """
    matmul = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn  # an object that stands in for the module, with more than its stubs know
    before = matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.benchmark
    try:
        matmul.fp32_precision = cudnn.conv.fp32_precision = "tf32" if tf32 else "ieee"
        cudnn.benchmark = False
        yield
    finally:
        matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.benchmark = before


def two_of_four_layers(module: nn.Module) -> list[str]:
    """Paths of the linear layers that a 2:4 kernel can run as they are."""
    return [
        path
        for path, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
        and not layer.out_features % SPARSE_BLOCK[0]
        and not layer.in_features % SPARSE_BLOCK[1]
        and is_two_of_four(layer.weight)
    ]


def is_two_of_four(weight: Tensor) -> bool:
    """Whether at most two of every four neighbouring inputs have a nonzero weight (outputs, inputs)."""
    return bool((weight.reshape(len(weight), -1, 4) != 0).sum(-1).max() <= 2)


def stored_bytes(module: nn.Module, sparse_layers: list[str]) -> int:
    """Bytes of all parameters and buffers; a 2:4 weight keeps half of its values and 2 bits of place for each."""
    sparse = {f"{name}.weight" for name in sparse_layers}
    total = 0
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        dense = tensor.numel() * tensor.element_size()
        total += dense // 2 + tensor.numel() // 8 if name in sparse else dense
    return total
