"""From a name on the command line to a cost model: our own targets, device files, and plug-ins by entry point."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from workloads import InputError

from .base import CostModel
from .options import parse_options

if TYPE_CHECKING:
    from .measured import MeasuredTarget

GROUP = "shrinkboard.cost_models"
"""Entry-point group of plug-ins: name of the target → a `CostModel` class or a factory that takes no argument."""

MEASURED = {
    "cpu-onnxruntime": ("cpu_onnxruntime", "CpuOnnxRuntime"),
    "cpu-openvino": ("cpu_openvino", "CpuOpenVino"),
    "cpu-torch": ("cpu_torch", "CpuTorch"),
    "gpu-torch": ("gpu_torch", "GpuTorch"),
    "gpu-tensorrt": ("gpu_tensorrt", "GpuTensorrt"),
}
"""Our measured targets: name → module and class, which is imported when it is asked for."""


def target_names() -> tuple[str, ...]:
    """Every target that `target` knows by name, ours first, then plug-ins; no plug-in is imported."""
    return (*_builtin(), *sorted(set(_plugins()) - set(_builtin())))


def target(name: str) -> CostModel:
    """The cost model of that name, or of a user's device file: `roofline:PATH.toml`, `fpga:PATH.toml`.

    Options of a measured target stand behind its name: `cpu-onnxruntime:threads=2,image=640x480`. Raises `InputError`
    for an unknown name or option, a damaged device file and a plug-in that cannot be loaded.
    """
    if name.startswith("roofline:"):
        from .roofline import Roofline, load_device

        return Roofline(load_device(Path(name.removeprefix("roofline:"))))
    if name.startswith("fpga:"):
        from .fpga import Fpga, load_fpga

        return Fpga(load_fpga(Path(name.removeprefix("fpga:"))))
    base, colon, text = name.partition(":")
    if base in MEASURED and colon:
        kind = _measured(base)
        return kind(**parse_options(base, text, kind.options))
    if name in _builtin():
        return _builtin()[name]()
    if name in _plugins():
        return _load(_plugins()[name])
    close = difflib.get_close_matches(name, target_names(), n=1, cutoff=0.4)
    hint = f"; did you mean {close[0]}?" if close else ""
    allowed = ", ".join([*target_names(), "roofline:PATH.toml", "fpga:PATH.toml"])
    raise InputError(f"unknown target {name!r}; allowed: {allowed}{hint}")


def _builtin() -> dict[str, Callable[[], CostModel]]:
    # Imported by name on demand: onnxruntime is not wanted where only `counts` is asked for.
    from .fpga import fpga_names
    from .roofline import device_names

    return {
        "counts": partial(_create, "counts", "Counts"),
        **{name: partial(_create, *place) for name, place in MEASURED.items()},
        **{f"roofline-{device}": partial(_device, device) for device in device_names()},
        **{f"fpga-{device}": partial(_fpga, device) for device in fpga_names()},
    }


def _create(module: str, name: str) -> CostModel:
    return getattr(import_module(f"{__package__}.{module}"), name)()


def _measured(name: str) -> type[MeasuredTarget]:
    module, kind = MEASURED[name]
    return getattr(import_module(f"{__package__}.{module}"), kind)


def _device(name: str) -> CostModel:
    from .roofline import DEVICES, Roofline, load_device

    return Roofline(load_device(DEVICES / f"{name}.toml"))


def _fpga(name: str) -> CostModel:
    from .fpga import Fpga, named_fpga

    return Fpga(named_fpga(name))


def _plugins() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _load(entry: EntryPoint) -> CostModel:
    try:
        model = entry.load()()
    except InputError:
        raise
    except Exception as error:
        line = (str(error).strip().splitlines() or [""])[0]
        raise InputError(
            f"target {entry.name!r}: plug-in {entry.value} fails with {type(error).__name__}: {line}"
        ) from error
    if not isinstance(model, CostModel):
        raise InputError(
            f"target {entry.name!r}: plug-in {entry.value} gives a {type(model).__name__}, not a CostModel"
        )
    return model
