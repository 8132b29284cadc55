"""What workers on other machines need to run the same code: our rooms, plug-ins and the user's own network."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, PackageNotFoundError, distribution, entry_points
from pathlib import Path

ROOMS = ("workloads", "strategies", "cost_models", "leaderboard", "search")
GROUPS = ("shrinkboard.cost_models", "shrinkboard.strategies", "shrinkboard.workloads")


def stage(folder: Path, workload: str) -> None:
    """Fills a folder that makes the same code importable when it stands on the import path.

    Plug-ins are taken with their entry points; what plug-ins import from other distributions must be installed where
    the workers are. A `workload` named `DATASET/PACKAGE.MODULE:FACTORY` is taken with all that it has imported from
    beside it, unless it is an installed package.
    """
    home = Path(__file__).parent.parent
    for name in (*ROOMS, "shrinkboard.py"):
        _copy(home / name, folder)
    _describe(_ours(), folder)
    for point in (point for group in GROUPS for point in entry_points(group=group)):
        _copy(_place(point.module), folder)
        _describe(point.dist, folder)
    _, _, model = workload.partition("/")
    if ":" in model:
        place = _place(model.partition(":")[0])
        if place is not None and not {"site-packages", "dist-packages"} & set(place.parts):
            for module in {name.partition(".")[0] for name in sys.modules}:
                beside = _place(module)
                if beside is not None and beside.parent == place.parent:
                    _copy(beside, folder)


def _ours() -> Distribution | None:
    try:
        return distribution("shrinkboard")
    except PackageNotFoundError:
        return None


def _place(module: str) -> Path | None:
    """The file or folder of a module's top-level package; None where it has none."""
    try:
        spec: ModuleSpec | None = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):  # ValueError: __main__ and modules made by hand
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.has_location and spec.origin else None


def _copy(place: Path | None, folder: Path) -> None:
    if place is None or (folder / place.name).exists():
        return
    if place.is_dir():
        shutil.copytree(place, folder / place.name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    elif place.is_file():
        shutil.copy(place, folder)


def _describe(found: Distribution | None, folder: Path) -> None:
    """What `importlib.metadata` reads of a distribution: name, version, entry points."""
    if found is None:
        return
    name, version = found.metadata["Name"], found.version
    place = folder / f"{re.sub(r'[-_.]+', '_', name)}-{version}.dist-info"
    place.mkdir(exist_ok=True)
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    (place / "entry_points.txt").write_text(found.read_text("entry_points.txt") or "", encoding="utf-8")
