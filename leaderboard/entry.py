"""An entry: all that is needed to rank, re-create and re-measure one candidate, and its exchange format in JSON."""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from .errors import LeaderboardError, quoted

SCHEMA_VERSION = 4
Kind = Literal["measured", "modelled"]
Role = Literal["candidate", "control", "finalist"]
"""Of a search; beside it, such as the dense network; a candidate on the front, trained again on a fresh seed."""
Start = Literal["trained", "initial"]

# Far above what an honest entry needs (ours have about 100 kB), low enough that a hostile file stays cheap.
_MAX_CHARACTERS = 16_000_000
_MAX_DEPTH = 32
_MAX_VALUES = 100_000
_INT64 = 2**63 - 1


def _one_line(text: str) -> str:
    # Line separators and terminal escapes would break tables and messages; lone surrogates cannot be written as UTF-8.
    refused = ("Cc", "Cs", "Zl", "Zp")
    if not text.isprintable() and any(unicodedata.category(character) in refused for character in text):
        raise ValueError("should hold no control characters and no line breaks")
    return text


def _utc(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or not text.endswith("Z"):
        raise ValueError("should be a time in UTC such as 2026-11-22T03:08:21Z")
    return text


def _plain(value: Any) -> Any:
    """A copy of a JSON object that holds nothing but plain, finite and printable data of bounded size."""
    count = 0

    def copy(item: Any, depth: int) -> Any:
        nonlocal count
        count += 1
        if depth > _MAX_DEPTH or count > _MAX_VALUES:
            raise ValueError(f"should be nested at most {_MAX_DEPTH} deep and hold at most {_MAX_VALUES} values")
        if item is None or isinstance(item, bool):
            return item
        if isinstance(item, int):
            if abs(item) > _INT64:
                raise ValueError("should hold only integers of 64 bits")
            return int(item)
        if isinstance(item, float):
            if not math.isfinite(item):
                raise ValueError("should hold only finite numbers")
            return float(item)
        if isinstance(item, str):
            return _one_line(str(item))
        if isinstance(item, (list, tuple)):
            return [copy(child, depth + 1) for child in item]
        if isinstance(item, Mapping):
            for key in item:
                if not isinstance(key, str):
                    raise ValueError("should have only strings as keys")
            return {_one_line(key): copy(child, depth + 1) for key, child in item.items()}
        raise ValueError(f"should be plain JSON data, but holds a {type(item).__name__}")

    if not isinstance(value, Mapping):
        raise ValueError("should be a JSON object")
    return copy(value, 0)


Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_one_line)]
Text = Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(_one_line)]
JsonObject = Annotated[dict[str, Any], BeforeValidator(_plain)]
Count = Annotated[int, Field(ge=0, le=_INT64)]
# Far above anything real, low enough that sums and squares of what strangers report stay finite.
Amount = Annotated[float, Field(ge=0, le=1e30)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Formats = Annotated[tuple[Name, Name], Field(strict=False)]


class Record(BaseModel):
    """Frozen, strict, and closed to unknown fields, NaN and infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Figure(Record):
    """A number of a cost in `unit`, with its 95 % interval `low`…`high`; or None and the `reason` why there is none."""

    value: Amount | None
    unit: Name
    low: Amount | None = None
    high: Amount | None = None
    reason: Text | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_figure(self.value, self.low, self.high, self.reason)
        return self


class Speedup(Record):
    """Latency of the frozen dense reference ÷ latency of the candidate, with its 95 % interval; larger is faster."""

    value: Annotated[float, Field(gt=0, le=1e30)] | None
    low: Amount | None = None
    high: Amount | None = None
    reason: Text | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_figure(self.value, self.low, self.high, self.reason)
        return self


def _check_figure(value: float | None, low: float | None, high: float | None, reason: str | None) -> None:
    if (value is None) == (reason is None):
        raise ValueError("should have either a value or the reason why there is none")
    if (low is None) != (high is None) or (low is not None and high is not None and low > high):
        raise ValueError("should have an interval with low ≤ high, or none")


class Scores(Record):
    """Accuracies as fractions in 0…1; what does not apply to the task is None."""

    top1: Fraction | None = None
    top5: Fraction | None = None
    miou: Fraction | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.top1 is None and self.miou is None:
            raise ValueError("should hold top1 or miou")
        return self

    @property
    def primary(self) -> float:
        """mIoU of a segmentation, top-1 otherwise."""
        value = self.top1 if self.miou is None else self.miou
        assert value is not None
        return value


class Accuracy(Record):
    """Accuracy of the candidate on the validation split and, for a finalist, on the test split."""

    validation: Scores
    test: Scores | None = None
    dense_validation: Fraction
    """Primary figure of the dense network that the candidate came from."""
    dense_test: Fraction | None = None
    """The same on the test split; there where `test` is."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.test is None) != (self.dense_test is None):
            raise ValueError("should have both test and dense_test, or neither")
        return self

    @model_serializer(mode="wrap")
    def _without_what_schema_3_lacked(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_absent(plain(self), "dense_test")


class TargetCost(Record):
    """What the candidate costs on one target."""

    target: Name
    """Such as `cpu-onnxruntime`."""
    key: Name
    """What results are ranked under: `target`, or `target@fingerprint` where machine and runtime matter."""
    kind: Kind
    figures: dict[Name, Figure]
    """By name, such as latency (s), energy (J), memory (B)."""
    speedup: Speedup | None = None
    executed: dict[Name, Formats] = Field(default_factory=dict)
    """Layer → (weight format, activation format) that the target really runs."""
    runtime_accuracy: Scores | None = None
    """Validation accuracy of the exported network as the target runs it; the ranking prefers it."""
    runtime_test: Scores | None = None
    """The same on the test split."""
    unstable: bool = False
    """True where the machine was too noisy for the figures to be trusted."""
    telemetry: dict[Name, float | None] = Field(default_factory=dict)
    samples: dict[Name, list[list[float]]] = Field(default_factory=dict)
    """Raw samples by name, one list a block."""
    runtime: dict[Name, Name] = Field(default_factory=dict)
    """Versions and settings of the runtime that measured, which the fingerprint in `key` covers; empty where nothing
    ran, and in entries of schemas 1 and 2."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.key != self.target and not self.key.startswith(self.target + "@"):
            raise ValueError("should have as key its target, or its target followed by @ and a fingerprint")
        latency = self.figures.get("latency")
        if latency is not None and latency.unit != "s":
            raise ValueError("should give its latency in the unit s")
        return self

    @model_serializer(mode="wrap")
    def _without_what_schemas_2_and_3_lacked(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_absent(plain(self), "runtime", "runtime_test")

    def value(self, figure: str) -> float | None:
        """The value of a figure, None where it is absent."""
        found = self.figures.get(figure)
        return None if found is None else found.value


class Training(Record):
    """What the recipe cost, and what the dense network cost."""

    epochs: Amount
    seconds: Amount
    images: Count
    """That went through a forward and backward pass."""
    dense_epochs: Amount
    dense_seconds: Amount
    """Zero where its weights came from a checkpoint."""
    starts_from: Start | None = None
    """The weights that the recipe started from; None in entries of schema 1, all of which started from trained ones."""
    epoch_fp32: Amount | None = None
    epoch_bf16: Amount | None = None
    dense_epoch_fp32: Amount | None = None
    dense_epoch_bf16: Amount | None = None
    """Seconds that a training epoch of this network and of the dense one takes, measured in turns; None where nothing
    was trained, or where the machine only imitates bf16."""

    @property
    def total_epochs(self) -> float:
        """Epochs from fresh weights to the result: a recipe that starts from the trained network pays for that too."""
        return self.epochs if self.starts_from == "initial" else self.dense_epochs + self.epochs

    @property
    def total_seconds(self) -> float:
        """As `total_epochs`, in seconds."""
        return self.seconds if self.starts_from == "initial" else self.dense_seconds + self.seconds

    @model_serializer(mode="wrap")
    def _without_what_schema_1_lacked(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        late = ("starts_from", "epoch_fp32", "epoch_bf16", "dense_epoch_fp32", "dense_epoch_bf16")
        return _without_absent(plain(self), *late)


class Environment(Record):
    """Versions and machine, without anything that names a person or a host."""

    python: Name
    torch: Name
    onnxruntime: Name | None
    shrinkboard: Name
    platform: Name
    cpu: Name


class LayerShape(Record):
    """What became of one convolution or linear layer."""

    name: Name
    part_of: Name | None = None
    """Of a layer that was factored into several: what it was called."""
    channels: Count
    """Outputs that are left; 0 where the layer is gone."""
    dense_channels: Count | None
    """Outputs of the dense network's layer; None for a factor."""
    density: Fraction
    """Share of its weights that is not masked."""
    weights: Name
    activations: Name
    """Formats that the plan asks for, such as `int4`."""
    macs: Count
    """Of one image, masked weights left out."""
    dense_macs: Count | None


class Method(Record):
    """What a strategy says of itself, so that a board can be read where the strategy is not installed."""

    summary: Text
    source: Text
    """Paper and section."""


class Subject(Record):
    """What re-creating an entry takes beside workload, seed and plan, where it is not the workload's own."""

    model: Text | None = None
    """`package.module:factory` of the user's own network."""
    dataset: Name | None = None
    learning_rate: Amount | None = None
    """The highest of tuning."""
    checkpoint: bool = False
    """Whether the dense network's weights came from a file; `dense_digest` tells whether another is the same."""

    @model_serializer(mode="wrap")
    def _short(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in plain(self).items() if value}


class Origin(Record):
    """The searched candidate that an entry was trained again from."""

    entry: Name
    """Its id."""
    study: Name
    trial: Count
    seed: Count
    """Of its search; the entry's own is fresh."""
    targets: Annotated[tuple[Name, ...], Field(strict=False)]
    """Keys on whose validation front the candidate lay: there its strategy is ranked by it."""


def _without_absent(fields: dict[str, Any], *late: str) -> dict[str, Any]:
    """`fields` without those of `late` that say nothing.

    The id hashes what is written: an entry from before these fields keeps its own.
    """
    return {name: value for name, value in fields.items() if name not in late or value not in (None, {}, (), [])}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Entry(Record):
    """One candidate. Unique by (study, strategy, trial); its `id` is a hash of its content.

    Build one with `Entry.create`, which raises `LeaderboardError` (one line) where the plain constructor raises
    pydantic's `ValidationError`.
    """

    schema_version: Literal[1, 2, 3, 4] = 4
    workload: Name
    strategy: Name
    study: Name
    trial: Count
    role: Role
    seed: Count
    plan: JsonObject
    plan_digest: Name
    knobs: JsonObject
    """The sampler's values by name."""
    epochs: Amount
    """Tuning epochs of the full evaluation."""
    accuracy: Accuracy
    parameters: Count
    macs: Count
    bytes: Count
    dense_parameters: Count
    dense_macs: Count
    costs: Annotated[tuple[TargetCost, ...], Field(strict=False)]
    training: Training
    environment: Environment
    dense_digest: Name
    method: Method | None = None
    """None in entries of schemas 1 to 3, as is all that follows but `created`."""
    subject: Subject | None = None
    layers: Annotated[tuple[LayerShape, ...], Field(strict=False, max_length=10_000)] = ()
    """In network order."""
    weights: Name | None = None
    """SHA-256 of the trained weights and masks, by which they are found in a cache or beside the file."""
    evaluation_seconds: Amount | None = None
    """From the beginning of the full evaluation to this entry, training and measurement included."""
    origin: Origin | None = None
    """Of finalists, and of controls that train the same structure."""
    created: Annotated[str, Field(max_length=40), AfterValidator(_utc)] = Field(default_factory=_now)

    @model_validator(mode="after")
    def _check(self) -> Self:
        keys = [cost.key for cost in self.costs]
        if len(set(keys)) < len(keys):
            raise ValueError("should have at most one cost per target key")
        segments = self.accuracy.validation.miou is not None
        runs = [scores for cost in self.costs for scores in (cost.runtime_accuracy, cost.runtime_test)]
        others = [self.accuracy.test, *runs]
        if any(scores is not None and (scores.miou is not None) != segments for scores in others):
            raise ValueError("should give miou in all of its accuracies or in none")
        if self.role == "finalist" and (self.origin is None or self.accuracy.test is None):
            raise ValueError("should have an origin and a test accuracy where its role is finalist")
        if any(cost.runtime_test is not None for cost in self.costs) and self.accuracy.test is None:
            raise ValueError("should have a test accuracy of its own where a target has one")
        return self

    @model_serializer(mode="wrap")
    def _without_what_schema_3_lacked(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_absent(plain(self), "method", "subject", "layers", "weights", "evaluation_seconds", "origin")

    @classmethod
    def create(cls, **fields: Any) -> Entry:
        """An entry from its fields; raises `LeaderboardError`."""
        return cls._validated(fields)

    @classmethod
    def from_json(cls, text: str) -> Entry:
        """Reads what `to_json` wrote, of this schema or an older one.

        Anything else, or content changed since, raises `LeaderboardError`. An entry of an older schema stays what it
        is, so that its id holds: what its schema had no field for is None, and all else answers as in a new one.
        """
        return cls.from_fields(parse_object(text, "entry"))

    @classmethod
    def from_fields(cls, data: dict[str, Any]) -> Entry:
        """As `from_json`, from the JSON object; takes its `id` out."""
        version = data.get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise LeaderboardError(
                f"entry: schema_version is {quoted(version)}, this shrinkboard reads up to {SCHEMA_VERSION}; upgrade it"
            )
        if "id" not in data:
            raise LeaderboardError("entry: id is missing; import files that `shrinkboard dump` wrote")
        claimed = data.pop("id")
        entry = cls._validated(data)
        if claimed != entry.id:
            raise LeaderboardError(
                f"entry: id is {quoted(claimed)} but the content hashes to '{entry.id}', so it was changed; "
                "ask for the original file"
            )
        return entry

    @classmethod
    def _validated(cls, data: Mapping[str, Any]) -> Entry:
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise LeaderboardError(line_of(error, "entry", SCHEMA_VERSION)) from None

    @cached_property
    def id(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the canonical JSON of every field but `created`.

        Canonical: keys sorted, no spaces, ASCII. `created` is left out so that the same result, recorded twice, is one
        entry.
        """
        content = json.dumps(
            self.model_dump(exclude={"created"}), sort_keys=True, separators=(",", ":"), allow_nan=False
        )
        return hashlib.sha256(content.encode("ascii")).hexdigest()[:16]

    @property
    def key(self) -> tuple[str, str, int]:
        """(study, strategy, trial)."""
        return self.study, self.strategy, self.trial

    @property
    def final(self) -> bool:
        """Whether the test split was read: such an entry ranks by it, and apart from those of searches."""
        return self.accuracy.test is not None

    @property
    def dense_accuracy(self) -> float:
        """Of the dense network that it came from, on the split that it ranks by."""
        return self.accuracy.dense_validation if self.accuracy.dense_test is None else self.accuracy.dense_test

    def validation_accuracy(self, cost: TargetCost) -> float:
        """On the validation split, as this cost's target runs the network, else as simulated."""
        return (cost.runtime_accuracy or self.accuracy.validation).primary

    def ranking_accuracy(self, cost: TargetCost) -> float:
        """The accuracy that ranks on this cost's target, on the test split where it was read, else on validation."""
        if self.accuracy.test is None:
            return self.validation_accuracy(cost)
        return (cost.runtime_test or self.accuracy.test).primary

    def to_json(self) -> str:
        """ASCII JSON with the `id` first, one field a line: compact, and a difference can still be read."""
        fields = {"id": self.id, **self.model_dump()}
        lines = (f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in fields.items())
        return "{\n" + ",\n".join(lines) + "\n}\n"


def parse_object(text: str, what: str) -> dict[str, Any]:
    """The JSON object in `text`, without doubled fields and NaN; raises `LeaderboardError` that names `what` it is."""
    if len(text) > _MAX_CHARACTERS:
        raise LeaderboardError(f"{what}: {len(text)} characters given, at most {_MAX_CHARACTERS} are allowed")
    # Before anything is made of them: a million small wrong values would become a million errors of pydantic.
    if sum(map(text.count, ",[{")) > _MAX_VALUES:
        raise LeaderboardError(f"{what}: more than {_MAX_VALUES} values given, no file of ours has so many")
    try:
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except _Refused as error:
        raise LeaderboardError(f"{what}: {error}") from None
    except RecursionError:
        raise LeaderboardError(f"{what}: nested too deep; give a file that `shrinkboard` wrote") from None
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise LeaderboardError(f"{what}: not valid JSON ({reason}); give a file that `shrinkboard` wrote") from None
    if not isinstance(data, dict):
        raise LeaderboardError(f"{what}: a JSON object is expected, given {quoted(data)}")
    return data


class _Refused(ValueError):
    """What JSON allows and an exchange of results does not."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key, value in pairs:
        if key in data:
            raise _Refused(f"the field {quoted(key)} is given twice; keep one")
        data[key] = value
    return data


def _no_constant(name: str) -> None:
    raise _Refused(f"{name} is not a number; an absent figure is null with a reason")


def line_of(error: ValidationError, what: str, schema: int) -> str:
    """The first complaint of pydantic about a record of this schema, as one line in our words."""
    first = error.errors(include_url=False, include_context=False)[0]
    path = ".".join(str(part) if re.fullmatch(r"\w{1,40}", str(part)) else quoted(part) for part in first["loc"])
    where = f"{what}: {path}" if path else what
    if first["type"] == "extra_forbidden":
        return f"{where} is not a field of schema {schema}; remove it"
    if first["type"] == "missing":
        return f"{where} is missing; schema {schema} requires it"
    expected = first["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("String ")
    return " ".join(f"{where} is {quoted(first['input'])}; it {expected}".split())
