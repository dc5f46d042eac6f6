"""Sums, codes, masks and floats are the same bits on every processor: hashes that were made once, on the desktop.

Every kernel that runs here is asked; float convolutions are not, whose sums may be rounded in any order.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

kernels: Any = pytest.importorskip("bitlens.runtime._kernels", reason="a pure-Python build")

Array = npt.NDArray[Any]

SUMS = {
    "conv2d_w1a1": "26174d43dfaa7ae5",
    "conv2d_w2a2": "3082156691452f7d",
    "conv2d_i8": "e054f49db271823d",
    "conv2d_i16": "83a4dfed57fea7d2",
}
ROWS = "414ca9c66ada1fb2"
GROUP_BYTES = {"conv2d_w1a1": 4, "conv2d_w2a2": 8, "conv2d_i8": 4, "conv2d_i16": 4}
CHANNELS, HIGH, WIDE, GROUPS, PIXELS = 256, 3, 3, 5, 7


def drawn(name: str, kind: Any, *shape: int) -> Array:
    """Numbers that do not hang on a library's generator."""
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    return np.frombuffer(hashlib.shake_256(name.encode()).digest(size), kind).reshape(shape)


def digest(*arrays: Array) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()[:16]


def layer(family: str) -> tuple[Array, Array]:
    """Return source bytes and canonical weights, (channels, taps, groups, anything)."""
    source = drawn(f"{family} source", "<u1", HIGH, PIXELS + WIDE - 1, GROUPS * GROUP_BYTES[family])
    if family == "conv2d_w1a1":
        return source, drawn("w1", "<u4", CHANNELS, HIGH * WIDE, GROUPS)
    if family == "conv2d_w2a2":
        planes = drawn("w2", "<u4", CHANNELS, HIGH * WIDE, GROUPS, 2).copy()
        planes[..., 1] &= ~planes[..., 0]
        return source, planes
    if family == "conv2d_i16":
        return source, drawn("w16", "<i2", CHANNELS, HIGH * WIDE, GROUPS, 2)
    return source, drawn("w8", "<i1", CHANNELS, HIGH * WIDE, GROUPS, 4)


def sums_of(family: str, isa: str, block: int, offset: int) -> Array:
    source, weights = layer(family)
    start = drawn("start", "<i4", CHANNELS).copy()
    if offset:
        start += offset * weights.reshape(CHANNELS, -1).sum(axis=1, dtype=np.int32)
    pitch, step = source[0].size, GROUPS * GROUP_BYTES[family]
    sums = np.zeros((CHANNELS // block, PIXELS, block), np.int32)
    for number, out in enumerate(sums):
        of_block = weights[number * block : (number + 1) * block]
        if family in ("conv2d_i8", "conv2d_i16"):
            of_block = of_block.transpose(1, 2, 0, 3)  # a panel
        kernels.sum_row(
            family,
            isa,
            source.reshape(-1),
            pitch,
            step,
            step,
            HIGH,
            WIDE,
            GROUPS,
            PIXELS,
            np.ascontiguousarray(of_block).reshape(-1).view(np.uint8),
            np.ascontiguousarray(start[number * block : (number + 1) * block]).view(np.uint8),
            out.reshape(-1).view(np.uint8),
        )
    return np.moveaxis(sums, 0, 1)


@pytest.mark.parametrize(
    ("family", "isa", "block", "offset"),
    # A kernel with a largest product is for small numbers alone.
    [
        (family, isa, block, offset)
        for family, isa, block, largest_product, offset, runs_here in kernels.sum_kernels()
        if runs_here and family in SUMS and not largest_product
    ],
)
def test_sums(family: str, isa: str, block: int, offset: int) -> None:
    assert digest(sums_of(family, isa, block, offset)) == SUMS[family]


def thresholds_of(isa: str, form: str, levels: int, is_float: bool) -> tuple[Array, Array]:
    scale = np.float32(1 / 256) if is_float else np.int32(1)
    kind = np.float32 if is_float else np.int32
    sums = (drawn("sums", "<i2", PIXELS * 32) * scale).astype(kind)
    ascending = np.sort(drawn(f"levels {levels}", "<i2", levels, 32), axis=0)
    box = np.sort(drawn("box", "<i2", 2, 32), axis=0)
    turn = -(drawn("turn", "<u1", 32) & 1).astype(np.int32)
    step = {"bits": 1, "planes": 2, "codes": 32}[form]
    out: Array = np.zeros(PIXELS * step * (1 if form == "codes" else 4), np.uint8)
    mask: Array = np.zeros(PIXELS, np.uint32)
    call = kernels.threshold_row_f32 if is_float else kernels.threshold_row_i32
    thresholds, low, high = ((each * scale).astype(kind).reshape(-1) for each in (ascending, box[0], box[1]))
    call(isa, form, sums, 32, levels, turn, thresholds, low, high, 1, 32, out, step, mask, 1)
    return out, mask


@pytest.mark.parametrize("isa", [isa for isa, runs_here in kernels.row_function_sets() if runs_here])
def test_row_functions(isa: str) -> None:
    results: list[Array] = []
    for form, levels in (("bits", 1), ("planes", 3), ("codes", 7), ("codes", 15), ("codes", 30), ("codes", 255)):
        for is_float in (False, True):
            results += thresholds_of(isa, form, levels, is_float)

    window = drawn("window", "<i4", 2 * 6 * 32)
    turn = -(drawn("turn", "<u1", 32) & 1).astype(np.int32)
    pooled, index = np.zeros(3 * 32, np.int32), np.zeros(3 * 32, np.uint8)
    kernels.max_pool_row(isa, window, 32, 6, 2, 2, 2, 3, turn, pooled, index, 32)
    results += [pooled, index]

    def floats(name: str, count: int) -> Array:
        numbers: Array = (drawn(name, "<i4", count) / np.float32(3e7)).astype(np.float32)
        return numbers

    slope, offset, addend, gain = floats("slope", 32), floats("offset", 32), floats("addend", 128), floats("gain", 32)
    values, out = floats("values", 128), np.zeros(128, np.float32)
    kernels.affine_row_i32(isa, drawn("integers", "<i4", 128), 32, slope, offset, addend, 32, out, 32)
    results.append(out.copy())
    kernels.affine_row_f32(isa, values, 32, slope, offset, addend, 32, out, 32)
    results.append(out.copy())
    kernels.ste_gradient_row(isa, values, 32, drawn("mask", "<u4", 4), 1, 0.0, gain, 32, out)
    results.append(out.copy())
    kernels.add_floats(isa, values, addend, out)
    results.append(out.copy())
    quantized = np.zeros(128, np.uint8)
    kernels.quantize_floats(isa, values, float(np.float32(127) / kernels.largest_magnitude(isa, values)), quantized)
    assert digest(*results, quantized) == ROWS
