"""An NVIDIA GPU as a device: CUDA graphs timed by events, clocks as they are or locked on request, metered by NVML.

The little that is asked of CUDA itself is `Accelerator`; all else here runs, and is tested, on machines without a GPU.
"""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from workloads import InputError

from .machine import Telemetry, exclusive, pinned
from .measured import MeasuredTarget, Quiet, Session
from .options import Option, one_of
from .power.meter import MeterError, NoMeter, PowerMeter
from .power.nvml import NvmlDevice, nvml_device

LEAD = 5e-4
"""Seconds that the GPU is held up before a sample, while its launches are queued.

A launch takes the CPU some 10 µs. Where a replay is shorter, the GPU would wait for the next launch, between the two
events of a pair too, and what is timed would be the CPU.
"""
CLOCK_LIMIT = 3e9
"""Hertz above which no GPU's clock lies: a wait counted in its cycles is at least as long as meant."""
WARM_UPS = 3
"""Runs before a capture, in which libraries choose algorithms and allocate; torch's notes on CUDA graphs take three."""
PENDING = 512
"""Pairs of events in flight at most; the driver queues about a thousand launches."""


class Event(Protocol):
    """A mark in the GPU's queue, as `torch.cuda.Event`."""

    def record(self) -> None:
        """Puts the mark behind all that is queued."""
        ...

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds from this mark to a later one; both must have been passed."""
        ...


class Accelerator(Protocol):
    """All that is asked of a GPU and its driver. Used by one thread at a time."""

    device: torch.device
    name: str
    """Of the product."""
    uuid: str
    """As NVML writes it, `GPU-…`."""
    capability: tuple[int, int]
    """Compute capability."""
    cache: int
    """Bytes of the last cache before memory (L2)."""
    versions: Mapping[str, str]
    """Of what stands between torch and the device."""

    def captured(self, work: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        """`work` as one launch, and the tensor that every launch leaves its result in.

        Raises where `work` cannot be one, such as where it waits for the device; the next is captured all the same.
        """
        ...

    def compressed(self, weight: Tensor) -> Tensor:
        """A matrix with 2:4 sparsity in the form that a kernel for it reads."""
        ...

    def event(self) -> Event:
        """A new mark."""
        ...

    def occupy(self, seconds: float) -> None:
        """Queues a wait of at least so long, which leaves the cache as it is."""
        ...

    def synchronize(self) -> None:
        """Returns when all that is queued is done."""
        ...


class Cuda:
    """The current CUDA device of torch, as an `Accelerator`."""

    def __init__(self) -> None:
        index = torch.cuda.current_device()
        found = torch.cuda.get_device_properties(index)
        self.device = torch.device("cuda", index)
        self.name: str = found.name
        self.uuid = f"GPU-{found.uuid}"
        self.capability = (found.major, found.minor)
        self.cache: int = found.L2_cache_size
        self.versions: Mapping[str, str] = {
            "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()),
        }
        self._side = torch.cuda.Stream()
        """Where all is captured: torch keeps memory and workspaces for every stream that was ever used."""

    def captured(self, work: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        current = torch.cuda.current_stream()
        self._side.wait_stream(current)
        with torch.cuda.stream(self._side):
            for _ in range(WARM_UPS - 1):
                work()
            with _no_waiting():
                work()
        current.wait_stream(self._side)
        graph = torch.cuda.CUDAGraph()
        # Where a capture fails, torch.cuda.graph leaves its stream the current one; the outer block puts ours back.
        with torch.cuda.stream(current), torch.cuda.graph(graph, stream=self._side):
            output = work()
        return graph.replay, output

    def compressed(self, weight: Tensor) -> Tensor:
        if not torch.backends.cusparselt.is_available():
            raise InputError("sparsity=2:4 needs cuSPARSELt, and this torch comes without it; leave the option out")
        return torch.sparse.to_sparse_semi_structured(weight)

    def event(self) -> Event:
        return torch.cuda.Event(enable_timing=True)

    def occupy(self, seconds: float) -> None:
        # No public call waits on the GPU; torch's own tests and benchmarks hold it up with this one.
        torch.cuda._sleep(int(seconds * CLOCK_LIMIT))

    def synchronize(self) -> None:
        torch.cuda.synchronize()


@contextlib.contextmanager
def _no_waiting() -> Iterator[None]:
    """Work that waits for the GPU raises: what would break a capture off halfway is refused before it."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@functools.cache
def cuda() -> Cuda:
    """The GPU of this process; raises `InputError` where there is none, with what is missing."""
    missing = missing_cuda()
    if missing:
        raise InputError(
            f"no NVIDIA GPU to measure on: {missing}; shrinkboard doctor says what this machine can measure"
        )
    try:
        return Cuda()
    except RuntimeError as error:
        raise InputError(f"the NVIDIA GPU cannot be opened: {_line(error)}; free it, or choose another") from error


def missing_cuda() -> str | None:
    """What keeps torch from using an NVIDIA GPU here, in a few words; None where nothing does."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA, install a build with it (https://pytorch.org)"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of an old driver; that is what is said here
        if torch.cuda.is_available():
            return None
    return "torch finds no CUDA device, check the driver (nvidia-smi) and CUDA_VISIBLE_DEVICES"


class GpuClock:
    """Seconds in which the GPU worked for us: the sum over replays, each between two events of its own.

    With `cold`, twice the bytes of the L2 cache are written before every replay, outside its events, so that weights
    and activations come from memory. Otherwise a replay that does not count comes before each sample, for the cache
    holds what the other side of the pair left there: beside a dense VGG-16, half of one was seen 4 % slower on an H200.
    """

    def __init__(self, accelerator: Accelerator, cold: bool = False) -> None:
        self.accelerator = accelerator
        self._flushed = (
            torch.empty(flush_bytes(accelerator), dtype=torch.int8, device=accelerator.device) if cold else None
        )
        self._spare: list[tuple[Event, Event]] = []
        self._pending: list[tuple[Event, Event]] = []
        self._held: list[Callable[[], object]] = []
        self._total = 0.0
        self._lead = False

    def run(self, replay: Callable[[], object]) -> None:
        """Queues one replay and returns, mostly before its end; until then `replay` and all that it holds is kept."""
        if self._lead:
            self.accelerator.occupy(LEAD)
            if self._flushed is None:
                replay()
            self._lead = False
        if self._flushed is not None:
            self._flushed.zero_()
        start, end = self._spare.pop() if self._spare else (self.accelerator.event(), self.accelerator.event())
        start.record()
        replay()
        end.record()
        self._pending.append((start, end))
        self._held.append(replay)
        if len(self._pending) >= PENDING:
            self.wait()

    def wait(self) -> None:
        """Returns when all replays have ended."""
        self.accelerator.synchronize()
        self._total += sum(start.elapsed_time(end) for start, end in self._pending) / 1e3
        self._spare += self._pending
        self._pending, self._held = [], []

    def seconds(self) -> float:
        """The sum so far, of all replays queued; the next begins a sample and is held up by `LEAD`."""
        self.wait()
        self._lead = True
        return self._total


def flush_bytes(accelerator: Accelerator) -> int:
    """Bytes to write so that nothing else is left in the L2 cache: twice its size."""
    if accelerator.cache <= 0:
        raise InputError(f"cache=cold: {accelerator.name} does not tell the size of its L2 cache; measure it warm")
    return 2 * accelerator.cache


class GpuSession(Session):
    """A captured graph between an input and an output that stay where they are in the GPU's memory."""

    def __init__(self, clock: GpuClock, given: Tensor, work: Callable[[], Tensor]) -> None:
        """`work` reads `given` on the device and returns the output."""
        # The graph knows addresses only: weights and buffers live as long as the work that holds them.
        self._clock, self._given, self._work = clock, given, work
        self._host = torch.empty_like(given, device="cpu", pin_memory=given.is_cuda)
        with torch.no_grad():
            self._replay, self._output = clock.accelerator.captured(work)

    def feed(self, images: np.ndarray) -> None:
        self._clock.accelerator.synchronize()  # a copy under way still reads the host's side
        self._host.copy_(torch.from_numpy(images))
        self._given.copy_(self._host, non_blocking=True)

    def run(self) -> None:
        # Not the replay alone: TensorRT's context, and all else that `work` holds, must outlive what is queued.
        self._clock.run(self._launch)

    def fetch(self) -> np.ndarray:
        self.wait()
        return self._output.to("cpu", torch.float32, copy=True).numpy()

    def wait(self) -> None:
        self._clock.wait()

    def _launch(self) -> None:
        self._replay()


class GpuTelemetry(Telemetry):
    """Besides what the CPU tells, the GPU's `sm_clock_before` and `sm_clock` in Hz, `throttle_reasons` as NVML's bits,
    `throttled` (1 where heat, power or hardware slowed it, at the start or the end) and `celsius`."""

    def __init__(self, gpu: NvmlDevice | NoMeter) -> None:
        super().__init__()
        self._gpu = None if isinstance(gpu, NoMeter) else gpu
        self._before = self._seen()

    def read(self) -> dict[str, float | None]:
        now = self._seen()
        return super().read() | {
            "sm_clock_before": self._before["sm_clock"],
            "sm_clock": now["sm_clock"],
            "throttle_reasons": _either(self._before["throttle_reasons"], now["throttle_reasons"]),
            "throttled": _either(self._before["throttled"], now["throttled"]),
            "celsius": now["celsius"],
        }

    def _seen(self) -> dict[str, float | None]:
        names = "sm_clock", "throttle_reasons", "throttled", "celsius"
        with contextlib.suppress(MeterError):
            if self._gpu is not None:
                return {name: None if (value := getattr(self._gpu, name)()) is None else float(value) for name in names}
        return dict.fromkeys(names)


def _either(before: float | None, after: float | None) -> float | None:
    """The bits of both."""
    seen = [int(bits) for bits in (before, after) if bits is not None]
    return float(functools.reduce(int.__or__, seen)) if seen else None


class GpuTarget(MeasuredTarget):
    """A runtime on torch's current CUDA device, timed on the GPU; `cache` says what lies in its L2 before a run.

    Latency is GPU time between two events round a replay of a CUDA graph. With `image`, everything from the decoding on
    is timed by the wall clock instead, and the CPU is kept to ourselves as well. With `clocks=locked` the GPU keeps one
    clock while it is measured on, which changes it for everyone who uses the card and only root may; otherwise its
    clocks are left as they are, and the telemetry tells them. Energy is that of warm runs; of a cold one it cannot be
    told from that of emptying the cache.
    """

    options: ClassVar[Mapping[str, Option]] = {
        **MeasuredTarget.options,
        "cache": one_of("warm", "cold"),
        "clocks": one_of("free", "locked"),
    }

    def __init__(self, *efforts: Any, **options: Any) -> None:
        super().__init__(*efforts, **options)
        self.cold = self.settings["cache"] == "cold"
        if self.cold and self.image:
            raise InputError(
                f"target {self.name}: with image=… the wall clock would count the emptying of the cache; leave one out"
            )
        self._own_clock: GpuClock | None = None
        self._own_nvml: NvmlDevice | NoMeter | None = None

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_own_clock": None, "_own_nvml": None}

    @property
    def device(self) -> str:  # type: ignore[override]  # asked anew in every process: it may see another GPU
        found = self._present()
        return f"gpu-{found.uuid}" if found else "gpu"

    def _accelerator(self) -> Accelerator:
        """The device; raises `InputError` where there is none."""
        return cuda()

    def missing(self) -> str | None:
        try:
            self._accelerator()
        except InputError as error:
            return str(error)
        return None

    def _present(self) -> Accelerator | None:
        return None if self.missing() else self._accelerator()

    def _clock(self) -> GpuClock:
        if self._own_clock is None:
            self._own_clock = GpuClock(self._accelerator(), self.cold)
        return self._own_clock

    def _runtime(self) -> dict[str, str]:
        found, nvml = self._present(), self._nvml()
        told = {"runtime": "torch", "version": torch.__version__}
        if found is None:
            return told | {"gpu": "none"}
        driver = "unknown" if isinstance(nvml, NoMeter) else nvml.driver
        return told | {"gpu": found.name, "driver": driver, "clocks": self.settings["clocks"], **found.versions}

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[Quiet]:
        quiet = Quiet(_stay, self._clock().seconds)
        with contextlib.ExitStack() as undone:
            if self.image:
                # After the GPU, and targets on the CPU take the CPU alone: no two wait for each other.
                undone.enter_context(exclusive("cpu"))
                quiet = Quiet(undone.enter_context(pinned()).move, time.perf_counter)
            if self.settings["clocks"] == "locked":
                undone.enter_context(self._locked_clocks())
            yield quiet

    @contextlib.contextmanager
    def _locked_clocks(self) -> Iterator[None]:
        nvml = self._nvml()
        try:
            if isinstance(nvml, NoMeter):
                raise MeterError(nvml.reason)
            held = nvml.lock_clocks()
        except MeterError as error:
            raise InputError(
                f"target {self.name}: the clocks cannot be locked ({error}); run as root, or leave clocks=locked out"
            ) from error
        with held:
            yield

    def _telemetry(self) -> Telemetry:
        return GpuTelemetry(self._nvml())

    def _meter(self) -> PowerMeter | NoMeter:
        if self.cold:
            return NoMeter("the energy of a cold run cannot be told from that of emptying the cache; see cache=warm")
        return self._nvml()

    def _nvml(self) -> NvmlDevice | NoMeter:
        if self._own_nvml is None:
            found = self._present()
            # By UUID: NVML counts all GPUs, torch those that CUDA_VISIBLE_DEVICES leaves it.
            self._own_nvml = NoMeter("no NVIDIA GPU") if found is None else nvml_device(uuid=found.uuid)
        return self._own_nvml


def does_not_run(target: str, module: nn.Module, error: Exception) -> InputError:
    """The one line for a network that the GPU or its runtime cannot take."""
    return InputError(
        f"target {target}: network {type(module).__name__} does not run: {type(error).__name__}: {_line(error)}"
    )


def _stay() -> None:
    """There is but one GPU to be on."""


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
