"""A video file, through OpenCV."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.live.frame_source import FrameSource, register_source
from bitlens.runtime.live.opencv import EXTRA, MODULE, opencv, rgb
from bitlens.runtime.network import shown
from bitlens.runtime.resize import Codes

PLAUSIBLE_RATES = (0.1, 240.0)
USUAL_RATE = 25.0


@register_source("video", form="a video file", fits=lambda text: Path(text).is_file(), module=MODULE, extra=EXTRA)
def open_video(text: str) -> FrameSource:
    """Open a video; frame k, counted from 0, is decoded from the beginning on, so that its pixels are always the same.

    Raises
    ------
    BitlensError
        If it cannot be decoded.
    """
    cv2 = opencv("a video file")
    path = Path(text).resolve()  # never an option or a protocol to what decodes it
    title = shown(path.name)
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        capture.release()
        raise BitlensError(
            f"{title} is no video that can be decoded: convert it to MP4 with H.264, or to AVI with MJPEG"
        )
    rate = capture.get(cv2.CAP_PROP_FPS)
    low, high = PLAUSIBLE_RATES
    numbers = count()

    def read() -> tuple[Codes, str] | None:
        found, frame = capture.read()
        return (rgb(cv2, frame), f"frame {next(numbers)}") if found else None

    return FrameSource(title, read, capture.release, 1 / (rate if low <= rate <= high else USUAL_RATE))
