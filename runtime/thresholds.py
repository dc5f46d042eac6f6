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


def _next(values: Float64, direction: int, is_float: bool) -> Float64:
    """Neighbouring value that the accumulator can take."""
    if not is_float:
        return np.asarray(values + direction, np.float64)
    with np.errstate(over="ignore"):  # beyond the last float32 lies infinity
        return np.asarray(np.nextafter(values.astype(np.float32), np.float32(direction * np.inf)), np.float64)


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
    limit = float(np.finfo(np.float32).max) if is_float else float(ACCUMULATOR_LIMIT)

    def passes(values: Float64) -> npt.NDArray[np.bool_]:
        y = (slope * values + offset) / scale
        passed: npt.NDArray[np.bool_] = (y > boundary) | (inclusive & (y == boundary))
        return passed

    with np.errstate(over="ignore", divide="ignore"):
        guess = np.clip((boundary * scale - offset) / slope, -limit, limit)
        first = guess.astype(np.float32).astype(np.float64) if is_float else np.ceil(guess)
        # The division may be off by its last bit: settle by the comparison itself, a few neighbours to either side.
        for _ in range(3):
            below = _next(first, -1, is_float)
            first = np.where(passes(below) & (first > -limit), below, first)
        for _ in range(4):
            above = _next(first, 1, is_float)
            first = np.where(~passes(first) & (first < limit), above, first)
    return np.asarray(np.clip(first, -limit, limit), np.float64)


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
    slope: Float64, offset: Float64, interval: Interval, *, rectified: bool = False, is_float: bool = False
) -> tuple[Array, Array]:
    """Per-channel box on the accumulator inside which a straight-through gradient passes.

    Parameters
    ----------
    slope, offset : float64 (C,)
    interval : Interval
        On y, the value before the quantizer.
    rectified : bool
        Whether a ReLU stands between y and the quantizer; its gradient at 0 is 0, as in PyTorch.
    is_float : bool
        Whether the accumulator is a float32.

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
    inside = first_passing(steep, offset, np.array(low), np.array(low_closed), is_float=is_float)
    outside = first_passing(
        steep, offset, np.array(interval.high), np.array(not interval.high_closed), is_float=is_float
    )
    last = _next(outside, -1, is_float)
    bottom, top = np.where(slope < 0, -last, inside), np.where(slope < 0, -inside, last)
    empty = (slope == 0) | (inside > last)
    bottom, top = np.where(empty, limit, bottom), np.where(empty, -limit, top)
    dtype = np.float32 if is_float else np.int32
    return bottom.astype(dtype), top.astype(dtype)
