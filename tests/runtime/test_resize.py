"""Resizing in whole numbers: exact fractions and Pillow are the oracles, and a few codes are kept for ever."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from resized_by_hand import resized_by_hand, square_by_hand

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.image import prepared
from bitlens.runtime.resize import LARGEST_SIDE, RULE, centred_box, fitted, grey

Codes = npt.NDArray[np.uint8]


def pixels(height: int, width: int, seed: int = 0, channels: int = 3) -> Codes:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("size", [1, 2, 7, 8])
@pytest.mark.parametrize("shape", [(32, 32), (33, 40), (40, 33), (9, 8), (7, 7), (5, 11), (1, 1), (1, 9)])
def test_equals_exact_fractions(shape: tuple[int, int], size: int) -> None:
    assert np.array_equal(fitted(pixels(*shape), size, size), square_by_hand(pixels(*shape), size))


@pytest.mark.parametrize("target", [(6, 8), (12, 5), (3, 16)])
@pytest.mark.parametrize("box", [(24, 32), (6, 8), (9, 12), (31, 41)])
def test_networks_that_are_not_square(box: tuple[int, int], target: tuple[int, int]) -> None:
    source = pixels(*box)
    top, left, height, width = centred_box(*box, *target)
    expected = resized_by_hand(source[top : top + height, left : left + width], *target)
    assert np.array_equal(fitted(source, *target), expected)


def test_extremes_stay_extremes() -> None:
    for value in (0, 255):
        for size in (3, 28, 64):
            assert (fitted(np.full((50, 50, 3), value, np.uint8), size, size) == value).all()


# Pillow rounds its weights to 22 bits and after each axis: one code at most. Its box counts a pixel wholly or not at
# all, which is the mean of the area at whole factors only.
@pytest.mark.parametrize("shape", [(64, 64), (375, 500), (128, 71), (19, 23), (8, 8)])
@pytest.mark.parametrize("size", [8, 28, 64])
def test_is_within_a_code_of_pillow(shape: tuple[int, int], size: int) -> None:
    source = pixels(*shape, seed=1)
    side = min(shape)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    cropped = Image.fromarray(source).crop((left, top, left + side, top + side))
    method = Image.Resampling.BILINEAR if side % size else Image.Resampling.BOX
    expected = np.asarray(cropped.resize((size, size), method)).astype(np.int64)
    assert np.abs(fitted(source, size, size) - expected).max() <= 1


def test_luma_is_within_a_code_of_pillow_and_keeps_grey() -> None:
    source = pixels(64, 64, seed=2)
    expected = np.asarray(Image.fromarray(source).convert("L")).astype(np.int64)
    assert np.abs(grey(source)[..., 0] - expected).max() <= 1
    every = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    assert np.array_equal(grey(every), every[..., :1])


def test_where_an_odd_number_is_cut_off_one_more_goes_right_and_down() -> None:
    assert centred_box(5, 8, 4, 4) == (0, 1, 5, 5)
    assert centred_box(8, 5, 4, 4) == (1, 0, 5, 5)
    assert centred_box(100, 100, 1, 3) == (33, 0, 33, 100)
    assert centred_box(1, 9, 3, 1) == (0, 4, 1, 1)  # never nothing


def test_a_picture_of_the_right_size_is_untouched() -> None:
    assert np.array_equal(fitted(pixels(16, 16), 16, 16), pixels(16, 16))
    assert np.array_equal(fitted(pixels(16, 21), 16, 16), pixels(16, 21)[:, 2:18])


def test_the_largest_picture_does_not_overflow() -> None:
    white = np.broadcast_to(np.uint8(255), (8191, 8191, 1))  # no memory is taken
    assert (fitted(white, 2, 2) == 255).all()


@pytest.mark.parametrize(
    ("shape", "size"), [((LARGEST_SIDE + 1, 1), (1, 1)), ((2, 2), (1, LARGEST_SIDE + 1)), ((0, 5), (2, 2))]
)
def test_what_is_too_large_or_empty_is_refused(shape: tuple[int, int], size: tuple[int, int]) -> None:
    with pytest.raises(BitlensError, match=r"expected 1 to 32768 a side and at most 67108864 in all"):
        fitted(np.broadcast_to(np.uint8(0), (*shape, 3)), *size)
    with pytest.raises(BitlensError, match="expected 1 to"):
        fitted(np.broadcast_to(np.uint8(0), (LARGEST_SIDE, LARGEST_SIDE, 3)), 8, 8)


KEPT_MEANS = [[85, 86, 149], [201, 96, 74], [129, 192, 126]]
KEPT_TRIANGLES = [[74, 70, 114, 157], [193, 102, 67, 106], [172, 194, 102, 59], [121, 164, 193, 128]]
KEPT_HASH = "995645828d4efcc02975d10042c9817377b0b4ab1555b95cf13c7a09ac186437"


def test_the_rule_stays_what_it_is() -> None:
    """Bundles name the rule and carry no code: a change of one code needs another name."""
    assert RULE == "centre-area-1"
    ramp = (np.arange(9 * 11 * 3).reshape(9, 11, 3) * 7 % 256).astype(np.uint8)
    assert prepared(ramp, (1, 3, 3))[0].tolist() == KEPT_MEANS
    assert prepared(ramp, (1, 4, 4))[0].tolist() == KEPT_TRIANGLES
    digest = hashlib.sha256(prepared(pixels(123, 77, seed=3), (3, 32, 32)).tobytes())
    digest.update(prepared(pixels(20, 20, seed=4), (1, 32, 32)).tobytes())
    assert digest.hexdigest() == KEPT_HASH
