"""A folding file is read or refused in one line that names the layer; a folding that says nothing of a layer is too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cost_models.fpga import ConvFolding, LayerFolding, estimate, named_fpga, read_folding
from workloads import InputError, Network, network_from_json

PIXELS = {"activation_format": "int8"}
LAYERS = [
    {"name": "image", "kind": "input", "out_channels": 3, "out_height": 8, "out_width": 8, **PIXELS},
    {"name": "conv", "kind": "conv", "out_channels": 3, "kernel": 3, "padding": 1, "weight_format": "int8", **PIXELS},
    {"name": "join", "kind": "add", "inputs": ["image", "conv"]},
    {"name": "pool", "kind": "pool"},
]


def read(tmp_path: Path, text: str) -> str:
    """The line with which the file is refused."""
    path = tmp_path / "folding.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_folding(path)
    told = str(caught.value)
    assert told.startswith(f"folding file {path}") and "docs/fpga.md" in told and "\n" not in told
    assert not any(internal in told for internal in ("FoldingFile", "Folding", "instance", "Field required", "Input "))
    return told


@pytest.mark.parametrize("name", ["conv", "block", "layers"])
@pytest.mark.parametrize(
    ("folding", "told"),
    [
        ({"filters": 0}, "'filters': should be greater than or equal to 1"),
        ({"coarse_in": 1.5}, "'coarse_in': should be a valid integer"),
        ({"block": "spare"}, "'block': should be 'sparse' or 'dense'"),
        ({"filter": 2}, "'filter': is not a field"),
        ({"kind": "cnv"}, "kind is neither 'block' nor 'conv'"),
        (None, "is not an object with filters"),
        (3, "is not an object with filters"),
    ],
)
def test_what_is_wrong_with_a_layer_names_it_whatever_it_is_called(
    tmp_path: Path, name: str, folding: object, told: str
) -> None:
    refused = read(tmp_path, json.dumps({"schema": 1, "layers": {name: folding}}))
    assert f"layer {name!r}: " in refused and told in refused


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", "is not an object with schema and layers"),
        ("3", "is not an object with schema and layers"),
        ("{}", "'schema': is missing"),
        ('{"schema": 1}', "'layers': is missing"),
        ('{"schema": 1, "layers": []}', "'layers': is not an object with layers by name"),
        ('{"schema": 1, "layers": {}, "clok": 1}', "'clok': is not one of schema, clock and layers"),
        ('{"schema": 2, "layers": {}}', "'schema': should be 1"),
        ('{"schema": 1, "layers": {"a": {}, "a": {}}}', "'a' is given twice"),
        ('{"schema": 1, "layers": {"a": {"filters": 1, "filters": 2}}}', "'filters' is given twice"),
        ('{"schema": 1, "layers": {"a": {"filters": ' + 5000 * "9" + "}}}", "not valid JSON"),
        ('{"schema": 1, "layers": {"a": {"filters": ' + 4000 * "9" + "}}}", "'filters'"),
        ('{"schema": 1, "clock": ' + 4000 * "9" + ', "layers": {}}', "'clock'"),
        ('{"schema": 1, "clock": Infinity, "layers": {}}', "'clock'"),
        ('{"schema": 1', "not valid JSON"),
        (100_000 * "[", "nested too deep"),
    ],
)
def test_a_damaged_file_is_refused_in_plain_words(tmp_path: Path, text: str, told: str) -> None:
    assert told in read(tmp_path, text)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "folding.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8 text"):
        read_folding(tmp_path / "folding.json")


@pytest.mark.parametrize("field", ["coarse_in", "coarse_out", "coarse_group", "fine"])
def test_one_field_is_enough_to_tell_the_form(tmp_path: Path, field: str) -> None:
    path = tmp_path / "folding.json"
    path.write_text(json.dumps({"schema": 1, "layers": {"a": {field: 1}, "b": {"multiplier": "lut"}}}))
    assert read_folding(path).layers == {"a": ConvFolding(), "b": LayerFolding(multiplier="lut")}


def network() -> Network:
    return network_from_json({"schema": 1, "layers": LAYERS})


@pytest.mark.parametrize(
    ("layer", "folding", "told"),
    [
        ("conv", LayerFolding(buffer="dram"), "buffer is dram"),
        ("pool", LayerFolding(buffer="dram"), "buffer is dram"),
        ("pool", LayerFolding(pixels=2), "pixels is 2"),
        ("pool", LayerFolding(nonzeros=2), "nonzeros is 2"),
        ("join", LayerFolding(pixels=2), "pixels is 2"),
        ("image", LayerFolding(nonzeros=2), "nonzeros is 2"),
    ],
)
def test_what_says_nothing_of_a_layer_is_refused(layer: str, folding: LayerFolding, told: str) -> None:
    with pytest.raises(InputError, match=f"layer '{layer}': {told}") as caught:
        estimate(network(), named_fpga("z7020"), {"conv": LayerFolding(), layer: folding})
    assert "\n" not in str(caught.value)


def test_a_join_waits_in_external_memory() -> None:
    inside, outside = (
        estimate(network(), named_fpga("z7020"), {"conv": LayerFolding(), "join": LayerFolding(buffer=buffer)})
        for buffer in ("bram", "dram")
    )
    assert outside.frame_bytes > inside.frame_bytes


def test_an_allocated_design_is_a_folding_that_is_taken() -> None:
    allocated = estimate(network(), named_fpga("z7020"))
    folding = {block.name: one for block, one in zip(allocated.blocks, allocated.foldings, strict=True)}
    again = estimate(network(), named_fpga("z7020"), folding)
    assert (again.resources == allocated.resources).all()
