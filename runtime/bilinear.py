"""Bilinear resize of maps and masks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]


def resized_bilinear(maps: Float32, height: int, width: int) -> Float32:
    """Bilinear resize of (N, C, h, w), pixel centres aligned (PyTorch's align_corners=False), edges held."""
    for axis, size in ((2, height), (3, width)):
        source = maps.shape[axis]
        place = np.clip((np.arange(size) + 0.5) * source / size - 0.5, 0.0, source - 1.0)
        first = np.floor(place).astype(np.int64)
        second = np.minimum(first + 1, source - 1)
        shape = [1, 1, 1, 1]
        shape[axis] = size
        share = (place - first).reshape(shape).astype(np.float32)
        maps = np.take(maps, first, axis) * (np.float32(1.0) - share) + np.take(maps, second, axis) * share
    return maps
