"""Under what a strategy was searched: kept with its study, so that a replay begins where the search did."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import optuna

from strategies import Choice, Family, Space
from workloads import InputError

from .bridge import Asking
from .evaluation import Subject
from .lane import Staging
from .objectives import Limit, Objective


@dataclass(frozen=True)
class Settings:
    """All that decides which plans a strategy tries, as plain data: a machine without the targets can read it."""

    subject: Subject
    asking: Asking
    staging: Staging
    trials: int
    """Full evaluations that were asked for when the study was begun or resumed last."""
    epochs: tuple[float, float]
    """Of a full evaluation from the trained network, and from initial weights."""
    widths: frozenset[int]
    """Integer widths that some target runs as they are."""
    space: Space
    options: Mapping[str, bool | float] = field(default_factory=dict)
    """Knobs that all trials share."""

    def to_json(self) -> str:
        """What `from_json` takes back."""
        return json.dumps(asdict(self) | {"widths": sorted(self.widths)})

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """The settings that `to_json` wrote."""
        data: dict[str, Any] = json.loads(text)
        asking, staging = data["asking"], data["staging"]
        limits = tuple(
            Limit(None if told["objective"] is None else Objective(**told["objective"]), told["bound"])
            for told in asking["limits"]
        )
        objectives = tuple(Objective(**told) for told in asking["objectives"])
        return cls(
            subject=Subject(**data["subject"]),
            asking=Asking(**asking | {"objectives": objectives, "limits": limits}),
            staging=Staging(**staging | {"rungs": tuple(staging["rungs"])}),
            trials=data["trials"],
            epochs=(data["epochs"][0], data["epochs"][1]),
            widths=frozenset(data["widths"]),
            space=_space(data["space"]),
            options=data["options"],
        )


def keep_settings(storage: optuna.storages.BaseStorage, study: str, strategy: str, settings: Settings) -> None:
    """Writes the settings into the study of a strategy, in the place of those of an earlier run."""
    optuna.load_study(study_name=f"{study}/{strategy}", storage=storage).set_user_attr(_NAME, settings.to_json())


def check_resumed(
    storage: optuna.storages.BaseStorage, study: str, strategy: str, subject: Subject, asking: Asking
) -> None:
    """Raises `InputError` where the study of a strategy exists and was searched for something else."""
    name = f"{study}/{strategy}"
    kept = kept_settings(storage, name) if name in optuna.get_all_study_names(storage) else None
    if kept is None:
        return
    before = kept.asking
    rates = [one.learning_rate if one.learning_rate is not None else "the recipe's" for one in (kept.subject, subject)]
    pairs = (
        ("--learning-rate", (rates[0],), (rates[1],)),
        ("--objective", before.objectives, asking.objectives),
        ("--limit", before.limits, asking.limits),
        ("a space laid out as", (before.layout,), (asking.layout,)),
    )
    for option, then, now in pairs:
        if then != now:
            told = [", ".join(_told(one) for one in some) or "none" for some in (then, now)]
            raise InputError(
                f"study {study!r} was searched with {option} {told[0]}, not {told[1]}; resume it so, or choose another "
                "--study"
            )


def hold_to_ground(
    storage: optuna.storages.BaseStorage, study: str, strategy: str, keys: Mapping[str, str], dense: str
) -> None:
    """Keeps what a study's figures are of: target keys by name, and the digest of the dense network.

    Raises `InputError` where it was begun on something else, by a driver that need not have an entry yet. One driver at
    a time may call this.
    """
    stored = optuna.load_study(study_name=f"{study}/{strategy}", storage=storage)
    kept = json.loads(stored.user_attrs.get(_GROUND, "null"))
    now = {"keys": dict(keys), "dense": dense}
    if kept is None:
        stored.set_user_attr(_GROUND, json.dumps(now))
        return
    for name, key in kept["keys"].items():
        if keys.get(name, key) != key:
            raise InputError(
                f"study {study!r} is measured as {key}, this machine and its runtime are {keys[name]}; figures of both "
                "do not compare: search where it began, or choose another --study"
            )
    if kept["dense"] != dense:
        raise InputError(
            f"study {study!r} shrinks another dense network than the one here (processors and versions train alike, "
            "but not to the same bits): give both the same --checkpoint, or choose another --study"
        )


def _told(one: object) -> str:
    return f"{one}={one.bound:g}" if isinstance(one, Limit) else str(one)


def settings_of(storage: optuna.storages.BaseStorage, study: str, strategy: str) -> Settings:
    """The settings of a strategy's study; raises `InputError` where there is no such study, or an older one."""
    known = searched_strategies(storage, study)
    if strategy not in known:
        raise InputError(f"study {study!r} has no strategy {strategy!r}; searched were {', '.join(known)}")
    kept = kept_settings(storage, f"{study}/{strategy}")
    if kept is None:
        raise InputError(
            f"study {study!r} was searched before settings were kept; run it once more with --resume, which adds them"
        )
    return kept


def kept_settings(storage: optuna.storages.BaseStorage, name: str) -> Settings | None:
    """The settings of the study of that name in the storage; None where it is older than settings are."""
    text = optuna.load_study(study_name=name, storage=storage).user_attrs.get(_NAME)
    return None if text is None else Settings.from_json(text)


def searched_strategies(storage: optuna.storages.BaseStorage, study: str) -> list[str]:
    """Strategies that have a study under this name, sorted; raises `InputError` where none has."""
    names = [name.rpartition("/") for name in optuna.get_all_study_names(storage)]
    found = sorted(strategy for prefix, _, strategy in names if prefix == study)
    if not found:
        others = sorted({prefix for prefix, _, _ in names if prefix})
        told = f"; there are {', '.join(others)}" if others else ""
        raise InputError(f"there is no study {study!r} in this storage{told}")
    return found


def _space(data: Mapping[str, Any]) -> Space:
    choices = tuple(Choice(**told | {"levels": tuple(told["levels"])}) for told in data["choices"])
    families = tuple(
        Family(
            **told
            | {"levels": tuple(told["levels"]), "members": tuple(told["members"])}
            | {"profile": told["profile"] and tuple(tuple(row) for row in told["profile"])}
        )
        for told in data["families"]
    )
    return Space(choices, families, data["ladder_knob"])


_NAME, _GROUND = "settings", "ground"
