"""Networks as JSON: what is derived, what is refused, and a round trip of whatever `trace` and hypothesis make."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from workloads import (
    Format,
    InputError,
    Layer,
    LayerFormats,
    Network,
    network_from_json,
    network_to_json,
    read_network,
    trace,
    workload,
    write_network,
)

PAGE = Path(__file__).parents[2] / "docs" / "network.md"


def plain(layer):
    return {**vars(layer), "nonzeros": layer.nonzeros.tolist()}


def same(one, other):
    return one.parameters == other.parameters and list(map(plain, one.layers)) == list(map(plain, other.layers))


def file(*layers):
    first = {"name": "image", "kind": "input", "out_channels": 4, "out_height": 8, "out_width": 6}
    return {"schema": 1, "layers": [first, *layers]}


def conv(**fields):
    return {"name": "c", "kind": "conv", "out_channels": 8, "kernel": 3, **fields}


def test_the_page_shows_a_network_that_can_be_read(tmp_path):
    example = re.search(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)[1]
    path = tmp_path / "example.json"
    path.write_text(example, encoding="utf-8")
    network = read_network(path)
    assert [layer.name for layer in network.layers] == ["image", "stem", "body", "sum", "pool", "classes"]
    body = network["body"]
    assert (body.weight_format, body.activation_format) == (Format("int", 4), Format("int", 8))
    assert body.nonzeros.tolist() == [7, 7, 9, 36] and body.effective_macs == 59 * 32 * 32
    assert network["pool"].kernel == (32, 32) and network["classes"].in_channels == 4
    assert network.parameters == 4 * 27 + 4 + 4 * 36 + 40 + 10


def test_the_page_names_every_field():
    named = set(re.findall(r"`(\w+)`", PAGE.read_text(encoding="utf-8")))
    assert {name for name in Layer.__dataclass_fields__} | {"schema", "layers", "parameters"} <= named


def test_what_is_left_out_follows():
    network = network_from_json(
        file(
            conv(stride=2, padding=[0, 1, 2, 3], bias=True),
            {"name": "up", "kind": "conv", "out_channels": 2, "kernel": 2, "stride": 2, "transposed": True},
            {"name": "wide", "kind": "upsample", "out_height": 16, "out_width": 20},
            {"name": "border", "kind": "pad", "padding": 1},
            {"name": "joined", "kind": "concat", "inputs": ["border", "border"]},
            {"name": "head", "kind": "linear", "out_channels": 3},
        )
    )
    sizes = [(one.in_channels, one.out_channels, one.out_height, one.out_width) for one in network.layers]
    assert sizes == [(4, 4, 8, 6), (4, 8, 4, 5), (8, 2, 8, 10), (2, 2, 16, 20), (2, 2, 18, 22), (4, 4, 18, 22),
                     (4 * 18 * 22, 3, 1, 1)]  # fmt: skip
    assert network["c"].inputs == ("image",) and network["c"].nonzeros.tolist() == [36] * 8
    assert network.parameters == 8 * 36 + 8 + 2 * 8 * 4 + 3 * 4 * 18 * 22


class Everything(nn.Module):
    """A second call, groups, dilation, an output padding, a pool that rounds up, joins, and a layer of its own kind."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.up = nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, bias=False)
        self.far = nn.Conv2d(6, 4, 3, padding="same", dilation=2)
        self.resize = nn.Upsample(scale_factor=3)
        self.head = nn.Linear(8 * 18 * 24, 5)

    def forward(self, x):
        x = self.pool(torch.relu(self.conv(self.conv(x))))
        x = self.far(self.up(x))
        x = torch.cat([x + x, functional.hardtanh(x)], 1)
        return self.head(torch.flatten(functional.pad(self.pool(self.resize(x)), [0] * 4), 1))


def test_what_trace_makes_comes_back(tmp_path):
    masked = {"conv": np.array([0, 3, 18, 1])}
    formats = {
        "far": LayerFormats(Format("int", 4), Format("int", 8)),
        "head": LayerFormats(Format("minifloat", 6), Format("bfloat", 16)),
    }
    network = trace(Everything(), torch.zeros(1, 4, 11, 15), formats, masked)
    assert {layer.kind for layer in network.layers} == {
        "input", "conv", "linear", "pool", "add", "concat", "upsample", "pad", "other",
    }  # fmt: skip
    assert any(layer.name == "conv#2" for layer in network.layers)
    write_network(network, tmp_path / "network.json")
    assert same(read_network(tmp_path / "network.json"), network)


@pytest.mark.parametrize("name", ["cifar10/resnet8", "cifar10/resnet20", "cifar10/mobilenetv2", "camvid/unet"])
def test_networks_of_the_catalogue_come_back(name):
    chosen = workload(name)
    network = trace(chosen.build().eval(), torch.zeros(1, *chosen.input_shape))
    assert same(network_from_json(json.loads(json.dumps(network_to_json(network)))), network)


@st.composite
def networks(draw):
    """Any chain of layers with a branch that is joined again, sizes computed here and not by the reader."""
    small = st.integers(1, 3)
    channels, height, width = draw(st.integers(1, 6)), draw(st.integers(4, 12)), draw(st.integers(4, 12))
    layers = [Layer("image", "input", (), channels, channels, height, width, height, width)]
    for place in range(draw(st.integers(1, 5))):
        groups = draw(st.sampled_from([g for g in (1, 2, 3) if channels % g == 0]))
        filters = groups * draw(small)
        kernel, stride = (draw(small), draw(small)), (draw(small), draw(small))
        padding = tuple(draw(st.lists(st.integers(0, 2), min_size=4, max_size=4)))
        out = [
            (size + before + after - k) // s + 1
            for size, before, after, k, s in zip(
                (height, width), padding[::2], padding[1::2], kernel, stride, strict=True
            )
        ]
        if min(out) < 1:
            continue
        per_filter = channels // groups * kernel[0] * kernel[1]
        nonzeros = draw(st.lists(st.integers(0, per_filter), min_size=filters, max_size=filters))
        last = layers[-1].name
        layers.append(
            Layer(
                f"conv{place}", "conv", (last,), channels, filters, height, width, *out, kernel, stride, padding,
                groups=groups, bias=draw(st.booleans()), nonzeros=np.array(nonzeros, dtype=np.int64),
                weight_format=Format("int", draw(st.integers(1, 16))),
            )
        )  # fmt: skip
        channels, (height, width) = filters, out
        if draw(st.booleans()):
            joined = Layer(
                f"cat{place}",
                "concat",
                (layers[-1].name,) * 2,
                2 * channels,
                2 * channels,
                height,
                width,
                height,
                width,
            )
            layers.append(joined)
            channels *= 2
    return Network(tuple(layers), draw(st.integers(0, 10**6)))


@given(networks())
@settings(deadline=None)
def test_any_network_comes_back(network):
    assert same(network_from_json(json.loads(json.dumps(network_to_json(network)))), network)


@given(networks(), st.data())
@settings(deadline=None, max_examples=50)
def test_a_size_that_does_not_follow_is_never_taken(network, data):
    place = data.draw(st.integers(0, len(network.layers) - 1))
    side = data.draw(st.sampled_from(["out_height", "out_width", "in_channels", "in_height"]))
    layer = network.layers[place]
    layers = list(network.layers)
    layers[place] = replace(layer, **{side: getattr(layer, side) + data.draw(st.integers(1, 3))})
    with pytest.raises(InputError) as caught:
        network_to_json(replace(network, layers=tuple(layers)))
    assert "\n" not in str(caught.value) and "layer '" in str(caught.value)


REFUSED = [
    (conv(out_channels=0), "'c'.*out_channels is 0"),
    (conv(out_channels=-1), "'c'.*out_channels is -1"),
    (conv(out_channels=2**40), "'c'.*out_channels"),
    (conv(out_channels=8.0), "'c'.*out_channels is 8.0"),
    (conv(out_channels=True), "'c'.*out_channels is True"),
    (conv(kernel=9), "'c'.*window.*larger than the map"),
    (conv(kernel=[3]), "'c'.*kernel"),
    (conv(stride=0), "'c'.*stride"),
    (conv(padding=-1), "'c'.*padding"),
    (conv(out_height=8), "'c' has out_height 8, but 6 follows"),
    (conv(in_channels=3), r"'c' takes in 3×8×6.*give 4×8×6"),
    (conv(groups=3), "'c' has 3 groups.*4 input channels"),
    (conv(groups=4, out_channels=6), "'c' has 4 groups.*6 output channels"),
    (conv(nonzeros=[1]), "'c' has 8 filters.*of 1"),
    (conv(nonzeros=[37] * 8), "'c' has filters of 36 weights.*37"),
    (conv(nonzeros=[-1] * 8), "'c'.*nonzeros"),
    (conv(nonzeros=36), "'c'.*nonzeros"),
    (conv(weight_format="int17"), "'c'.*int17"),
    (conv(weight_format=8), "'c'.*weight_format"),
    (conv(kind="convolution"), "'c'.*kind is 'convolution'"),
    (conv(inputs=["later"]), "'c'.*'later'.*before"),
    (conv(inputs=["c"]), "'c'.*'c'.*before"),
    (conv(inputs=["image", "image"]), "'c' of kind conv has 2 inputs"),
    (conv(name="image"), "'image' has a name that an earlier layer has"),
    (conv(name=""), "name"),
    (conv(name="a\nb"), "name"),
    (conv(name="c#2"), "'c#2'.*stands after NAME"),
    (conv(name="image#2"), "'image#2' is a second call.*another shape"),
    (conv(colour=1), "'c'.*colour is not a field"),
    ({"name": "c", "kind": "conv"}, "'c' of kind conv needs out_channels"),
    ({"kind": "conv"}, "layer 1: name is missing"),
    ({"name": "p", "kind": "pool", "groups": 2}, "'p' is of kind pool, which has no groups"),
    ({"name": "p", "kind": "pool", "out_channels": 5}, "'p'.*out_channels 5"),
    ({"name": "u", "kind": "upsample"}, "'u' of kind upsample needs out_height"),
    ({"name": "u", "kind": "upsample", "out_height": 4, "out_width": 9}, "'u' has out_height 4"),
    ({"name": "l", "kind": "linear", "out_channels": 5, "in_channels": 4}, r"'l' takes in 4×1×1.*192×1×1"),
    ({"name": "a", "kind": "add"}, "'a' of kind add has 0 inputs"),
    ({"name": "o", "kind": "other", "inputs": []}, "'o' of kind other has 0 inputs"),
    ({"name": "i", "kind": "input", "inputs": ["image"], "out_channels": 1}, "'i' of kind input has 1 inputs"),
    ({"name": "i", "kind": "input"}, "'i' of kind input needs out_channels"),
]


@pytest.mark.parametrize(("layer", "told"), REFUSED)
def test_nonsense_is_refused_in_one_line(layer, told):
    with pytest.raises(InputError, match=told) as caught:
        network_from_json(file(layer))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_joins_must_fit():
    other = conv(name="other", padding=1)
    for kind, told in (("add", "different shapes: 4×8×6, 8×8×6"), ("concat", None)):
        layer = {"name": "j", "kind": kind, "inputs": ["image", "other"]}
        if told is None:
            assert network_from_json(file(other, layer))["j"].out_channels == 12
            layer = {**layer, "in_channels": 11}
        with pytest.raises(InputError, match=told or "'j' takes in 11×8×6"):
            network_from_json(file(other, layer))
    with pytest.raises(InputError, match="'j' joins maps of different sizes: 4×8×6, 8×6×4"):
        network_from_json(file(conv(), {"name": "j", "kind": "concat", "inputs": ["image", "c"]}))


def test_pools_may_round_up():
    pool = {"name": "p", "kind": "pool", "kernel": 2, "stride": 4}
    assert network_from_json(file(pool))["p"].out_height == 2
    assert network_from_json(file({**pool, "out_height": 3}))["p"].out_height == 3
    with pytest.raises(InputError, match="out_height 4, but 2 follows"):
        network_from_json(file({**pool, "out_height": 4}))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"schema": 2, "layers": []}, "schema is 2"),
        ({"layers": [{}]}, "schema is missing"),
        ({"schema": 1, "layers": []}, "layers"),
        ({"schema": 1, "layers": [3]}, r"layers\.0 is 3"),
        ({**file(), "parameters": -1}, "parameters is -1"),
        ({**file(), "author": "x"}, "author is not a field"),
        ([], "is given"),
    ],
)
def test_files_of_another_shape(data, told):
    with pytest.raises(InputError, match=told):
        network_from_json(data)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "not valid JSON"),
        ('{"schema": 1, "schema": 1}', "'schema' is given twice"),
        ('{"schema": NaN}', "NaN is not a number"),
        ('{"schema": 1, "layers": [{"name": "i", "kind": "input", "out_channels": 1e999}]}', "out_channels"),
        ('{"schema": ' + "9" * 5000 + "}", "not valid JSON"),
        ('{"schema": ' + "9" * 4000 + "}", "schema"),
        ("[" * 100_000, "nested too deep"),
        ('{"schema": 1, "layers": ' + "[" * 500 + "]" * 500 + "}", "layers"),
        ("\ufeff{}", "not valid JSON"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, content, told):
    path = tmp_path / "damaged.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=told) as caught:
        read_network(path)
    assert "\n" not in str(caught.value) and "damaged.json" in str(caught.value) and len(str(caught.value)) < 400


def test_large_files_and_bombs_are_refused(tmp_path):
    path = tmp_path / "large.json"
    with path.open("wb") as sparse:
        sparse.truncate(2**26 + 1)
    with pytest.raises(InputError, match="64 MB"):
        read_network(path)
    million = [{"name": f"l{i}", "kind": "linear", "out_channels": 2**20} for i in range(5)]
    with pytest.raises(InputError, match=r"'l3'.*filters that a network may have"):
        network_from_json(file(*million))


@pytest.mark.parametrize("place", ["/nowhere/network.json", "/", "a\0b"])
def test_a_file_that_is_not_there(place):
    with pytest.raises(InputError, match="cannot be read"):
        read_network(place)


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_make_the_reader_raise_anything_else(tmp_path, content):
    path = tmp_path / "fuzzed.json"
    path.write_bytes(content)
    with pytest.raises(InputError):
        read_network(path)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from(sorted(Layer.__dataclass_fields__)), _JSON))
@settings(deadline=None)
def test_no_fields_make_it_raise_anything_else(fields):
    try:
        network_from_json(file({**conv(), **fields}))
    except InputError as error:
        assert "\n" not in str(error)


def test_a_table_that_could_not_be_read_is_not_written(tmp_path):
    broken = Network((Layer("i", "input", (), 1, 1), Layer("c", "conv", ("j",), 1, 1)), 1)
    with pytest.raises(InputError, match="'c' has the input 'j'"):
        write_network(broken, tmp_path / "broken.json")
    assert not list(tmp_path.iterdir())
