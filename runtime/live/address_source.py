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
    """Name an address without its user, password and query, which may hold a key.

    Raises
    ------
    ValueError
        If its host or its port is none.
    """
    parts = urlsplit(address)
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else str(parts.hostname)
    place = f"{host}:{parts.port}" if parts.port else host
    path = parts.path if "@" not in parts.path else "/..."  # the rest of a password with a slash in it
    return f"{parts.scheme}://{place}{path}"[:TITLE_CHARACTERS]


def is_address(text: str) -> bool:
    """Whether a text is an address of one of `SCHEMES`."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme.lower() in SCHEMES


@register_source("address", form="http://... or rtsp://...", fits=is_address, module=MODULE, extra=EXTRA)
def open_address(text: str) -> FrameSource:
    """Open a stream by its address.

    Raises
    ------
    BitlensError
        If it is no address, or nothing that can be decoded answers there.
    """
    scheme, _, rest = text.partition("://")
    address = f"{scheme.lower()}://{rest}"  # FFmpeg knows no other
    try:
        has_host = bool(urlsplit(address).hostname)
        shown = shown_address(address)
    except ValueError:  # whose text, and cause, may hold a part of the password
        has_host, shown = False, ""
    if not has_host:
        raise BitlensError(
            f"the source is no address: expected {scheme.lower()}://HOST:PORT/PATH, and in a password %2F for a slash, "
            "%40 for @, %23 for # and %3F for ?"
        )
    cv2 = opencv("a network camera")
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_TIMEOUT_MS]
    capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)
    if not capture.isOpened():
        capture.release()
        raise BitlensError(f"{shown} gives no stream: see that the camera is on and the address is right")

    def read() -> tuple[Codes, str]:
        found, frame = capture.read()
        if not found:
            raise BitlensError(f"{shown} gives no picture any more: see that the camera is on")
        return rgb(cv2, frame), ""

    return FrameSource(shown, read, capture.release)
