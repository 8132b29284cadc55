"""A benchmark: what a ranking is held against, frozen as versioned data before anything is ranked."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from .entry import Amount, Count, Fraction, Name, Record, Text, line_of, parse_object
from .errors import LeaderboardError

TrackKind = Literal["measured", "modelled", "parameters"]
"""What the gain on a track is: a measured speed-up, a modelled one, or dense ÷ candidate parameters. Never mixed."""
CAP = {"measured": 8.0, "modelled": 64.0, "parameters": 64.0}
"""Gain that counts as 1 in the hypervolume."""
REFERENCE_DROP = 0.10
"""Below the dense network, where accuracy begins to count in it."""
Point = Annotated[tuple[Annotated[float, Field(gt=0)], Fraction], Field(strict=False)]
Positive = Annotated[float, Field(gt=0)]


class Benchmark(Record):
    """One workload on one target key, with what its hypervolume is measured against, and the budget of all strategies.

    Accuracies are fractions of the test split, latencies are in seconds. A definition is never changed: another one has
    a higher `version`, and results are ranked by the one that they name.
    """

    schema_version: Literal[1] = 1
    name: Name
    version: Annotated[int, Field(ge=1, le=10**6)]
    workload: Name
    target: Name
    key: Name
    """As in `TargetCost.key`: with a fingerprint of machine and runtime where the target is measured."""
    track: TrackKind
    reference_latency: Positive | None
    """Of the dense fp32 network; None on the track of parameters."""
    dense_accuracy: Fraction
    """Test accuracy of the dense fp32 network as the target runs it, a mean over `dense_seeds`."""
    dense_seeds: Annotated[tuple[Count, ...], Field(strict=False)]
    reference_drop: Annotated[float, Field(gt=0, le=1)] = REFERENCE_DROP
    """Below the dense accuracy, where accuracy begins to count: A_ref = A_dense − this."""
    cap: Annotated[float, Field(gt=1)]
    """Gain that counts as 1."""
    points: Annotated[int, Field(ge=1, le=64)] = 8
    """Finalists of a strategy and search seed at most."""
    trials: Annotated[int, Field(ge=1)]
    """Full evaluations of every strategy and search seed."""
    epochs: Amount
    training_epochs: Amount
    """Of a full evaluation from the trained network, and from initial weights."""
    search_seeds: Annotated[tuple[Count, ...], Field(strict=False, min_length=1)]
    final_seeds: Annotated[int, Field(ge=1)]
    """Fresh seeds that every finalist is trained on, for each search seed."""
    front: Annotated[tuple[Point, ...], Field(strict=False)] = ()
    """(gain, accuracy) of the front that IGD+ and epsilon are measured from; empty where there is none yet."""
    front_source: Text | None = None
    """Where that front comes from; never from the entries that are ranked by this definition."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.key != self.target and not self.key.startswith(self.target + "@"):
            raise ValueError("should have as key its target, or its target followed by @ and a fingerprint")
        if (self.reference_latency is None) != (self.track == "parameters"):
            raise ValueError("should have a reference_latency, unless its track is parameters")
        if bool(self.front) != (self.front_source is not None):
            raise ValueError("should say in front_source where its front comes from")
        return self

    @property
    def id(self) -> str:
        """`digits-cnn-fpga-zcu104@1`."""
        return f"{self.name}@{self.version}"

    @classmethod
    def create(cls, **fields: Any) -> Benchmark:
        """A definition from its fields; raises `LeaderboardError`."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise LeaderboardError(line_of(error, "benchmark", 1)) from None

    @classmethod
    def from_json(cls, text: str) -> Benchmark:
        """Reads what `to_json` wrote; raises `LeaderboardError`."""
        return cls.create(**parse_object(text, "benchmark"))

    def to_json(self) -> str:
        """Indented ASCII JSON."""
        return json.dumps(self.model_dump(), indent=1, allow_nan=False) + "\n"
