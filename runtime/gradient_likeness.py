"""How near a gradient that went through bytes is to the exact one: its direction, and the order of its magnitudes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitlens.runtime.fidelity import spearman
from bitlens.runtime.program import Array

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GradientLikeness:
    """Cosine of input gradients, and Spearman's rank correlation of their magnitudes, over images."""

    mean_cosine: float
    smallest_cosine: float
    mean_spearman: float
    smallest_spearman: float

    def __str__(self) -> str:
        return (
            f"cosine {self.mean_cosine:.5f} in the mean, {self.smallest_cosine:.5f} the smallest; Spearman of "
            f"magnitudes {self.mean_spearman:.5f} and {self.smallest_spearman:.5f}"
        )


def gradient_likeness(cosines: Float64, spearmans: Float64) -> GradientLikeness:
    """Summarize what `cosines` and `magnitude_spearmans` give of the same images."""
    mean_and_least = ((float(each.mean()), float(each.min())) for each in (cosines, spearmans))
    return GradientLikeness(*(number for pair in mean_and_least for number in pair))


def cosines(values: Array, reference: Array) -> Float64:
    """Cosine of each image's array with the reference's, (N, ...) -> (N,).

    1 where the two are equal, also if all zero; 0 where one alone is all zero; NaN where either is not finite.
    """
    one, other = (np.asarray(array, np.float64).reshape(len(array), -1) for array in (values, reference))
    with np.errstate(invalid="ignore"):
        norms = np.sqrt((one * one).sum(axis=1) * (other * other).sum(axis=1))
        quotient = (one * other).sum(axis=1) / np.where(norms == 0, 1.0, norms)
    return np.where((one == other).all(axis=1), 1.0, np.clip(quotient, -1.0, 1.0))


def magnitude_spearmans(values: Array, reference: Array) -> Float64:
    """Spearman's rank correlation of each image's magnitudes with the reference's, (N, ...) -> (N,).

    1 where the two are equal; 0 where one alone has all magnitudes equal; NaN where either is not finite.
    """
    one, other = (np.abs(np.asarray(array, np.float64)).reshape(len(array), 1, -1) for array in (values, reference))
    is_finite: npt.NDArray[np.bool_] = np.isfinite(one + other).all(axis=(1, 2))
    ranked = np.nan_to_num(spearman.batch(*(np.where(is_finite[:, None, None], each, 0.0) for each in (one, other))))
    correlated = np.where((one == other).all(axis=(1, 2)), 1.0, ranked)
    return np.where(is_finite, correlated, np.nan)
