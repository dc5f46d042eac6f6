"""Images as a program takes them: whole codes (N, C, H, W), or x for a full-precision twin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bitlens.runtime.array_file import array_from_bytes
from bitlens.runtime.bounded_file import read_at_most
from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.picture_file import decode_picture
from bitlens.runtime.program import Array, Program
from bitlens.runtime.resize import RULE, Codes, centred_box, fitted, grey

Float64 = npt.NDArray[np.float64]

CODES_PER_UNIT = 255.0

MAX_IMAGE_BYTES = 2**28


def program_input(program: Program, image: Array) -> Array:
    """Check a batch of images and turn it into what the program reads.

    Parameters
    ----------
    program : Program
    image : array (N, C, H, W)
        Integers are codes; floats are x = code / 255 and are rounded to whole codes, half to even, never clipped.

    Returns
    -------
    Codes in the input's own dtype (int16), or float32 x for a full-precision program.

    Raises
    ------
    BitlensError
        If the shape does not fit the network, or a value is not finite or outside the codes it takes.
    """
    type = program.image_type
    image = np.asarray(image)
    if image.ndim != 4 or image.shape[1:] != type.shape:
        raise BitlensError(
            f"the image is of shape {image.shape}, expected (images, {', '.join(map(str, type.shape))}): "
            f"{_advice(image.shape, type.shape)}"
        )
    if not len(image):
        raise BitlensError("there are no images: expected at least one")
    is_float = image.dtype.kind == "f"
    if not is_float and image.dtype.kind not in "iu":
        raise BitlensError(f"the image holds {image.dtype}, expected whole codes 0..255 or floats 0..1")
    if is_float and not np.isfinite(image).all():
        raise BitlensError("the image holds NaN or infinite pixels: expected numbers")
    with np.errstate(over="ignore"):
        if not type.is_integer:
            x = (image if is_float else image / CODES_PER_UNIT).astype(np.float32)
            if not np.isfinite(x).all():
                raise BitlensError("the image holds pixels beyond the range of float32: expected floats 0..1")
            return x
        codes = np.rint(image.astype(np.float64) * CODES_PER_UNIT) if is_float else image
    is_whole_byte = codes.dtype == np.uint8 and type.low <= 0 and type.high >= 255
    if not is_whole_byte and codes.size and (codes.min() < type.low or codes.max() > type.high):
        raise BitlensError(
            f"the image holds codes from {codes.min():g} to {codes.max():g}, expected {type.low} to {type.high}: give "
            "floats from 0 to 1, or integers from 0 to 255"
        )
    return codes.astype(type.dtype)


def real_values(program: Program, given: Array) -> Float64:
    """Turn what `program_input` gave into x, as the network sees it: code / 255, or the twin's float32; float64."""
    exact: Float64 = given.astype(np.float64)
    return exact / CODES_PER_UNIT if program.image_type.is_integer else exact


def nearest_input(program: Program, x: Float64) -> Array:
    """Give what the program can read that is nearest to x, any finite values (N, C, H, W).

    For a quantized network that is a whole code, half to even; beyond -512..767 the last code there is, which noise
    reaches only where its standard deviation is above 0.46. For a twin it is float32.
    """
    type = program.image_type
    if not type.is_integer:
        return x.astype(np.float32)
    return np.clip(np.rint(x * CODES_PER_UNIT), type.low, type.high).astype(type.dtype)


def _advice(got: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    if len(got) == 4 and got[1] != wanted[0] and got[2:] == wanted[1:]:
        return "convert it to grey" if wanted[0] == 1 else "convert it to colour"
    if len(got) == 4 and got[2:] != wanted[1:]:
        return f"resize it to {wanted[1]}x{wanted[2]} pixels"
    return "add the missing dimensions"


def read_image(
    path: Path, shape: tuple[int, ...], *, rule: str = RULE, report: Callable[[str], None] | None = None
) -> Array:
    """Read one image file as codes or x (1, C, H, W).

    Parameters
    ----------
    path : Path
        `.npy` (codes or x; (H, W), (C, H, W) or (1, C, H, W)), taken as it is, or a picture, for which Pillow is
        needed. A picture is converted to the network's colours, cropped and resized as `bitlens.runtime.resize` says.
    shape : tuple of int
        (C, H, W) of the network.
    rule : str
        Name of the rule by which the network wants its pictures prepared.
    report : callable, optional
        Called with one line where a picture is cropped or resized.

    Raises
    ------
    BitlensError
        If the file cannot be read or does not fit, or the rule is one of a later version.
    """
    path = Path(path)
    content = read_at_most(path, MAX_IMAGE_BYTES, "expected one image", what="the image")
    with context(str(path)):
        if path.suffix == ".npy":
            values = array_from_bytes(content)
            return values[(None,) * max(0, 4 - values.ndim)]
        if rule != RULE:
            raise BitlensError(
                f"the network wants pictures prepared by rule {ascii(rule)[:60]}, this bitlens knows {RULE!r}: update "
                f"bitlens, or give a .npy of {'x'.join(map(str, shape))}"
            )
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise BitlensError(f"the network takes {'x'.join(map(str, shape))}, which no picture is: give a .npy")
        picture = np.asarray(decode_picture(content))
        if report is not None and picture.shape[:2] != shape[1:]:
            report(f"{path}: {_said_change(picture.shape[0], picture.shape[1], shape[1], shape[2])}")
        return prepared(picture, shape)[None]


def prepared(pixels: Codes, shape: tuple[int, ...]) -> Codes:
    """Make of any picture what a network of that shape was trained on, (H, W, 3) -> (C, H, W), both uint8.

    Raises
    ------
    BitlensError
        If the picture is too large.
    """
    coloured = grey(pixels) if shape[0] == 1 else pixels
    return np.ascontiguousarray(fitted(coloured, shape[1], shape[2]).transpose(2, 0, 1))


def _said_change(height: int, width: int, new_height: int, new_width: int) -> str:
    _, _, box_height, box_width = centred_box(height, width, new_height, new_width)
    cropped = f", cropped to the central {box_width}x{box_height}" if (box_height, box_width) != (height, width) else ""
    resized = f", resized to {new_width}x{new_height}" if (box_height, box_width) != (new_height, new_width) else ""
    return f"{width}x{height} pixels{cropped}{resized}"
