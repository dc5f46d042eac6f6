"""The border of a map in memory: explicit pixels around it, so that a kernel reads padding like any other pixel."""

from __future__ import annotations

from bitlens.runtime.ops.window import Window

Border = tuple[int, int, int, int]
"""Pixels at the top, left, bottom and right; more than a reader needs does no harm."""

NO_BORDER: Border = (0, 0, 0, 0)


def union(a: Border, b: Border) -> Border:
    """Give the smallest border that serves the readers of both."""
    return (max(a[0], b[0]), max(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))


def covers(outer: Border, inner: Border) -> bool:
    """Whether a map with the border `outer` serves a reader that wants `inner`."""
    return all(a >= b for a, b in zip(outer, inner, strict=True))


def first_pixel(border: Border, window: Window) -> tuple[int, int]:
    """Row and column in memory, counted from the border's corner, where the first window starts."""
    return border[0] - window.padding[0], border[1] - window.padding[1]


def pool_border(height: int, width: int, window: Window) -> Border:
    """Border of a map that every window of a pool lies within.

    Not simply the padding: windows that leave out a last partial step need less at the bottom and at the right.
    """
    rows, columns = window.output_size(height, width)
    top, left = window.padding[:2]
    bottom = max(0, (rows - 1) * window.stride[0] + window.kernel[0] - top - height)
    right = max(0, (columns - 1) * window.stride[1] + window.kernel[1] - left - width)
    return (top, left, bottom, right)
