"""A camera on the network: MJPEG or another stream over HTTP, or RTSP, through OpenCV."""

from __future__ import annotations

from urllib.parse import urlsplit

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.live.frame_source import TITLE_CHARACTERS, FrameSource, register_source
from bitlens.runtime.live.opencv import EXTRA, MODULE, opencv, rgb
from bitlens.runtime.resize import Codes

SCHEMES = ("http", "https", "rtsp")
OPEN_TIMEOUT_MS, READ_TIMEOUT_MS = 5000, 5000


def shown_address(address: str) -> str:
    """Name an address without its user, password and query, which may hold a key."""
    parts = urlsplit(address)
    place = f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
    return f"{parts.scheme}://{place}{parts.path}"[:TITLE_CHARACTERS]


def is_address(text: str) -> bool:
    """Whether a text is an address of one of `SCHEMES`."""
    return text.partition("://")[0] in SCHEMES and "://" in text


@register_source("address", form="http://... or rtsp://...", fits=is_address, module=MODULE, extra=EXTRA)
def open_address(text: str) -> FrameSource:
    """Open a stream by its address.

    Raises
    ------
    BitlensError
        If it is no address, or nothing that can be decoded answers there.
    """
    try:
        parts = urlsplit(text)
        shown = shown_address(text)  # looks at the port, too
    except ValueError as error:
        raise BitlensError(f"the source is no address ({error}): expected http://HOST:PORT/PATH") from error
    if not parts.hostname:
        raise BitlensError("the source is an address without a host: expected http://HOST:PORT/PATH")
    cv2 = opencv("a network camera")
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_TIMEOUT_MS]
    capture = cv2.VideoCapture(text, cv2.CAP_FFMPEG, limits)
    if not capture.isOpened():
        capture.release()
        raise BitlensError(f"{shown} gives no stream: see that the camera is on and the address is right")

    def read() -> tuple[Codes, str]:
        found, frame = capture.read()
        if not found:
            raise BitlensError(f"{shown} gives no picture any more: see that the camera is on")
        return rgb(cv2, frame), ""

    return FrameSource(shown, read, capture.release)
