"""The catalogue, plug-ins, and a user's own network."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from workloads import (
    InputError,
    Workload,
    catalogue,
    custom_workload,
    dataset_names,
    dense,
    workload,
    workload_names,
    workload_summaries,
)

REQUIRED = [
    "digits/cnn",
    "fashion_mnist/cnn",
    "cifar10/resnet8",
    "cifar10/resnet20",
    "cifar10/resnet56",
    "cifar10/vgg16_bn",
    "cifar100/vgg16_bn",
    "cifar10/mobilenetv2",
    "camvid/unet",
    "folder/mobilenetv2",
]


def one_line(function, *arguments, **named) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments, **named)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_named_workload_is_there_and_described() -> None:
    assert [name for name in workload_names() if name in REQUIRED] == REQUIRED
    assert workload_summaries().keys() == set(workload_names())
    assert all(workload_summaries().values())


@pytest.mark.parametrize("name", [name for name in REQUIRED if not name.startswith("folder")])
def test_a_workload_is_light_and_can_be_sent_to_another_process(name: str, no_data_variable: None) -> None:
    described = workload(name, checkpoint="weights.safetensors")
    again = pickle.loads(pickle.dumps(described))
    assert again.name == name and again.recipe == described.recipe and again.checkpoint == Path("weights.safetensors")
    assert len(described.mean) == len(described.std) == described.input_shape[0]
    torch.manual_seed(0)
    first = described.build().state_dict()
    torch.manual_seed(0)
    second = again.build().state_dict()
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())


@pytest.mark.parametrize(
    ("given", "meant"),
    [("cifar10/resnet2", "cifar10/resnet20"), ("digit/cnn", "digits/cnn"), ("digts/cn", "digits/cnn")],
)
def test_an_unknown_name_gets_the_allowed_ones(given: str, meant: str) -> None:
    message = one_line(workload, given)
    assert repr(given) in message and all(name in message for name in REQUIRED)
    assert f"did you mean {meant!r}?" in message


@pytest.mark.parametrize("given", ["", "/", "a:b", "cifar10/", ":", "\n"])
def test_no_name_at_all_is_one_line_too(given: str) -> None:
    one_line(workload, given)


def test_importing_the_room_does_not_import_torch() -> None:
    code = "import sys, workloads; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0


# Plug-ins


def _good() -> Workload:
    return workload("digits/cnn")


def _wrong() -> str:
    return "no workload"


def _failing() -> Workload:
    raise RuntimeError("it broke\nin two lines")


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[__name__]
    monkeypatch.setitem(sys.modules, "a_plugin", module)
    points = [
        EntryPoint(name, value, catalogue.ENTRY_POINTS)
        for name, value in {
            "theirs/good": "a_plugin:_good",
            "theirs/wrong": "a_plugin:_wrong",
            "theirs/failing": "a_plugin:_failing",
            "theirs/absent": "a_package_that_is_not_installed:make",
            "digits/cnn": "a_plugin:_failing",
        }.items()
    ]
    monkeypatch.setattr(catalogue, "entry_points", lambda group: points if group == catalogue.ENTRY_POINTS else [])


def test_a_plugin_is_found_by_its_name(plugins: None, tmp_path: Path) -> None:
    assert workload("theirs/good", data_dir=tmp_path).data_dir == tmp_path
    assert "theirs/good" in workload_names() and "a_plugin:_good" in workload_summaries()["theirs/good"]


def test_a_plugin_that_fails_is_named_when_it_is_asked_for_and_harms_no_other(plugins: None) -> None:
    assert "'theirs/failing' (a_plugin:_failing) fails: it broke in two lines" in one_line(workload, "theirs/failing")
    assert "must give a Workload" in one_line(workload, "theirs/wrong")
    assert "a_package_that_is_not_installed" in one_line(workload, "theirs/absent")
    assert workload("digits/cnn").name == "digits/cnn"  # ours is not displaced
    assert workload_names().count("digits/cnn") == 1


# A user's own network

NETS = """
import torch
from torch import nn

class Tiny(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, classes)
    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))

def build(): return Tiny()
def eleven(): return Tiny(11)
def colour(): return nn.Sequential(nn.Conv2d(3, 10, 8), nn.Flatten())
def needs(width): return Tiny()
def text(): return "a network"
def fails(): raise ValueError("no\\nnetwork today")
class Branching(Tiny):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else super().forward(-x)
class Pair(Tiny):
    def forward(self, x):
        return super().forward(x), x
number = 3
"""


@pytest.fixture
def nets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    (tmp_path / "own_nets_for_test").mkdir()
    (tmp_path / "own_nets_for_test" / "tiny.py").write_text(NETS)
    (tmp_path / "own_nets_for_test" / "broken.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("own_nets_for_test")]:
        del sys.modules[name]


def test_an_own_network_becomes_a_workload(nets: Path) -> None:
    path = list(sys.path)
    described = custom_workload("own_nets_for_test.tiny:build", "digits")
    assert described.name == "digits/own_nets_for_test.tiny:build"
    assert workload(described.name).recipe == described.recipe == workload("digits/cnn").recipe
    assert described.build()(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    assert sys.path == path
    again = pickle.loads(pickle.dumps(described))
    assert again.build()(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_an_own_network_takes_a_checkpoint(nets: Path) -> None:
    import safetensors.torch

    described = custom_workload("own_nets_for_test.tiny:build", "digits", checkpoint="own.safetensors")
    weights = described.build().state_dict()
    safetensors.torch.save_file(weights, "own.safetensors")
    made = dense(described, 0)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in made.module.state_dict().items())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("eleven", r"gives \(1, 11\); expected \(1, 10\)"),
        ("colour", "does not run on an input of shape"),
        ("needs", "fails: .*called without arguments"),
        ("text", "gives a str; it must give a torch.nn.Module"),
        ("fails", "no network today"),
        ("Branching", "cannot be traced"),
        ("Pair", "gives tuple"),
        ("number", "has no function number"),
        ("absent", "has no function absent"),
    ],
)
def test_an_own_network_that_does_not_fit_is_one_line(model: str, message: str, nets: Path) -> None:
    given = f"own_nets_for_test.tiny:{model}"
    told = one_line(custom_workload, given, "digits")
    assert given in told
    with pytest.raises(InputError, match=message):
        custom_workload(given, "digits")


@pytest.mark.parametrize(
    "model", ["", "tiny", "own_nets_for_test.tiny:", ":build", "a b:c", "../x:y", "a..b:c", "a:b.c"]
)
def test_a_path_of_another_form_is_one_line(model: str) -> None:
    assert "PACKAGE.MODULE:FACTORY" in one_line(custom_workload, model, "digits")


def test_modules_that_cannot_be_imported_and_unknown_data_sets_are_one_line(nets: Path) -> None:
    assert "division by zero" in one_line(custom_workload, "own_nets_for_test.broken:build", "digits")
    assert "cannot be imported" in one_line(custom_workload, "own_nets_for_test.nowhere:build", "digits")
    told = one_line(custom_workload, "own_nets_for_test.tiny:build", "imagenet")
    assert all(name in told for name in dataset_names())


def test_building_does_not_disturb_the_callers_generator(nets: Path) -> None:
    state = torch.get_rng_state()
    custom_workload("own_nets_for_test.tiny:build", "digits")
    assert torch.equal(torch.get_rng_state(), state)
    assert os.getcwd() == str(nets)
