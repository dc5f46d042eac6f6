"""Insertion: how soon the class appears when pixels come back, the most salient first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitlens.runtime.engines import Engine
from bitlens.runtime.faithfulness.pixel_order import STEPS, Float64, area_under, steps_changed
from bitlens.runtime.faithfulness.probability import probability
from bitlens.runtime.faithfulness.registry import register_faithfulness

BLUR_SIGMA = 5.0  # pixels
BLUR_RADIUS = 5  # pixels: RISE's kernel of 11 x 11


def blurred(x: Float64) -> Float64:
    """Blur the last two axes by RISE's Gaussian, cut at one sigma; beyond an edge the edge pixel goes on."""
    weights = np.exp(-0.5 * (np.arange(-BLUR_RADIUS, BLUR_RADIUS + 1) / BLUR_SIGMA) ** 2)
    weights /= weights.sum()
    for axis in (-2, -1):
        margins = [(0, 0)] * x.ndim
        margins[axis] = (BLUR_RADIUS, BLUR_RADIUS)
        padded = np.pad(x, margins, mode="edge")
        size = x.shape[axis]
        x = np.sum(
            [weight * np.take(padded, range(place, place + size), axis) for place, weight in enumerate(weights)], axis=0
        )
    return x


@register_faithfulness(
    "insertion",
    title="Insertion",
    lowest=0.0,
    highest=1.0,
    higher_is_better=True,
    meaning="Mean probability of the class while a blurred image gets its pixels back, a 28th at a time, those that "
    "the map ranks highest first.",
    undefined="never",
    forward_passes=STEPS + 1,
)
def insertion(engine: Engine, x: Float64, maps: Float64, targets: Sequence[int]) -> Float64:
    """Area under the insertion curve (Petsiuk et al., RISE, 1806.07421, algorithm 1).

    Start is the image under an 11 x 11 Gaussian of sigma 5 pixels, whatever its size, which leaves of a small image
    little more than its mean; the curve is of the softmax probability; the area is by trapezoids over the share of
    pixels.

    Notes
    -----
    Cost: 29 forward passes per image, in one batch.
    """
    areas = [
        area_under(
            probability(engine, np.where(steps_changed(one)[:, np.newaxis], image, blurred(image)), target).target
        )
        for image, one, target in zip(x, maps, targets, strict=True)
    ]
    return np.array(areas, np.float64)
