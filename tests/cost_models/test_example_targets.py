"""The worked examples of `docs/adding_a_cost_model.md` are what the page shows, load as plug-ins and keep the contract.

The target over SSH is tested through a real SSH server: this machine, logged in to with keys made for the test.
"""

from __future__ import annotations

import base64
import getpass
import importlib
import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import shrinkboard as sb
from cost_models import check_cost_model, registry, target, target_names
from cost_models.testing import sample_deployable
from workloads import InputError, Layer, trace

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "adding_a_cost_model.md"
EXAMPLES = ROOT / "docs" / "examples"
QUICK = sb.Effort(goal=0.1, budget=0.5, pairs=20)
HOST = "a-machine-far-away"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if both examples were installed: their modules on the path, their entry points known."""
    points = []
    for name in ("mcu_target", "ssh_target"):
        declared = tomllib.loads((EXAMPLES / name / "pyproject.toml").read_text())["project"]["entry-points"]
        points += [EntryPoint(*item, registry.GROUP) for item in declared[registry.GROUP].items()]
        monkeypatch.syspath_prepend(EXAMPLES / name)
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == registry.GROUP else [])


@pytest.fixture
def mcu(installed: None) -> ModuleType:
    return importlib.import_module("mcu_target")


def test_the_page_shows_the_microcontroller_as_it_is() -> None:
    page = PAGE.read_text()
    assert f"```python\n{(EXAMPLES / 'mcu_target' / 'mcu_target' / '__init__.py').read_text()}```" in page
    for name in ("mcu_target", "ssh_target"):
        declared = (EXAMPLES / name / "pyproject.toml").read_text()
        [point] = re.findall(r'^\[project\.entry-points\."shrinkboard\.cost_models"\]\n(.+)$', declared, re.MULTILINE)
        assert point in page


def test_the_runtime_that_the_page_shows_keeps_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    [code] = [block for block in blocks if "class EagerTorch" in block]
    (tmp_path / "cpu_eager.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    check_cost_model(importlib.import_module("cpu_eager").EagerTorch(QUICK, QUICK))


@pytest.mark.usefixtures("installed")
def test_the_microcontroller_keeps_the_contract() -> None:
    assert "mcu-efr32xg24" in target_names()
    check_cost_model(target("mcu-efr32xg24"))


@pytest.mark.usefixtures("installed")
def test_the_microcontrollers_own_tests_pass() -> None:
    tests = [
        test for name, test in vars(importlib.import_module("test_mcu_target")).items() if name.startswith("test_")
    ]
    assert len(tests) == 3
    for test in tests:
        test()


class ResNet8(nn.Module):
    """The image classifier of MLPerf Tiny, whose shortcuts are 1×1 convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.first = nn.ModuleList(nn.Conv2d(a, b, 3, s, 1) for a, b, s in ((16, 16, 1), (16, 32, 2), (32, 64, 2)))
        self.second = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for width in (16, 32, 64))
        self.shortcut = nn.ModuleList([nn.Identity(), nn.Conv2d(16, 32, 1, 2), nn.Conv2d(32, 64, 1, 2)])
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        for first, second, shortcut in zip(self.first, self.second, self.shortcut, strict=True):
            x = torch.relu(second(torch.relu(first(x))) + shortcut(x))
        return self.head(torch.flatten(self.pool(x), 1))


def test_a_network_of_the_table_takes_what_was_measured(mcu: ModuleType) -> None:
    example = torch.zeros(1, 3, 32, 32)
    network = trace(ResNet8().eval(), example)
    dense = sb.Deployable(ResNet8().eval(), example, [], network)
    # "image_classification": 118.9 ms, 12.5 million MACs; its file takes 99.2 kB and its run 86.9 kB.
    assert sum(layer.macs for layer in network.layers) == pytest.approx(12.5e6, rel=0.01)
    assert target("mcu-efr32xg24").freeze(dense).latency == pytest.approx(118.9e-3, rel=0.02)
    assert 70e3 < mcu.weight_bytes(network) < 99.2e3
    # Three maps of 16×32×32 at the first addition: its two operands and its sum.
    assert mcu.activation_bytes(network) == 3 * 16 * 32 * 32 < 86.9e3


def conv(in_channels: int, out_channels: int, side: int, kernel: int, depthwise: bool = False) -> Layer:
    return Layer(
        name="conv",
        kind="conv",
        inputs=("image",),
        in_channels=in_channels,
        out_channels=out_channels,
        out_height=side,
        out_width=side,
        kernel=(kernel, kernel),
        groups=in_channels if depthwise else 1,
    )


@given(
    st.integers(1, 700), st.integers(1, 300), st.integers(1, 64), st.sampled_from((1, 3, 5)), st.booleans(), st.data()
)
def test_more_work_never_takes_less_time(
    in_channels: int, out_channels: int, side: int, kernel: int, depthwise: bool, data: st.DataObject
) -> None:
    sys.path.insert(0, str(EXAMPLES / "mcu_target"))
    model = importlib.import_module("mcu_target").Efr32xg24()
    sys.path.pop(0)
    out_channels = in_channels if depthwise else out_channels
    small = conv(in_channels, out_channels, side, kernel, depthwise)
    more = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 5)), data.draw(st.integers(0, 3))
    wider = in_channels + more[0]
    large = conv(wider, wider if depthwise else out_channels + more[1], side + more[2], kernel, depthwise)
    assert 0 < model.seconds(small) <= model.seconds(large)


def test_an_odd_number_of_channels_takes_as_long_as_the_next_even_one(mcu: ModuleType) -> None:
    model = mcu.Efr32xg24()
    for depthwise in (False, True):
        layers = [conv(channels, channels if depthwise else 16, 8, 3, depthwise) for channels in (13, 14, 15)]
        seconds = [model.seconds(layer) for layer in layers]
        assert seconds[0] == seconds[1] < seconds[2]


@pytest.mark.usefixtures("installed")
def test_a_layer_that_the_table_lacks_is_refused_in_one_line() -> None:
    model = target("mcu-efr32xg24")
    example = torch.zeros(1, 4, 8, 8)
    for module in (nn.Upsample(scale_factor=2), nn.ConvTranspose2d(4, 4, 2), nn.Conv2d(4, 8, 1, groups=2)):
        odd = nn.Sequential(module)
        with pytest.raises(InputError, match="knows no latency of layer '0'") as refusal:
            model.freeze(sb.Deployable(odd, example, [], trace(odd, example)))
        assert "\n" not in str(refusal.value)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An SSH server on a free port of this machine; gives the configuration with which `ssh` finds it as `HOST`."""
    programs = {
        name: shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in ("sshd", "ssh-keygen", "ssh")
    }
    absent = [name for name, path in programs.items() if path is None]
    if absent:
        pytest.skip(f"needs {absent[0]} (Debian: openssh-server)")
    if os.getuid() == 0 and not Path("/run/sshd").is_dir():
        pytest.skip("sshd started by root needs the folder /run/sshd")
    folder = tmp_path_factory.mktemp("ssh")
    (folder / "far").mkdir()
    for key in ("host", "user"):
        subprocess.run([programs["ssh-keygen"], "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\nPidFile none\n"
        "UsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
        f"SetEnv TMPDIR={folder}/far\n"  # with a lock of its own: measurements elsewhere are not waited for
    )
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "ssh_config").write_text(
        f"Host {HOST}\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n  IdentityFile {folder}/user\n"
        f"  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known_hosts\n  StrictHostKeyChecking yes\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([programs["sshd"], "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
    try:
        login = [programs["ssh"], "-F", folder / "ssh_config", "-o", "BatchMode=yes", HOST, "true"]
        for _ in range(50):
            if process.poll() is not None or subprocess.run(login, stderr=subprocess.DEVNULL).returncode == 0:
                break
            time.sleep(0.1)
        else:
            process.kill()
        if process.poll() is not None:
            pytest.skip(f"sshd does not serve here: {(folder / 'log').read_text().strip()[-200:]}")
        yield folder / "ssh_config"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def ssh(installed: None, server: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The plug-in, with the far machine set up."""
    monkeypatch.setenv("SHRINKBOARD_SSH_HOST", HOST)
    monkeypatch.setenv("SHRINKBOARD_SSH_CONFIG", str(server))
    monkeypatch.setenv("SHRINKBOARD_SSH_PYTHON", sys.executable)
    return importlib.import_module("ssh_target")


def test_the_far_machine_keeps_the_contract_and_nothing_but_its_lock(ssh: ModuleType, server: Path) -> None:
    check_cost_model(ssh.SshOnnxRuntime(QUICK))
    # `.ses` is a file that onnxruntime itself leaves when it is imported.
    left = {path.name for path in (server.parent / "far").iterdir()} - {".ses"}
    assert {Path(name).suffix for name in left} == {".lock"}, left


def test_what_comes_back_is_what_was_measured_there(ssh: ModuleType) -> None:
    model, local = ssh.SshOnnxRuntime(QUICK), target("cpu-onnxruntime")
    dense, int8 = sample_deployable(), sample_deployable(form="int8")
    cost = model.cost(int8, sb.Reference(dense, 123.0))
    assert cost.figures["latency"].value == pytest.approx(123.0 / cost.speedup.value)
    assert {str(weight) for weight, _ in cost.executed.values()} == {"int8"}
    assert len(cost.samples["latency"]) == len(cost.samples["latency_reference"]) >= 3
    assert cost.telemetry["seconds"] > 0 and cost.runtime["version"]
    images = torch.randn(70, 3, 16, 16)  # more than one batch
    torch.testing.assert_close(
        torch.from_numpy(model.predict(int8, images)), torch.from_numpy(local.predict(int8, images)), rtol=0, atol=1e-6
    )
    assert HOST not in repr((cost, model.key, pickle.dumps(model)))


def far_python(folder: Path, script: str) -> str:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("exit 127", "finds no Python there"),
        ("exit 1", "finds no shrinkboard there"),
        ("echo welcome", "no JSON"),
        ("echo '{\"fingerprint\": 1}'", "another form"),
        (f'echo \'{{"fingerprint": "0123abcd", "runtime": {{}}, "exact_int8": true, "{HOST}": 1}}\'', "another form"),
        ("echo '[]'", "another form"),
        ("echo '{\"fingerprint\": NaN}'", "another form"),
        (f'echo \'{{"error": "ValueError: lost on {HOST}"}}\'', "another form"),
        ('echo \'{"error": "ValueError"}\'', "meets ValueError on the other machine"),
        ('echo \'{"error": "ValueError", "more": 1}\'', "another form"),
        (r"head -c 100000 /dev/zero | tr '\0' '['", "no JSON"),
        (r"""printf '{"error": '; head -c 100000 /dev/zero | tr '\0' '['""", "no JSON"),
        ("sleep 30", "no answer within 1 s"),
        ("cat /dev/zero", "more than 1000 bytes"),
    ],
)
def test_an_answer_that_is_not_as_agreed_is_one_line(
    ssh: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, told: str
) -> None:
    monkeypatch.setenv("SHRINKBOARD_SSH_PYTHON", far_python(tmp_path, script))
    if script.startswith("cat"):
        monkeypatch.setattr(ssh, "ANSWER_BYTES", 1000)
    with pytest.raises(InputError, match=re.escape(told)) as refusal:
        ssh.ask(ssh.Description, "describe", seconds=1.0 if script.startswith("sleep") else 20.0)
    assert str(refusal.value).isprintable() and HOST not in str(refusal.value)


MEASURED = {
    "ratio": 0.5,
    "low": 0.4,
    "high": 0.6,
    "found_calm": True,
    "reference": 1e-3,
    "samples": {},
    "telemetry": {},
    "ran": "",
}


def test_a_ratio_lies_in_its_interval(ssh: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, dense = ssh.SshOnnxRuntime(QUICK), sample_deployable()

    def cost(**changed: float) -> sb.Cost:
        monkeypatch.setenv("SHRINKBOARD_SSH_PYTHON", far_python(tmp_path, f"echo '{json.dumps(MEASURED | changed)}'"))
        return model.cost(dense, sb.Reference(dense, 2.0))

    for interval in ({}, {"low": 0.5, "high": 0.5}):
        found = cost(**interval)
        assert found.figures["latency"].value == 1.0 and found.speedup.value == 2.0
    for wrong in (
        {"low": 0.51},
        {"high": 0.49},
        {"low": 0.6, "high": 0.4},
        {"ratio": 1e-320, "low": 1e-320},
        {"ratio": 1e308, "high": 1e308},
        {"reference": 10**400},
    ):
        with pytest.raises(InputError, match="got an answer of another form") as refusal:
            cost(**wrong)
        assert "\n" not in str(refusal.value)


def test_outputs_are_a_row_an_image(ssh: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, dense = ssh.SshOnnxRuntime(QUICK), sample_deployable()

    def predict(shape: list[int], values: int) -> np.ndarray:
        answer = json.dumps({"shape": shape, "values": base64.b64encode(bytes(4 * values)).decode()})
        monkeypatch.setenv("SHRINKBOARD_SSH_PYTHON", far_python(tmp_path, f"echo '{answer}'"))
        return model.predict(dense, torch.zeros(2, 3, 16, 16))

    assert predict([2, 10], 20).shape == (2, 10)
    for shape, values in (
        ([1, 10], 10),
        ([20], 20),
        ([3, 10], 30),
        ([2, 10], 10),
        ([2, 0], 0),
        ([-2, -10], 20),
        ([2, -1], 20),
        ([2, 10**30], 20),
        ([2, 10] + [1] * 100, 20),
        ([], 1),
    ):
        with pytest.raises(InputError, match=r"got outputs that are not 2 rows|got an answer of another form"):
            predict(shape, values)


def test_what_an_exception_there_says_is_not_told(ssh: ModuleType) -> None:
    with pytest.raises(InputError, match="meets KeyError on the other machine") as refusal:
        ssh.ask(ssh.Description, f"{getpass.getuser()}@{HOST}")  # a question that it does not know: KeyError of that
    assert HOST not in str(refusal.value)


def test_a_lock_that_cannot_be_had_there_is_said(
    ssh: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, dense = ssh.SshOnnxRuntime(QUICK), sample_deployable()
    (tmp_path / f"shrinkboard-{os.getuid()}-cpu.lock").mkdir()
    python = far_python(tmp_path, f'export TMPDIR={tmp_path}; exec {sys.executable} "$@"')
    monkeypatch.setenv("SHRINKBOARD_SSH_PYTHON", python)
    with pytest.raises(InputError, match="cannot have the lock of the other machine"):
        model.cost(dense, sb.Reference(dense, 1.0))


def test_what_a_login_script_prints_is_passed_over(
    ssh: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHRINKBOARD_SSH_PYTHON", far_python(tmp_path, f'echo "Welcome!"; exec {sys.executable} "$@"'))
    assert re.fullmatch("ssh-onnxruntime@[0-9a-f]{8}", ssh.SshOnnxRuntime(QUICK).key)


@pytest.mark.usefixtures("ssh")
@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("", "set SHRINKBOARD_SSH_HOST"),
        ("-v", "set SHRINKBOARD_SSH_HOST"),
        (f"no.{HOST}", "cannot reach"),
    ],
)
def test_a_machine_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch, host: str, told: str) -> None:
    monkeypatch.setenv("SHRINKBOARD_SSH_HOST", host)
    with pytest.raises(InputError, match=told) as refusal:
        target("ssh-onnxruntime")
    assert "\n" not in str(refusal.value) and HOST not in str(refusal.value)


def test_a_graph_that_the_far_runtime_refuses_is_one_line(ssh: ModuleType) -> None:
    parts = [b"no graph", b"no graph", bytes(4 * 3 * 16 * 16)]
    with pytest.raises(InputError, match="meets InvalidProtobuf on the other machine") as refusal:
        ssh.ask(ssh.Measurement, "measure", parts, shape=[1, 3, 16, 16], effort=asdict(QUICK), level=None)
    assert "\n" not in str(refusal.value)
