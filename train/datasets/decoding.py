"""Pictures of any kind and size to uint8 RGB tensors of one size, decoded once and held in memory."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.picture_file import check_decoder, decode_picture
from bitlens.runtime.resize import fitted
from bitlens.train.datasets.image_dataset import ImageDataset
from bitlens.train.datasets.split_dataset import Report

PICTURE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))
LARGEST_MEMORY = 2**34
"""Bytes of the largest tensor of images."""
CHANNELS = 3
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
        Whether pictures of another size are cropped and resized, see `bitlens.runtime.resize`, or refused.

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
                pixels[index] = fitted(np.asarray(decoded), size, size)
            labels[index] = picture.label
            if time.monotonic() > next_report:
                report(f"decoded {index + 1} of {count} pictures")
                next_report = time.monotonic() + _REPORT_SECONDS
    return ImageDataset(images.permute(0, 3, 1, 2).contiguous(), labels, class_names)
