"""`shrinkboard estimate` as its users meet it: every kind of network, given foldings, refusals, and the picture."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import shrinkboard as sb

ROOT = Path(sb.__file__).parent
PAGE = ROOT / "docs" / "fpga.md"

NETWORK = {
    "schema": 1,
    "layers": [
        {"name": "image", "kind": "input", "out_channels": 3, "out_height": 8, "out_width": 8},
        {
            "name": "conv",
            "kind": "conv",
            "out_channels": 4,
            "kernel": 3,
            "padding": 1,
            "nonzeros": [27, 9, 18, 27],
            "weight_format": "int8",
            "activation_format": "int8",
        },
        {"name": "pool", "kind": "pool"},
        {
            "name": "classes",
            "kind": "linear",
            "out_channels": 5,
            "weight_format": "int8",
            "activation_format": "int8",
        },
    ],
}
FOLDING = {"schema": 1, "clock": 1e8, "layers": {"conv": {"filters": 2, "nonzeros": 3, "pixels": 2}, "classes": {}}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with the hand-written network and folding in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SHRINKBOARD_DATA", raising=False)
    (tmp_path / "network.json").write_text(json.dumps(NETWORK))
    (tmp_path / "folding.json").write_text(json.dumps(FOLDING))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(sb._app(), ["estimate", *arguments])


def estimated(*arguments: str) -> dict[str, Any]:
    told = run(*arguments, "--format", "json")
    assert told.exit_code == 0, (told.output, told.exception)
    return json.loads(told.stdout)


def given(**changes: Any) -> dict[str, Any]:
    return {**FOLDING, "layers": {**FOLDING["layers"], **changes}}


def test_a_given_folding_has_the_figures_that_a_pencil_gives(folder: Path) -> None:
    design = estimated("network.json", "--target", "fpga-z7020", "--folding", "folding.json")
    conv, pool, classes = (layer for layer in design["layers"] if layer["kind"] != "input")
    # Sorted filters 27 27 | 18 9 in groups of P = 2, M = 3 at a time: ⌈27/3⌉ + ⌈18/3⌉ steps, 8 · ⌈8/2⌉ windows.
    assert (conv["steps"], conv["cycles"]) == (15, 480)
    assert conv["lanes"] == 2 * 3 * 2
    assert conv["resources"]["dsp"] == 2 * 3  # two pixels share the weight of a DSP at 8 bits
    # 64 pixels of 4 channels, one channel a cycle, and 4 inputs of 5 filters, one at a time.
    assert (pool["cycles"], classes["cycles"]) == (256, 20)
    assert design["interval_cycles"] == 480
    # Natural order pairs 27 9 | 18 27: 9 + 9 steps. Equal filters have ⌈81/4⌉ = 21 each: 7 + 7.
    assert design["intervals_cycles"] == {"natural": 18 * 32, "sorted": 480, "equal": 14 * 32}
    assert design["clock_hz"] == 1e8
    assert design["throughput"] == pytest.approx(1e8 / 480)
    assert design["frame_bytes"] == 3 * 64 + 5  # the image in, the classes out
    assert design["limit"]["kind"] == "layer" and "'conv'" in design["limit"]["why"]
    assert design["folding"] == "given" and design["fits"]


@pytest.mark.parametrize(("order", "interval"), [("natural", 576), ("sorted", 480), ("equal", 448)])
def test_the_order_of_the_filters_is_chosen(folder: Path, order: str, interval: int) -> None:
    design = estimated("network.json", "--target", "fpga-z7020", "--folding", "folding.json", "--order", order)
    assert (design["order"], design["interval_cycles"]) == (order, interval)


def test_a_clock_on_the_command_line_comes_before_the_folding_files(folder: Path) -> None:
    slow, fast = (
        estimated("network.json", "--target", "fpga-z7020", "--folding", "folding.json", *more)
        for more in ((), ("--clock", "0.2GHz"))
    )
    assert (slow["clock_hz"], fast["clock_hz"]) == (1e8, 2e8)
    assert fast["throughput"] == pytest.approx(2 * slow["throughput"])
    for name in ("optimistic", "pessimistic", "mean"):
        # External memory keeps its own pace, and so takes more of the shorter cycles.
        assert 1 <= fast["latency_cycles"][name] / slow["latency_cycles"][name] < 1.02
        assert fast["latency_s"][name] == pytest.approx(fast["latency_cycles"][name] / 2e8, rel=1e-3)


@pytest.mark.parametrize("clock", ["1e8Hz", "100MHz", "1E5 kHz", "0.1GHz"])
def test_a_clock_is_told_in_any_unit(folder: Path, clock: str) -> None:
    assert estimated("network.json", "--target", "fpga-z7020", "--clock", clock)["clock_hz"] == pytest.approx(1e8)


def test_cycles_of_latency_have_three_decimals_at_most(folder: Path) -> None:
    design = estimated("network.json", "--target", "fpga-z7020", "--folding", "folding.json")
    for name, cycles in design["latency_cycles"].items():
        assert re.fullmatch(r"\d+\.\d{1,3}", repr(cycles)), name
        assert design["latency_s"][name] == cycles / design["clock_hz"]


def test_widths_that_change_nothing_are_told(folder: Path) -> None:
    told = run("network.json", "--target", "fpga-z7020", "--bits", "W4A4")
    assert told.exit_code == 0 and told.stderr.count("\n") == 1 and "--bits changes no layer" in told.stderr
    floats = json.loads(json.dumps(NETWORK))
    del floats["layers"][1]["weight_format"]
    (folder / "floats.json").write_text(json.dumps(floats))
    assert run("floats.json", "--target", "fpga-z7020", "--bits", "W4A4").stderr == ""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_picture_that_may_not_be_written_is_refused_before_the_work(folder: Path) -> None:
    (folder / "kept.svg").touch(mode=0o400)
    told = run("network.json", "--target", "fpga-z7020", "--out", "kept.svg")
    assert isinstance(told.exception, sb.InputError) and told.stdout == ""


def test_a_design_larger_than_the_device_is_told_and_says_that_it_does_not_fit(folder: Path) -> None:
    (folder / "wide.json").write_text(json.dumps(given(conv={"filters": 4, "nonzeros": 27, "pixels": 8})))
    arguments = ("network.json", "--target", "fpga-z7020", "--folding", "wide.json")
    design = estimated(*arguments)
    assert design["resources"]["dsp"]["used"] == 4 * 27 * 4 + 1  # two pixels share a DSP; 1: the classes
    assert design["resources"]["dsp"]["budget"] == 176
    assert not design["fits"] and not design["within_budget"]
    assert "DSP (433 of 220)" in run(*arguments).stdout
    (folder / "wide.json").write_text(json.dumps(given(conv={"filters": 4, "nonzeros": 27, "pixels": 3})))
    tight = estimated(*arguments)
    assert tight["fits"] and not tight["within_budget"]
    assert f"DSP ({tight['resources']['dsp']['used']:.0f} of 176)" in run(*arguments).stdout


def test_an_allocated_design_fits_and_is_the_same_when_its_folding_is_given(folder: Path) -> None:
    allocated = estimated("network.json", "--target", "fpga-z7020")
    assert allocated["folding"] == "allocated" and allocated["fits"]
    assert allocated["interval_cycles"] < 480
    layers = {layer["name"]: layer["folding"] for layer in allocated["layers"]}
    (folder / "again.json").write_text(json.dumps({"schema": 1, "layers": layers}))
    again = estimated("network.json", "--target", "fpga-z7020", "--folding", "again.json")
    same = set(allocated) - {"folding", "limit", "intervals_cycles"}
    assert {key: again[key] for key in same} == {key: allocated[key] for key in same}


def test_every_figure_of_a_design_hangs_together(folder: Path) -> None:
    design = estimated("digits/cnn", "--target", "fpga-zcu104", "--bits", "W4A4")
    assert design["device"]["name"] == "zcu104"
    latency = design["latency_cycles"]
    assert design["interval_cycles"] <= latency["optimistic"] <= latency["mean"] <= latency["pessimistic"]
    assert design["interval_cycles"] == max(design["traffic_cycles"], *(layer["cycles"] for layer in design["layers"]))
    for name, resource in design["resources"].items():
        assert resource["used"] == pytest.approx(sum(layer["resources"][name] for layer in design["layers"]))
        assert resource["used"] <= resource["budget"] <= resource["capacity"]
    assert {layer["weight_format"] for layer in design["layers"]} == {"int4", None}
    power, energy = design["power_w"], design["energy_j"]
    assert power["low"] <= power["value"] <= power["high"]
    assert energy["value"] == pytest.approx(power["value"] / design["throughput"])
    assert 0 < design["weight_bytes"] < 94186  # four bits each of less than 94,186 parameters, index-free


def test_a_power_that_nobody_measured_is_absent_with_its_reason(folder: Path) -> None:
    design = estimated("digits/cnn", "--target", "fpga-z7020", "--bits", "W8A8")
    assert design["power_w"]["value"] is None and design["power_w"]["reason"]
    assert design["energy_j"]["value"] is None and design["energy_j"]["reason"]
    assert design["resources"]["uram"]["share"] is None  # the part has none


def test_floating_point_runs_in_16_bits_and_says_so_on_stderr_alone(folder: Path) -> None:
    told = run("digits/cnn", "--target", "fpga-zcu104", "--format", "json")
    assert {layer["weight_format"] for layer in json.loads(told.stdout)["layers"]} == {"int16", None}
    assert told.stderr.count("\n") == 1 and "16-bit" in told.stderr and "--bits" in told.stderr


def test_bits_replace_floating_point_formats_alone(folder: Path) -> None:
    mixed = json.loads(json.dumps(NETWORK))
    del mixed["layers"][3]["weight_format"]
    (folder / "mixed.json").write_text(json.dumps(mixed))
    told = run("mixed.json", "--target", "fpga-z7020", "--bits", "Wmf6A4", "--format", "json")
    assert told.stderr == ""
    formats = {
        layer["name"]: (layer["weight_format"], layer["activation_format"])
        for layer in json.loads(told.stdout)["layers"]
    }
    assert formats["conv"] == ("int8", "int8")
    assert formats["classes"] == ("mf6", "int8")


def test_an_onnx_file_costs_what_the_same_network_costs_as_a_table(folder: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )
    with torch.no_grad():  # as many nonzeros as the hand-written network has
        for index, kept in enumerate([27, 9, 18, 27]):
            module[0].weight[index].view(-1)[kept:] = 0
    from cost_models.export import export_onnx

    (folder / "network.onnx").write_bytes(export_onnx(module.eval(), torch.zeros(1, 3, 8, 8)).SerializeToString())
    from_onnx = estimated("network.onnx", "--target", "fpga-z7020", "--bits", "W8A8")
    from_table = estimated("network.json", "--target", "fpga-z7020")
    for key in ("interval_cycles", "intervals_cycles", "latency_cycles", "resources", "weight_bytes", "frame_bytes"):
        assert from_onnx[key] == from_table[key], key


def test_a_published_layer_file_brings_its_folding(folder: Path) -> None:
    files = os.environ.get("SHRINKBOARD_FPGA_BOARDS")
    if files is None:
        pytest.skip("needs SHRINKBOARD_FPGA_BOARDS, a folder with fpgaConvNet's published layer files")
    design = estimated(str(Path(files) / "zc706-resnet.json"), "--target", "fpga-z7045", "--clock", "187MHz")
    assert design["folding"] == "given"
    assert design["interval_cycles"] == 16384


def test_other_modelled_targets_print_their_figures(folder: Path) -> None:
    counts = {row["figure"]: row["value"] for row in estimated("network.json", "--target", "counts")["figures"]}
    assert counts["macs"] == 81 * 64 + 20
    roofline = estimated("network.json", "--target", "roofline-raspberry-pi-4")
    figures = {row["figure"]: row for row in roofline["figures"]}
    assert figures["latency"]["value"] > 0 and figures["latency"]["unit"] == "s"
    assert "bit_operations" in run("network.json", "--target", "counts").stdout


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_explain_lists_the_layers_and_draws_the_pipeline(folder: Path, suffix: str) -> None:
    more = () if suffix == "svg" else ("--out", "drawn.png")
    told = run("cifar10/resnet8", "--target", "fpga-zcu102", "--bits", "W8A8", "--explain", *more)
    assert told.exit_code == 0, told.output
    assert "stack2.shortcut" in told.stdout
    if suffix == "png":
        with Image.open("drawn.png") as image:
            image.load()
            colours = image.convert("RGB").getcolors(maxcolors=2**24)
            assert image.width > image.height > 300
        assert colours and len(colours) > 50
    else:
        drawn = xml.etree.ElementTree.parse("pipeline.svg").getroot()
        texts = " ".join("".join(element.itertext()) for element in drawn.iter() if element.tag.endswith("text"))
        assert all(name in texts for name in ("stack2.shortcut", "add_1", "linear", "FIFO", "an image every"))
    assert len(list(folder.iterdir())) == 3  # the network, the folding and the picture


def test_the_table_says_what_limits_the_design(folder: Path) -> None:
    told = run("network.json", "--target", "fpga-z7020", "--folding", "folding.json").stdout
    for expected in ("480 cycles", "natural 576", "equal 448", "layer 'conv' is the slowest", "DSP", "unknown: no"):
        assert expected in told
    assert "pixels" not in told and not list(folder.glob("pipeline*"))  # both wait for --explain


def test_names_of_layers_are_printed_and_drawn_as_they_are(folder: Path) -> None:
    text = json.dumps(NETWORK).replace('"conv", "kind"', '"[red]$x_1$ :smile: %", "kind"')
    (folder / "odd.json").write_text(text)
    told = run("odd.json", "--target", "fpga-z7020", "--explain")
    assert told.exit_code == 0, told.exception
    assert "[red]$x_1$ :smile: %" in told.stdout
    assert "[red]$x_1$ :smile: %" in (folder / "pipeline.svg").read_text()


REFUSED: dict[str, tuple[list[str], str]] = {
    "unknown part": (["network.json", "--target", "fpga-zcu105"], "fpga-zcu104"),
    "no device file": (["network.json", "--target", "fpga:nowhere.toml"], "nowhere.toml"),
    "measured target": (["network.json", "--target", "cpu-onnxruntime"], "search"),
    "unknown workload": (["digits/cn", "--target", "fpga-z7020"], "digits/cnn"),
    "no network file": (["nowhere.json", "--target", "fpga-z7020"], "nowhere.json"),
    "no ONNX file": (["nowhere.onnx", "--target", "fpga-z7020"], "nowhere.onnx"),
    "folder without classes": (["folder/mobilenetv2", "--target", "fpga-z7020"], "--data-dir"),
    "not a network": (["notes.txt", "--target", "fpga-z7020"], "ends in .onnx or .json"),
    "broken JSON": (["broken.json", "--target", "fpga-z7020"], "broken.json"),
    "nonzeros above the filter": (["overfull.json", "--target", "fpga-z7020"], "conv"),
    "bits": (["network.json", "--target", "fpga-z7020", "--bits", "8"], "W8A8"),
    "bits too wide": (["network.json", "--target", "fpga-z7020", "--bits", "W17A8"], "W17A8"),
    "minifloat too narrow": (["network.json", "--target", "fpga-z7020", "--bits", "Wmf2A8"], "Wmf2A8"),
    "clock without a unit": (["network.json", "--target", "fpga-z7020", "--clock", "200"], "200MHz"),
    "clock of nothing": (["network.json", "--target", "fpga-z7020", "--clock", "0MHz"], "0MHz"),
    "picture": (["network.json", "--target", "fpga-z7020", "--explain", "--out", "x.txt"], ".svg"),
    "picture nowhere": (["network.json", "--target", "fpga-z7020", "--out", "no/x.svg"], "no/x.svg"),
    "no folding file": (["network.json", "--target", "fpga-z7020", "--folding", "no.json"], "no.json"),
    "unknown layer": (["network.json", "--target", "fpga-z7020", "--folding", "unknown.json"], "'convolution'"),
    "missing layer": (["network.json", "--target", "fpga-z7020", "--folding", "missing.json"], "'classes'"),
    "more filters than there are": (["network.json", "--target", "fpga-z7020", "--folding", "many.json"], "'conv'"),
    "picture is a folder": (["network.json", "--target", "fpga-z7020", "--out", "folder.svg"], "folder.svg"),
    "picture with too long a name": (
        ["network.json", "--target", "fpga-z7020", "--out", 300 * "x" + ".svg"],
        "xxx.svg",
    ),
    "order of counts": (["network.json", "--target", "counts", "--order", "sorted"], "--order"),
    "clock beyond all": (["network.json", "--target", "fpga-z7020", "--clock", "1e99Hz"], "1e99Hz"),
    "no path of a device": (["network.json", "--target", "fpga:"], "path"),
    "folding of counts": (["network.json", "--target", "counts", "--folding", "folding.json"], "--folding"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_line(folder: Path, case: str) -> None:
    (folder / "notes.txt").write_text("not a network")
    (folder / "broken.json").write_text('{"schema": 1,')
    overfull = json.loads(json.dumps(NETWORK))
    overfull["layers"][1]["nonzeros"] = [28, 9, 18, 27]
    (folder / "overfull.json").write_text(json.dumps(overfull))
    (folder / "unknown.json").write_text(json.dumps(given(convolution={"filters": 2})))
    (folder / "missing.json").write_text(json.dumps({"schema": 1, "layers": {"conv": {}}}))
    (folder / "many.json").write_text(json.dumps(given(conv={"filters": 5})))
    (folder / "folder.svg").mkdir()
    before = set(folder.iterdir())
    arguments, expected = REFUSED[case]
    told = run(*arguments)
    assert isinstance(told.exception, sb.InputError), told.output
    assert told.exception.exit_code == 2
    assert expected in str(told.exception) and "\n" not in str(told.exception)
    assert told.output == "" and set(folder.iterdir()) == before


def test_a_network_that_does_not_fit_says_what_is_short_and_where_it_would_fit(folder: Path) -> None:
    """In a process of its own: exit code 2, one line on stderr, nothing on stdout."""
    told = subprocess.run(
        [sys.executable, "-m", "shrinkboard", "estimate", "camvid/unet", "--target", "fpga-z7020", "--bits", "W16A16"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.count("\n") == 1
    assert re.search(
        r"does not fit z7020: it needs at least .*bram18 [\d,]+ of 224 usable \([\d.]+ times\)", told.stderr
    )
    assert re.search(r"fpga-\w+ is the smallest device that holds it", told.stderr)


def test_the_help_has_an_example_and_loads_no_network(folder: Path) -> None:
    told = run("--help")
    assert told.exit_code == 0 and "Example: shrinkboard estimate" in told.output
    assert ".pdf" in told.output
    code = (
        "import sys, shrinkboard\n"
        "shrinkboard._app()\n"
        "print([name for name in ('torch', 'numpy', 'scipy', 'matplotlib', 'onnx') if name in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert loaded.stdout.strip() == "[]", loaded.stderr


def fenced(language: str, containing: str) -> str:
    """The block of the page in that language which contains those words."""
    [found] = [
        block for block in re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL) if containing in block
    ]
    return found


def test_the_pages_device_loads_and_its_power_is_told(folder: Path) -> None:
    (folder / "board.toml").write_text(fenced("toml", "[resources]"))
    design = estimated("network.json", "--target", "fpga:board.toml")
    assert design["device"]["name"] == "my-board"
    assert design["clock_hz"] == 1.5e8
    assert design["power_w"]["value"] > 2.1  # what the page's board draws idle


def test_the_pages_folding_gives_what_the_page_says(folder: Path) -> None:
    (folder / "network.json").write_text(fenced("json", '"kind": "input"'))
    (folder / "folding.json").write_text(fenced("json", '"clock"'))
    design = estimated("network.json", "--target", "fpga-z7020", "--folding", "folding.json")
    told = re.search(r"initiation interval is ([\d,]+) cycles", PAGE.read_text())
    assert told and design["interval_cycles"] == int(told[1].replace(",", ""))


def test_the_page_tells_every_key(folder: Path) -> None:
    design = estimated("network.json", "--target", "fpga-z7020")
    page = PAGE.read_text()
    assert [key for key in (*design, *design["layers"][0]) if f"`{key}`" not in page] == []
