"""OpenCV, where it is installed: imported when it is first asked for, and kept from writing to the terminal."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from bitlens.runtime.errors import BitlensError, MissingExtraError
from bitlens.runtime.resize import Codes

MODULE, EXTRA = "cv2", "camera"
CAMERA_TIMEOUT_SECONDS = 5


def opencv(job: str, extra: str = EXTRA) -> Any:
    """Import OpenCV for a job.

    Raises
    ------
    BitlensError
        If it is not installed (the message names the extra), or does not load.
    """
    # Its backends write their own complaints about every attempt; ours says what to do, once.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(CAMERA_TIMEOUT_SECONDS))  # its own is 10
    try:
        return import_module(MODULE)
    except ModuleNotFoundError as error:
        raise MissingExtraError(job, MODULE, extra) from error
    except ImportError as error:
        raise BitlensError(f"{job} needs {MODULE}, which does not load ({error}): install it anew") from error


def rgb(cv2: Any, frame: Any) -> Codes:
    """Turn a frame of OpenCV's, blue first, into red first."""
    pixels: Codes = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    return pixels
