"""A camera of a Raspberry Pi on its ribbon cable, through libcamera and picamera2."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module

import numpy as np

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.live.frame_source import FrameSource, register_source
from bitlens.runtime.resize import Codes

MODULE = "picamera2"
SIZE = (640, 480)
READ_TIMEOUT_SECONDS = 5.0
_ADVICE = (
    "run `sudo apt install python3-picamera2` and make the virtual environment with `--system-site-packages`, because "
    "it is not on the package index for every system"
)


@register_source("picamera2", form="picamera2", fits=lambda text: text == "picamera2")
def open_picamera2(text: str) -> FrameSource:
    """Open the first camera that libcamera knows, 640x480.

    Raises
    ------
    BitlensError
        If picamera2 is not installed, or there is no camera.
    """
    try:
        Picamera2 = import_module(MODULE).Picamera2
    except ImportError as error:
        raise BitlensError(f"picamera2 does not load ({error}): {_ADVICE}") from error
    try:
        if not Picamera2.global_camera_info():
            raise BitlensError("libcamera finds no camera: see that its cable is seated, or choose another --source")
        camera = Picamera2()
        # libcamera names formats by the order in a little-endian word: "BGR888" is red first in memory.
        camera.configure(camera.create_video_configuration(main={"format": "BGR888", "size": SIZE}))
        camera.start()
    except BitlensError:
        raise
    except Exception as error:  # libcamera's own, of many kinds
        raise BitlensError(f"the camera does not start ({error}): close what else uses it") from error

    def read() -> tuple[Codes, str]:
        try:
            # Versions that know no timeout take it as "wait".
            pixels = camera.capture_array("main", wait=READ_TIMEOUT_SECONDS)
            return np.ascontiguousarray(pixels[..., :3]), ""
        except Exception as error:  # see above
            why = str(error) or type(error).__name__  # a timeout has no text
            raise BitlensError(f"the camera gives no picture any more ({why}): see that its cable is seated") from error

    def close() -> None:
        with suppress(Exception):
            camera.stop()
        with suppress(Exception):
            camera.close()

    return FrameSource("Raspberry Pi camera", read, close)
