"""Deletion: how soon the class disappears when pixels are blackened, the most salient first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitlens.runtime.engines import Engine
from bitlens.runtime.faithfulness.pixel_order import STEPS, Float64, area_under, steps_changed
from bitlens.runtime.faithfulness.probability import probability
from bitlens.runtime.faithfulness.registry import register_faithfulness


@register_faithfulness(
    "deletion",
    title="Deletion",
    lowest=0.0,
    highest=1.0,
    higher_is_better=False,
    meaning="Mean probability of the class while the image is blackened, a 28th of its pixels at a time, those that "
    "the map ranks highest first.",
    undefined="never",
    forward_passes=STEPS + 1,
)
def deletion(engine: Engine, x: Float64, maps: Float64, targets: Sequence[int]) -> Float64:
    """Area under the deletion curve (Petsiuk et al., RISE, 1806.07421, algorithm 1).

    A deleted pixel is x = 0 in every channel; else as `insertion`.

    Notes
    -----
    Cost: 29 forward passes per image, in one batch.
    """
    areas = [
        area_under(probability(engine, np.where(steps_changed(one)[:, np.newaxis], 0.0, image), target).target)
        for image, one, target in zip(x, maps, targets, strict=True)
    ]
    return np.array(areas, np.float64)
