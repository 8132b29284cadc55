"""`minifloat`: floating-point numbers of few bits, their exponent and clip chosen from each channel's own weights."""

from __future__ import annotations

from .number_format import NumberFormat


class Minifloat(NumberFormat):
    """Minifloats of 3–8 bits for weights and 4–8 for activations, split into exponent and mantissa where they are used.

    Every output channel has the exponent width E and the clip c of the least squared error over its weights, found
    exactly (`ops/minifloat.py`); with E = 1 it is an integer grid, so a channel that is better off with integers has
    them. The inputs of a layer have one split, found on calibration images. Quantised biases take up the mean shift of
    the outputs, unless training saw the formats. A channel costs 3 bits for E and 16 for c.
    """

    name = "minifloat"
    summary = "minifloats: bits chosen for every layer, exponent and clip fitted to every channel"
    source = (
        "exponent split from the weight distribution per channel, clipping, error of the empirical distribution; the "
        "numbers: Kuzmin et al., NeurIPS 2022, section 3; bias correction: Nagel et al., ICCV 2019, section 4.2; "
        "activations [our reconstruction]"
    )
    prefix = "mf"
    narrowest = 3
    corrects_biases = True
