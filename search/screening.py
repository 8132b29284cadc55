"""Which candidates are not worth training: beaten on every cost and clearly beaten on accuracy before any training."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

IMAGES = 1000
"""Of the validation split at most, in a proxy accuracy: its standard error then is 1.6 points or less."""


def clearly_beaten(
    costs: ArrayLike, accuracy: float, other_costs: ArrayLike, accuracies: ArrayLike, images: int
) -> bool:
    """Whether some other candidate costs no more in any objective and is more accurate by two standard errors.

    `costs` (m,), all minimised, and `other_costs` (n, m), `accuracies` (n,); proxies are fractions of `images` images,
    all of the same images, so that the error of a difference is at most that of independent ones.
    """
    own, others = np.asarray(costs, dtype=float), np.asarray(other_costs, dtype=float).reshape(-1, np.size(costs))
    higher = np.asarray(accuracies, dtype=float)
    margin = 2 * np.sqrt((accuracy * (1 - accuracy) + higher * (1 - higher)) / images)
    # An accuracy of 0 or 1 has an error too: that of one image more or less.
    margin = np.maximum(margin, 2 * math.sqrt(2) / images)
    return bool(((others <= own).all(axis=1) & (higher - accuracy > margin)).any())
