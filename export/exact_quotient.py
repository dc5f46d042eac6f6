"""A real value's code in float32 alone: its quotient by the quantizer's step, rounded half to even without an error.

A quantizer with K steps up to alpha gives round(v K / alpha), clipped to 0..K. A float32 quotient is itself rounded,
so a value one rounding away from a boundary may get the next code. Here it only finds the nearest boundary, h alpha / K
with h = 1/2, 3/2, ...; then the sign of K v - h alpha decides, which is computed without an error:

    h     = round(clip(v * inverse - 1/2, 0, K - 1)) + 1/2
    e     = (((K + 1) v - h * coarse) - v) - h * fine
    count = round(h + sign(e) / 2)

alpha = coarse + fine, both so short that their products with h are exact; K + 1 is a power of two. Where (K + 1) v and
h * coarse are within a factor of two of each other their difference is exact, and so is the one with v (Sterbenz);
elsewhere e is far from 0, and no rounding turns its sign. A value on the boundary itself leaves e = 0, and the last
rounding sends h to the even code. Where the step alpha / K was rounded to a float64, its boundaries lie beside those of
alpha by as little; then `fine` leans to that side, by less than any value's distance.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from bitlens.export.affine_form import Float64, deciding_values, passed_counts
from bitlens.runtime.program import Array

Float32 = npt.NDArray[np.float32]

_FLOAT32_BITS = 24

# What a channel of a constant code compares with: beyond K + 1 times any real value up to `REAL_LIMIT`.
REAL_LIMIT = 2.0**96
_BEYOND = 2.0**110

# From here on no difference of multiples of v and alpha comes near the numbers that XNNPACK takes for 0.
_LEAST_ALPHA = 2.0**-60

# Shares of alpha by which `fine` may lean.
_LEANINGS = (0.0, 2.0**-36, -(2.0**-36))


@dataclass(frozen=True)
class ExactQuotient:
    """A form for every channel that was proved; all float32 (C,).

    Parameters
    ----------
    inverse, shift : float32 (C,)
        h = round(clip(v * inverse + shift, 0, K - 1)) + 1/2.
    coarse, fine : float32 (C,)
    """

    inverse: Float32
    shift: Float32
    coarse: Float32
    fine: Float32

    def channel(self, index: int) -> ExactQuotient:
        """Constants of one channel, each of shape ()."""
        return ExactQuotient(*(getattr(self, item.name)[index] for item in fields(self)))


def evaluate_quotient(values: Float32, form: ExactQuotient, levels: int) -> Float32:
    """Evaluate the form of one channel in float32, each operation rounded once."""
    half, top = np.float32(0.5), np.float32(levels - 1)
    with np.errstate(over="ignore"):  # infinity is clipped like any large value
        h = np.rint(np.clip(values * form.inverse + form.shift, np.float32(0.0), top)) + half
        e = ((values * np.float32(levels + 1) - h * form.coarse) - values) - h * form.fine
    return np.asarray(np.rint(h + np.sign(e) * half))


def exact_quotient(thresholds: Array, spacing: Float64, low: float, high: float) -> ExactQuotient | None:
    """Find a form equal to counting thresholds, for every float32 in [low, high], and prove it.

    Parameters
    ----------
    thresholds : float32 (C, K)
        Ascending; a value passes those that it is not below. K + 1 is a power of two.
    spacing : float64 (C,)
        From one threshold to the next before they were rounded; infinite for a constant channel.
    low, high : float
        Every value lies between them.

    Returns
    -------
    ExactQuotient or None
        None where a quantizer is no plain quotient: the first threshold is not half a step above 0, say.
    """
    channels, levels = thresholds.shape
    if levels & (levels + 1):
        return None
    constants = np.zeros((len(fields(ExactQuotient)), channels), np.float32)
    fitted: dict[tuple[bytes, float], Float32 | None] = {}  # most quantizers have one row for all channels
    for channel, row in enumerate(thresholds):
        key = (row.tobytes(), float(spacing[channel]))
        if key not in fitted:
            fitted[key] = _fitted(row, key[1], low, high)
        found = fitted[key]
        if found is None:
            return None
        constants[:, channel] = found
    return ExactQuotient(*constants)


def _fitted(row: Array, spacing: float, low: float, high: float) -> Float32 | None:
    for leaning in _LEANINGS:
        constants = np.array(_constants(row, spacing, leaning, low, high), np.float32)
        if is_quotient_proved(ExactQuotient(*constants[:, None]), row[None], low, high):
            return constants
    return None


def _constants(
    row: Array, spacing: float, leaning: float, low: float, high: float
) -> tuple[float, float, float, float]:
    levels = len(row)
    if row[0] > high:  # passes none: h = 1/2, and e is below 0
        return 0.0, 0.0, _BEYOND, 0.0
    if row[-1] <= low:
        return 0.0, levels - 1.0, -_BEYOND, 0.0
    alpha = float(np.float32(spacing * levels))
    if alpha < _LEAST_ALPHA:
        return 0.0, 0.0, 0.0, 0.0
    mantissa, exponent = np.frexp(alpha)
    bits = _FLOAT32_BITS - (levels + 1).bit_length()
    coarse = float(np.ldexp(np.round(mantissa * 2.0**bits), int(exponent) - bits))
    return levels / alpha, -0.5, coarse, alpha - coarse + leaning * alpha


def is_quotient_proved(form: ExactQuotient, thresholds: Array, low: float, high: float) -> bool:
    """Whether `form` counts like `thresholds` at both ends and on both sides of each threshold.

    That is all: between two thresholds h is one of the two half codes beside the value's, whatever the quotient's own
    rounding does, and the sign of e is exact (see the module).
    """
    for index, row in enumerate(thresholds.astype(np.float64)):
        values = deciding_values(row, low, high, is_float=True)
        got = evaluate_quotient(values.astype(np.float32), form.channel(index), len(row))
        if not np.array_equal(got, passed_counts(values, row)):
            return False
    return True
