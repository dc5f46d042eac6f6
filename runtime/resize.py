"""Pictures of any size to the size of a network, in whole numbers: the same codes on every machine.

Every weight is a whole number and the sum is rounded once, half up, at the end, so nothing depends on an order of
summation, a processor or the version of an image library. Training, `predict` and `explain` all call this.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.picture_file import LARGEST_PICTURE

Codes = npt.NDArray[np.uint8]

RULE = "centre-area-1"
"""Name of everything that this file does to a picture, in a bundle's manifest; another rule gets another name."""
RULE_IN_WORDS = (
    "The largest centred rectangle of the network's proportions (where an odd number is cut off, one more on the right "
    "or at the bottom), resized: by whole factors the mean of each area, else a triangle as wide as two new pixels, or "
    "two old ones when enlarging; one rounding, half up. Grey comes first: (19595 R + 38470 G + 7471 B + 32768) >> 16."
)
LARGEST_SIDE = 2**15

_LUMA = (19595, 38470, 7471)  # ITU-R BT.601's 0.299, 0.587 and 0.114 in units of 2^-16; their sum is 2^16


def grey(pixels: Codes) -> Codes:
    """Luma of RGB codes, (H, W, 3) -> (H, W, 1): 0.299 R + 0.587 G + 0.114 B, rounded half up.

    What is grey already keeps its codes.
    """
    red, green, blue = (pixels[..., channel].astype(np.int32) for channel in range(3))
    luma = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue + 2**15
    return (luma >> 16).astype(np.uint8)[..., None]


def centred_box(height: int, width: int, new_height: int, new_width: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of the largest centred rectangle with the proportions new_height : new_width."""
    if height * new_width >= width * new_height:
        box_height, box_width = max(1, width * new_height // new_width), width
    else:
        box_height, box_width = height, max(1, height * new_width // new_height)
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def fitted(pixels: Codes, height: int, width: int) -> Codes:
    """Crop the largest centred rectangle of the proportions height : width and resize it.

    Parameters
    ----------
    pixels : uint8 (H, W, C)
    height, width : int
        Of the result, at least 1.

    Returns
    -------
    uint8 (height, width, C)
        A picture of that size already is untouched.

    Raises
    ------
    BitlensError
        If a side of the picture or of the result is beyond `LARGEST_SIDE`, or the picture has more than
        `LARGEST_PICTURE` pixels.
    """
    sides = (*pixels.shape[:2], height, width)
    if max(sides) > LARGEST_SIDE or min(sides) < 1 or sides[0] * sides[1] > LARGEST_PICTURE:
        raise BitlensError(
            f"a picture of {sides[0]}x{sides[1]} pixels to be {height}x{width}: expected 1 to {LARGEST_SIDE} a side "
            f"and at most {LARGEST_PICTURE} in all, give another picture"
        )
    top, left, box_height, box_width = centred_box(sides[0], sides[1], height, width)
    box = pixels[top : top + box_height, left : left + box_width]
    if box.shape[:2] == (height, width):
        return box
    is_mean = box_height % height == 0 and box_width % width == 0
    rows = _summed(box, height, is_mean)
    both = _summed(rows.transpose(1, 0, 2), width, is_mean).transpose(1, 0, 2)
    total = _weight_sums(box_height, height, is_mean)[:, None] * _weight_sums(box_width, width, is_mean)
    rounded: Codes = ((both + (total // 2)[..., None]) // total[..., None]).astype(np.uint8)
    return rounded


def _weights(new: int, side: int, size: int, is_mean: bool) -> tuple[int, npt.NDArray[np.int64]]:
    """First old pixel that new pixel `new` of `size` takes from, and the weights of it and those behind it."""
    if is_mean:
        factor = side // size
        return new * factor, np.ones(factor, np.int64)
    # In units of 1 / (2 size) old pixels: the centres of old and new ones and the triangle's radius are whole numbers.
    radius, centre = 2 * max(side, size), (2 * new + 1) * side
    first = max(0, (centre - radius) // (2 * size))
    old = np.arange(first, min(side, (centre + radius) // (2 * size) + 1), dtype=np.int64)
    return first, np.maximum(0, radius - np.abs((2 * old + 1) * size - centre))


def _weight_sums(side: int, size: int, is_mean: bool) -> npt.NDArray[np.int64]:
    return np.array([_weights(new, side, size, is_mean)[1].sum() for new in range(size)], np.int64)


def _summed(values: npt.NDArray[np.integer], size: int, is_mean: bool) -> npt.NDArray[np.int64]:
    """Weighted sums along the first axis, (side, n, C) -> (size, n, C).

    With `LARGEST_PICTURE` pixels and two axes a sum stays below 2^62.
    """
    side = values.shape[0]
    sums = np.empty((size, *values.shape[1:]), np.int64)
    for new in range(size):
        first, weights = _weights(new, side, size, is_mean)
        sums[new] = np.einsum("k,knc->nc", weights, values[first : first + len(weights)], dtype=np.int64)
    return sums
