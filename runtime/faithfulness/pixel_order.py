"""In which order a map names the pixels, and the area under a curve of probabilities as they are changed in steps."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

STEPS = 28
"""RISE changes 224 x 8 pixels of 224 x 224 at a time, a 28th; the same share suits images of any size."""

_TIE_SEED = 0


@cache
def _shuffled(pixels: int) -> Int64:
    order: Int64 = np.random.Generator(np.random.PCG64(_TIE_SEED)).permutation(pixels)
    return order


def pixel_ranks(values: Float64) -> Int64:
    """Rank the pixels of a map (H, W) from 0, the largest value first; int64 (H, W).

    Pixels of equal value come in a shuffled order that is always the same. Row by row, a map that is mostly zero would
    uncover the image from its top, and a uniform map would not be what chance gives.
    """
    shuffled = _shuffled(values.size)
    order = shuffled[np.argsort(-values.ravel()[shuffled], kind="stable")]
    ranks = np.empty(values.size, np.int64)
    ranks[order] = np.arange(values.size)
    return ranks.reshape(values.shape)


def steps_changed(values: Float64) -> npt.NDArray[np.bool_]:
    """Say which pixels of a map (H, W) are changed after 0, 1, ... `STEPS` steps; bool (STEPS + 1, H, W)."""
    counts = np.rint(np.linspace(0, values.size, STEPS + 1))
    changed: npt.NDArray[np.bool_] = pixel_ranks(values) < counts[:, np.newaxis, np.newaxis]
    return changed


def area_under(curve: Float64) -> float:
    """Area under a curve of probabilities over 0..1 with equally spaced points, by trapezoids; from 0 to 1."""
    area = (curve.sum() - (curve[0] + curve[-1]) / 2) / (len(curve) - 1)
    return min(1.0, float(area))  # a sum of ones may round up
