"""Targets by name, and plug-ins that come in by entry point."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from cost_models import Counts, CpuOnnxRuntime, registry, target, target_names
from workloads import InputError


class PlugIn(Counts):
    name = "toy"


def make_something_else():
    return "no cost model"


@pytest.fixture
def plugins(monkeypatch):
    def install(**values):
        entries = [EntryPoint(name, value, registry.GROUP) for name, value in values.items()]
        monkeypatch.setattr(registry, "entry_points", lambda group: entries if group == registry.GROUP else [])

    return install


def test_our_targets():
    names = target_names()
    assert {"counts", "cpu-onnxruntime", "roofline-raspberry-pi-4", "roofline-jetson-orin-nano"} <= set(names)
    assert all(target(name).name == name for name in names if name not in registry.MEASURED)
    assert isinstance(target("cpu-onnxruntime"), CpuOnnxRuntime)


def test_an_unknown_target_is_one_line_with_the_closest_match():
    with pytest.raises(InputError) as caught:
        target("cpu-onnxrutnime")
    line = str(caught.value)
    assert "\n" not in line and "did you mean cpu-onnxruntime?" in line and "counts" in line


def test_a_plug_in_class_and_a_factory(plugins):
    plugins(toy=f"{__name__}:PlugIn", made=f"{__name__}:PlugIn")
    assert "toy" in target_names() and isinstance(target("toy"), PlugIn) and isinstance(target("made"), PlugIn)


def test_a_plug_in_never_replaces_a_target_of_ours(plugins):
    plugins(counts=f"{__name__}:PlugIn")
    assert target_names().count("counts") == 1 and type(target("counts")) is Counts


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("no_such_module:Target", "ModuleNotFoundError"),
        (f"{__name__}:absent", "AttributeError"),
        (f"{__name__}:make_something_else", "not a CostModel"),
    ],
)
def test_a_broken_plug_in_is_told_only_when_asked_for(plugins, value, told):
    plugins(broken=value)
    assert "broken" in target_names() and target("counts").name == "counts"
    with pytest.raises(InputError, match=told) as caught:
        target("broken")
    assert "\n" not in str(caught.value) and "broken" in str(caught.value)


def test_importing_the_room_is_light():
    code = "import sys, cost_models.commands; print([m for m in ('torch', 'onnxruntime', 'numpy') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == "[]"
