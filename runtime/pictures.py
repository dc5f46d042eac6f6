"""Pictures of images and saliency maps, made at the very end: colour maps, overlays, tiles, and a PNG writer."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from bitlens.runtime.errors import BitlensError

Picture = npt.NDArray[np.uint8]
"""Colours, uint8 of shape (H, W, 3), red first."""

# Anchors of the colour maps, equally spaced, sRGB. Both were laid out in CIELAB: lightness rises in equal steps from 8
# to 95 in the first, and falls in equal steps from white along both arms of the second, so that a map reads the same
# in grey and to a colour-blind eye; chroma was then taken as large as sRGB allows.
SEQUENTIAL_ANCHORS: tuple[tuple[int, int, int], ...] = (
    (0, 15, 79),
    (72, 0, 119),
    (128, 7, 122),
    (181, 20, 116),
    (229, 47, 105),
    (251, 103, 85),
    (252, 157, 86),
    (253, 202, 117),
    (255, 242, 164),
)
"""Dark blue (nothing) over violet and orange to pale yellow (most)."""

DIVERGING_ANCHORS: tuple[tuple[int, int, int], ...] = (
    (9, 78, 130),
    (22, 112, 184),
    (60, 148, 233),
    (143, 184, 244),
    (202, 219, 250),
    (255, 255, 255),
    (252, 208, 201),
    (242, 161, 149),
    (223, 112, 99),
    (192, 65, 57),
    (147, 27, 28),
)
"""Blue (against the class) over white (nothing) to red (for the class)."""

# One hot pixel would leave the rest of a gradient map in the dark; what lies above this percentile shares its colour.
SCALE_PERCENTILE = 99.0

WHITE = 255

COLOURS = 255  # of a table: an odd number, so that a signed one has a colour for 0


def _require_picture(picture: Picture, name: str) -> None:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
        raise BitlensError(
            f"expected {name} as uint8 of shape (H, W, 3), got {picture.dtype} of shape {picture.shape}: "
            "make it with image_picture or colour_map_picture"
        )


def _require_finite_map(values: npt.NDArray[np.floating], shape: str, dimensions: int) -> None:
    if not np.issubdtype(values.dtype, np.floating) or values.ndim != dimensions or values.size == 0:
        raise BitlensError(
            f"expected a float map of shape {shape}, got {values.dtype} of shape {values.shape}: "
            "pass one image's map, not a batch"
        )
    if not np.isfinite(values).all():
        raise BitlensError(
            "expected finite values in the map, got NaN or infinity: look for the cause where it was computed"
        )


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_bytes(rgb: Picture) -> bytes:
    """Encode a picture as a PNG file: 8-bit RGB, no time stamp, the same bytes for the same picture and zlib.

    Parameters
    ----------
    rgb : uint8 array, shape (H, W, 3)
        H and W at least 1.

    Returns
    -------
    bytes
        The whole file.

    Raises
    ------
    BitlensError
        If `rgb` is not such an array.
    """
    _require_picture(rgb, "a picture")
    height, width, _ = rgb.shape
    # Each row starts with its filter; 0, none, suits pictures of flat enlarged pixels.
    rows = np.zeros((height, 1 + 3 * width), np.uint8)
    rows[:, 1:] = rgb.reshape(height, 3 * width)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9))
        + _chunk(b"IEND", b"")
    )


def _coloured(position: npt.NDArray[np.float64], signed: bool) -> Picture:
    """Colour positions (any shape; [-1, 1] if signed, else [0, 1]) along a colour map."""
    anchors = np.array(DIVERGING_ANCHORS if signed else SEQUENTIAL_ANCHORS, np.float64)
    places = np.linspace(-1.0 if signed else 0.0, 1.0, len(anchors))
    channels = [np.interp(position, places, anchors[:, channel]) for channel in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def colour_map_picture(values: npt.NDArray[np.floating], signed: bool, *, limit: float | None = None) -> Picture:
    """Colour a saliency map.

    The largest colour stands for the 99th percentile of ``abs(values)``, or for its maximum where that percentile is 0
    (a map with few non-zero pixels). A map of zeros is neutral everywhere.

    Parameters
    ----------
    values : float array, shape (H, W)
        Finite, any range.
    signed : bool
        If true, blue is below zero, white is zero, red above, on a scale symmetric around zero. If false, dark is
        zero and pale yellow the largest; negative values count as zero.
    limit : float, optional
        What the largest colour stands for instead, above 0: several maps on one scale.

    Returns
    -------
    uint8 array, shape (H, W, 3)

    Raises
    ------
    BitlensError
        If `values` is not such an array, or holds NaN or infinity.
    """
    return _coloured(map_positions(values, signed, limit=limit), signed)


def map_positions(
    values: npt.NDArray[np.floating], signed: bool, *, limit: float | None = None
) -> npt.NDArray[np.float64]:
    """Place a saliency map on the scale of `colour_map_picture`, which has the parameters and errors.

    Returns
    -------
    float64 array, shape (H, W)
        From -1 to 1 if signed, else from 0 to 1.
    """
    _require_finite_map(values, "(H, W)", 2)
    exact = values.astype(np.float64)
    if limit is None:
        limit = _largest(exact)
    position = exact / limit if limit > 0 else np.zeros_like(exact)
    return np.clip(position, -1.0 if signed else 0.0, 1.0)


def colour_table(signed: bool) -> npt.NDArray[np.uint8]:
    """Tabulate a colour map, uint8 (255, 3): from -1 to 1 if signed, with 0 in the middle, else from 0 to 1."""
    return _coloured(np.linspace(-1.0 if signed else 0.0, 1.0, COLOURS), signed)


def _largest(exact: npt.NDArray[np.float64]) -> float:
    magnitude = np.abs(exact)
    return float(np.percentile(magnitude, SCALE_PERCENTILE)) or float(magnitude.max())


def reduce_channels(values: npt.NDArray[np.floating], how: Literal["sum", "max_abs"]) -> npt.NDArray[np.float32]:
    """Reduce a saliency map to one value per pixel.

    Parameters
    ----------
    values : float array, shape (C, H, W)
        Finite.
    how : {"sum", "max_abs"}
        ``"sum"`` adds the channels and keeps the sign (gradient x input, Integrated Gradients); ``"max_abs"`` takes the
        largest magnitude over the channels (Simonyan et al. 2013, for plain gradients).

    Returns
    -------
    float32 array, shape (H, W)

    Raises
    ------
    BitlensError
        If `values` is not such an array, holds NaN or infinity, or `how` is another word.
    """
    _require_finite_map(values, "(C, H, W)", 3)
    if how == "sum":
        total: npt.NDArray[np.float64] = values.sum(axis=0, dtype=np.float64)
        return total.astype(np.float32)
    if how == "max_abs":
        largest: npt.NDArray[np.floating] = np.abs(values).max(axis=0)
        return largest.astype(np.float32)
    raise BitlensError(
        f"expected 'sum' or 'max_abs' as the rule to reduce channels, got {how!r}: choose one of the two"
    )


def image_picture(codes: npt.NDArray[np.uint8]) -> Picture:
    """Show an input image.

    Parameters
    ----------
    codes : uint8 array, shape (1, H, W) or (3, H, W)
        Grey, or red, green and blue.

    Returns
    -------
    uint8 array, shape (H, W, 3)
        A copy.

    Raises
    ------
    BitlensError
        If `codes` is not such an array.
    """
    if codes.dtype != np.uint8 or codes.ndim != 3 or codes.shape[0] not in (1, 3) or codes.size == 0:
        raise BitlensError(
            f"expected an image as uint8 of shape (1, H, W) or (3, H, W), got {codes.dtype} of shape {codes.shape}: "
            "pass one image, channels first"
        )
    picture: Picture = np.repeat(codes, 3 // codes.shape[0], axis=0).transpose(1, 2, 0).copy()
    return picture


def overlay(picture: Picture, heat: Picture, opacity: float) -> Picture:
    """Lay a coloured map over a picture.

    Parameters
    ----------
    picture, heat : uint8 arrays, shape (H, W, 3)
        Of one size; `enlarge` a coarse map first.
    opacity : float
        Share of `heat` in the result, 0 (only the picture) to 1 (only the map).

    Returns
    -------
    uint8 array, shape (H, W, 3)

    Raises
    ------
    BitlensError
        If the sizes differ or `opacity` lies outside 0..1.
    """
    _require_picture(picture, "a picture")
    _require_picture(heat, "a coloured map")
    if picture.shape != heat.shape:
        raise BitlensError(
            f"expected a map of the picture's size {picture.shape[:2]}, got {heat.shape[:2]}: enlarge one of them"
        )
    if not 0.0 <= opacity <= 1.0:
        raise BitlensError(f"expected an opacity from 0 to 1, got {opacity}: 0.5 shows both")
    mixed = (1.0 - opacity) * picture.astype(np.float64) + opacity * heat.astype(np.float64)
    return np.rint(mixed).astype(np.uint8)


def enlarge(picture: Picture, factor: int) -> Picture:
    """Repeat every pixel `factor` times in both directions, so that each stays a visible square.

    Parameters
    ----------
    picture : uint8 array, shape (H, W, 3)
    factor : int
        At least 1.

    Returns
    -------
    uint8 array, shape (factor * H, factor * W, 3)

    Raises
    ------
    BitlensError
        If `factor` is below 1.
    """
    _require_picture(picture, "a picture")
    if factor < 1:
        raise BitlensError(f"expected a factor of at least 1, got {factor}: pass a whole number of pixels")
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def colour_bar(height: int, width: int, signed: bool) -> Picture:
    """Draw the scale of `colour_map_picture`, largest value on top.

    Parameters
    ----------
    height, width : int
        Size in pixels; `height` at least 2, `width` at least 1.
    signed : bool
        Which colour map, as for `colour_map_picture`.

    Returns
    -------
    uint8 array, shape (height, width, 3)

    Raises
    ------
    BitlensError
        If the size is too small.
    """
    if height < 2 or width < 1:
        raise BitlensError(f"expected a colour bar of at least 2 x 1 pixels, got {height} x {width}: enlarge it")
    column = _coloured(np.linspace(1.0, -1.0 if signed else 0.0, height), signed)
    return column[:, np.newaxis, :].repeat(width, axis=1)


def tile(rows: Sequence[Sequence[Picture]], gap: int) -> Picture:
    """Put pictures of one size side by side and rows below each other, on white.

    Parameters
    ----------
    rows : sequence of sequences of uint8 arrays, shape (H, W, 3)
        R rows of equally many, K, pictures.
    gap : int
        White pixels between neighbours, 0 or more; none around the outside.

    Returns
    -------
    uint8 array, shape (R * H + (R - 1) * gap, K * W + (K - 1) * gap, 3)

    Raises
    ------
    BitlensError
        If there is no picture, rows differ in length, pictures in size, or `gap` is negative.
    """
    if not rows or not rows[0] or any(len(row) != len(rows[0]) for row in rows):
        lengths = [len(row) for row in rows]
        raise BitlensError(f"expected rows of equally many pictures, got {lengths}: fill the gaps with a white picture")
    if gap < 0:
        raise BitlensError(f"expected a gap of 0 pixels or more, got {gap}: pass 0 for none")
    for picture in (picture for row in rows for picture in row):
        _require_picture(picture, "each picture")
        if picture.shape != rows[0][0].shape:
            raise BitlensError(
                f"expected pictures of one size {rows[0][0].shape[:2]}, got {picture.shape[:2]}: enlarge the smaller"
            )
    height, width, _ = rows[0][0].shape
    whole = np.full(
        (len(rows) * (height + gap) - gap, len(rows[0]) * (width + gap) - gap, 3),
        WHITE,
        np.uint8,
    )
    for down, row in enumerate(rows):
        for across, picture in enumerate(row):
            top, left = down * (height + gap), across * (width + gap)
            whole[top : top + height, left : left + width] = picture
    return whole
