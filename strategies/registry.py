"""Strategies by name: ours, those of plug-ins, their controls behind an `@`, and two joined by `+`."""

from __future__ import annotations

import difflib
from importlib.metadata import EntryPoint, entry_points

from workloads import InputError

from .base import Strategy
from .controls import CONTROLS, Control
from .conventional import Conventional
from .dense import Unchanged
from .depth import Depth
from .frequency import Frequency
from .integers import Integers
from .l1 import GlobalL1, LayerwiseL1
from .low_rank import LowRank
from .minifloat import Minifloat
from .pai_pat import PaiPat
from .pca_l1 import PcaL1
from .pipeline import Pipeline
from .pruning_at_init import PRUNING_AT_INIT
from .sentei import Sentei
from .uniform import RandomChannels, Uniform

_CLASSES: tuple[type[Strategy], ...] = (
    Unchanged,
    Uniform,
    RandomChannels,
    LayerwiseL1,
    GlobalL1,
    Depth,
    PcaL1,
    PaiPat,
    *PRUNING_AT_INIT,
    Frequency,
    Sentei,
    LowRank,
    Conventional,
    Integers,
    Minifloat,
)
_OURS = {cls.name: cls for cls in _CLASSES}
GROUP = "shrinkboard.strategies"


def strategy_names() -> list[str]:
    """Names that `strategy` takes, without those joined by `+`."""
    return [*_OURS, *sorted(_plugins())]


def strategy(name: str) -> Strategy:
    """The strategy called `name`, its control `NAME@CONTROL`, or the pipeline `PRUNER+FORMAT`.

    Raises `InputError` for anything else.
    """
    parts = name.split("+")
    if len(parts) > 2:
        raise InputError(
            f"strategy {name!r} has {len(parts)} parts; at most a pruner and a number format: PRUNER+FORMAT"
        )
    first, *second = (_single(part) for part in parts)
    if not second:
        return first
    if first.stage != "structure" or second[0].stage != "format":
        raise InputError(
            f"strategy {name!r}: before the + stands a pruner, behind it a number format ({_format_names()})"
        )
    return Pipeline(first, second[0])


def _single(name: str) -> Strategy:
    method, at, control = name.partition("@")
    if at:
        if control not in CONTROLS:
            raise InputError(f"control {control!r} of strategy {method!r} is unknown; allowed: {', '.join(CONTROLS)}")
        controlled = _single(method)
        if controlled.stage != "structure" or method == "dense":
            raise InputError(f"strategy {name!r}: only a pruner has controls, and {method} is none")
        return Control(controlled, control)
    if name in _OURS:
        return _OURS[name]()
    plugins = _plugins()
    if name not in plugins:
        known = strategy_names()
        close = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise InputError(f"strategy {name!r} is unknown; allowed: {', '.join(known)}, and PRUNER+FORMAT{hint}")
    try:
        made = plugins[name].load()()
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(f"strategy {name!r} of plug-in {plugins[name].value!r} cannot be loaded: {reason}") from error
    if not isinstance(made, Strategy):
        raise InputError(
            f"strategy {name!r} of plug-in {plugins[name].value!r} is a {type(made).__name__}, not a Strategy"
        )
    return made


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in _OURS}


def _format_names() -> str:
    return ", ".join(name for name, cls in _OURS.items() if cls.stage == "format")
