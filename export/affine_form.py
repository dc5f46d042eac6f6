"""Thresholds as scale, add, round and clip: engines without a threshold op run that, once it is proved to be equal.

    count(a) = clip(round(a / constant + shift), low, high), or a * constant

Division and multiplication by a constant, adding a constant and rounding are each monotone, in floats too, and so is
counting thresholds. Two monotone step functions that agree at both ends of the range and on both sides of every step
agree everywhere between; so the proof evaluates the form, in its own arithmetic, at those few accumulator values only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitlens.runtime.program import Array

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scaling:
    """How an engine scales an accumulator by a channel's constant.

    Parameters
    ----------
    apply : callable
        (values, constant) -> values, rounded once.
    constant : callable
        Accumulator steps that one code takes -> the constant.
    """

    apply: Callable[[Array, Array], Array]
    constant: Callable[[float], float]


DIVIDE = Scaling(np.divide, lambda spacing: spacing)
MULTIPLY = Scaling(np.multiply, lambda spacing: 1.0 / spacing)

# Relative changes of the constant to try where rounding leaves no room for a shift with the exact one.
_DIVISOR_NUDGES = (0.0, 1e-7, -1e-7, 1e-6, -1e-6, 1e-5, -1e-5, 1e-4, -1e-4)

# Steps to a code in a channel whose code never changes: for every integer, and for every real value in float64.
_FLAT = 2.0**30
_FLAT_REAL = 2.0**200


@dataclass(frozen=True)
class AffineForm:
    """A proved form for every channel.

    Parameters
    ----------
    constant, shift : float32 or float64 (C,)
        A negative constant turns the comparison round.
    low, high : int
        Clip bounds on the number of thresholds passed, one pair for all channels.
    """

    constant: Array
    shift: Array
    low: int
    high: int
    scaling: Scaling


def passed_counts(values: Float64, thresholds: Float64) -> npt.NDArray[np.int64]:
    """How many ascending thresholds each value passes (value >= threshold)."""
    return np.searchsorted(thresholds, values, side="right")


def deciding_values(thresholds: Float64, low: float, high: float, *, is_float: bool = False) -> Float64:
    """Both ends of the range, and both sides of every threshold inside it: integers, or neighbouring float32."""
    inside = thresholds[(thresholds > low) & (thresholds <= high)]
    below = np.nextafter(inside.astype(np.float32), np.float32(-np.inf)) if is_float else inside - 1
    return np.unique(np.concatenate([[low, high], below, inside])).astype(np.float64)


def evaluate(scaling: Scaling, values: Array, constant: Array, shift: Array, low: int, high: int) -> Array:
    """Evaluate the form in the arithmetic of its constants: each operation rounded once, rounding half to even."""
    scaled = scaling.apply(values.astype(constant.dtype), constant)
    return np.asarray(np.clip(np.rint(scaled + shift), low, high))


def _fit_channel(
    thresholds: Float64,
    spacing: float,
    span: tuple[float, float],
    clip: tuple[int, int],
    dtype: type[np.floating],
    is_float: bool,
    scaling: Scaling,
) -> tuple[np.floating, np.floating] | None:
    values = deciding_values(thresholds, *span, is_float=is_float)
    counts = passed_counts(values, thresholds)
    for nudge in _DIVISOR_NUDGES:
        constant = dtype(scaling.constant(spacing * (1.0 + nudge)))
        if not np.isfinite(constant) or constant <= 0:
            return None
        scaled = scaling.apply(values.astype(dtype), np.array(constant)).astype(np.float64)
        # round(scaled + shift) must be `count`; at a clip bound it may lie beyond.
        least = np.where(counts <= clip[0], -np.inf, counts - 0.5 - scaled).max()
        most = np.where(counts >= clip[1], np.inf, counts + 0.5 - scaled).min()
        # Where ties are met exactly, at either side, there is one shift and no room; the evaluation below decides.
        if np.isinf(least) or np.isinf(most):
            middle = most - 0.5 if np.isinf(least) else least + 0.5
        else:
            middle = 0.5 * (least + most)
        # 0 is the quantizer itself where nothing is added to the accumulator: then even the ties are rounded alike.
        for shift in (dtype(middle), dtype(0.0)):
            if np.array_equal(evaluate(scaling, values, np.array(constant), np.array(shift), *clip), counts):
                return constant, shift
    return None


def affine_form(
    thresholds: Array,
    direction: Array,
    spacing: Float64,
    low: float,
    high: float,
    dtype: type[np.floating] = np.float32,
    *,
    is_float: bool = False,
    scaling: Scaling = DIVIDE,
) -> AffineForm | None:
    """Find a form equal to counting thresholds, for every accumulator in [low, high], and prove it.

    Parameters
    ----------
    thresholds : int32 or float32 (C, K)
        In the order of the `threshold` op.
    direction : int8 (C,)
    spacing : float64 (C,)
        Accumulator steps from one threshold to the next, before rounding; infinite for a constant channel.
    low, high : float
        Every value the accumulator can take lies between them.
    dtype : float32 or float64
        Arithmetic in which the engine will evaluate the form.
    is_float : bool
        Whether the accumulator is a float32, a residual sum, instead of an integer.
    scaling : Scaling
        `DIVIDE` or `MULTIPLY`, whichever the engine will do.

    Returns
    -------
    AffineForm or None
        None where some channel has no equal form in this arithmetic.
    """
    turned = thresholds.astype(np.float64) * direction[:, None]
    spans = [(low, high) if sign > 0 else (-high, -low) for sign in direction]
    counts = [passed_counts(np.array(span, np.float64), row) for span, row in zip(spans, turned, strict=True)]
    clip = (min(int(first) for first, _ in counts), max(int(last) for _, last in counts))
    constants, shifts = np.empty(len(turned), dtype), np.empty(len(turned), dtype)
    for channel, row in enumerate(turned):
        first, last = counts[channel]
        if first == last:
            constants[channel], shifts[channel] = scaling.constant(_FLAT_REAL if is_float else _FLAT), first
            continue
        fit = _fit_channel(row, float(spacing[channel]), spans[channel], clip, dtype, is_float, scaling)
        if fit is None:
            return None
        constants[channel], shifts[channel] = fit
    form = AffineForm(constants * direction.astype(dtype), shifts, *clip, scaling)
    return form if is_proved(form, thresholds, direction, low, high, is_float=is_float) else None


def is_proved(
    form: AffineForm, thresholds: Array, direction: Array, low: float, high: float, *, is_float: bool = False
) -> bool:
    """Whether `form` gives the counts of `thresholds` for every accumulator in [low, high] (see the module)."""
    for channel in range(len(thresholds)):
        sign = int(direction[channel])
        span = (low, high) if sign > 0 else (-high, -low)
        row = thresholds[channel].astype(np.float64) * sign
        values = deciding_values(row, *span, is_float=is_float)
        constant, shift = form.constant[channel], form.shift[channel]
        if not np.isfinite(constant) or constant * sign <= 0:
            return False
        got = evaluate(form.scaling, values * sign, np.array(constant), np.array(shift), form.low, form.high)
        if not np.array_equal(got, passed_counts(values, row)):
            return False
    return True
