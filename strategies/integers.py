"""`int`: mixed-precision integers, a weight and an activation width for every layer."""

from __future__ import annotations

from .number_format import NumberFormat


class Integers(NumberFormat):
    """Symmetric integers a channel for weights, asymmetric a tensor for activations, calibrated on training images.

    Weights have 2–8 bits, activations 4–8.
    """

    name = "int"
    summary = "mixed-precision integers: bits chosen for every layer"
    source = "static post-training quantisation, per channel and per tensor (Nagel et al. 2021, sections 2 and 3)"
    prefix = "int"
    narrowest = 2
    corrects_biases = False
