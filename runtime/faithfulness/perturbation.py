"""AUPC as a row of the table: the perturbation curve with the paper's settings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitlens.runtime.engines import Engine
from bitlens.runtime.faithfulness.perturbation_curve import FILLS, PERTURBATIONS, Float64, aupc, perturbation_curve
from bitlens.runtime.faithfulness.registry import register_faithfulness


@register_faithfulness(
    "aupc",
    title="AUPC of the probability",
    lowest=0.0,
    highest=float(PERTURBATIONS),
    higher_is_better=False,
    meaning="Area under the probability of the class while small windows of the image are filled with noise, one after "
    f"the other, those of largest magnitude first: {PERTURBATIONS} if nothing changes it.",
    undefined="never",
    forward_passes=1 + PERTURBATIONS * FILLS,
)
def area_under_perturbation(engine: Engine, x: Float64, maps: Float64, targets: Sequence[int]) -> Float64:
    """Compute the AUPC of Goh et al., 2004.10484, section 4.1, of the softmax probability.

    The paper divides logits by that of the image, which is unstable where that is near 0; probabilities are not divided
    here, so that every image counts alike. A map is ranked by magnitude.

    Notes
    -----
    Cost: 1501 forward passes per image.
    """
    areas = aupc(perturbation_curve(engine, x, targets, maps).probabilities)
    return np.minimum(areas, float(PERTURBATIONS))  # a sum of ones may round up
