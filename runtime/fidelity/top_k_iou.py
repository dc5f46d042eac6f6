"""Whether two maps point at the same pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.fidelity.registry import Float64, is_constant, register_metric

SHARE = 0.1


def top_pixels(maps: Float64, count: int) -> npt.NDArray[np.bool_]:
    """Mark the `count` pixels of largest magnitude in each map (N, H, W), fewer where fewer are not 0; bool (N, P)."""
    magnitudes = np.abs(maps).reshape(len(maps), maps.shape[1] * maps.shape[2])
    order = np.argsort(-magnitudes, axis=1, kind="stable")[:, :count]
    marked = np.zeros(magnitudes.shape, np.bool_)
    np.put_along_axis(marked, order, True, axis=1)
    marked &= magnitudes > 0
    return marked


@register_metric(
    "top_k_iou",
    title="Top 10 % IoU",
    lowest=0.0,
    highest=1.0,
    meaning="The share of pixels that both maps have among their tenth of largest magnitude, of those that either has "
    "there: 1 the same pixels, 0 none in common; chance alone gives about 0.05.",
    undefined="one of the maps is constant",
)
def top_k_iou(one: Float64, other: Float64, *, share: float = SHARE) -> Float64:
    """Intersection over union of the pixels of largest magnitude.

    A signed map is ranked by magnitude: what speaks strongly against the class matters as much as what speaks for it.
    Of equal magnitudes the first in row-major order counts. A pixel of value 0 is never among them, so that two maps
    that are mostly 0 do not agree in the corner where counting begins.

    Parameters
    ----------
    one, other : float64 arrays, shape (N, H, W)
    share : float
        Of the pixels, above 0 and up to 1; rounded to whole pixels half to even, at least one.

    Returns
    -------
    float64 array, shape (N,)

    Raises
    ------
    BitlensError
        If `share` lies elsewhere.

    Notes
    -----
    Cost: a sort of each map.
    """
    if not 0 < share <= 1:
        raise BitlensError(f"expected a share of the pixels above 0 and up to 1, got {share}: try {SHARE}")
    count = max(1, round(share * one.shape[1] * one.shape[2]))
    a, b = top_pixels(one, count), top_pixels(other, count)
    either = (a | b).sum(axis=1)
    quotient = (a & b).sum(axis=1) / np.maximum(either, 1)
    return np.where(is_constant(one) | is_constant(other), np.nan, quotient)
