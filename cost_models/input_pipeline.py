"""The way from a camera's picture to a network's input: decode, resize, normalise, lay out."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from torch import Tensor

QUALITY = 90
"""Of the JPEG, as cameras write it."""
MEAN, DEVIATION = 0.45, 0.225
"""Pixels are normalised by; a network's own constants take as long."""


def encoded_picture(example: Tensor, size: tuple[int, int]) -> bytes:
    """A JPEG of `size` (width, height) that shows `example`, one normalised image of shape (1, C, H, W).

    What is in a picture decides how long its decoding takes, so it is a picture of the data set and no noise. Networks
    of one channel get a grey JPEG, all others one in colour.
    """
    pixels = example[0].numpy()
    low, high = float(pixels.min()), float(pixels.max())
    levels = ((pixels - low) / max(high - low, 1e-9) * 255).round().astype(np.uint8)
    if len(levels) == 1:
        picture = Image.fromarray(levels[0])
    else:
        picture = Image.fromarray(
            np.ascontiguousarray(levels[[0, 1 % len(levels), 2 % len(levels)]].transpose(1, 2, 0))
        )
    stream = io.BytesIO()
    picture.resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def network_input(encoded: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """The picture as a network of input `shape` (C, H, W) reads it: float32 of shape (1, C, H, W).

    The JPEG decoder may halve the picture while it decodes, as long as it stays larger than the input (Pillow's
    `draft`), which a deployed pipeline does too.
    """
    channels, height, width = shape
    with Image.open(io.BytesIO(encoded)) as picture:
        picture.draft(None, (width, height))
        resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(resized, dtype=np.float32).reshape(height, width, -1)
    normalised = (pixels * np.float32(1 / 255) - np.float32(MEAN)) * np.float32(1 / DEVIATION)
    planes = normalised.transpose(2, 0, 1)
    return np.ascontiguousarray(planes if len(planes) == channels else planes[np.arange(channels) % len(planes)])[None]
