"""Whether two maps agree on what speaks for the class and what against it."""

from __future__ import annotations

import numpy as np

from bitlens.runtime.fidelity.registry import Float64, is_zero, register_metric


@register_metric(
    "sign_agreement",
    title="Sign agreement",
    lowest=0.0,
    highest=1.0,
    meaning="The share of pixels that both maps count for the class, or both against it, of those that either map "
    "counts at all: 1 everywhere, 0.5 as chance would have it, 0 nowhere.",
    undefined="one of the maps is zero everywhere",
)
def sign_agreement(one: Float64, other: Float64) -> Float64:
    """Share of pixels with equal signs; pixels that are 0 in both maps are left out, 0 against another sign disagrees.

    Notes
    -----
    Cost: a few passes over the pixels.
    """
    counted = (one != 0) | (other != 0)
    agree = counted & (np.sign(one) == np.sign(other))
    quotient = agree.sum(axis=(1, 2)) / np.maximum(counted.sum(axis=(1, 2)), 1)
    return np.where(is_zero(one) | is_zero(other), np.nan, quotient)
