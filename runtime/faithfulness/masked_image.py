"""Average drop, average gain and increase in confidence: the class on the image times the map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitlens.runtime.engines import Engine
from bitlens.runtime.faithfulness.probability import Float64, Probability, probability
from bitlens.runtime.faithfulness.registry import register_faithfulness


def as_mask(values: Float64) -> Float64:
    """Scale a map (H, W) to 0..1: divided by its maximum, what is negative counts as 0; zeros if nothing is above 0."""
    positive = np.maximum(values, 0.0)
    largest = positive.max()
    mask: Float64 = positive / largest if largest > 0 else positive
    return mask


def before_and_after(engine: Engine, x: Float64, maps: Float64, targets: Sequence[int]) -> Probability:
    """Ask about each image and about its product with the mask, pixel by pixel; float64 (N, 2) each."""
    asked = [
        probability(engine, np.stack([image, as_mask(one) * image]), target)
        for image, one, target in zip(x, maps, targets, strict=True)
    ]
    return Probability(
        np.array([one.target for one in asked]).reshape(-1, 2), np.array([one.others for one in asked]).reshape(-1, 2)
    )


@register_faithfulness(
    "average_drop",
    title="Average drop",
    lowest=0.0,
    highest=1.0,
    higher_is_better=False,
    meaning="Share of its probability that the class loses when the image is dimmed to what the map shows; a uniform "
    "map loses nothing, so read it beside average gain.",
    undefined="the class has probability 0 on the image",
    forward_passes=2,
)
def average_drop(engine: Engine, x: Float64, maps: Float64, targets: Sequence[int]) -> Float64:
    """Compute max(0, p - o) / p, p on the image and o on mask * image (Chattopadhay et al., 1710.11063, section 4.1).

    The mask is the map divided by its maximum, negative values 0; the product is in pixel space. Averaged over images,
    this is the average drop.

    Notes
    -----
    Cost: 2 forward passes per image.
    """
    shares = before_and_after(engine, x, maps, targets).target
    p, o = shares[:, 0], shares[:, 1]
    return np.where(p > 0, np.maximum(0.0, p - o) / np.where(p > 0, p, 1.0), np.nan)


@register_faithfulness(
    "average_gain",
    title="Average gain",
    lowest=0.0,
    highest=1.0,
    higher_is_better=True,
    meaning="Share of the missing probability that the class wins when the image is dimmed to what the map shows.",
    undefined="the class has probability 1 on the image",
    forward_passes=2,
)
def average_gain(engine: Engine, x: Float64, maps: Float64, targets: Sequence[int]) -> Float64:
    """Compute max(0, o - p) / (1 - p) (Zhang et al., 2404.15024, section 5.2); else as `average_drop`."""
    others = before_and_after(engine, x, maps, targets).others  # 1 - p and 1 - o
    before, after = others[:, 0], others[:, 1]
    return np.where(before > 0, np.maximum(0.0, before - after) / np.where(before > 0, before, 1.0), np.nan)


@register_faithfulness(
    "increase_in_confidence",
    title="Increase in confidence",
    lowest=0.0,
    highest=1.0,
    higher_is_better=True,
    meaning="Share of images on which the class becomes more probable when they are dimmed to what the map shows.",
    undefined="never",
    forward_passes=2,
)
def increase_in_confidence(engine: Engine, x: Float64, maps: Float64, targets: Sequence[int]) -> Float64:
    """Compute 1 where o > p, else 0 (Chattopadhay et al., 1710.11063, section 4.1); else as `average_drop`."""
    asked = before_and_after(engine, x, maps, targets)
    # 1 - o < 1 - p, by the numbers that keep their digits near certainty and those that keep them near 0.
    more = (asked.target[:, 1] > asked.target[:, 0]) | (asked.others[:, 1] < asked.others[:, 0])
    return more.astype(np.float64)
