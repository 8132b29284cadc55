"""What every measured target shares: programs and sessions, the reference beside the candidate, noise, energy."""

from __future__ import annotations

import abc
import contextlib
import hashlib
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
from .timing import Clock, Comparison, Effort, Prepare, Run, compare, tail

# Above any of these a measurement is repeated once and then marked `unstable`. Ratios were seen to stay within 3 % of
# those in quiet at up to 420 switches a second (scripts/benchmarks/latency_repeatability.py); the limits leave room.
STEAL_LIMIT = 0.10
SWITCHES_LIMIT = 1000.0
WIDTH_LIMIT = 2.0
"""Times the goal for the interval's half width."""

THROUGHPUT_BATCH = 32
THROUGHPUT_SECONDS = 0.1
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
    the candidate is timed beside one of the reference. (Beside single images it varied by 8 % for ResNet-20, by 0.5 %
    so.) Energy is of one inference at batch 1, of the whole device; `net_energy` is without what the device draws when
    idle.

    Telemetry says besides what the device tells of its noise: `calm`, the share of pairs that count;
    `reference_slowdown`, the calm reference of this measurement ÷ its frozen latency; `attempts`, 2 where a disturbed
    measurement was repeated; `throughput_batch` and `throughput_calm`; and `latency_p90` and `latency_p99` of the
    candidate in calm or not, in s and as normalised as the latency, where there are enough samples of single
    inferences. On one CPU thread these are CPU time: what other processes' turns add is not in them.

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

    def _program(self, deployable: Deployable, digest: str | None = None) -> Program:
        """Built once for cost and predict; recognised by content (`digest`), for tuning changes a module in place."""
        key = digest or _digest(deployable)
        if key not in self._programs:
            self._programs[key] = self._build(deployable)
        self._programs[key] = self._programs.pop(key)
        while len(self._programs) > PROGRAMS_KEPT:
            del self._programs[next(iter(self._programs))]
        return self._programs[key]

    def freeze(self, dense: Deployable) -> Reference:
        """As in the base class, with the throughput."""
        latency = self._latency(dense)
        batch = throughput_batch(latency)
        return Reference(dense, latency, batch / self._alone(dense, batch, self.throughput_effort))

    def _latency(self, deployable: Deployable) -> float:
        return self._alone(deployable, 1, self.effort)

    def _alone(self, deployable: Deployable, batch: int, effort: Effort) -> float:
        """Seconds of one run of a batch in calm, and remembers them."""
        digest = _digest(deployable)
        prepare = partial(self._run, self._program(deployable, digest), deployable, batch)
        prepare()()
        levels = self._levels(digest, batch)
        # Ten times as long as a candidate: every later measurement waits for the calm that is found here.
        effort = replace(effort, pairs=10 * effort.pairs, budget=2 * effort.budget)
        with exclusive(self.device), self._quiet() as quiet:
            # The network beside itself: the same loop, whose samples are all of one kind.
            alone = self._compared(prepare, prepare, effort, levels.known(), quiet)
        if not alone.unstable:
            return levels.seen(alone.reference_seconds)
        # All of it was disturbed: what was seen in calm before is nearer to the truth than what was seen now.
        return levels.known() or alone.reference_seconds

    def _cost(self, candidate: Deployable, reference: Reference) -> Cost:
        if reference.latency is None:
            raise InputError(f"target {self.name} needs a reference with a frozen latency; make it with freeze()")
        frozen, digest = reference.latency, _digest(reference.deployable)
        dense, program = self._program(reference.deployable, digest), self._program(candidate)
        levels = self._levels(digest, 1)
        batch = throughput_batch(frozen)

        def sides(size: int) -> tuple[Prepare, Prepare]:
            return partial(self._run, program, candidate, size), partial(self._run, dense, reference.deployable, size)

        if reference.throughput is not None:
            # Some runtimes compile for a batch when it first comes, which is no work for the time the device is ours.
            for prepare in sides(batch):
                prepare()()
        with exclusive(self.device), self._quiet() as quiet:
            single = self._compared(*sides(1), self.effort, levels.known() or frozen, quiet)
            if not single.unstable:
                levels.seen(single.reference_seconds)
            many = None
            if reference.throughput is not None:
                levels = self._levels(digest, batch)
                level = levels.known() or batch / reference.throughput
                many = self._compared(*sides(batch), self.throughput_effort, level, quiet)
                if not many.unstable:
                    levels.seen(many.reference_seconds)
            share = {}
            if self.image:
                decode = partial(_decoder, candidate, self.image)
                # Beside the whole of it: timed alone it would be set against the latency of another moment.
                part = compare(decode, sides(1)[0], self.throughput_effort, None, quiet.move, timer=quiet.timer)
                share["input_share"] = min(part.ratio, 1.0)
            energy = self._energy(program, candidate)
        found = single.found
        slowdown = single.reference_seconds / frozen
        tails = {f"latency_p{percent}": tail(found, percent / 100) for percent in (90, 99)}
        return Cost(
            target=self.key,
            figures={
                "latency": Figure(found.ratio * frozen, self.kind, found.low * frozen, found.high * frozen),
                "throughput": self._throughput(reference.throughput, many),
                **energy.figures,
                "memory": Figure(float(program.memory), self.kind),
            },
            speedup=Figure(1 / found.ratio, self.kind, 1 / found.high, 1 / found.low),
            executed={layer.name: program.executed[layer.name] for layer in candidate.network.compute_layers},
            unstable=single.unstable or (many is not None and not many.found.found_calm),
            telemetry=single.noise
            | energy.telemetry
            | share
            | {
                "calm": float(found.calm.mean()),
                "attempts": float(single.attempts),
                "reference_slowdown": slowdown,
                "throughput_batch": float(batch),
                "throughput_calm": None if many is None else float(many.found.calm.mean()),
            }
            | {name: None if value is None else value / slowdown for name, value in tails.items()},
            samples=single.samples("latency", 1)
            | (many.samples("throughput", batch) if many is not None else {})
            | energy.samples,
            runtime=self.runtime(),
        )

    def _compared(
        self,
        candidate: Prepare,
        reference: Prepare,
        effort: Effort,
        level: float | None,
        quiet: Quiet,
        first: _Compared | None = None,
    ) -> _Compared:
        """Both sides timed; a disturbed measurement is repeated once, with more patience: most end within seconds."""
        telemetry = self._telemetry()
        found = compare(candidate, reference, effort, level, quiet.move, timer=quiet.timer)
        noise = telemetry.read()
        result = _Compared(found, noise, _is_unstable(found, effort, noise), first)
        if not result.unstable or first is not None:
            return result
        return self._compared(candidate, reference, replace(effort, budget=2 * effort.budget), level, quiet, result)

    def _throughput(self, frozen: float | None, many: _Compared | None) -> Figure:
        if frozen is None or many is None:
            return Figure(None, self.kind, reason="the throughput of the dense network was not frozen with its latency")
        found = many.found
        return Figure(frozen / found.ratio, self.kind, frozen / found.high, frozen / found.low)

    def _levels(self, digest: str, batch: int) -> CalmLevels:
        return CalmLevels(self.key, f"{digest} in batches of {batch}")

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
class _Compared:
    """A comparison with the noise that was seen meanwhile, and the one that it repeats."""

    found: Comparison
    noise: dict[str, float | None]
    unstable: bool
    first: _Compared | None = None

    @property
    def attempts(self) -> int:
        return 1 if self.first is None else 2

    @property
    def reference_seconds(self) -> float:
        """Of a run in calm."""
        return float(np.median(self.found.reference[self.found.calm]))

    def samples(self, name: str, batch: int) -> dict[str, list[list[float]]]:
        """Seconds an inference, those of the first attempt too."""
        own = {
            name: (self.found.candidate / batch).tolist(),
            f"{name}_reference": (self.found.reference / batch).tolist(),
        }
        return own if self.first is None else own | self.first.samples(f"{name}_first", batch)


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


def _digest(deployable: Deployable) -> str:
    """Of all that the program follows from: weights, structure, formats, input and calibration."""
    told = hashlib.blake2b(repr((tuple(deployable.example.shape), deployable.network)).encode())
    tensors = [*deployable.module.named_parameters(), *deployable.module.named_buffers()]
    tensors += [("calibration", batch) for batch in deployable.calibration]
    for name, tensor in tensors:
        told.update(name.encode())
        told.update(np.ascontiguousarray(tensor.detach().numpy()).data)
    return told.hexdigest()


def throughput_batch(frozen: float) -> int:
    """Images a batch, for a dense network of that latency in seconds."""
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
