"""From a camera's picture to the network's input, against torch's own resizing, and through a target."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cost_models import CpuOnnxRuntime, Reference, check_cost_model, target
from cost_models.input_pipeline import DEVIATION, MEAN, encoded_picture, network_input
from cost_models.timing import Effort

QUICK = Effort(goal=0.5, budget=0.4, pairs=20)
SIDES = st.integers(2, 70)
"""torch mistakes pictures that are one pixel wide for another memory layout."""


def levels(planes):
    """Back from normalised planes to levels of 255."""
    return (planes * DEVIATION + MEAN) * 255


def jpeg(pixels, quality=95):
    """Of an array (H, W) or (H, W, 3)."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, subsampling=0)
    return stream.getvalue()


def resized_by_torch(encoded, height, width):
    """Levels (C, H, W): decoded whole, resized as a bilinear interpolation of float with antialiasing."""
    with Image.open(io.BytesIO(encoded)) as picture:
        pixels = torch.from_numpy(np.array(picture, dtype=np.float32))
    planes = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
    return torch.nn.functional.interpolate(
        planes[None], size=(height, width), mode="bilinear", antialias=True, align_corners=False
    )[0].numpy()


def slope(channels, height, width):
    """A normalised image that no flip, turn or exchange of its first three channels leaves as it is."""
    down, across = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    return torch.stack([(1 + c % 3) * down - 2 * across + c % 3 for c in range(channels)])[None]


@given(SIDES, SIDES, SIDES, SIDES, st.booleans(), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_without_halving_it_is_torchs_resize(picture_width, picture_height, width, height, grey, seed):
    # Less than twice as large in one direction: the decoder gives the whole picture.
    picture_width = min(picture_width, 2 * width - 1)
    shape = (picture_height, picture_width) if grey else (picture_height, picture_width, 3)
    encoded = jpeg(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))
    found = network_input(encoded, (1 if grey else 3, height, width))
    assert found.dtype == np.float32 and found.shape == (1, 1 if grey else 3, height, width)
    assert found.flags["C_CONTIGUOUS"]
    # Pillow rounds to whole levels after each direction.
    np.testing.assert_allclose(levels(found[0]), resized_by_torch(encoded, height, width), atol=1.51)


def off_by(factor, width, height, grey, seed):
    """Mean difference in levels where every pixel of the network is a square of `factor` pixels of the picture."""
    few = np.random.default_rng(seed).integers(0, 256, (height, width) if grey else (height, width, 3), dtype=np.uint8)
    encoded = jpeg(few.repeat(factor, axis=0).repeat(factor, axis=1))
    found = levels(network_input(encoded, (1 if grey else 3, height, width))[0])
    return np.abs(found - (few[None] if grey else few.transpose(2, 0, 1))).mean()


@given(st.sampled_from([2, 4, 8]), st.integers(4, 24), st.integers(4, 24), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_halving_loses_nothing_that_the_network_would_see(factor, width, height, grey, seed):
    # Decoding to fewer pixels than the network has would mix them. Powers of two need no interpolation.
    assert off_by(factor, width, height, grey, seed) < 5


@given(st.integers(16, 24), st.integers(16, 24), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_halving_and_resizing_shifts_nothing(width, height, grey, seed):
    # A third of the size is halved and then resized, which blurs noise by 33 ± 1.4 levels (3,000 pictures; on smaller
    # ones the mean varies more). One pixel aside it would be 56 or more.
    assert off_by(3, width, height, grey, seed) < 46


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("size", [(640, 480), (480, 640), (31, 200), (16, 24), (24, 16)])
def test_the_network_sees_its_example_the_right_way_round(channels, size):
    example = slope(channels, 16, 24)
    encoded = encoded_picture(example, size)
    with Image.open(io.BytesIO(encoded)) as picture:
        assert picture.format == "JPEG" and picture.size == size
        assert picture.mode == ("L" if channels == 1 else "RGB")
    found = levels(network_input(encoded, (channels, 16, 24))[0])
    whole = ((example - example.min()) / (example.max() - example.min()) * 255)[0].numpy()
    # A picture has one or three planes; the network's further ones are these again.
    shown = min(channels, 3) if channels != 2 else 2
    for plane in range(channels):
        first = plane % 3 % shown if channels > 1 else 0
        assert np.abs(found[plane] - whole[first]).mean() < 9
        assert np.abs(found[plane] - whole[first][::-1]).mean() > 12
        assert np.abs(found[plane] - whole[first][:, ::-1]).mean() > 12


@pytest.mark.parametrize("size", [(1, 1), (1, 4096), (4096, 1), (3, 2)])
def test_tiny_and_narrow_pictures(size):
    encoded = encoded_picture(slope(3, 8, 8), size)
    with Image.open(io.BytesIO(encoded)) as picture:
        assert picture.size == size
    found = network_input(encoded, (3, 8, 8))[0]
    assert np.isfinite(found).all()
    for direction, side in ((1, size[1]), (2, size[0])):
        assert side > 1 or np.ptp(found, axis=direction).max() == 0  # one pixel, spread out


def test_an_even_image_is_a_picture_too():
    assert np.isfinite(network_input(encoded_picture(torch.zeros(1, 1, 8, 8), (64, 48)), (1, 8, 8))).all()


def test_a_small_image_takes_as_many_bits_as_a_photograph():
    from sklearn.datasets import load_sample_image

    photographs = [Image.fromarray(load_sample_image(name)).resize((640, 480)) for name in ("china.jpg", "flower.jpg")]
    taken = [len(jpeg(np.asarray(photograph), quality=90)) for photograph in photographs]
    for photograph in photographs:
        small = np.asarray(photograph.resize((32, 32)), dtype=np.float32).transpose(2, 0, 1)
        picture = encoded_picture(torch.from_numpy(small.copy())[None], (640, 480))
        assert min(taken) / 2 < len(picture) < max(taken)


def test_end_to_end_is_slower_and_says_why(network, deploy):
    dense, int8 = deploy(network("plain")), deploy(network("plain"), "int8")
    plain = CpuOnnxRuntime(QUICK, QUICK)
    whole = CpuOnnxRuntime(QUICK, QUICK, image=(640, 480))
    assert whole.name == "cpu-onnxruntime:image=640x480"
    # The input of 16×16 pixels is small beside the picture: decoding takes several times as long as the network.
    frozen = whole.freeze(dense)
    assert frozen.latency > 2 * plain.freeze(dense).latency
    cost = whole.cost(int8, frozen)
    assert 0.5 < cost.telemetry["input_share"] <= 1
    assert "input_share" not in plain.cost(int8, Reference(dense, 1.0)).telemetry
    images = torch.randn(5, 3, 16, 16)
    np.testing.assert_array_equal(whole.predict(int8, images), plain.predict(int8, images))
    assert dict(cost.executed) == dict(plain.cost(int8, Reference(dense, 1.0)).executed)


def test_a_target_with_a_picture_keeps_its_contract():
    model = target("cpu-onnxruntime:image=64x48")
    model.effort = model.throughput_effort = Effort(goal=0.05, budget=0.6, pairs=60)
    check_cost_model(model)
