"""Pearson's correlation of two maps."""

from __future__ import annotations

import numpy as np

from bitlens.runtime.fidelity.registry import Float64, is_constant, on_own_scale, register_metric


def correlation(one: Float64, other: Float64) -> Float64:
    """Correlate maps (N, H, W) pair by pair; float64 (N,), NaN where one of a pair is constant."""
    # On their own scale no square can overflow.
    a, b = (maps - maps.mean(axis=(1, 2), keepdims=True) for maps in map(on_own_scale, (one, other)))
    undefined = is_constant(one) | is_constant(other)
    norms = np.sqrt((a * a).sum(axis=(1, 2))) * np.sqrt((b * b).sum(axis=(1, 2)))
    undefined |= norms == 0  # pixels that differ by less than the mean's last bit
    quotient = (a * b).sum(axis=(1, 2)) / np.where(undefined, 1.0, norms)
    return np.where(undefined, np.nan, np.clip(quotient, -1.0, 1.0))


@register_metric(
    "pearson",
    title="Pearson",
    lowest=-1.0,
    highest=1.0,
    meaning="How nearly one map is the other times a positive number plus a constant: 1 exactly so, 0 no linear "
    "relation, -1 with the sign turned round; single bright pixels weigh much.",
    undefined="one of the maps is constant",
)
def pearson(one: Float64, other: Float64) -> Float64:
    """Correlate the values, sign included.

    Notes
    -----
    Cost: a few passes over the pixels.
    """
    return correlation(one, other)
