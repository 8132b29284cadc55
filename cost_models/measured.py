"""What every measured target shares: programs and sessions, the reference beside the candidate, noise, energy."""

from __future__ import annotations

import abc
import contextlib
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import PIL
from torch import Tensor

from workloads import Format, InputError

from .base import Cost, CostModel, Deployable, Figure, Kind, Reference
from .calm import CalmLevels
from .input_pipeline import encoded_picture, network_input
from .machine import Telemetry, exclusive, fingerprint
from .options import Option, named, one_of, picture_size
from .power.energy import EnergyEffort, measure_energy
from .power.meter import MeterError, NoMeter, PowerMeter
from .timing import Clock, Comparison, Effort, Run, compare, tail

# Above any of these a measurement is repeated once and then marked `unstable`. On two cores with three busy processes
# beside it the tool saw up to 420 switches a second and no steal, and its ratios stayed within 3 % of those in quiet
# (scripts/benchmarks/latency_repeatability.py); beyond what was seen nothing is vouched for.
STEAL_LIMIT = 0.10
SWITCHES_LIMIT = 1000.0
WIDTH_LIMIT = 2.0
"""Times the goal for the interval's half width."""

THROUGHPUT_BATCH = 32
THROUGHPUT_SECONDS = 0.25
"""The throughput batch is halved until the reference is expected to take no longer than this for one."""
PREDICT_BATCH = 64

PROGRAMS_KEPT = 4
"""Networks held in the runtime's form: the reference, which every candidate needs, and the last candidates."""


class Session(abc.ABC):
    """A network set up in a runtime for batches of one size, with its memory laid out anew."""

    @abc.abstractmethod
    def feed(self, images: np.ndarray) -> None:
        """Puts normalised images, float32 (N, C, H, W), where the network reads them."""

    @abc.abstractmethod
    def run(self) -> None:
        """One inference on what was fed; on an accelerator it may return before the end."""

    @abc.abstractmethod
    def fetch(self) -> np.ndarray:
        """The outputs of the last run, which it waits for."""

    def wait(self) -> None:
        """Returns when all runs have ended."""
        return None


class Program(abc.ABC):
    """A network in the form that a runtime loads."""

    memory: int
    """Bytes of all that it stores: weights, biases, scales and zero points."""
    executed: Mapping[str, tuple[Format, Format]]
    """Layer → (weight format, activation format) that the runtime was seen to run."""

    @abc.abstractmethod
    def session(self, batch: int, threads: int) -> Session:
        """A fresh session for batches of so many images."""


@dataclass(frozen=True)
class Quiet:
    """The device while it is ours."""

    move: Callable[[], None]
    """Goes elsewhere on the device, away from what disturbs."""
    timer: Clock
    """Seconds in which the device worked for us."""


class MeasuredTarget(CostModel):
    """Latency beside the frozen dense network, throughput, energy where a meter is, and memory.

    A runtime's own class says how a network becomes a `Program`, how the device is kept to ourselves, and what is
    read of its noise and its power; everything else stands here.

    Latency = measured ratio to the reference × the reference's frozen latency. Throughput is frozen alike: a batch of
    the candidate is timed beside one of the reference. (Beside single images it varied by 8 % for ResNet-20, 0.6 % so:
    a batch does not fit into the caches, which a neighbour shares.) Energy is of one
    inference at batch 1, of the whole device; `net_energy` is without what the device draws when idle. Telemetry says
    besides what the device tells of its noise: `calm`, the share of pairs that count; `reference_slowdown`, the calm
    reference of this measurement ÷ its frozen latency; `throughput_batch`; and `latency_p90` and `latency_p99` of the
    candidate as it was disturbed or not, where there are enough samples of single inferences.

    With `image`, (width, height) of a picture, everything timed begins with a JPEG of that size: decode, resize,
    normalise, copy to the network, and fetch the output. `input_share` in the telemetry then is the share of the
    candidate's latency in which the picture is decoded, resized and normalised. Metering takes a minute or so a
    candidate where there is a meter; `energy=off` leaves it out.
    """

    kind: Kind = "measured"
    figures = ("latency", "throughput", "energy", "net_energy", "power", "memory")
    device: str
    """What is locked: one measurement at a time, between processes too."""
    base: str
    """The target's name without options."""
    options: ClassVar[Mapping[str, Option]] = {
        "image": picture_size,
        "energy": one_of("on", "off"),
    }
    """What may stand behind the name, `NAME:option=value`, and how each value is read."""

    def __init__(
        self,
        effort: Effort | None = None,
        throughput_effort: Effort | None = None,
        energy_effort: EnergyEffort | None = None,
        **options: Any,
    ) -> None:
        """`options` are by the names and in the types of the class's `options`; the name says those that differ."""
        self.effort = effort or Effort()
        self.throughput_effort = throughput_effort or Effort(goal=0.03, budget=1.0, pairs=15)
        self.energy_effort = energy_effort or EnergyEffort()
        settings = {name: option.default for name, option in self.options.items()} | options
        self.settings: Mapping[str, Any] = settings
        """The value of every option."""
        self.image: tuple[int, int] | None = settings["image"]
        self.name = named(self.base, settings, self.options)
        self._programs: dict[str, Program] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Programs fit the processor that they were optimised for; another process makes its own.
        return self.__dict__ | {"_programs": {}}

    @property
    def key(self) -> str:
        return f"{self.name}@{fingerprint(self.runtime())}"

    def runtime(self) -> dict[str, str]:
        """Versions and settings that make results differ, in words for the entry and the fingerprint."""
        return self._runtime() | ({"pillow": PIL.__version__} if self.image else {})

    def predict(self, candidate: Deployable, images: Tensor) -> np.ndarray:
        """As in the base class; images go through in batches of 64."""
        program = self._program(candidate)
        sessions: dict[int, Session] = {}
        outputs = []
        for batch in images.split(PREDICT_BATCH):
            if len(batch) not in sessions:
                # Not timed, so it may use as many threads as it is given; kernels and results stay those of one.
                sessions[len(batch)] = program.session(len(batch), self._predict_threads())
            session = sessions[len(batch)]
            session.feed(batch.numpy())
            session.run()
            outputs.append(session.fetch())
        return np.concatenate(outputs)

    @abc.abstractmethod
    def _build(self, deployable: Deployable) -> Program:
        """The network for this runtime; raises `InputError` where it cannot take it."""

    @abc.abstractmethod
    def _runtime(self) -> dict[str, str]:
        """Versions and settings of what runs the network, as `runtime` tells them."""

    @abc.abstractmethod
    def _quiet(self) -> contextlib.AbstractContextManager[Quiet]:
        """The device as kept for a measurement: pinned, clocks locked; undone at the end."""

    def _telemetry(self) -> Telemetry:
        return Telemetry()

    @abc.abstractmethod
    def _meter(self) -> PowerMeter | NoMeter:
        """The meter of the device."""

    def _threads(self) -> int:
        """Of the CPU, in what is timed."""
        return 1

    def _predict_threads(self) -> int:
        return self._threads()

    def _program(self, deployable: Deployable) -> Program:
        """Built once for cost and predict; recognised by content, for tuning changes a module in place."""
        key = _digest(deployable)
        if key not in self._programs:
            self._programs[key] = self._build(deployable)
        self._programs[key] = self._programs.pop(key)
        while len(self._programs) > PROGRAMS_KEPT:
            del self._programs[next(iter(self._programs))]
        return self._programs[key]

    def freeze(self, dense: Deployable) -> Reference:
        """As in the base class, with the throughput."""
        latency = self._latency(dense)
        batch = _throughput_batch(latency)
        return Reference(dense, latency, batch / self._alone(dense, batch, self.throughput_effort))

    def _latency(self, deployable: Deployable) -> float:
        return self._alone(deployable, 1, self.effort)

    def _alone(self, deployable: Deployable, batch: int, effort: Effort) -> float:
        """Seconds of one run of a batch in calm, and remembers them."""
        prepare = partial(self._run, self._program(deployable), deployable, batch)
        prepare()()
        levels = self._levels(deployable, batch)
        # Ten times as long as a candidate: every later measurement waits for the calm that is found here.
        effort = replace(effort, pairs=10 * effort.pairs, budget=2 * effort.budget)
        with exclusive(self.device), self._quiet() as quiet:
            # The network beside itself: the same loop, whose samples are all of one kind.
            for attempt in (effort, replace(effort, budget=2 * effort.budget)):
                alone = compare(prepare, prepare, attempt, levels.known(), quiet.move, timer=quiet.timer)
                if alone.found_calm:
                    return levels.seen(_calm_level(alone))
        # All of it was disturbed: what was seen in calm before is nearer to the truth than what was seen now.
        return levels.known() or _calm_level(alone)

    def _cost(self, candidate: Deployable, reference: Reference) -> Cost:
        if reference.latency is None:
            raise InputError(f"target {self.name} needs a reference with a frozen latency; make it with freeze()")
        dense, program = self._program(reference.deployable), self._program(candidate)
        frozen = reference.latency
        levels = self._levels(reference.deployable, 1)
        level = min(frozen, levels.known() or math.inf)
        one, beside = (
            partial(self._run, runs, network, 1)
            for runs, network in ((program, candidate), (dense, reference.deployable))
        )
        with exclusive(self.device), self._quiet() as quiet:
            # The retry is more patient: most disturbances end within seconds.
            for effort in (self.effort, replace(self.effort, budget=2 * self.effort.budget)):
                telemetry = self._telemetry()
                single = compare(one, beside, effort, level, quiet.move, timer=quiet.timer)
                noise = telemetry.read()
                unstable = _is_unstable(single, effort, noise)
                if not unstable:
                    levels.seen(_calm_level(single))
                    break
            throughput, batches = self._throughput(candidate, reference, quiet)
            share = {}
            if self.image:
                decode = partial(_decoder, candidate, self.image)
                # Beside the whole of it: timed alone it would be set against the latency of another moment.
                part = compare(decode, one, self.throughput_effort, None, quiet.move, timer=quiet.timer)
                share["input_share"] = min(part.ratio, 1.0)
            energy = self._energy(program, candidate)
        return Cost(
            target=self.key,
            figures={
                "latency": Figure(single.ratio * frozen, self.kind, single.low * frozen, single.high * frozen),
                "throughput": throughput,
                **energy.figures,
                "memory": Figure(float(program.memory), self.kind),
            },
            speedup=Figure(1 / single.ratio, self.kind, 1 / single.high, 1 / single.low),
            executed={layer.name: program.executed[layer.name] for layer in candidate.network.compute_layers},
            unstable=unstable,
            telemetry=noise
            | energy.telemetry
            | share
            | {
                "calm": float(single.calm.mean()),
                "reference_slowdown": _calm_level(single) / frozen,
                "throughput_batch": float(_throughput_batch(frozen)),
                "latency_p90": tail(single, 0.90),
                "latency_p99": tail(single, 0.99),
            },
            samples={
                "latency": single.candidate.tolist(),
                "latency_reference": single.reference.tolist(),
            }
            | batches
            | energy.samples,
            runtime=self.runtime(),
        )

    def _throughput(
        self, candidate: Deployable, reference: Reference, quiet: Quiet
    ) -> tuple[Figure, dict[str, list[list[float]]]]:
        """The figure, and its samples by name: seconds of an inference in a batch."""
        if reference.throughput is None or reference.latency is None:
            return Figure(None, self.kind, reason="the throughput of this study's dense network was not frozen"), {}
        batch = _throughput_batch(reference.latency)
        batched, beside = (
            partial(self._run, self._program(network), network, batch) for network in (candidate, reference.deployable)
        )
        for prepare in (batched, beside):
            # Some runtimes compile for a batch when it first comes, which may take longer than this measurement.
            prepare()()
        levels = self._levels(reference.deployable, batch)
        level = min(batch / reference.throughput, levels.known() or math.inf)
        found = compare(batched, beside, self.throughput_effort, level, quiet.move, timer=quiet.timer)
        figure = Figure(
            reference.throughput / found.ratio,
            self.kind,
            reference.throughput / found.high,
            reference.throughput / found.low,
        )
        return figure, {
            "throughput": (found.candidate / batch).tolist(),
            "throughput_reference": (found.reference / batch).tolist(),
        }

    def _levels(self, deployable: Deployable, batch: int) -> CalmLevels:
        return CalmLevels(self.key, f"{_digest(deployable)} in batches of {batch}")

    def _run(self, program: Program, deployable: Deployable, batch: int) -> Run:
        """A fresh session on `batch` copies of the example, or of its picture."""
        return self._work(program.session(batch, self._threads()), deployable, batch)

    def _work(self, session: Session, deployable: Deployable, batch: int) -> Run:
        """What is timed and metered on a session."""
        if self.image is None:
            session.feed(np.repeat(deployable.example.numpy(), batch, axis=0))
            return session.run
        decode = _decoder(deployable, self.image)

        def end_to_end() -> None:
            session.feed(np.concatenate([decode() for _ in range(batch)]))
            session.run()
            session.fetch()

        return end_to_end

    def _energy(self, program: Program, deployable: Deployable) -> _Energy:
        """Of one inference at batch 1, of all that the latency counts."""
        meter = self._meter() if self.settings["energy"] == "on" else NoMeter("left out by energy=off")
        if isinstance(meter, NoMeter):
            return _no_energy(meter.reason)
        session = program.session(1, self._threads())
        try:
            reading = measure_energy(meter, self._work(session, deployable, 1), session.wait, self.energy_effort)
        except MeterError as error:
            return _no_energy(str(error))
        return _Energy(
            {
                "energy": Figure(reading.gross.value, self.kind, reading.gross.low, reading.gross.high),
                "net_energy": Figure(reading.net.value, self.kind, reading.net.low, reading.net.high)
                if reading.net
                else Figure(None, self.kind, reason=reading.net_reason),
                "power": Figure(reading.power.value, self.kind, reading.power.low, reading.power.high),
            },
            reading.telemetry,
            reading.samples,
        )


@dataclass(frozen=True)
class _Energy:
    """A metered inference, in the parts of a `Cost`."""

    figures: dict[str, Figure]
    telemetry: dict[str, float | None] = field(default_factory=dict)
    samples: dict[str, list[list[float]]] = field(default_factory=dict)


def _no_energy(reason: str) -> _Energy:
    return _Energy({name: Figure(None, "measured", reason=reason) for name in ("energy", "net_energy", "power")})


def _decoder(deployable: Deployable, size: tuple[int, int]) -> Callable[[], np.ndarray]:
    channels, height, width = deployable.example.shape[1:]
    return partial(network_input, encoded_picture(deployable.example, size), (channels, height, width))


def _calm_level(found: Comparison) -> float:
    """Of the reference, in seconds."""
    return float(np.median(found.reference[found.calm]))


def _digest(deployable: Deployable) -> str:
    """Of all that the program follows from: weights, structure, formats, input and calibration."""
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
        or (noise.get("throttled") or 0.0) > 0
    )
