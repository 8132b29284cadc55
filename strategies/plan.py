"""The plan of one compressed network: plain data, JSON in and out, hashed by content."""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from workloads import Format, InputError

Setting = bool | int | float | str
Ratio = Annotated[float, Field(gt=0, le=1)]
_STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LayerPlan(BaseModel):
    """What is done to one layer; what is None stays as it is."""

    model_config = _STRICT

    sparsity: Annotated[float, Field(ge=0, le=1)] | None = None
    """Fraction of the layer's weights that is masked."""
    weight_format: str | None = None
    activation_format: str | None = None
    rank: Annotated[int, Field(ge=1)] | None = None

    @field_validator("weight_format", "activation_format")
    @classmethod
    def _known_format(cls, text: str | None) -> str | None:
        return text if text is None else str(Format.parse(text))


class Plan(BaseModel):
    """A resolved plan: the widths and formats that really result, so that equal networks have equal plans.

    `dropped` names the residual branches that are gone, in network order; the rest of the plan speaks of the network
    without them. `channels` holds the keep ratio of every prune group (coupled layers share one), `layers` what is done
    to single layers, `settings` what else decides the result (training included). `notes` is how the plan came about
    (the PCA threshold, say); it is kept and shown, and is no part of the identity.
    """

    model_config = _STRICT

    strategy: str
    # Left out where there are none, so that plans of before keep their digests.
    dropped: Annotated[tuple[str, ...], Field(exclude_if=operator.not_)] = ()
    channels: dict[str, Ratio] = {}
    layers: dict[str, LayerPlan] = {}
    settings: dict[str, Setting] = {}
    notes: dict[str, Setting] = {}

    @property
    def digest(self) -> str:
        """SHA-256 of the plan without its notes, in hex."""
        content = self.model_dump(exclude={"notes"}, exclude_none=True)
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` takes back."""
        return self.model_dump(mode="json", exclude_none=True)

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | str | bytes) -> Plan:
        """Reads a plan; raises `InputError` naming the first wrong field, what was given and what is allowed."""
        try:
            if isinstance(data, str | bytes):
                data = json.loads(data)
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(_short(part) for part in first["loc"]) or "the whole"
            raise InputError(f"plan: {where} is {_short(first['input'])}: {_short(first['msg'])}") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"plan: not JSON ({_short(str(error))})") from None


def _short(value: Any) -> str:
    """One printable line of bounded length, whatever was given."""
    text = ascii(value)[1:-1] if isinstance(value, str) else ascii(value)
    return text if len(text) <= 120 else text[:117] + "..."
