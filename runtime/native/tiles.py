"""The gradient of a convolution with few channels as one convolution that computes a tile of pixels at a time.

The pixels of a tile are output channels side by side: a block of 32 channels is then nearly full, where the three
colours of an image leave nine tenths of it empty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitlens.runtime.native.border import Border
from bitlens.runtime.native.packing import WORD
from bitlens.runtime.native.phases import gradient_phases, phases_border
from bitlens.runtime.ops.conv2d import conv2d_window
from bitlens.runtime.program import Array, Node


@dataclass(frozen=True)
class Tiling:
    """A gradient cut into tiles.

    Parameters
    ----------
    weight : array (tile rows * tile columns * channels, outputs, high, wide)
        Of the arriving gradient's pixels that a tile reads, in reading order.
    first : (int, int)
        First tap of the first tile in the arriving gradient's map; negative where it lies in the border.
    size : (int, int)
        Rows and columns of tiles; the last ones may reach over the edge of the input's map.
    stride : (int, int)
        Pixels of the arriving gradient from one tile to the next.
    tile : (int, int)
    border : Border
        Zeros that it reads around the arriving gradient.
    """

    weight: Array
    first: tuple[int, int]
    size: tuple[int, int]
    stride: tuple[int, int]
    tile: tuple[int, int]
    border: Border


def gradient_tiling(node: Node) -> Tiling | None:
    """Cut a `conv2d_input_gradient` into the tiles that multiply least; None where phases multiply no more."""
    weight, window = node.arrays["weight"], conv2d_window(node)
    outputs, channels, high, wide = weight.shape
    if node.integer("groups") > 1:
        return None
    _, height, width = node.integers("input_shape")
    rows, columns = window.output_size(height, width)
    least, best = high * wide / (window.stride[0] * window.stride[1]), None
    for tile_high in range(window.stride[0], WORD // channels + 1, window.stride[0]):
        vertical = _axis(height, rows, high, window.stride[0], window.padding[0], tile_high)
        for tile_wide in range(window.stride[1], WORD // channels // tile_high + 1, window.stride[1]):
            horizontal = _axis(width, columns, wide, window.stride[1], window.padding[1], tile_wide)
            products = vertical.reach * horizontal.reach / (tile_high * tile_wide)
            if products < least:
                least, best = products, (vertical, horizontal)
    if best is None:
        return None
    vertical, horizontal = best
    taps = np.zeros((vertical.tile, horizontal.tile, channels, outputs, vertical.reach, horizontal.reach), weight.dtype)
    for y, tap_y, ky in vertical.taps(high):
        for x, tap_x, kx in horizontal.taps(wide):
            taps[y, x, :, :, tap_y, tap_x] = weight[:, :, ky, kx].T
    (top, bottom), (left, right) = vertical.border, horizontal.border
    return Tiling(
        weight=taps.reshape(-1, *taps.shape[3:]),
        first=(vertical.first, horizontal.first),
        size=(vertical.count, horizontal.count),
        stride=(vertical.tile // vertical.stride, horizontal.tile // horizontal.stride),
        tile=(vertical.tile, horizontal.tile),
        border=(top, left, bottom, right),
    )


def input_gradient_border(node: Node) -> Border:
    """Border of zeros that a `conv2d_input_gradient` reads around the gradient that arrives."""
    tiling = gradient_tiling(node)
    return phases_border(gradient_phases(node)) if tiling is None else tiling.border


@dataclass(frozen=True)
class _Axis:
    tile: int
    stride: int
    padding: int
    count: int  # tiles
    first: int
    reach: int  # pixels of the arriving gradient that a tile reads
    border: tuple[int, int]  # before and behind

    def taps(self, kernel: int) -> list[tuple[int, int, int]]:
        """(pixel of the tile, pixel that arrives, tap of the forward kernel between them)."""
        pairs = [(pixel, tap) for pixel in range(self.tile) for tap in range(self.reach)]
        found = [(pixel, tap, pixel + self.padding - (self.first + tap) * self.stride) for pixel, tap in pairs]
        return [(pixel, tap, k) for pixel, tap, k in found if 0 <= k < kernel]


def _axis(size: int, outputs: int, kernel: int, stride: int, padding: int, tile: int) -> _Axis:
    """Cut one axis: of an input of `size` pixels whose convolution has `outputs`."""
    # Tap k of output o reads pixel o * stride + k - padding.
    first = -((kernel - 1 - padding) // stride)
    last = (tile - 1 + padding) // stride
    count = -(-size // tile)
    behind = (count - 1) * (tile // stride) + last - (outputs - 1)
    return _Axis(tile, stride, padding, count, first, last - first + 1, (max(0, -first), max(0, behind)))
