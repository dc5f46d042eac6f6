"""Noise that is the same, bit for bit, on every machine, NumPy version and batch size.

The 64-bit integers of PCG64 are NumPy's promise; its floats are not, because their algorithms may change. So each raw
integer is cut into four 16-bit ones, and a 16-bit integer is an index into a fixed table (`normal`) or a fraction
(`uniform`). Every value is a multiple of 2^-17 below 8 and therefore exact in float32 as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from bitlens.runtime.errors import BitlensError

Float32 = npt.NDArray[np.float32]

LEVELS = 2**16
"""Number of values that a draw can take, all equally likely."""

_STEP = 2.0**-16


@cache
def normal_table() -> Float32:
    """Compute the inverse-normal table: entry i is the quantile of (i + 1/2) / 65536, rounded to a multiple of 2^-16.

    Returns
    -------
    float32 (65536,)
        Rising, from -4.325 to 4.325; mean exactly 0, variance 1 - 2.03e-5 (the tails end).

    Notes
    -----
    The quantile is known to about 1e-15 of its value on any machine, and none lies nearer than 1e-11 to the middle
    between two multiples of 2^-16: the rounding takes away what machines may disagree about.
    """
    quantile = NormalDist().inv_cdf
    upper = [round(quantile((index + 0.5) / LEVELS) / _STEP) for index in range(LEVELS // 2, LEVELS)]
    whole = np.array([-steps for steps in reversed(upper)] + upper, np.float64)
    return (whole * _STEP).astype(np.float32)


def _draws(shape: Sequence[int], seed: int, stream: Sequence[int]) -> npt.NDArray[np.int64]:
    """16-bit integers of one stream, four to each raw integer, the lowest bits first."""
    if seed < 0 or any(part < 0 for part in stream):
        raise BitlensError(f"the seed is {seed}, stream {tuple(stream)}: expected whole numbers from 0 on")
    count = int(np.prod(shape, dtype=np.int64))
    generator = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=tuple(stream)))
    raw = generator.random_raw(-(-count // 4))
    shifts = np.arange(4, dtype=np.uint64) * np.uint64(16)
    parts: npt.NDArray[np.uint64] = (raw[:, None] >> shifts) & np.uint64(LEVELS - 1)
    draws: npt.NDArray[np.int64] = parts.reshape(-1)[:count].reshape(tuple(shape)).astype(np.int64)
    return draws


def normal(shape: Sequence[int], *, seed: int, stream: Sequence[int]) -> Float32:
    """Draw standard normal noise.

    Parameters
    ----------
    shape : sequence of int
    seed : int
        Not negative.
    stream : sequence of int
        Which of the seed's independent streams, say the number of the sample; not negative.

    Returns
    -------
    float32 of that shape
        Within -4.325..4.325.

    Raises
    ------
    BitlensError
        If the seed or a part of the stream is negative.
    """
    return normal_table()[_draws(shape, seed, stream)]


def uniform(shape: Sequence[int], *, seed: int, stream: Sequence[int]) -> Float32:
    """Draw noise uniform between 0 and 1, both excluded: one of (i + 1/2) / 65536.

    Parameters and errors as for `normal`.
    """
    return ((_draws(shape, seed, stream) + 0.5) / LEVELS).astype(np.float32)
