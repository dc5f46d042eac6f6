"""A whole 3x3 layer, 256 channels to 256 at 14x14, for estimate.py: `board_layer.py FAMILY ISA REPETITIONS`."""

from __future__ import annotations

import sys

import numpy as np

import bitlens.runtime._kernels as kernels

CHANNELS, SIDE, TAPS = 256, 14, 3
FORMS = {"conv2d_w1a1": ("bits", 1), "conv2d_w2a2": ("planes", 3), "conv2d_i8": ("codes", 15)}  # and their thresholds
GROUP_BYTES = {"conv2d_w1a1": 4, "conv2d_w2a2": 8, "conv2d_i8": 4}
GROUP_CHANNELS = {"conv2d_w1a1": 32, "conv2d_w2a2": 32, "conv2d_i8": 4}


def run_layer(family: str, isa: str, repetitions: int) -> None:
    """Compute the sums of every row and block, then their thresholds; what is done once does not count."""
    (block,) = (kernel[2] for kernel in kernels.sum_kernels() if kernel[:2] == (family, isa))
    groups = CHANNELS // GROUP_CHANNELS[family]
    pixel = groups * GROUP_BYTES[family]
    pitch = pixel * (SIDE + TAPS - 1)
    draw = np.random.default_rng(1)
    source = draw.integers(0, 256, pitch * TAPS).astype(np.uint8)
    weights = draw.integers(0, 128, TAPS * TAPS * pixel * block).astype(np.uint8)
    start = np.zeros(block * 4, np.uint8)
    row = np.zeros(SIDE * block * 4, np.uint8)
    for _ in range(CHANNELS // block * SIDE):
        steps, shape = (pitch, pixel, pixel), (TAPS, TAPS, groups, SIDE)
        kernels.sum_row(family, isa, source, *steps, *shape, weights, start, row, repetitions)

    form, levels = FORMS[family]
    pixels = SIDE * SIDE * CHANNELS // 32  # of all blocks in one call, whose own cost would count else
    sums = draw.integers(-2000, 2000, pixels * 32).astype(np.int32)
    turn = np.zeros(32, np.int32)
    thresholds = np.sort(draw.integers(-2000, 2000, (levels, 32)), axis=0).astype(np.int32).reshape(-1)
    out_step = {"bits": 1, "planes": 2, "codes": 32}[form]
    out = np.zeros(pixels * out_step * (1 if form == "codes" else 4), np.uint8)
    none, mask = np.zeros(0, np.int32), np.zeros(0, np.uint32)
    for _ in range(repetitions):
        kernels.threshold_row_i32(
            "neon", form, sums, 32, levels, turn, thresholds, none, none, 1, 32, out, out_step, mask, 1
        )


if __name__ == "__main__":
    run_layer(sys.argv[1], sys.argv[2], int(sys.argv[-1]))
