"""Frames of a source, kept as pictures of one class: a training folder as `bitlens train --data FOLDER` wants it."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from bitlens.runtime.atomic_file import write_bytes_atomically
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.live.capture_loop import CaptureLoop
from bitlens.runtime.live.frame_source import FrameSource
from bitlens.runtime.live.newest_frame import NewestFrame
from bitlens.runtime.live.source_state import SourceState
from bitlens.runtime.pictures import png_bytes

TRAIN = "train"
NAME_BYTES = 100
_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Recorded:
    """A frame that was kept: how many by now, and where."""

    count: int
    path: Path


def class_folder(folder: Path, name: str) -> Path:
    """Give the folder of a class.

    Raises
    ------
    BitlensError
        If the name is none that `bitlens train` takes as a class.
    """
    bad = (
        not name.strip() or name != name.strip() or name.startswith(".") or "/" in name or "\\" in name
        or not name.isprintable() or len(name.encode("utf-8", "replace")) > NAME_BYTES
    )  # fmt: skip
    if bad:
        raise BitlensError(
            f"the class is called {name[:NAME_BYTES]!a}, expected printable text without slashes, not beginning with a "
            f"dot, of at most {NAME_BYTES} bytes: it becomes the name of a folder"
        )
    return folder / TRAIN / name


def new_picture_path(folder: Path) -> Path:
    """Name a picture that is not there yet; names are in the order of time, and differ on a board without a clock."""
    while True:
        now = datetime.now(timezone.utc)
        path = folder / f"{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03}-{secrets.token_hex(4)}.png"
        if not path.exists():
            return path


def record(
    title: str,
    open: Callable[[], FrameSource],
    folder: Path,
    *,
    every_seconds: float,
    most: int | None,
    told: Callable[[SourceState | Recorded], None],
    stopping: threading.Event,
) -> int:
    """Keep the newest frame every so often, until the source ends, there are enough, or it is told to stop.

    Parameters
    ----------
    title : str
        What the source is called before it is open.
    open : callable
        Opens the source. It is opened again when it is gone.
    folder : Path
        Of the class; it is made.
    every_seconds : float
        Between two pictures.
    most : int or None
        Pictures; None for no end.
    told : callable
        Called with every picture, and whenever the source goes or comes back.
    stopping : threading.Event

    Returns
    -------
    int
        How many were kept.

    Raises
    ------
    BitlensError
        If the folder cannot be written or the disk is full; what was kept stays.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BitlensError(f"cannot make the folder {folder} ({error.strerror}): choose another --output") from error
    newest, over = NewestFrame(), threading.Event()

    def source_told(state: SourceState) -> None:
        if state.condition == "ended":
            over.set()
        told(state)

    loop = CaptureLoop(title, open, newest, source_told, repeats=False)
    loop.start()
    kept, number, due = 0, 0, time.monotonic()
    try:
        while not stopping.is_set() and (most is None or kept < most):
            was_over = over.is_set()
            frame = newest.newer_than(number, _LOOK_SECONDS)
            if frame is None:
                if was_over:
                    break
                continue
            if time.monotonic() < due:
                if was_over:
                    break
                stopping.wait(min(_LOOK_SECONDS, due - time.monotonic()))
                continue
            path = new_picture_path(folder)
            write_bytes_atomically(path, png_bytes(frame.pixels))
            kept, number, due = kept + 1, frame.number, max(due + every_seconds, time.monotonic())
            told(Recorded(kept, path))
    finally:
        loop.stop()
    return kept
