"""Gaussian blur of maps and images."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

TRUNCATION = 4.0
"""The kernel ends after so many standard deviations."""


def gaussian_blurred(values: Float64, sigma: float) -> Float64:
    """Blur the last two axes of (..., H, W) by a Gaussian of `sigma` pixels; beyond an edge the image is mirrored."""
    radius = int(TRUNCATION * sigma + 0.5)
    weights = [math.exp(-0.5 * (place / sigma) ** 2) for place in range(-radius, radius + 1)]
    total = math.fsum(weights)
    for axis in (-2, -1):
        size = values.shape[axis]
        margins = [(0, 0)] * values.ndim
        margins[axis] = (radius, radius)
        padded = np.pad(values, margins, mode="symmetric")
        blurred = np.zeros_like(values)
        for place, weight in enumerate(weights):
            blurred += (weight / total) * np.take(padded, range(place, place + size), axis)
        values = blurred
    return values
