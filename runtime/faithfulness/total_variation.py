"""ATV and AUTVC: how noisy a map looks, at one size and over a pyramid of sizes."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from bitlens.runtime.bilinear import resized_bilinear
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.faithfulness.simpson import simpson
from bitlens.runtime.gaussian import gaussian_blurred

Float64 = npt.NDArray[np.float64]

SCALE_PERCENTILE = 99.0
DOWNSCALE = 1.5
FLOOR_SHARE = 30.0 / 224.0
"""The paper's pyramid ends below 30 pixels of 224; of 28 or 32 pixels that is 4."""


def _expect_maps(maps: npt.NDArray[np.floating]) -> Float64:
    if not np.issubdtype(maps.dtype, np.floating) or maps.ndim != 3 or 0 in maps.shape[1:]:
        raise BitlensError(
            f"expected maps as a float array of shape (N, H, W), got {maps.dtype} of shape {maps.shape}: reduce the "
            "channels first"
        )
    if not np.isfinite(maps).all():
        raise BitlensError(
            "expected finite values in the maps, got NaN or infinity: look for the cause where they were computed"
        )
    return maps.astype(np.float64)


def _variation(values: Float64) -> float:
    magnitude = np.abs(values)
    low, high = float(magnitude.min()), float(np.percentile(magnitude, SCALE_PERCENTILE))
    if not high > low:
        return math.nan
    scaled = np.clip((magnitude - low) / (high - low), 0.0, 1.0)
    total = np.abs(np.diff(scaled, axis=0)).sum() + np.abs(np.diff(scaled, axis=1)).sum()
    return float(total) / scaled.size


def atv(maps: npt.NDArray[np.floating]) -> Float64:
    """Average total variation: sum over neighbours of |S_i - S_j|, divided by the number of pixels; lower is calmer.

    S is |map|, from its smallest value (0) to its 99th percentile (1), clipped (Goh et al., 2004.10484, section 4).

    Parameters
    ----------
    maps : float array (N, H, W)
        Finite, channels summed.

    Returns
    -------
    float64 (N,)
        From 0 to 2; NaN where fewer than one pixel in a hundred differs from the rest, which leaves no scale.

    Raises
    ------
    BitlensError
        If the maps are not such an array.
    """
    return np.array([_variation(values) for values in _expect_maps(maps)])


def autvc(maps: npt.NDArray[np.floating], *, floor: int | None = None) -> Float64:
    """Area under the curve of ATV over a Gaussian pyramid (Goh et al., 2004.10484, section 4); lower is calmer.

    Each level is the signed map before it, blurred (sigma 0.5) and resized bilinearly by 1/1.5, rounded up; levels end
    where a side would fall below `floor`. ATV scales each level anew; Simpson's rule with step 1.

    Parameters
    ----------
    maps : float array (N, H, W)
        Finite, channels summed.
    floor : int, optional
        Pixels, at least 1; 30/224 of the shorter side if not given. Areas over different numbers of levels cannot be
        compared: the published ones are of 224 pixels.

    Returns
    -------
    float64 (N,)
        NaN where a level's ATV is.

    Raises
    ------
    BitlensError
        If the maps are not such an array, or smaller than two levels need.
    """
    values = _expect_maps(maps)
    least = max(1, round(FLOOR_SHARE * min(values.shape[1:]))) if floor is None else floor
    levels = []
    while min(values.shape[1:]) >= least:
        levels.append(np.array([_variation(level) for level in values]))
        height, width = (math.ceil(side / DOWNSCALE) for side in values.shape[1:])
        if (height, width) == values.shape[1:]:
            break
        blurred = gaussian_blurred(values, 2.0 * DOWNSCALE / 6.0).astype(np.float32)
        values = resized_bilinear(blurred[:, None], height, width)[:, 0].astype(np.float64)
    if len(levels) < 2:
        raise BitlensError(
            f"maps of {maps.shape[1]}x{maps.shape[2]} pixels give {len(levels)} level with floor {least}, expected at "
            "least 2: choose a lower floor"
        )
    return simpson(np.stack(levels, axis=-1))
