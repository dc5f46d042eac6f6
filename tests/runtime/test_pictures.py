import io
import zlib

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from bitlens.runtime import pictures
from bitlens.runtime.errors import BitlensError

XYZ_FROM_LINEAR_RGB = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
# Full deuteranopia and protanopia in linear RGB (Machado, Oliveira and Fernandes 2009, severity 1.0).
AS_SEEN_BY = {
    "everyone": np.eye(3),
    "deuteranope": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "protanope": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
}


def lab(rgb: npt.NDArray[np.uint8], seen_by: str = "everyone") -> npt.NDArray[np.float64]:
    """CIELAB (D65) of sRGB colours, after the eye's own loss."""
    share = rgb / 255.0
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ AS_SEEN_BY[seen_by].T, 0, 1)
    xyz = linear @ XYZ_FROM_LINEAR_RGB.T / XYZ_FROM_LINEAR_RGB.sum(axis=1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def bar(signed: bool, steps: int = 201) -> npt.NDArray[np.uint8]:
    """The colours of a scale, smallest value first."""
    return pictures.colour_bar(steps, 1, signed)[::-1, 0]


def random_picture(seed: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def rises(lightness: npt.NDArray[np.float64]) -> bool:
    # Whole sRGB codes are coarse: where a colour stops for one code the lightness may stand, but never fall further.
    return bool((np.diff(lightness) > -0.25).all() and (np.diff(lightness[::5]) > 0).all())


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (13, 17), (64, 64)])
def test_png_is_read_back_by_pillow(shape: tuple[int, int]) -> None:
    picture = random_picture(7, *shape)
    with Image.open(io.BytesIO(pictures.png_bytes(picture))) as opened:
        opened.verify()  # checks every CRC
    with Image.open(io.BytesIO(pictures.png_bytes(picture))) as opened:
        assert (opened.format, opened.mode, opened.size) == ("PNG", "RGB", shape[::-1])
        np.testing.assert_array_equal(np.asarray(opened), picture)


def test_png_of_a_view_that_is_not_contiguous() -> None:
    picture = random_picture(8, 6, 10)[::2, ::-1]
    with Image.open(io.BytesIO(pictures.png_bytes(picture))) as opened:
        np.testing.assert_array_equal(np.asarray(opened), picture)


def test_png_by_hand() -> None:
    # One red pixel: signature, 1 x 1, 8 bits, colour type 2, filter byte 0, then the three codes.
    png = pictures.png_bytes(np.array([[[255, 0, 0]]], np.uint8))
    assert png.startswith(b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x02\x00\x00\x00")
    length = int.from_bytes(png[33:37], "big")
    assert png[37:41] == b"IDAT"
    assert zlib.decompress(png[41 : 41 + length]) == b"\x00\xff\x00\x00"
    assert png == pictures.png_bytes(np.array([[[255, 0, 0]]], np.uint8))


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_png_refuses_what_is_no_picture(wrong: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(BitlensError, match=r"expected a picture as uint8 of shape \(H, W, 3\)"):
        pictures.png_bytes(wrong)


@pytest.mark.parametrize("seen_by", AS_SEEN_BY)
def test_sequential_lightness_rises(seen_by: str) -> None:
    assert rises(lab(bar(signed=False), seen_by)[:, 0])


def test_the_lightness_check_can_fail() -> None:
    jet_like = np.array([[0, 0, 143], [0, 255, 255], [255, 255, 0], [128, 0, 0]], np.uint8)
    assert not rises(lab(jet_like.repeat(5, axis=0))[:, 0])


def test_sequential_lightness_is_spread_evenly() -> None:
    steps = np.diff(lab(np.array(pictures.SEQUENTIAL_ANCHORS, np.uint8))[:, 0])
    assert steps.min() > 0.9 * steps.mean()
    assert steps.max() < 1.1 * steps.mean()


@pytest.mark.parametrize("seen_by", AS_SEEN_BY)
def test_diverging_lightness_falls_along_both_arms(seen_by: str) -> None:
    lightness = lab(bar(signed=True), seen_by)[:, 0]
    assert rises(lightness[:101])
    assert rises(lightness[:99:-1])


def test_diverging_arms_are_equally_light() -> None:
    lightness = lab(bar(signed=True))[:, 0]
    assert np.abs(lightness - lightness[::-1]).max() < 1.5


@pytest.mark.parametrize("seen_by", AS_SEEN_BY)
def test_the_two_arms_are_told_apart(seen_by: str) -> None:
    colours = lab(bar(signed=True), seen_by)
    difference = np.linalg.norm(colours - colours[::-1], axis=1)
    assert difference[:60].min() > 25  # from 40 % of the scale on; 2 is just noticeable


def test_zero_is_neutral() -> None:
    values = np.array([[-2.0, -1.0, 0.0, 1.0, 2.0]], np.float32).repeat(50, axis=0)
    picture = pictures.colour_map_picture(values, signed=True)
    assert picture[0, 2].tolist() == [255, 255, 255]
    assert picture[0, 0].tolist() == list(pictures.DIVERGING_ANCHORS[0])
    assert picture[0, 4].tolist() == list(pictures.DIVERGING_ANCHORS[-1])
    assert int(picture[0, 0, 2]) > int(picture[0, 0, 0])  # below zero is blue
    assert int(picture[0, 4, 0]) > int(picture[0, 4, 2])  # above zero is red


def test_signed_scale_is_symmetric_even_where_the_map_is_not() -> None:
    values = np.full((10, 10), 4.0, np.float32)
    values[0, 0] = -1.0
    picture = pictures.colour_map_picture(values, signed=True)
    bar_at_minus_a_quarter = bar(signed=True)[75]
    assert picture[0, 0].tolist() == bar_at_minus_a_quarter.tolist()


def test_one_hot_pixel_does_not_darken_the_rest() -> None:
    values = np.full((20, 20), 1.0, np.float32)
    values[3, 4] = 1e6
    picture = pictures.colour_map_picture(values, signed=False)
    assert (picture == np.array(pictures.SEQUENTIAL_ANCHORS[-1], np.uint8)).all()


def test_few_non_zero_pixels_are_still_seen() -> None:
    values = np.zeros((20, 20), np.float32)
    values[3, 4] = -5.0
    picture = pictures.colour_map_picture(values, signed=True)
    assert picture[3, 4].tolist() == list(pictures.DIVERGING_ANCHORS[0])
    assert (np.delete(picture.reshape(-1, 3), 3 * 20 + 4, axis=0) == 255).all()


@pytest.mark.parametrize(
    ("value", "signed", "colour"),
    [
        (0.0, True, (255, 255, 255)),
        (0.0, False, pictures.SEQUENTIAL_ANCHORS[0]),
        (3.0, True, pictures.DIVERGING_ANCHORS[-1]),
        (-3.0, True, pictures.DIVERGING_ANCHORS[0]),
        (3.0, False, pictures.SEQUENTIAL_ANCHORS[-1]),
        (-3.0, False, pictures.SEQUENTIAL_ANCHORS[0]),
        (1e-45, False, pictures.SEQUENTIAL_ANCHORS[-1]),  # the smallest float32
        (3e38, True, pictures.DIVERGING_ANCHORS[-1]),
    ],
)
def test_constant_maps(value: float, signed: bool, colour: tuple[int, int, int]) -> None:
    picture = pictures.colour_map_picture(np.full((3, 4), value, np.float32), signed)
    assert picture.shape == (3, 4, 3)
    assert picture.dtype == np.uint8
    assert (picture == np.array(colour, np.uint8)).all()


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_maps_that_are_not_finite_are_refused(poison: float) -> None:
    values = np.zeros((2, 3, 3), np.float32)
    values[1, 1, 1] = poison
    with pytest.raises(BitlensError, match="got NaN or infinity"):
        pictures.colour_map_picture(values[1], signed=True)
    with pytest.raises(BitlensError, match="got NaN or infinity"):
        pictures.reduce_channels(values, "sum")


@pytest.mark.parametrize("wrong", [np.zeros((1, 3, 3), np.float32), np.zeros((3, 3), np.int32), np.zeros((0, 3))])
def test_what_is_no_map_is_refused(wrong: npt.NDArray[np.float32]) -> None:
    with pytest.raises(BitlensError, match=r"expected a float map of shape \(H, W\)"):
        pictures.colour_map_picture(wrong, signed=False)


def test_channels_reduced_by_hand() -> None:
    values = np.array([[[1.0, -3.0]], [[-4.0, 2.0]], [[2.0, 0.5]]], np.float32)
    np.testing.assert_array_equal(pictures.reduce_channels(values, "sum"), np.array([[-1.0, -0.5]], np.float32))
    np.testing.assert_array_equal(pictures.reduce_channels(values, "max_abs"), np.array([[4.0, 3.0]], np.float32))
    assert pictures.reduce_channels(values, "sum").dtype == np.float32
    with pytest.raises(BitlensError, match="expected 'sum' or 'max_abs'"):
        pictures.reduce_channels(values, "mean")  # type: ignore[arg-type]


def test_image_picture_of_grey_and_colour() -> None:
    grey = np.array([[[0, 128], [200, 255]]], np.uint8)
    assert pictures.image_picture(grey).tolist() == [[[0] * 3, [128] * 3], [[200] * 3, [255] * 3]]
    colour = np.array([[[1, 2]], [[3, 4]], [[5, 6]]], np.uint8)
    assert pictures.image_picture(colour).tolist() == [[[1, 3, 5], [2, 4, 6]]]
    with pytest.raises(BitlensError, match=r"shape \(1, H, W\) or \(3, H, W\), got uint8 of shape \(2, 4, 4\)"):
        pictures.image_picture(np.zeros((2, 4, 4), np.uint8))


def test_overlay_mixes_and_rounds_half_to_even() -> None:
    below, above = np.zeros((1, 1, 3), np.uint8), np.array([[[255, 100, 1]]], np.uint8)
    assert pictures.overlay(below, above, 0.0).tolist() == below.tolist()
    assert pictures.overlay(below, above, 1.0).tolist() == above.tolist()
    assert pictures.overlay(below, above, 0.5).tolist() == [[[128, 50, 0]]]  # 127.5 -> 128, 0.5 -> 0
    with pytest.raises(BitlensError, match="opacity from 0 to 1, got nan"):
        pictures.overlay(below, above, float("nan"))
    with pytest.raises(BitlensError, match="enlarge one of them"):
        pictures.overlay(below, np.zeros((2, 2, 3), np.uint8), 0.5)


def test_enlarge_repeats_pixels() -> None:
    picture = random_picture(3, 2, 3)
    large = pictures.enlarge(picture, 4)
    assert large.shape == (8, 12, 3)
    np.testing.assert_array_equal(large, np.kron(picture, np.ones((4, 4, 1), np.uint8)))
    with pytest.raises(BitlensError, match="at least 1, got 0"):
        pictures.enlarge(picture, 0)


def test_colour_bar_ends() -> None:
    vertical = pictures.colour_bar(9, 2, signed=False)
    assert vertical.shape == (9, 2, 3)
    assert vertical[0, 0].tolist() == list(pictures.SEQUENTIAL_ANCHORS[-1])
    assert vertical[-1, 1].tolist() == list(pictures.SEQUENTIAL_ANCHORS[0])
    with pytest.raises(BitlensError, match="at least 2 x 1"):
        pictures.colour_bar(1, 1, signed=True)


def test_tile_places_pictures_on_white() -> None:
    one, two, three, four = (np.full((2, 3, 3), code, np.uint8) for code in (10, 20, 30, 40))
    whole = pictures.tile([[one, two], [three, four]], gap=1)
    assert whole[:, :, 0].tolist() == [
        [10, 10, 10, 255, 20, 20, 20],
        [10, 10, 10, 255, 20, 20, 20],
        [255] * 7,
        [30, 30, 30, 255, 40, 40, 40],
        [30, 30, 30, 255, 40, 40, 40],
    ]
    assert pictures.tile([[one, two]], gap=0).shape == (2, 6, 3)


@pytest.mark.parametrize(
    ("rows", "gap", "message"),
    [
        ([], 1, r"equally many pictures, got \[\]"),
        ([[]], 1, r"equally many pictures, got \[0\]"),
        ([[np.zeros((2, 2, 3), np.uint8)] * 2, [np.zeros((2, 2, 3), np.uint8)]], 1, r"got \[2, 1\]"),
        ([[np.zeros((2, 2, 3), np.uint8), np.zeros((3, 2, 3), np.uint8)]], 1, "pictures of one size"),
        ([[np.zeros((2, 2, 3), np.uint8)]], -1, "gap of 0 pixels or more"),
    ],
)
def test_tile_refuses_ragged_rows(rows: list[list[npt.NDArray[np.uint8]]], gap: int, message: str) -> None:
    with pytest.raises(BitlensError, match=message):
        pictures.tile(rows, gap)


@pytest.mark.parametrize("signed", [False, True])
def test_a_table_of_colours_has_those_of_the_map(signed: bool) -> None:
    # A map with one value per colour of the table, its largest at the scale's end.
    values = np.linspace(-1.0 if signed else 0.0, 1.0, pictures.COLOURS, dtype=np.float32)[None]
    table = pictures.colour_table(signed)
    assert table.shape == (pictures.COLOURS, 3)
    shown = pictures.colour_map_picture(values, signed, limit=1.0)[0].astype(int)
    assert np.abs(shown - table).max() <= 1  # float32 values, rounded to one colour more or less
    ends = (pictures.DIVERGING_ANCHORS if signed else pictures.SEQUENTIAL_ANCHORS)[:: 10 if signed else 8]
    assert [tuple(table[0]), tuple(table[-1])] == list(ends)


def test_positions_by_hand() -> None:
    values = np.array([[-4.0, 0.0], [1.0, 2.0]], np.float32)
    assert pictures.map_positions(values, True, limit=2.0).tolist() == [[-1.0, 0.0], [0.5, 1.0]]
    assert pictures.map_positions(values, False, limit=2.0).tolist() == [[0.0, 0.0], [0.5, 1.0]]
    assert not pictures.map_positions(np.zeros((2, 2), np.float32), True).any()
