"""Pictures of any kind and size to uint8 RGB tensors of one size, decoded once and held in memory."""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from bitlens.runtime.errors import BitlensError, MissingExtraError, context
from bitlens.train.datasets.image_dataset import ImageDataset
from bitlens.train.datasets.split_dataset import Report

if TYPE_CHECKING:
    from PIL import Image

PICTURE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))
LARGEST_PICTURE = 2**26
"""Pixels of the largest picture that is decoded, 8192x8192; a few bytes can declare any number."""
LARGEST_MEMORY = 2**34
"""Bytes of the largest tensor of images."""
CHANNELS = 3
# Not every decoder of Pillow: that of EPS, for one, starts another program.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_REPORT_SECONDS = 5.0


@dataclass(frozen=True)
class EncodedPicture:
    """A picture as it lies in a file.

    Parameters
    ----------
    where : str
        What to call it in an error.
    label : int
        Index of its class.
    content : bytes
        The file.
    """

    where: str
    label: int
    content: bytes


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


def decode_pictures(
    pictures: Iterable[EncodedPicture],
    count: int,
    class_names: tuple[str, ...],
    size: int,
    report: Report,
    *,
    resize: bool,
) -> ImageDataset:
    """Decode `count` pictures into one tensor.

    Parameters
    ----------
    pictures : iterable of EncodedPicture
        Taken one by one, so that the files need not be in memory together.
    count : int
        How many they are.
    class_names : tuple of str
        What each class is called.
    size : int
        Height and width of every image that comes out.
    report : callable
        Called with a line every few seconds.
    resize : bool
        Whether pictures of another size are cropped and resized, see `square`, or refused.

    Returns
    -------
    ImageDataset
        uint8 (count, 3, size, size), in the order of the pictures.

    Raises
    ------
    BitlensError
        If a picture cannot be decoded or is too large; the message names it.
    """
    if count * CHANNELS * size * size > LARGEST_MEMORY:
        raise BitlensError(
            f"{count} images of {size}x{size} pixels take more than {LARGEST_MEMORY >> 30} GiB of memory: "
            "choose a smaller size"
        )
    check_decoder()
    images = torch.empty((count, size, size, CHANNELS), dtype=torch.uint8)
    labels = torch.empty(count, dtype=torch.int64)
    pixels = images.numpy()
    next_report = time.monotonic() + _REPORT_SECONDS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, on odd files; what matters is checked below
        for index, picture in enumerate(pictures):
            with context(picture.where):
                decoded = decode_picture(picture.content)
                if not resize and decoded.size != (size, size):
                    raise BitlensError(
                        f"the picture has {decoded.height}x{decoded.width} pixels, expected {size}x{size}: "
                        "it belongs to another data set"
                    )
                pixels[index] = np.asarray(square(decoded, size))
            labels[index] = picture.label
            if time.monotonic() > next_report:
                report(f"decoded {index + 1} of {count} pictures")
                next_report = time.monotonic() + _REPORT_SECONDS
    return ImageDataset(images.permute(0, 3, 1, 2).contiguous(), labels, class_names)


def decode_picture(content: bytes) -> Image.Image:
    """Decode one picture as a person sees it: upright, 8-bit RGB.

    The orientation that a camera notes is followed; grey, palette and CMYK become RGB; what is transparent shows a
    white ground; 16-bit values are scaled to 8, rounded half to even. Of several frames the first counts.

    Raises
    ------
    BitlensError
        If it is not a whole picture of a known format, has more than `LARGEST_PICTURE` pixels, or holds floats.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
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


def square(picture: Image.Image, size: int) -> Image.Image:
    """Crop the largest centred square and resize it to `size` x `size` pixels.

    Shrunk by a whole factor, each new pixel is the mean of exactly the area it covers. By any other factor a triangle
    weighs the old pixels: as wide as two new ones when shrinking, which is smooth and free of aliases, and as wide as
    two old ones when enlarging, which is bilinear interpolation. Where an odd number of pixels is cut off, one more
    goes on the right or at the bottom.
    """
    from PIL import Image

    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    # Pillow's box is the mean of the area at whole factors only: elsewhere it counts a pixel wholly or not at all.
    method = Image.Resampling.BILINEAR if side % size else Image.Resampling.BOX
    # Not `resize(box=...)`: its filter reaches for pixels beyond the box.
    return picture.crop((left, top, left + side, top + side)).resize((size, size), method)
