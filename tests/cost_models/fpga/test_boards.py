"""Published designs: a file made by hand, what the reader refuses, the boards' figures, and the peers' layer."""

from __future__ import annotations

import copy
import json
import os
import runpy
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shrinkboard as sb
from cost_models.fpga.boards import PublishedDesign, measured_boards, read_fpgaconvnet
from cost_models.fpga.design import Design, estimate
from cost_models.fpga.device import RESOURCES, named_fpga
from cost_models.fpga.equations import bram18
from cost_models.fpga.folding import ConvFolding, LayerFolding
from workloads import Format, InputError, Layer, Network

SCRIPT = Path(sb.__file__).parent / "scripts" / "validate_fpga_boards.py"
FOLDER = os.environ.get("SHRINKBOARD_FPGA_BOARDS")
LUT, DSP = RESOURCES.index("lut"), RESOURCES.index("dsp")
WIDE = {"width": 24, "binary_point": 0}
NINE = {"width": 9, "binary_point": 0}


def layer(
    name: str,
    kind: str,
    inputs: list[str],
    before: tuple[int, int, int],
    after: tuple[int, int, int],
    coarse: int = 1,
    **parameters: Any,
) -> dict[str, Any]:
    """One layer of a file; shapes are rows, columns, channels."""
    sizes = {
        **dict(zip(("rows_in", "cols_in", "channels_in"), before, strict=True)),
        **dict(zip(("rows_out", "cols_out", "channels_out"), after, strict=True)),
    }
    return {
        "name": name,
        "type": kind,
        "streams_in": [{"name": f"{other}_{name}", "coarse": 1, "node": other} for other in inputs or [name]],
        "parameters": {"batch_size": 1, **sizes, "coarse_in": coarse, "coarse_out": coarse, **parameters},
    }


def chain() -> dict[str, Any]:
    """Convolution → squeeze → batch norm → ReLU → pool → depthwise → mean → inner product → scale."""
    weighted = {"weight_t": {"width": 8}, "input_t": NINE, "acc_t": WIDE, "has_bias": 1}
    window = {"kernel_rows": 3, "kernel_cols": 3, "stride_rows": 1, "stride_cols": 1}
    border = {"pad_top": 1, "pad_bottom": 1, "pad_left": 1, "pad_right": 1}
    scaled = {"input_t": WIDE, "scale_t": WIDE}
    folds = {"coarse_in": 2, "coarse_out": 4, "coarse_group": 1, "groups": 1, "fine": 3}
    pooled = {"kernel_size": [2, 2], "stride": [2, 2]}
    groups = {"groups": 8, "coarse_group": 2, "fine": 9, "use_dsp": False}
    layers = [
        layer("conv", "CONVOLUTION", [], (10, 6, 4), (10, 6, 8), **weighted, **window, **border, **folds, filters=8),
        layer("narrow", "SQUEEZE", ["conv"], (10, 6, 8), (10, 6, 8), coarse_in=4, coarse_out=1),
        layer("norm", "BATCH_NORM", ["narrow"], (10, 6, 8), (10, 6, 8), coarse=2, **scaled),
        layer("relu", "ACTIVATION", ["norm"], (10, 6, 8), (10, 6, 8)),
        layer("pool", "POOLING", ["relu"], (10, 6, 8), (5, 3, 8), coarse=2, **pooled),
        layer("depth", "CONVOLUTION", ["pool"], (5, 3, 8), (5, 3, 8), **weighted, **window, **border, **groups),
        layer("mean", "AVERAGE_POOLING", ["depth"], (5, 3, 8), (1, 1, 8), data_t=WIDE, acc_t=WIDE),
        layer("gemm", "INNER_PRODUCT", ["mean"], (1, 1, 8), (1, 1, 5), coarse_in=4, coarse_out=1, **weighted),
        layer("scale", "BATCH_NORM", ["gemm"], (1, 5, 1), (1, 5, 1), coarse=5, **scaled),
    ]
    return {"partition": [{"id": 0, "weights_reloading_factor": 1, "layers": layers}]}


def branches() -> dict[str, Any]:
    """A residual block between a split and an add with scales, then a concat, a chop, and a resize."""
    one = {"kernel_size": [1, 1], "stride": [1, 1], "groups": 1, "coarse_group": 1, "fine": 1}
    scales = {"input_scale_arr": [6343052, 4194304], "output_scale": 4289131, "data_t": NINE, "acc_t": WIDE}
    layers = [
        layer("split", "SPLIT", [], (4, 4, 6), (4, 4, 6)),
        layer("conv", "CONVOLUTION", ["split"], (4, 4, 6), (4, 4, 6), **one),
        layer("add", "ELTWISE", ["split", "conv"], (4, 4, 6), (4, 4, 6), **scales),
        layer("both", "CONCAT", ["add", "conv"], (4, 4, 6), (4, 4, 12), channels_in_array=[6, 6], coarse=3),
        layer("chop", "CHOP", ["both"], (4, 4, 12), (4, 4, 12), split=[8, 4]),
        layer("left", "RELU", ["chop"], (4, 4, 8), (4, 4, 8)),
        layer("right", "RESIZE", ["chop"], (4, 4, 4), (8, 8, 4), coarse=2),
    ]
    # The layers of a file need not stand in the order in which words pass through them.
    return {"partition": [{"layers": layers[::-1]}]}


def read(data: Any, folder: Path) -> PublishedDesign:
    path = folder / "layers.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return read_fpgaconvnet(path)


def design(published: PublishedDesign) -> Design:
    return estimate(published.network, named_fpga("z7020"), published.folding)


def by_name(values: Any, found: Design) -> dict[str, int]:
    return {block.name: int(value) for block, value in zip(found.blocks, values, strict=True)}


def test_cycles_of_a_chain_are_those_worked_out_by_hand(tmp_path: Path) -> None:
    published = read(chain(), tmp_path)
    found = design(published)
    assert by_name(found.cycles, found) == {
        "conv:in": 10 * 6 * 4,
        "conv": 10 * 6 * (4 // 2) * (8 // 4) * (9 // 3),
        "narrow": 10 * 6 * 8,
        "norm": 10 * 6 * 4,
        "relu": 10 * 6 * 8,
        "pool": 10 * 6 * 4,
        "depth": 5 * 3 * 4,
        "mean": 5 * 3 * 8,
        "gemm": 2 * 5,
        "scale": 1,
    }
    assert found.interval == 720
    assert published.types["norm"] == "BATCH_NORM"
    assert published.types["conv:in"] == "INPUT"


def test_dsps_follow_from_lanes_and_widths(tmp_path: Path) -> None:
    published = read(chain(), tmp_path)
    found = design(published)
    dsps = by_name(found.resources[:, DSP], found)
    assert {name: count for name, count in dsps.items() if count} == {
        "conv": 2 * 4 * 3,
        "norm": 2 * 2,  # two words at once, 24 × 24 bits each
        "mean": 1,  # of 15 pixels
        "gemm": 4,
        "scale": 5 * 2,
    }
    without = by_name(found.resources[:, LUT], found)["depth"]
    data = chain()
    parameters(data, "depth")["use_dsp"] = True
    other = design(read(data, tmp_path))
    assert by_name(other.resources[:, DSP], other)["depth"] == 2 * 9
    assert by_name(other.resources[:, LUT], other)["depth"] < without


def test_a_mean_of_a_power_of_two_is_a_shift(tmp_path: Path) -> None:
    data = {"partition": [{"layers": [layer("mean", "AVERAGE_POOLING", [], (4, 4, 8), (1, 1, 8))]}]}
    assert design(read(data, tmp_path)).resources[:, DSP].sum() == 0


def test_the_network_has_the_files_formats_and_parameters(tmp_path: Path) -> None:
    network = read(chain(), tmp_path).network
    conv = network["conv"]
    assert (conv.weight_format, conv.activation_format) == (Format("int", 8), Format("int", 9))
    assert (conv.kernel, conv.padding, conv.bias) == ((3, 3), (1, 1, 1, 1), True)
    assert network["depth"].groups == 8
    assert network["gemm"].in_channels == 8
    assert network.parameters == (8 * 4 * 9 + 8) + 2 * 8 + (8 * 9 + 8) + (5 * 8 + 5) + 2 * 5


def test_branches_are_joined_whatever_their_order_in_the_file(tmp_path: Path) -> None:
    published = read(branches(), tmp_path)
    assert {row.name: row.inputs for row in published.network.layers} == {
        "split:in": (),
        "split": ("split:in",),
        "conv": ("split",),
        "add": ("split", "conv"),
        "both": ("add", "conv"),
        "chop": ("both",),
        "left": ("chop",),
        "right": ("chop",),
    }
    found = design(published)
    cycles = by_name(found.cycles, found)
    assert cycles["conv"] == 4 * 4 * 36
    assert cycles["both"] == 4 * 4 * 12 // 3
    assert cycles["right"] == 8 * 8 * 2
    assert by_name(found.resources[:, DSP], found)["add"] == 3 * 2
    assert float(found.latency.optimistic) <= float(found.latency.pessimistic)


def test_streams_without_a_node_are_joined_by_their_names(tmp_path: Path) -> None:
    data = chain()
    layers = data["partition"][0]["layers"]
    wanted = {row.name: row.inputs for row in read(data, tmp_path).network.layers}
    for one in layers:
        one["streams_out"] = [
            {"name": stream["name"], "coarse": 1}
            for other in layers
            for stream in other["streams_in"]
            if stream["node"] == one["name"] != other["name"]
        ]
    for one in layers:
        for stream in one["streams_in"]:
            del stream["node"]
    assert {row.name: row.inputs for row in read(data, tmp_path).network.layers} == wanted


def find(data: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in data["partition"][0]["layers"] if one["name"] == name)


def parameters(data: dict[str, Any], name: str) -> dict[str, Any]:
    return find(data, name)["parameters"]


def changed(name: str, **values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda data: parameters(data, name).update(values)


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a negative size": (changed("conv", rows_in=-10), "'conv': parameters.rows_in"),
    "no channels": (changed("relu", channels_in=0), "'relu': parameters.channels_in"),
    "a size in words": (changed("conv", cols_in="six"), "'conv': parameters.cols_in"),
    "a size left out": (lambda data: parameters(data, "pool").pop("rows_out"), "'pool' has no rows_out"),
    "no folding": (lambda data: parameters(data, "conv").pop("coarse_in"), "'conv' has no coarse_in"),
    "more lanes than channels": (changed("conv", coarse_in=8), "'conv': coarse_in is 8.*only 4"),
    "more lanes than taps": (changed("conv", fine=10), "'conv': fine is 10.*only 9"),
    "a wider stream than channels": (changed("relu", coarse_in=9, coarse_out=9), "'relu': filters is 9"),
    "groups that do not divide": (changed("depth", groups=3), "'depth': 3 groups"),
    "group lanes that do not divide": (changed("depth", coarse_group=3), "'depth': coarse_group 3"),
    "filters beside channels": (changed("conv", filters=9), "'conv' has 9 filters"),
    "a kernel larger than the map": (changed("conv", kernel_rows=13), "'conv': a kernel of 13 rows"),
    "rows that the kernel does not give": (changed("conv", rows_out=7), "'conv': 7 rows go out"),
    "words that vanish": (changed("norm", channels_out=7), "'norm': 10×6×8 words"),
    "maps that do not fit together": (changed("gemm", channels_in=9), "'gemm' takes 1×1×9 words of 'mean'"),
    "a pool that adds channels": (changed("mean", channels_out=9), "'mean': 8 channels come in"),
    "weights of 32 bits": (changed("conv", weight_t={"width": 32}), "'conv': weight_t is 32 bits"),
    "sparse weights": (changed("conv", sparsity=0.5), "'conv' is sparse"),
    "three dimensions": (changed("conv", depth_in=4), "'conv' has a depth of 4"),
    "an unknown type": (lambda data: find(data, "relu").update(type="SOFTSIGN"), "'relu' is of type 'SOFTSIGN'"),
    "an add of one map": (lambda data: find(data, "relu").update(type="ELTWISE"), "'relu' is an ELTWISE of 1"),
    "an unknown sender": (lambda data: find(data, "relu")["streams_in"][0].update(node="none"), "'relu'.*'none'"),
    "a circle": (lambda data: find(data, "conv")["streams_in"][0].update(node="relu"), "feeds itself"),
    "a name twice": (lambda data: find(data, "relu").update(name="conv"), "'conv' stands twice"),
    "no streams": (lambda data: find(data, "relu").update(streams_in=[]), "'relu': streams_in"),
    "a layer that is none": (lambda data: data["partition"][0]["layers"].append(7), "layer number 10"),
    "no layers": (lambda data: data["partition"][0].update(layers=[]), "layers"),
    "two partitions": (lambda data: data["partition"].append({"layers": []}), "2 partitions"),
    "reloaded weights": (lambda data: data["partition"][0].update(weights_reloading_factor=2), "2 times an image"),
    "no partition": (lambda data: data.clear(), "no list 'partition'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_nonsense_is_refused_in_one_line_that_names_file_and_layer(what: str, tmp_path: Path) -> None:
    change, told = REFUSED[what]
    data = copy.deepcopy(chain())
    change(data)
    with pytest.raises(InputError, match=told) as caught:
        read(data, tmp_path)
    assert "layers.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("after", [(4, 4, 7), (2, 4, 8)])
def test_a_chop_gives_only_its_parts(after: tuple[int, int, int], tmp_path: Path) -> None:
    data = branches()
    layers = data["partition"][0]["layers"]
    layers[layers.index(find(data, "left"))] = layer("left", "RELU", ["chop"], after, after)
    with pytest.raises(InputError, match=r"'left' takes .* words of 'chop', which gives 4×4×12"):
        read(data, tmp_path)


@pytest.mark.parametrize("text", ["", "[", "null", "[1]", '{"partition": 3}', "[" * 100_000])
def test_files_that_are_none_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"layers\.json") as caught:
        read(text, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json cannot be read"):
        read_fpgaconvnet(tmp_path / "none.json")


def test_measured_cycles_are_the_published_ones() -> None:
    assert {board.name: round(board.cycles, -1) for board in measured_boards()} == {
        "zc706-resnet": 27_540,
        "zedboard-dscnn": 46_310,
        "cora-z7-dscnn": 602_210,
    }


@pytest.mark.skipif(FOLDER is None, reason="SHRINKBOARD_FPGA_BOARDS names no folder with the boards' layer files")
def test_boards_are_met_within_a_tenth_and_their_dsps_exactly() -> None:
    errors = []
    dsps: dict[str, Counter[str]] = {}
    for board in measured_boards():
        published = read_fpgaconvnet(Path(str(FOLDER)) / f"{board.name}.json")
        found = estimate(published.network, named_fpga(board.device), published.folding, clock=board.clock)
        errors.append(abs(float(found.latency.mean) / board.cycles - 1))
        assert found.resources[:, DSP].sum() == board.dsp
        dsps[board.name] = Counter()
        for block, used in zip(found.blocks, found.resources, strict=True):
            dsps[board.name][published.types[block.name]] += int(used[DSP])
    assert sum(errors) / len(errors) <= 0.10
    assert dsps["zc706-resnet"]["ELTWISE"] == 18
    assert dsps["zedboard-dscnn"]["BATCH_NORM"] == dsps["cora-z7-dscnn"]["BATCH_NORM"] == 22


def peers_layer(bits: int) -> Network:
    """64→64, 3×3, 32×32, of which FINN and fpgaConvNet say what 128 products a cycle take."""
    image = Layer("image", "input", (), 64, 64, 32, 32, 32, 32)
    conv = Layer(
        "conv", "conv", ("image",), 64, 64, 32, 32, 32, 32, (3, 3), padding=(1, 1, 1, 1),
        weight_format=Format("int", bits), activation_format=Format("int", bits), nonzeros=[576] * 64,
    )  # fmt: skip
    return Network((image, conv), conv.weights)


@pytest.mark.parametrize("filters", [1, 2, 4, 8, 16, 32, 64])
def test_finns_cycles_and_block_rams(filters: int) -> None:
    found = estimate(
        peers_layer(8), named_fpga("zcu102"), {"conv": LayerFolding(filters=filters, nonzeros=128 // filters)}
    )
    depth = int(found.costs[1].steps[0])
    # 576 weights in slices of 128 or 64 leave slots empty; FINN allows only foldings that do not.
    if 576 % (128 // filters):
        assert found.cycles[1] > 294_912
        return
    assert found.cycles[1] == 294_912
    assert (depth, found.weight_bytes * 8 / depth) == (288, 1024)
    assert bram18(depth, 1024) == 29


@pytest.mark.parametrize(("bits", "dsps"), [(8, 64), (4, 32), (9, 128)])
@pytest.mark.parametrize("folding", [(8, 16, 1), (64, 2, 1), (4, 32, 1)])
def test_fpgaconvnets_cycles_and_dsps(bits: int, dsps: int, folding: tuple[int, int, int]) -> None:
    coarse_in, coarse_out, fine = folding
    chosen = ConvFolding(coarse_in=coarse_in, coarse_out=coarse_out, fine=fine)
    found = estimate(peers_layer(bits), named_fpga("zcu102"), {"conv": chosen})
    assert found.cycles[1] == 294_912
    # Products share a DSP only where filters share an activation: two filters make no four.
    shared = min(128 // dsps, coarse_out)
    assert found.resources[1, DSP] == 128 // shared


def run_script(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_the_script_compares_a_file_with_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = design(read(chain(), tmp_path))
    speed = 1e8 / float(found.latency.mean)
    options = ("--clock", "1e8", "--dsp", "43", "--measured", str(speed))
    run_script(monkeypatch, str(tmp_path / "layers.json"), *options, "--out", str(tmp_path))
    assert "Mean absolute error of latency: **0.0%**" in capsys.readouterr().out
    [row] = json.loads((tmp_path / "fpga_boards.json").read_text())["boards"]
    assert (row["interval"], row["dsp"], row["dsp_reported"]) == (720, 24 + 4 + 1 + 4 + 10, 43)
    assert "43 | 43 |" in (tmp_path / "fpga_boards.md").read_text()
    peers = json.loads((tmp_path / "fpga_boards.json").read_text())["peers"]
    assert all(peer["theirs"] == peer["ours"] for peer in peers if peer["must_be_equal"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "give --data-dir DIR"),
        (("--data-dir", "/none"), "has no zc706-resnet.json"),
        (("a.json", "--measured", "3"), "--measured needs --clock"),
        (("a.json", "--clock", "1", "--clock", "2"), "--clock is given 2 times for 1 file"),
        (("a.json", "--clock", "-1"), "--clock is .*above 0"),
        (("a.json",), "a.json cannot be read"),
    ],
)
def test_the_script_says_in_one_line_what_is_missing(
    arguments: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=told) as caught:
        run_script(monkeypatch, *arguments)
    assert "\n" not in str(caught.value)
