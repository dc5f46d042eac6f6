"""Which source is taken where none is named: the first camera that gives a picture, else the synthetic scene."""

from __future__ import annotations

from importlib.util import find_spec

from bitlens.runtime.errors import BitlensError, how_to_install
from bitlens.runtime.live import camera_source, opencv, picamera2_source
from bitlens.runtime.live.frame_source import open_source

SYNTHETIC = "synthetic"


def default_source() -> tuple[str, str]:
    """Look for a camera.

    Returns
    -------
    (str, str)
        What to name as --source, and why, as the end of a sentence.
    """
    tried = []
    candidates = [str(number) for number in camera_source.camera_numbers()]
    if find_spec(picamera2_source.MODULE) is not None:  # a ribbon camera's video devices give raw data: it goes first
        candidates.insert(0, "picamera2")
    for text in candidates:
        try:
            source = open_source(text)
            try:
                source.read()
            finally:
                source.close()
            return text, "the first camera that gives a picture"
        except BitlensError as error:
            tried.append(f"{text}: {error}")
    if tried:
        return SYNTHETIC, f"no camera gives a picture ({'; '.join(tried)})"
    if find_spec(opencv.MODULE) is None:
        return SYNTHETIC, f"there is no camera, and for one OpenCV would be needed ({how_to_install(opencv.EXTRA)})"
    return SYNTHETIC, "there is no camera"
