"""What a design says: bytes that move take time, groups share no DSP, dilation needs rows, and what limits it."""

from __future__ import annotations

import numpy as np
import pytest

from cost_models.fpga import ConvFolding, LayerFolding, blocks, estimate, load_fpga, named_fpga
from cost_models.fpga.device import DEVICES
from workloads import Format, InputError, Layer, Network

INT8 = Format("int", 8)


def network(*layers: Layer) -> Network:
    return Network(layers, 0)


def image(channels: int, size: int) -> Layer:
    return Layer("image", "input", (), channels, channels, size, size, size, size)


def conv(channels: int, filters: int, size: int, groups: int = 1, dilation: int = 1, nonzeros=None) -> Layer:
    weights = channels // groups * 9
    return Layer(
        "conv",
        "conv",
        ("image",),
        channels,
        filters,
        size,
        size,
        size,
        size,
        kernel=(3, 3),
        padding=(dilation,) * 4,
        dilation=(dilation, dilation),
        groups=groups,
        weight_format=INT8,
        activation_format=INT8,
        nonzeros=np.full(filters, weights) if nonzeros is None else np.array(nonzeros),
    )


def test_no_image_is_done_before_its_bytes_have_moved() -> None:
    wide = Layer(
        "linear", "linear", ("image",), 4096, 4096, weight_format=INT8, activation_format=INT8,
        nonzeros=np.full(4096, 4096),
    )  # fmt: skip
    streamed = LayerFolding(filters=64, nonzeros=4, weights="dram")
    design = estimate(network(image(4096, 1), wide), named_fpga("zcu104"), {"linear": streamed})
    assert design.traffic_cycles > 4096 * 4096 / (64 * 4)
    assert design.interval == design.traffic_cycles
    assert design.traffic_cycles - 1 <= design.latency.optimistic <= design.latency.pessimistic
    assert design.limit[0] == "bandwidth"


@pytest.mark.parametrize(("together", "each", "dsps"), [(4, 1, 4), (2, 2, 2), (1, 4, 2), (4, 2, 4)])
def test_filters_of_different_groups_share_no_dsp(together: int, each: int, dsps: int) -> None:
    folding = {"conv": ConvFolding(coarse_group=together, coarse_out=each)}
    design = estimate(network(image(16, 8), conv(16, 16, 8, groups=4)), named_fpga("zcu104"), folding)
    assert design.resources[1, 2] == dsps


def test_a_dilated_window_keeps_more_rows() -> None:
    folding = {"conv": LayerFolding(filters=4, nonzeros=4)}
    buffers = [
        estimate(network(image(64, 64), conv(64, 8, 64, dilation=d)), named_fpga("zcu104"), folding).resources[1, 3]
        for d in (1, 4)
    ]
    assert buffers[1] > 1.8 * buffers[0]


def test_equal_filters_keep_the_sum() -> None:
    work = blocks(network(image(3, 8), conv(3, 4, 8, nonzeros=[1, 1, 1, 2])), "equal")
    assert work[1].nonzeros.tolist() == [2, 1, 1, 1]


def test_the_layer_at_its_floor_is_named() -> None:
    grown = Layer("grown", "upsample", ("image",), 2, 2, 8, 8, 64, 64)
    after = Layer(
        "linear", "linear", ("grown",), 8192, 2, weight_format=INT8, activation_format=INT8, nonzeros=np.full(2, 8192)
    )
    design = estimate(network(image(2, 8), grown, after), named_fpga("zcu102"))
    assert design.limit == ("layer", "layer 'grown' takes 4,096 cycles however many lanes it gets")


@pytest.mark.parametrize("without", ["dsp", "bram36", "ff", "lut"])
def test_a_part_without_a_resource_is_told_in_one_line(tmp_path, without: str) -> None:
    text = (DEVICES / "zcu104.toml").read_text().replace('name = "zcu104"', 'name = "bare"')
    lines = [line.split("=")[0] + '= { value = 0, source = "none" }' if line.startswith(f"{without} ") else line
             for line in text.splitlines()]  # fmt: skip
    (tmp_path / "bare.toml").write_text("\n".join(lines))
    device = load_fpga(tmp_path / "bare.toml")
    many = network(image(64, 512), conv(64, 64, 512, nonzeros=np.full(64, 100)))
    try:
        design = estimate(many, device)
    except InputError as error:
        assert without != "dsp" and "\n" not in str(error)
        assert without.removesuffix("36") in str(error) and "0 usable" in str(error)
    else:
        assert (design.resources.sum(0) <= device.budget).all()
