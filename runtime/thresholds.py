"""Thresholds and straight-through masks: where y = slope * accumulator + offset crosses a boundary, found in float64.

Batch norm, scales, the clipping level and the rounding of a quantizer all act on y; y is monotone in the integer
accumulator, so each boundary on y is one whole number on the accumulator. For an accumulator that is a float32 (a
residual sum) the same holds with the next float32 in place of the next integer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitlens.runtime.program import ACCUMULATOR_LIMIT, Array

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An interval of real values y; each end belongs to it or not."""

    low: float
    high: float
    low_closed: bool
    high_closed: bool


# Every float32 by its rank: one more is the next larger float32. What the accumulator can be is then a whole number in
# both cases, and bisection finds a crossing.
_LARGEST_RANK = int(np.float32(np.finfo(np.float32).max).view(np.int32))


def _ranks(values: Float64) -> npt.NDArray[np.int64]:
    """Rank of each float32 among all float32; 0 and -0 share rank 0."""
    bits = values.astype(np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits + 2**31), bits)


def _of_ranks(ranks: npt.NDArray[np.int64]) -> Float64:
    """Float32 values of these ranks."""
    magnitudes = np.abs(ranks).astype(np.int32).view(np.float32).astype(np.float64)
    return np.where(ranks < 0, -magnitudes, magnitudes)


def _before(values: Float64, is_float: bool) -> Float64:
    """Give the next smaller value that the accumulator can take."""
    if not is_float:
        return np.asarray(values - 1.0, np.float64)
    return _of_ranks(np.maximum(_ranks(values) - 1, -_LARGEST_RANK))


def first_passing(
    slope: Float64,
    offset: Float64,
    boundary: Float64,
    inclusive: npt.NDArray[np.bool_],
    *,
    is_float: bool = False,
    scale: float = 1.0,
) -> Float64:
    """Smallest accumulator value whose y / scale, y = slope * value + offset, passes `boundary`.

    Parameters
    ----------
    slope : float64 array, > 0
    offset, boundary : float64 arrays that broadcast against `slope`
    inclusive : bool array
        Whether y = boundary passes.
    is_float : bool
        Whether the accumulator is a float32 instead of an integer.
    scale : float, > 0
        What y is divided by before it is compared. A quantizer rounds y / scale: where a real value lies exactly
        between two codes, the quotient and boundary * scale are rounded to different sides.

    Returns
    -------
    float64 array
        Whole numbers within +-2^24, or float32 values; a boundary beyond that range is put at its end, so that -2^24
        always passes and 2^24 never does.
    """
    slope, offset, boundary, inclusive = np.broadcast_arrays(slope, offset, boundary, inclusive)
    # y is monotone in the accumulator, in float64 too, because each of its roundings is: so bisect for the crossing.
    limit = _LARGEST_RANK if is_float else ACCUMULATOR_LIMIT
    first = np.full(slope.shape, -limit, np.int64)
    last = np.full(slope.shape, limit, np.int64)
    with np.errstate(over="ignore"):
        for _ in range((2 * limit + 1).bit_length()):
            middle = (first + last) // 2
            values = _of_ranks(middle) if is_float else middle.astype(np.float64)
            y = (slope * values + offset) / scale
            passed = (y > boundary) | (inclusive & (y == boundary))
            last = np.where(passed, middle, last)
            first = np.where(passed, first, np.minimum(middle + 1, last))
    return _of_ranks(last) if is_float else last.astype(np.float64)


def channel_thresholds(
    slope: Float64,
    offset: Float64,
    boundaries: Float64,
    inclusive: npt.NDArray[np.bool_],
    *,
    rectified: bool = False,
    is_float: bool = False,
    scale: float = 1.0,
) -> tuple[Array, Array]:
    """Per-channel thresholds on the accumulator for the boundaries of a quantizer on y = slope * accumulator + offset.

    Parameters
    ----------
    slope, offset : float64 (C,)
        A slope of 0 makes the channel constant; a negative one turns its comparison round.
    boundaries : float64 (K,), ascending
        Code k + 1 begins where y / scale passes boundaries[k].
    inclusive : bool (K,)
        Whether y / scale = boundaries[k] passes.
    rectified : bool
        Whether a ReLU stands between y and the quantizer.
    is_float : bool
        Whether the accumulator is a float32.
    scale : float, > 0
        Real value of one code, by which a quantizer divides.

    Returns
    -------
    thresholds : int32 or float32 (C, K)
        The first value that passes; for direction -1 the last one.
    direction : int8 (C,)
        +1 where a larger accumulator means a larger code, else -1.
    """
    limit = float(np.finfo(np.float32).max) if is_float else float(ACCUMULATOR_LIMIT)
    direction = np.where(slope < 0, -1, 1).astype(np.int8)
    steep = np.where(slope == 0, 1.0, np.abs(slope))
    first = first_passing(
        steep[:, None], offset[:, None], boundaries[None, :], inclusive[None, :], is_float=is_float, scale=scale
    )
    constant = offset[:, None] / scale
    if rectified:
        # y becomes max(y, 0), which passes every boundary below 0 whatever the accumulator is.
        always = (boundaries < 0) | ((boundaries == 0) & inclusive)
        first = np.where(always[None, :], -limit, first)
        constant = np.maximum(constant, 0.0)
    passed = (constant > boundaries) | (inclusive & (constant == boundaries))
    first = np.where((slope == 0)[:, None], np.where(passed, -limit, limit), first)
    thresholds = first * direction[:, None]
    return thresholds.astype(np.float32 if is_float else np.int32), direction


def mask_bounds(
    slope: Float64,
    offset: Float64,
    interval: Interval,
    *,
    rectified: bool = False,
    is_float: bool = False,
    scale: float = 1.0,
) -> tuple[Array, Array]:
    """Per-channel box on the accumulator inside which a straight-through gradient passes.

    Parameters
    ----------
    slope, offset : float64 (C,)
    interval : Interval
        On y / scale, y being the value before the quantizer.
    rectified : bool
        Whether a ReLU stands between y and the quantizer; its gradient at 0 is 0, as in PyTorch.
    is_float : bool
        Whether the accumulator is a float32.
    scale : float, > 0
        What y is divided by before it is compared, where a quantizer's own rounding decides.

    Returns
    -------
    low, high : int32 or float32 (C,)
        The gradient passes where low <= accumulator <= high; an empty box (low > high) where it never does, as for a
        slope of 0.
    """
    low, low_closed = interval.low, interval.low_closed
    if rectified and low <= 0.0:
        low, low_closed = 0.0, False
    limit = float(np.finfo(np.float32).max) if is_float else float(ACCUMULATOR_LIMIT)
    steep = np.where(slope == 0, 1.0, np.abs(slope))
    inside, outside = (
        first_passing(steep, offset, np.array(end), np.array(inclusive), is_float=is_float, scale=scale)
        for end, inclusive in ((low, low_closed), (interval.high, not interval.high_closed))
    )
    last = _before(outside, is_float)
    bottom, top = np.where(slope < 0, -last, inside), np.where(slope < 0, -inside, last)
    empty = (slope == 0) | (inside >= outside)
    bottom, top = np.where(empty, limit, bottom), np.where(empty, -limit, top)
    dtype = np.float32 if is_float else np.int32
    return bottom.astype(dtype), top.astype(dtype)
