"""What resizing means, in exact fractions: slow, and written without a look at `bitlens.runtime.resize`."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint8]


def _weights(side: int, size: int, is_mean: bool) -> list[list[Fraction]]:
    """Of each old pixel for each new one: a triangle around the new pixel's centre, or its area."""
    factor = Fraction(side, size)
    table = []
    for new in range(size):
        centre = (new + Fraction(1, 2)) * factor
        distances = [abs(old + Fraction(1, 2) - centre) for old in range(side)]
        row = [
            Fraction(int(distance < factor / 2)) if is_mean else max(Fraction(0), 1 - distance / max(factor, 1))
            for distance in distances
        ]
        table.append([weight / sum(row) for weight in row])
    return table


def resized_by_hand(pixels: Codes, height: int, width: int) -> Codes:
    """(H, W, C) -> (height, width, C), one rounding, half up."""
    is_mean = pixels.shape[0] % height == 0 and pixels.shape[1] % width == 0
    rows, columns = _weights(pixels.shape[0], height, is_mean), _weights(pixels.shape[1], width, is_mean)
    as_objects = lambda table: np.array(table, dtype=object)  # noqa: E731
    exact = np.einsum("ik,klc->ilc", as_objects(rows), pixels.astype(object), optimize=False)
    exact = np.einsum("jl,ilc->ijc", as_objects(columns), exact, optimize=False)
    result: Codes = np.frompyfunc(lambda value: int(value + Fraction(1, 2)), 1, 1)(exact).astype(np.uint8)
    return result


def square_by_hand(pixels: Codes, size: int) -> Codes:
    """The largest centred square, resized."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resized_by_hand(pixels[top : top + side, left : left + side], size, size)
