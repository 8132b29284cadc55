"""Target `cpu-onnxruntime`: measured on this machine's CPU in ONNX Runtime, one thread, fp32 and static int8."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from workloads import FP32, Format, InputError, LayerFormats

from .base import Cost, CostModel, Deployable, Figure, Kind, Reference
from .export import INPUT, export_onnx, layers_in_int8, quantise_onnx, weight_bytes
from .machine import Telemetry, exclusive, fingerprint, multiplies_int8_exactly, pinned, processor
from .power import cpu_power_absence
from .timing import Comparison, Effort, Run, compare, thread_timer

INT8 = Format("int", 8)

# Above any of these a measurement is repeated once and then marked `unstable`. On two cores with three busy processes
# beside it the tool saw up to 420 switches a second and no steal, and its ratios stayed within 3 % of those in quiet
# (scripts/benchmarks/latency_repeatability.py); beyond what was seen nothing is vouched for.
STEAL_LIMIT = 0.10
SWITCHES_LIMIT = 1000.0
WIDTH_LIMIT = 3.0
"""Times the goal for the interval's half width."""

THROUGHPUT_BATCH = 32
THROUGHPUT_SECONDS = 0.25
"""The throughput batch is halved until the reference is expected to take no longer than this for one."""

EXPORTS_KEPT = 4
"""Networks held in exported form: the reference, which every candidate needs, and the last candidates."""


@dataclass(frozen=True)
class _Exported:
    """A network in the form that the runtime loads."""

    data: bytes
    """The graph as optimised for this processor, serialised ONNX."""
    memory: int
    """Bytes of the tensors stored before that."""
    int8_layers: frozenset[str]
    """Layers that the runtime was seen to run in int8."""


class CpuOnnxRuntime(CostModel):
    """Latency beside the frozen dense network, throughput and memory, measured in ONNX Runtime on one pinned thread.

    A layer whose weight and activation formats are integers of at most 8 bits is stored and run in int8 (QDQ); all
    others run in fp32, for which ONNX Runtime has no faster kernel on CPU. `Cost.executed` says what the optimised
    graph really ran.

    Latency = measured ratio to the reference × the reference's frozen latency. Throughput is frozen alike: a batch of
    the candidate is timed beside single images of the reference, so it is comparable within a study. Memory is that of
    all tensors of the exported network. Telemetry says besides what `machine.Telemetry` reads: `calm`, the share of
    pairs that count; `reference_slowdown`, the calm reference of this measurement ÷ its frozen latency;
    `throughput_batch`.
    """

    name = "cpu-onnxruntime"
    kind: Kind = "measured"
    summary = "this machine's CPU in ONNX Runtime, one thread, fp32 and static int8"
    figures = ("latency", "throughput", "energy", "power", "memory")

    def __init__(self, effort: Effort | None = None, throughput_effort: Effort | None = None) -> None:
        self.effort = effort or Effort()
        self.throughput_effort = throughput_effort or Effort(goal=0.03, budget=1.0, pairs=15)
        self._exports: dict[str, _Exported] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Exported networks fit the processor that they were optimised for; another process makes its own.
        return self.__dict__ | {"_exports": {}}

    @property
    def key(self) -> str:
        return (
            f"{self.name}@{fingerprint({'runtime': 'onnxruntime', 'version': onnxruntime.__version__, 'threads': 1})}"
        )

    def executed(self, weight: Format, activation: Format) -> tuple[Format, Format]:
        both_small = all(form.kind == "int" and form.bits <= 8 for form in (weight, activation))
        return (INT8, INT8) if both_small else (FP32, FP32)

    def predict(self, candidate: Deployable, images: Tensor) -> np.ndarray:
        """As in the base class; images go through in batches of 64."""
        # Not timed, so it may use as many threads as this process is given; kernels and results stay those of one.
        session = _session(self._export(candidate).data, threads=torch.get_num_threads())
        outputs = [session.run(None, {INPUT: batch.numpy()})[0] for batch in images.split(64)]
        return np.concatenate([np.asarray(output) for output in outputs])

    def _latency(self, deployable: Deployable) -> float:
        exported = self._export(deployable)
        prepare = partial(_run, exported, deployable, 1)
        # Ten times as long as a candidate: every later measurement waits for the calm that is found here.
        effort = replace(self.effort, pairs=10 * self.effort.pairs, budget=2 * self.effort.budget)
        with exclusive("cpu"), pinned() as pin:
            # The network beside itself: the same loop, whose samples are all of one kind.
            alone = compare(prepare, prepare, effort, move=pin.move, timer=thread_timer())
        return float(np.median(alone.reference[alone.calm]))

    def _cost(self, candidate: Deployable, reference: Reference) -> Cost:
        if reference.latency is None:
            raise InputError(f"target {self.name} needs a reference with a frozen latency; make it with freeze()")
        dense, exported = self._export(reference.deployable), self._export(candidate)
        frozen, batch = reference.latency, _throughput_batch(reference.latency)

        one, batched = partial(_run, exported, candidate, 1), partial(_run, exported, candidate, batch)
        beside = partial(_run, dense, reference.deployable, 1)
        with exclusive("cpu"), pinned() as pin:
            timer = thread_timer()
            # The retry is more patient: most disturbances end within seconds.
            for effort in (self.effort, replace(self.effort, budget=2 * self.effort.budget)):
                telemetry = Telemetry()
                single = compare(one, beside, effort, frozen, pin.move, timer=timer)
                noise = telemetry.read()
                unstable = _is_unstable(single, effort, noise)
                if not unstable:
                    break
            many = compare(batched, beside, self.throughput_effort, frozen, pin.move, timer=timer)
        absence = cpu_power_absence()
        return Cost(
            target=self.key,
            figures={
                "latency": Figure(single.ratio * frozen, self.kind, single.low * frozen, single.high * frozen),
                "throughput": Figure(
                    batch / (many.ratio * frozen), self.kind, batch / (many.high * frozen), batch / (many.low * frozen)
                ),
                "energy": Figure(None, self.kind, reason=absence),
                "power": Figure(None, self.kind, reason=absence),
                "memory": Figure(float(exported.memory), self.kind),
            },
            speedup=Figure(1 / single.ratio, self.kind, 1 / single.high, 1 / single.low),
            executed={
                layer.name: (INT8, INT8) if layer.name.partition("#")[0] in exported.int8_layers else (FP32, FP32)
                for layer in candidate.network.compute_layers
            },
            unstable=unstable,
            telemetry=noise
            | {
                "calm": float(single.calm.mean()),
                "reference_slowdown": float(np.median(single.reference[single.calm])) / frozen,
                "throughput_batch": float(batch),
            },
            samples={
                "latency": single.candidate.tolist(),
                "latency_reference": single.reference.tolist(),
                "throughput": many.candidate.tolist(),
                "throughput_reference": many.reference.tolist(),
            },
        )

    def _export(self, deployable: Deployable) -> _Exported:
        """Exported once for cost and predict; recognised by content, for tuning changes a module in place."""
        key = _digest(deployable)
        if key not in self._exports:
            self._exports[key] = _prepare(deployable)
        self._exports[key] = self._exports.pop(key)
        while len(self._exports) > EXPORTS_KEPT:
            del self._exports[next(iter(self._exports))]
        return self._exports[key]


def _prepare(deployable: Deployable) -> _Exported:
    model = export_onnx(deployable.module, deployable.example)
    formats = {
        layer.name: LayerFormats(layer.weight_format, layer.activation_format)
        for layer in deployable.network.compute_layers
    }
    exact = multiplies_int8_exactly(processor())
    model = quantise_onnx(model, deployable.calibration, formats, reduce_range=not exact)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        _session(model.SerializeToString(), optimised=path)
        data = path.read_bytes()
    return _Exported(data, weight_bytes(model), frozenset(layers_in_int8(onnx.load_from_string(data))))


def _session(data: bytes, optimised: Path | None = None, threads: int = 1) -> onnxruntime.InferenceSession:
    """A session, on one thread unless told otherwise; writes the graph that the runtime made to `optimised`, if given.

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


def _run(exported: _Exported, deployable: Deployable, batch: int) -> Run:
    """A fresh session on `batch` copies of the example, so that memory is placed anew."""
    session = _session(exported.data)
    feed = {INPUT: np.repeat(deployable.example.numpy(), batch, axis=0)}
    return lambda: session.run(None, feed)


def _digest(deployable: Deployable) -> str:
    """Of all that the exported network follows from: weights, structure, formats, input and calibration."""
    told = hashlib.blake2b(repr((tuple(deployable.example.shape), deployable.network)).encode())
    tensors = [*deployable.module.named_parameters(), *deployable.module.named_buffers()]
    tensors += [("calibration", batch) for batch in deployable.calibration]
    for name, tensor in tensors:
        told.update(name.encode())
        told.update(np.ascontiguousarray(tensor.detach().numpy()).data)
    return told.hexdigest()


def _throughput_batch(frozen: float) -> int:
    batch = THROUGHPUT_BATCH
    while batch > 1 and batch * frozen > THROUGHPUT_SECONDS:
        batch //= 2
    return batch


def _is_unstable(single: Comparison, effort: Effort, noise: Mapping[str, float | None]) -> bool:
    return (
        not single.found_calm
        or single.half_width > WIDTH_LIMIT * effort.goal
        or (noise["steal"] or 0.0) > STEAL_LIMIT
        or (noise["switches"] or 0.0) > SWITCHES_LIMIT
    )
