"""Pictures as files: decoded the same way for training and on a board, so that a network sees the same pixels."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

import numpy as np

from bitlens.runtime.errors import BitlensError, MissingExtraError

if TYPE_CHECKING:
    from PIL import Image

LARGEST_PICTURE = 2**26
"""Pixels of the largest picture that is decoded, 8192x8192; a few bytes can declare any number."""
# Not every decoder of Pillow: that of EPS, for one, starts another program.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")


def check_decoder() -> None:
    """Refuse to begin where Pillow is missing.

    Raises
    ------
    MissingExtraError
        If Pillow is not installed.
    """
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("reading pictures", "Pillow", "image") from error


def decode_picture(content: bytes) -> Image.Image:
    """Decode one picture as a person sees it: upright, 8-bit RGB.

    The orientation that a camera notes is followed; grey, palette and CMYK become RGB; what is transparent shows a
    white ground; 16-bit values are scaled to 8, rounded half to even. Of several frames the first counts.

    Parameters
    ----------
    content : bytes
        The file.

    Raises
    ------
    BitlensError
        If it is not a whole picture of a known format, has more than `LARGEST_PICTURE` pixels, or holds floats.
    """
    check_decoder()
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
            warnings.simplefilter("ignore")  # Pillow's, on odd files; what matters is checked here
            if picture.width * picture.height > LARGEST_PICTURE:
                raise BitlensError(
                    f"the picture declares {picture.height}x{picture.width} pixels, expected at most "
                    f"{LARGEST_PICTURE}: make it smaller"
                )
            return _rgb(ImageOps.exif_transpose(picture))
    except BitlensError:
        raise
    except Exception as error:  # Pillow's decoders share no base class for what they raise
        says_why = isinstance(error, OSError) and not isinstance(error, UnidentifiedImageError)
        reason = " ".join(str(error).split())[:100] if says_why else "of no known format, or damaged"
        raise BitlensError(
            f"not a picture that can be decoded ({reason}): remove it, or save it anew as JPEG or PNG"
        ) from error


def _rgb(picture: Image.Image) -> Image.Image:
    from PIL import Image

    if picture.mode in _SIXTEEN_BIT:
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise BitlensError(
                f"the picture holds values from {values.min()} to {values.max()}, expected 0..65535: "
                "save it anew with 8 bits per channel"
            )
        return Image.fromarray(np.rint(values / 257).astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise BitlensError("the picture holds floats, whose range is unknown: save it anew with 8 bits per channel")
    if picture.has_transparency_data:
        opaque = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(opaque, picture.convert("RGBA")).convert("RGB")
    return picture.convert("RGB")
