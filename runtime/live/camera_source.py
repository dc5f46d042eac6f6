"""A camera of Linux (V4L2), through OpenCV."""

from __future__ import annotations

import re
from pathlib import Path

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.live.frame_source import FrameSource, register_source
from bitlens.runtime.live.opencv import EXTRA, MODULE, opencv, rgb
from bitlens.runtime.resize import Codes

_NAMED = re.compile(r"(?:/dev/video)?(\d{1,3})")
DEVICES = Path("/dev")


def camera_numbers() -> list[int]:
    """List the numbers of the video devices; not all of them are cameras."""
    found = [re.fullmatch(r"video(\d{1,3})", path.name) for path in DEVICES.glob("video*")]
    return sorted(int(each[1]) for each in found if each)


@register_source(
    "camera",
    form="0 (the first camera)",
    fits=lambda text: _NAMED.fullmatch(text) is not None,
    module=MODULE,
    extra=EXTRA,
)
def open_camera(text: str) -> FrameSource:
    """Open a camera by its number, or as /dev/videoN.

    Raises
    ------
    BitlensError
        If there is none of that number, or it gives no picture.
    """
    named = _NAMED.fullmatch(text)
    assert named is not None
    number = int(named[1])
    cv2 = opencv("a camera")
    if number not in camera_numbers():
        listed = ", ".join(map(str, camera_numbers())) or "none"
        raise BitlensError(f"there is no camera {number} (here: {listed}): plug it in, or choose another --source")
    capture = cv2.VideoCapture(number, cv2.CAP_V4L2)
    if not capture.isOpened():
        capture.release()
        raise BitlensError(
            f"camera {number} does not open: close what else uses it, and see that you may (group 'video')"
        )
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # an older frame than the newest is of no use

    def read() -> tuple[Codes, str]:
        found, frame = capture.read()
        if not found:
            raise BitlensError(f"camera {number} gives no picture any more: see whether it is plugged in")
        return rgb(cv2, frame), ""

    return FrameSource(f"camera {number}", read, capture.release)
