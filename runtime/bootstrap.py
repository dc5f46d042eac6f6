"""How sure a mean over images is: a percentile interval of the bootstrap."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitlens.runtime.errors import BitlensError

_DRAWN_AT_ONCE = 2**22  # images; bounds the memory whatever the number of images


@dataclass(frozen=True)
class BootstrapMean:
    """A mean over images with its interval.

    Parameters
    ----------
    mean : float
        Over the images with a value; NaN if there is none.
    low, high : float
        Ends of the interval; NaN where fewer than two images have a value, which says nothing about spread.
    images : int
        How many have a value.
    undefined : int
        How many were NaN and are left out.
    """

    mean: float
    low: float
    high: float
    images: int
    undefined: int


def bootstrap_mean(
    values: npt.NDArray[np.floating], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> BootstrapMean:
    """Give the mean and its percentile interval (Efron 1979): the images are drawn anew, with replacement.

    Parameters
    ----------
    values : float array, shape (N,)
        One per image; NaN where it is undefined, which is left out and counted. Finite otherwise.
    confidence : float
        Share of such intervals that hold the true mean, above 0 and below 1. With few images, or a skewed
        distribution, somewhat fewer do.
    resamples : int
        How often the images are drawn anew, at least 1.
    seed : int
        Of NumPy's PCG64; the same values, options and seed give the same interval.

    Returns
    -------
    BootstrapMean

    Raises
    ------
    BitlensError
        If the values are not such an array, or an option lies outside its range.

    Notes
    -----
    Cost: resamples x N additions.
    """
    if not np.issubdtype(values.dtype, np.floating) or values.ndim != 1:
        raise BitlensError(
            f"expected one float per image, shape (N,), got {values.dtype} of shape {values.shape}: flatten it"
        )
    if np.isinf(values).any():
        raise BitlensError("expected finite values or NaN, got infinity: look for the cause where it was computed")
    if not 0 < confidence < 1:
        raise BitlensError(f"expected a confidence between 0 and 1, got {confidence}: try 0.95")
    if resamples < 1:
        raise BitlensError(f"expected at least 1 resample, got {resamples}: try 2000")
    exact = values.astype(np.float64)
    defined = exact[~np.isnan(exact)]
    images, undefined = len(defined), len(exact) - len(defined)
    mean = float(defined.mean()) if images else math.nan
    if images < 2:
        return BootstrapMean(mean, math.nan, math.nan, images, undefined)
    generator = np.random.Generator(np.random.PCG64(seed))
    at_once = max(1, _DRAWN_AT_ONCE // images)
    means = [
        defined[generator.integers(0, images, (min(at_once, resamples - start), images))].mean(axis=1)
        for start in range(0, resamples, at_once)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return BootstrapMean(mean, float(low), float(high), images, undefined)
