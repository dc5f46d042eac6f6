"""A slot of one: the newest frame wins, whoever is slow misses some, and nothing queues up."""

from __future__ import annotations

import threading

from bitlens.runtime.live.frame import Frame


class NewestFrame:
    """The newest frame, for any number of threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: Frame | None = None

    def put(self, frame: Frame) -> None:
        """Replace what is there."""
        with self._changed:
            self._frame = frame
            self._changed.notify_all()

    @property
    def frame(self) -> Frame | None:
        """What is there now; None before the first."""
        return self._frame

    def newer_than(self, number: int, timeout_seconds: float) -> Frame | None:
        """Wait for a frame whose number is larger; None if none comes in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None and self._frame.number > number, timeout_seconds)
            return self._frame if self._frame is not None and self._frame.number > number else None
