"""A frame as a small JPEG for a browser."""

from __future__ import annotations

import io
import threading

import numpy as np

from bitlens.runtime.live.frame import Frame
from bitlens.runtime.picture_file import check_decoder
from bitlens.runtime.resize import Codes, centred_box

QUALITY = 85


def jpeg_bytes(pixels: Codes, longest_side: int) -> bytes:
    """Encode pixels (H, W, 3), made smaller where a side is longer; for the eye alone, no engine sees it.

    Raises
    ------
    MissingExtraError
        If Pillow is not installed.
    """
    check_decoder()
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(pixels))
    factor = max(picture.size) // longest_side
    if factor > 1:
        picture = picture.reduce(factor)
    picture.thumbnail((longest_side, longest_side), Image.Resampling.BILINEAR)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def seen_part(pixels: Codes, height: int, width: int) -> Codes:
    """Cut out what a network of that size sees of a frame, as `bitlens.runtime.resize` does."""
    top, left, box_height, box_width = centred_box(pixels.shape[0], pixels.shape[1], height, width)
    return pixels[top : top + box_height, left : left + box_width]


class ShownFrame:
    """Encodes a frame once, however many look at it.

    Parameters
    ----------
    longest_side : int
        In pixels.
    shape : (int, int) or None
        Height and width of the network, for the part that it sees; None for the whole frame.
    """

    def __init__(self, longest_side: int, shape: tuple[int, int] | None = None) -> None:
        self._longest_side, self._shape = longest_side, shape
        self._encoding = threading.Lock()
        self._number, self._content = 0, b""

    def jpeg(self, frame: Frame) -> bytes:
        """Encode a frame, or give what was encoded of it before."""
        with self._encoding:
            if frame.number != self._number:
                pixels = frame.pixels if self._shape is None else seen_part(frame.pixels, *self._shape)
                self._content = jpeg_bytes(pixels, self._longest_side)
                self._number = frame.number
            return self._content
