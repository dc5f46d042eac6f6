"""Thresholds on a large accumulator in float32 alone: find the nearest one, then compare with it.

A sum near 2^24 has no room for a scaled one to be rounded without an error. So the scaled one only finds the nearest
threshold n of T[0..K-1], and a difference decides whether the sum passes it:

    n     = round(clip(a * inverse + shift, 0, K - 1))
    count = n + [ (a - (n * coarse + base)) - (n * fine + rest) > 0 ]

`coarse` and `base` are whole, so the first bracket is exact; `fine` and `rest` are small. For each n the comparison is
monotone in a, so the proof evaluates both ends of each n's range and both sides of each threshold, in float32.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from bitlens.export.affine_form import Float64, deciding_values, passed_counts
from bitlens.runtime.program import Array

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class NearestThreshold:
    """A form for every channel that was proved; all float32 (C,)."""

    inverse: Float32
    shift: Float32
    coarse: Float32
    base: Float32
    fine: Float32
    rest: Float32

    def channel(self, index: int) -> NearestThreshold:
        """Constants of one channel, each of shape ()."""
        return NearestThreshold(*(getattr(self, item.name)[index] for item in fields(self)))


def _nearest(values: Float32, form: NearestThreshold, levels: int) -> Float32:
    return np.asarray(np.rint(np.clip(values * form.inverse + form.shift, np.float32(0.0), np.float32(levels - 1))))


def evaluate_nearest(values: Float32, form: NearestThreshold, levels: int) -> Float32:
    """Evaluate the form of one channel in float32, each operation rounded once."""
    n = _nearest(values, form, levels)
    error = (values - (n * form.coarse + form.base)) - (n * form.fine + form.rest)
    return np.asarray(n + (error > 0).astype(np.float32))


def nearest_threshold(thresholds: Array, spacing: Float64, low: int, high: int) -> NearestThreshold | None:
    """Find a form equal to counting thresholds, for every whole number in [low, high], and prove it.

    Parameters
    ----------
    thresholds : (C, K)
        Ascending whole numbers; an accumulator passes those that it is not below.
    spacing : float64 (C,)
        From one threshold to the next before they were rounded; infinite for a constant channel.
    low, high : int
        Every accumulator lies between them, below 2^24 in size.

    Returns
    -------
    NearestThreshold or None
        None where some channel has no such form.
    """
    constants = np.zeros((len(fields(NearestThreshold)), len(thresholds)), np.float32)
    for channel, row in enumerate(thresholds.astype(np.float64)):
        fit = _constants(row, float(spacing[channel]), low, high)
        if fit is None:
            return None
        constants[:, channel] = fit
    form = NearestThreshold(*constants)
    return form if is_nearest_proved(form, thresholds, low, high) else None


def _constants(row: Float64, spacing: float, low: int, high: int) -> tuple[float, ...] | None:
    levels = len(row)
    if row[0] > high:  # passes none
        return 0.0, 0.0, 0.0, high, 0.0, 0.5
    if row[-1] <= low:
        return 0.0, levels - 1.0, 0.0, low, 0.0, -0.5
    within = np.flatnonzero((row > low) & (row <= high))
    if not 0 < spacing < np.inf or not within.size:
        return None
    coarse = np.round(spacing)
    fine = float(np.float32(spacing - coarse))
    # The boundary before each threshold, T - 1 < b <= T, on the line first + n * spacing; half way where there is room.
    least = (row - 1.0 - np.arange(levels) * spacing)[within].max()
    most = (row - np.arange(levels) * spacing)[within].min()
    first = 0.5 * (least + most)
    base = np.round(first)
    return 1.0 / spacing, -first / spacing, coarse, base, fine, first - base


def is_nearest_proved(form: NearestThreshold, thresholds: Array, low: int, high: int) -> bool:
    """Whether `form` counts like `thresholds` for every whole number in [low, high] (see the module)."""
    levels = thresholds.shape[1]
    for index, row in enumerate(thresholds.astype(np.float64)):
        channel = form.channel(index)
        # Where n grows: the first accumulator, found by bisection, at which it is at least 1, 2, ...
        least, most = np.full(levels - 1, low), np.full(levels - 1, high)
        wanted = np.arange(1, levels)
        while np.any(least < most):
            middle = least + (most - least) // 2
            reached = _nearest(middle.astype(np.float32), channel, levels) >= wanted
            most, least = np.where(reached, middle, most), np.where(reached, least, np.minimum(middle + 1, most))
        turns = np.clip(np.concatenate([most, most - 1]), low, high).astype(np.float64)
        values = np.unique(np.concatenate([deciding_values(row, low, high), turns]))
        got = evaluate_nearest(values.astype(np.float32), channel, levels)
        if not np.array_equal(got, passed_counts(values, row)):
            return False
    return True
