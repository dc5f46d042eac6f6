"""Images as a program takes them: whole codes (N, C, H, W), or x for a full-precision twin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from bitlens.runtime.array_file import array_from_bytes
from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.picture_file import decode_picture
from bitlens.runtime.program import Array, Program

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
    is_float = np.issubdtype(image.dtype, np.floating)
    if not is_float and not np.issubdtype(image.dtype, np.integer):
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
    if codes.size and (codes.min() < type.low or codes.max() > type.high):
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


def read_image(path: Path, shape: tuple[int, ...]) -> Array:
    """Read one image file as codes or x (1, C, H, W).

    Parameters
    ----------
    path : Path
        `.npy` (codes or x; (H, W), (C, H, W) or (1, C, H, W)), or a picture for which Pillow is needed. A picture is
        converted to the network's colours; its size must fit, because how to crop is the user's decision.
    shape : tuple of int
        (C, H, W) of the network.

    Raises
    ------
    BitlensError
        If the file cannot be read or does not fit.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_IMAGE_BYTES:
            raise BitlensError(f"{path} is larger than {MAX_IMAGE_BYTES} bytes: expected one image")
        content = path.read_bytes()
    except OSError as error:
        raise BitlensError(f"cannot read the image {path} ({error.strerror})") from error
    with context(str(path)):
        values = array_from_bytes(content) if path.suffix == ".npy" else _pixels(content, shape)
    return values[(None,) * max(0, 4 - values.ndim)]


def _pixels(content: bytes, shape: tuple[int, ...]) -> Array:
    """Decode a picture to (C, H, W)."""
    picture = decode_picture(content, (shape[1], shape[2]))
    pixels = np.asarray(picture.convert("L") if shape[0] == 1 else picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
