"""The catalogue of devices is data: complete, sourced, versioned; and a user's own file."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from cost_models import target
from cost_models.fpga import fpga_names, load_fpga, named_fpga
from cost_models.fpga.device import DEVICES
from workloads import InputError

# Published figures (LUT, FF, DSP, BRAM18, URAM), typed from the vendor's tables apart from the TOML files.
PUBLISHED = {
    "z7020": (53_200, 106_400, 220, 280, 0),
    "z7045": (218_600, 437_200, 900, 1_090, 0),
    "ultra96": (70_560, 141_120, 360, 432, 0),
    "zcu104": (230_400, 460_800, 1_728, 624, 96),
    "zcu102": (274_080, 548_160, 2_520, 1_824, 0),
    "kv260": (117_120, 234_240, 1_248, 288, 64),
    "u250": (1_728_000, 3_456_000, 12_288, 5_376, 1_280),
    "vck190": (899_840, 1_799_680, 1_968, 1_934, 463),
}
# A published version of a file never changes: whoever changes a figure raises `version` and adds a line here.
FROZEN = {
    ("kv260", 1): "37823018574c3f4f",
    ("u250", 1): "bf6f7f5e63699b07",
    ("ultra96", 1): "ff75b099a9d51a23",
    ("vck190", 1): "5ed5d369da3e036a",
    ("z7020", 1): "6d7293c15ff4bb19",
    ("z7045", 1): "8843d011c81644c8",
    ("zcu102", 1): "1f50e54e086ec738",
    ("zcu104", 1): "36a7ae98d7d810ac",
}


@pytest.mark.parametrize("name", fpga_names())
def test_catalogue(name: str) -> None:
    device = named_fpga(name)
    assert device.name == name
    assert tuple(device.capacity) == PUBLISHED[name]
    assert (device.budget == np.floor(device.capacity * [0.7, 0.5, 0.8, 0.8, 0.8])).all()
    assert device.bytes_per_cycle == pytest.approx(0.7 * device.dram.bandwidth.value / device.clock.value)


def test_every_issue_device_is_there() -> None:
    assert set(fpga_names()) == set(PUBLISHED)


@pytest.mark.parametrize("name", fpga_names())
def test_published_versions_do_not_change(name: str) -> None:
    text = (DEVICES / f"{name}.toml").read_bytes()
    assert FROZEN[name, named_fpga(name).version] == hashlib.sha256(text).hexdigest()[:16]


def own(tmp_path: Path, old: str = "", new: str = "") -> Path:
    text = (DEVICES / "zcu104.toml").read_text().replace('name = "zcu104"', 'name = "mine"')
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new) if old else text)
    return path


def test_own_device(tmp_path: Path) -> None:
    path = own(tmp_path, "value = 1728,", "value = 100,")
    assert load_fpga(path).budget[2] == 80
    assert target(f"fpga:{path}").name == "fpga-mine"
    assert target(f"fpga:{own(tmp_path, 'version = 1', 'version = 2')}").name == "fpga-mine-v2"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("value = 1728,", "value = -1,", "resources.dsp.value"),
        ("value = 1728,", "value = 17.5,", "resources.dsp.value"),
        ("value = 1728,", "value = nan,", "resources.dsp.value"),
        ("uram = {", "uramm = {", "resources.uram"),
        ("value = 9.2, source", "value = 9.2, unsourced = true, source", "power.board"),
        ("value = 1.92e10,", "value = 0.0,", "dram.bandwidth"),
        ("schema = 1", "schema = 2", "schema"),
        ("[resources]", "[resources", "not TOML"),
    ],
)
def test_damaged_device(tmp_path: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(InputError, match=told.replace(".", r"\.")) as caught:
        load_fpga(own(tmp_path, old, new))
    assert "\n" not in str(caught.value)


def test_missing_device() -> None:
    with pytest.raises(InputError, match="cannot be read"):
        target("fpga:/nowhere/mine.toml")
    with pytest.raises(InputError, match="needs the path of its file"):
        target("fpga:")
    with pytest.raises(InputError, match="did you mean fpga-zcu104"):
        target("fpga-zcu14")


@pytest.mark.parametrize("name", ["foo", "../devices/zcu104", ""])
def test_unknown_name(name: str) -> None:
    with pytest.raises(InputError, match=r"unknown FPGA device .*; allowed: kv260, .*zcu104") as caught:
        named_fpga(name)
    assert str(DEVICES) not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("taken", ["zcu104", "z7020"])
def test_own_device_does_not_pass_for_one_of_the_catalogue(tmp_path: Path, taken: str) -> None:
    """It would be given the power that was measured on another board."""
    path = own(tmp_path, 'name = "mine"', f'name = "{taken}"')
    with pytest.raises(InputError, match=f"'{taken}' is a device of the catalogue; give this one a name of its own"):
        target(f"fpga:{path}")


def test_the_catalogues_files_load_by_their_paths() -> None:
    assert load_fpga(DEVICES / "zcu104.toml") == named_fpga("zcu104")
