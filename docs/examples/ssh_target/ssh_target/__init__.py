"""`ssh-onnxruntime`: networks timed in ONNX Runtime on another machine, over SSH.

SHRINKBOARD_SSH_HOST names the machine as the command `ssh` takes it, and SHRINKBOARD_SSH_PYTHON its Python, `python3`
unless given, in which shrinkboard is installed; SHRINKBOARD_SSH_CONFIG is a configuration file for `ssh` in place of
the user's own. Logging in must need no password. None of the three reaches a key, an entry or a message.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import numpy as np
import onnx
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator
from torch import Tensor

import shrinkboard as sb

WORKER = (Path(__file__).parent / "worker.py").read_text(encoding="utf-8")
SECONDS = 60.0
"""That an answer may take, the time to measure and to wait for another measurement apart."""
LOCK_SECONDS = 600.0
"""As in the worker."""
ANSWER_BYTES = 64 * 2**20
PREDICT_BATCH = 64
WIDTH_LIMIT = 2.0
"""Times the goal for the interval's half width: a wider one is measured again, and then marked unstable."""
FP32, INT8 = sb.Format("float", 32), sb.Format("int", 8)


class SshOnnxRuntime(sb.CostModel):
    """Latency beside the dense network in interleaved pairs, one thread, on the far machine's CPU.

    Graphs are made here and sent as ONNX; formats are those of `cpu-onnxruntime`. One measurement at a time: the lock
    is the far machine's. A machine that cannot be reached or does not answer as agreed raises `InputError`, already
    when the target is opened.
    """

    name = "ssh-onnxruntime"
    kind = "measured"
    summary = "another machine's CPU in ONNX Runtime, over SSH, fp32 and static int8"
    figures = ("latency", "memory")

    def __init__(self, effort: sb.Effort | None = None) -> None:
        self.effort = effort or sb.Effort()
        self.far = ask(Description, "describe")

    @property
    def key(self) -> str:
        return f"{self.name}@{self.far.fingerprint}"

    def executed(self, weight: sb.Format, activation: sb.Format) -> tuple[sb.Format, sb.Format]:
        in_int8 = sb.runs_in_int8(sb.LayerFormats(weight, activation))
        return (INT8, INT8) if in_int8 else (FP32, FP32)

    def predict(self, candidate: sb.Deployable, images: Tensor) -> np.ndarray:
        graph = self._onnx(candidate).SerializeToString()
        return np.concatenate([self._outputs(graph, batch.numpy()) for batch in images.split(PREDICT_BATCH)])

    def _latency(self, deployable: sb.Deployable) -> float:
        # Ten times as long as a candidate, as every later latency is a multiple of this one.
        effort = replace(self.effort, pairs=10 * self.effort.pairs, budget=2 * self.effort.budget)
        graph = self._onnx(deployable).SerializeToString()
        return self._measure(graph, graph, deployable.example, effort, None).reference

    def _cost(self, candidate: sb.Deployable, reference: sb.Reference) -> sb.Cost:
        frozen = reference.latency
        if frozen is None:
            raise sb.InputError(f"target {self.name} needs a reference with a frozen latency; make it with freeze()")
        model, dense = self._onnx(candidate), self._onnx(reference.deployable).SerializeToString()
        graph = model.SerializeToString()
        for effort in (self.effort, replace(self.effort, budget=2 * self.effort.budget)):
            found = self._measure(graph, dense, candidate.example, effort, frozen)
            unstable = not found.found_calm or found.high - found.low > 2 * WIDTH_LIMIT * effort.goal * found.ratio
            if not unstable:
                break
        in_int8 = sb.layers_in_int8(_graph(found.ran))
        return sb.Cost(
            target=self.key,
            figures={
                "latency": sb.Figure(found.ratio * frozen, self.kind, found.low * frozen, found.high * frozen),
                "memory": sb.Figure(float(sb.weight_bytes(model)), self.kind),
            },
            speedup=sb.Figure(1 / found.ratio, self.kind, 1 / found.high, 1 / found.low),
            executed={
                # NAME#2 is a second call of NAME.
                layer.name: (INT8, INT8) if layer.name.partition("#")[0] in in_int8 else (FP32, FP32)
                for layer in candidate.network.compute_layers
            },
            unstable=unstable,
            telemetry=found.telemetry,
            samples=found.samples,
            runtime=self.far.runtime,
        )

    def _onnx(self, deployable: sb.Deployable) -> onnx.ModelProto:
        layers = deployable.network.compute_layers
        formats = {layer.name: sb.LayerFormats(layer.weight_format, layer.activation_format) for layer in layers}
        plain = sb.export_onnx(deployable.module, deployable.example)
        return sb.quantise_onnx(plain, deployable.calibration, formats, reduce_range=not self.far.exact_int8)

    def _measure(
        self, candidate: bytes, reference: bytes, example: Tensor, effort: sb.Effort, level: float | None
    ) -> Measurement:
        return ask(
            Measurement,
            "measure",
            [candidate, reference, example.numpy().astype(np.float32).tobytes()],
            SECONDS + LOCK_SECONDS + 3 * effort.budget,
            shape=list(example.shape),
            effort=asdict(effort),
            level=level,
        )

    def _outputs(self, graph: bytes, images: np.ndarray) -> np.ndarray:
        found = ask(Outputs, "predict", [graph, images.astype(np.float32).tobytes()], shape=list(images.shape))
        try:
            values = np.frombuffer(base64.b64decode(found.values, validate=True), np.float32)
            if found.shape[0] != len(images):
                raise ValueError
            return values.reshape(found.shape)
        except ValueError:
            raise _failure(
                f"got outputs that are not {len(images)} rows in the shape that they are said to have"
            ) from None


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Failure(_Answer):
    """The type of an exception there; what it says may name the host."""

    error: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")


class Description(_Answer):
    """What the far machine says of itself."""

    fingerprint: str = Field(pattern=r"^[0-9a-f]{8}$")
    runtime: dict[str, str] = Field(max_length=16)
    exact_int8: bool


Positive = Annotated[float, Field(gt=1e-30, lt=1e30)]
"""Products and inverses are finite too."""


class Measurement(_Answer):
    """What the far machine measured: seconds, and ratios of candidate to reference with their interval."""

    ratio: Positive
    low: Positive
    high: Positive
    found_calm: bool
    reference: Positive
    samples: dict[str, list[list[float]]] = Field(max_length=4)
    telemetry: dict[str, float | None] = Field(max_length=64)
    ran: str
    """The candidate's graph as the far runtime optimised it, without weights, in base64."""

    @model_validator(mode="after")
    def _ratio_lies_in_its_interval(self) -> Self:
        if not self.low <= self.ratio <= self.high:
            raise ValueError
        return self


class Outputs(_Answer):
    """Float32 values in base64, a row an image."""

    shape: list[PositiveInt] = Field(min_length=1, max_length=8)
    values: str


Answer = TypeVar("Answer", bound=_Answer)


def ask(kind: type[Answer], do: str, parts: Sequence[bytes] = (), seconds: float = SECONDS, **question: Any) -> Answer:
    """The far machine's answer to a question; raises `InputError` where none of that kind comes within `seconds`."""
    host = os.environ.get("SHRINKBOARD_SSH_HOST", "")
    if not re.fullmatch(r"[\w\[][\w.@:%\[\]-]*", host):
        raise _failure("has no machine to measure on: set SHRINKBOARD_SSH_HOST to a name that the command ssh takes")
    python, config = os.environ.get("SHRINKBOARD_SSH_PYTHON", "python3"), os.environ.get("SHRINKBOARD_SSH_CONFIG")
    command = ["ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", *(["-F", config] if config else [])]
    command += ["--", host, f"{shlex.quote(python)} -c {shlex.quote(WORKER)}"]
    said, code = _run(
        command, [_line(question | {"do": do, "lengths": [len(part) for part in parts]}), *parts], seconds
    )
    if code == 255:
        raise _failure("cannot reach or log in to the machine of SHRINKBOARD_SSH_HOST; try it with ssh by hand")
    if code in (126, 127):
        raise _failure("finds no Python there; set SHRINKBOARD_SSH_PYTHON to one in which shrinkboard is installed")
    if code != 0:
        raise _failure("finds no shrinkboard there; install the one of this machine in the Python that it runs")
    # What a login script prints comes before the answer.
    answer = said.strip().rsplit(b"\n", 1)[-1]
    try:
        return kind.model_validate_json(answer)
    except ValidationError as error:
        broken = error.errors()[0]
    with contextlib.suppress(ValidationError):
        failed = Failure.model_validate_json(answer).error
        if failed == "InputError":  # of all that runs there only the lock raises it
            raise _failure("cannot have the lock of the other machine; let the measurement there end")
        raise _failure(f"meets {failed} on the other machine; install the same shrinkboard there and here")
    if broken["type"] == "json_invalid":
        raise _failure("got an answer that is no JSON; run no other output in the login script there")
    # Names that are not ours may be the host's.
    where = next((name for name in broken["loc"][:1] if name in kind.model_fields), "as a whole")
    raise _failure(f"got an answer of another form ({where}); install the same shrinkboard there and here")


def _run(command: Sequence[str], parts: Sequence[bytes], seconds: float) -> tuple[bytes, int]:
    """What a command says on standard output, at most `ANSWER_BYTES`, and its exit code, given `parts` to read."""
    with tempfile.TemporaryFile() as given:
        given.writelines(parts)
        given.seek(0)
        try:
            # Messages of ssh name the host, so they are not passed on.
            process = subprocess.Popen(command, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        except OSError:
            raise _failure("needs the command ssh, which is not installed here") from None
    late = threading.Event()

    def give_up() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds, give_up)
    timer.start()
    try:
        with process:
            assert process.stdout is not None
            said = process.stdout.read(ANSWER_BYTES + 1)
            if len(said) > ANSWER_BYTES:
                process.kill()
    finally:
        timer.cancel()
    if late.is_set():
        raise _failure(f"got no answer within {seconds:g} s")
    if len(said) > ANSWER_BYTES:
        raise _failure(f"got an answer of more than {ANSWER_BYTES} bytes")
    return said, process.returncode


def _graph(text: str) -> onnx.ModelProto:
    try:
        return onnx.load_from_string(base64.b64decode(text, validate=True))
    except Exception:  # of its parser's own
        raise _failure("got a graph that is no ONNX") from None


def _line(question: dict[str, Any]) -> bytes:
    return json.dumps(question).encode() + b"\n"


def _failure(what: str) -> sb.InputError:
    return sb.InputError(f"target {SshOnnxRuntime.name} {what}")
