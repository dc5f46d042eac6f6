"""Convolutions as the plan takes them: a kernel family, the packed weights, and where the first window starts."""

from __future__ import annotations

from typing import Any

import numpy as np

from bitlens.runtime.native.border import first_pixel
from bitlens.runtime.native.codes import Codes
from bitlens.runtime.native.packing import (
    CANONICAL,
    RAW_F32,
    RAW_I8,
    RAW_I16,
    WORD,
    Bytes,
    Fields,
    field_bytes,
    fields_for,
    holds_zero,
    padded,
    panel,
    rounded_up,
    w1a1_words,
    w2a2_words,
)
from bitlens.runtime.native.rows import Source
from bitlens.runtime.ops.window import Window
from bitlens.runtime.program import Array

GRADIENT_ZERO = 128
"""What stands for 0 in a gradient of bytes."""

Pair = tuple[int, int]


def integer_convolution(
    codes: Codes, weight: Array, window: Window, size: Pair, *, span: int = 0, is_image: bool = False, variant: int = 0
) -> Source:
    """Describe a convolution of codes with whole weights.

    Parameters
    ----------
    codes : Codes
        In any form but `i32`.
    weight : array (outputs, channels, high, wide)
    window : Window
    size : (int, int)
        Rows and columns of the output.
    span : int
        For bytes, the largest that is stored: with the largest weight it says which kernels cannot overflow.
    is_image : bool
        Whether the codes lie in the image's buffer, whose few channels are worth merging across a row of taps.
    variant : int
        See `Source`.
    """
    outputs, channels, high, wide = weight.shape
    start = np.zeros(outputs, np.int64)  # of each sum: what the kernel's form of the codes leaves out
    merged, largest = False, (0, 0)
    if codes.form == "bits":
        family, fields, data = "conv2d_w1a1", CANONICAL, w1a1_words(weight)
        groups, start = rounded_up(channels, WORD) // WORD, start + channels * high * wide
    elif codes.form == "planes":
        family, fields, data = "conv2d_w2a2", CANONICAL, w2a2_words(weight)
        groups = rounded_up(channels, WORD) // WORD
    else:
        is_bytes = codes.form == "u8"
        per_group = 4 if is_bytes else 2
        merged = is_image and channels % per_group != 0
        family, fields = ("conv2d_i8", fields_for(weight)) if is_bytes else ("conv2d_i16", RAW_I16)
        if merged and not holds_zero(fields):
            fields = RAW_I8
        if is_bytes:
            largest = (span, _largest(weight))
        values = panel(weight, per_group, merged=merged)
        groups, data, start = values.shape[2], field_bytes(values, fields), codes.low * _totals(weight)
    record = _record(
        codes.buffer, family, (high, 1 if merged else wide, groups), first_pixel(codes.border, window), window.stride,
        size, fields, data, start, largest=largest, merged=merged,
    )  # fmt: skip
    return Source(record, variant=variant, size=size)


def float_convolution(buffer: int, weight: Array, first: Pair, size: Pair, stride: Pair = (1, 1)) -> Source:
    """Describe a convolution of real values, its weights in as few bits as hold them and the zeros of the padding.

    Parameters
    ----------
    buffer : int
    weight : array (outputs, channels, high, wide)
        Of any type; a gradient's are whole.
    first : (int, int)
        Row and column in memory, counted from the border's corner, where the first window starts.
    size, stride : (int, int)
    """
    outputs, channels, high, wide = weight.shape
    values = panel(weight, 1, merged=False)
    is_small = values.dtype != np.float32 and values.min() >= -128 and values.max() <= 127
    fields = fields_for(values) if is_small else RAW_F32
    start = np.zeros(outputs, np.int64)
    record = _record(
        buffer, "conv2d_f32", (high, wide, channels), first, stride, size, fields, field_bytes(values, fields), start
    )
    return Source(record, size=size)


def byte_convolution(buffer: int, weight: Array, first: Pair, size: Pair) -> Source:
    """Describe a convolution of stride 1 of a gradient in bytes, stored from 0 to 255 around `GRADIENT_ZERO`.

    Parameters
    ----------
    buffer, weight, first, size
        See `float_convolution`; the weights are int8.
    """
    high, wide = weight.shape[2:]
    fields, values = fields_for(weight), panel(weight, 4, merged=False)
    record = _record(
        buffer, "conv2d_i8", (high, wide, values.shape[2]), first, (1, 1), size, fields, field_bytes(values, fields),
        -GRADIENT_ZERO * _totals(weight), largest=(255, _largest(weight)),
    )  # fmt: skip
    return Source(record, size=size)


def _totals(weight: Array) -> Array:
    """Sum the weights of each output: what a code that is off by one adds to its sum."""
    return np.asarray(weight.astype(np.int64).reshape(weight.shape[0], -1).sum(axis=1))


def _largest(weight: Array) -> int:
    return int(np.abs(weight.astype(np.int64)).max())


def _record(
    buffer: int,
    family: str,
    taps: tuple[int, int, int],
    first: Pair,
    stride: Pair,
    size: Pair,
    fields: Fields,
    weights: Bytes,
    start: Array,
    *,
    largest: Pair = (0, 0),
    merged: bool = False,
) -> dict[str, Any]:
    return {
        "source": buffer,
        "family": family,
        "taps": list(taps),
        "merged": merged,
        "first": list(first),
        "stride": list(stride),
        "size": list(size),
        "fields": [fields.bits, fields.low, fields.step],
        "largest": list(largest),
        "weights": weights,
        "start": padded(start.astype(np.int32), rounded_up(start.shape[0], WORD)),
    }
