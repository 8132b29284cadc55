"""`roofline` by hand, its monotony, and device files that are damaged."""

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models import Roofline, device_names, layer_seconds, load_device, target
from cost_models.roofline import DEVICES
from workloads import Format, InputError, Layer

DEVICE = """
schema = 1
name = "toy"
summary = "a toy"
[rates]
fp32 = { value = 1e9, source = "made up" }
int8 = { value = 4e9, source = "made up" }
[bandwidth]
value = 1e8
source = "made up"
"""


@pytest.fixture
def toy(tmp_path):
    path = tmp_path / "toy.toml"
    path.write_text(DEVICE)
    return load_device(path)


def conv(channels=4, filters=8, side=10, form="fp32"):
    chosen = Format.parse(form)
    return Layer(
        "conv", "conv", ("x",), channels, filters, side, side, side, side, (3, 3), padding=(1, 1, 1, 1),
        weight_format=chosen, activation_format=chosen, nonzeros=np.full(filters, channels * 9),
    )  # fmt: skip


def test_a_layer_by_hand(toy):
    # 8 filters of 4×3×3 over 10×10: 28 800 MACs, 288 weights, 400 activations in, 800 out.
    assert layer_seconds(conv(), toy) == max(28_800 / 1e9, (288 + 1200) * 4 / 1e8)
    assert layer_seconds(conv(form="int5"), toy) == max(28_800 / 4e9, (288 + 1200) / 1e8)
    # 64 filters of 64×3×3 over 4×4 are bound by arithmetic once the batch is large.
    assert layer_seconds(conv(64, 64, 4), toy, batch=100) == 100 * 64 * 64 * 9 * 16 / 1e9


def test_activations_that_fit_stay_in_the_cache(tmp_path):
    path = tmp_path / "cached.toml"
    path.write_text(DEVICE + '[cache]\nvalue = 4800\nsource = "made up"\n')
    cached = load_device(path)
    assert layer_seconds(conv(), cached) == max(28_800 / 1e9, 288 * 4 / 1e8)
    assert layer_seconds(conv(), cached, batch=2) == (288 + 2 * 1200) * 4 / 1e8


def test_masks_save_nothing_on_dense_hardware(toy):
    masked = Layer(**{**conv().__dict__, "nonzeros": np.zeros(8, dtype=np.int64)})
    assert layer_seconds(masked, toy) == layer_seconds(conv(), toy)


@pytest.mark.parametrize(
    ("weight", "activation", "runs_in"),
    [("int3", "int8", "int8"), ("int8", "int9", "fp32"), ("mf4", "mf4", "fp32"), ("int8", "fp32", "fp32")],
)  # fmt: skip
def test_formats_run_in_the_narrowest_with_a_rate(toy, weight, activation, runs_in):
    assert str(toy.executed(Format.parse(weight), Format.parse(activation))) == runs_in


def test_energy_is_typical_power_times_latency_or_absent_with_a_reason(network, deploy):
    deployable = deploy(network("plain"))
    known, unknown = target("roofline-raspberry-pi-4"), target("roofline-a100-pcie-40gb")
    figures = known.cost(deployable, known.freeze(deployable)).figures
    assert figures["energy"].value == pytest.approx(5.0 * figures["latency"].value)
    absent = unknown.cost(deployable, unknown.freeze(deployable)).figures["energy"]
    assert absent.value is None and "a100" in absent.reason


@given(
    channels=st.integers(1, 64),
    filters=st.integers(1, 64),
    side=st.integers(1, 32),
    device=st.sampled_from(device_names()),
    form=st.sampled_from(["fp32", "fp16", "int8", "int4", "mf6"]),
)
def test_more_channels_never_take_less_time(channels, filters, side, device, form):
    model = load_device(DEVICES / f"{device}.toml")
    seconds = layer_seconds(conv(channels, filters, side, form), model)
    assert layer_seconds(conv(channels + 1, filters, side, form), model) >= seconds > 0
    assert layer_seconds(conv(channels, filters + 1, side, form), model) >= seconds


def test_every_device_of_ours_states_its_sources():
    for name in device_names():
        device = load_device(DEVICES / f"{name}.toml")
        assert device.name == name
        assert all(len(rate.source) > 20 for rate in device.rates.values())


def test_a_users_own_device(tmp_path, network, deploy):
    path = tmp_path / "mine.toml"
    shutil.copy(DEVICES / "raspberry-pi-4.toml", path)
    mine = target(f"roofline:{path}")
    assert isinstance(mine, Roofline)
    deployable = deploy(network("plain"))
    assert mine.freeze(deployable).latency == target("roofline-raspberry-pi-4").freeze(deployable).latency


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("schema = 1", "schema = 2"), "schema"),
        (("1e9", "-1e9"), "rates.fp32.value"),
        (("1e9", "nan"), "rates.fp32.value"),
        (("fp32 =", "fp33 ="), "33 bits"),
        (("fp32 =", "fp16 ="), "fp32"),
        (("fp32 =", "mf8 ="), "mf8"),
        (("[rates]", "[rates"), "not TOML"),
        (('summary = "a toy"', "colour = 1"), "summary"),
        (("value = 1e8", 'value = "fast"'), "bandwidth.value"),
    ],
)
def test_a_damaged_device_file_is_one_line(tmp_path, change, told):
    path = tmp_path / "damaged.toml"
    path.write_text(DEVICE.replace(*change))
    with pytest.raises(InputError, match=told) as caught:
        target(f"roofline:{path}")
    assert "\n" not in str(caught.value) and "damaged.toml" in str(caught.value)


@given(content=st.binary(max_size=200))
def test_no_bytes_make_the_reader_raise_anything_else(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("devices") / "fuzzed.toml"
    path.write_bytes(content)
    with pytest.raises(InputError):
        load_device(path)


def test_a_device_file_that_is_not_there():
    with pytest.raises(InputError, match="cannot be read"):
        target("roofline:/nowhere/device.toml")
