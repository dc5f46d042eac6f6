"""A thread that reads frames as they come, and opens the source again when it is gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.live.frame import Frame
from bitlens.runtime.live.frame_rate import FrameRate
from bitlens.runtime.live.frame_source import FrameSource
from bitlens.runtime.live.newest_frame import NewestFrame
from bitlens.runtime.live.source_state import SourceState

WAITS_SECONDS = (0.5, 1.0, 2.0, 4.0)
"""Before the first, second, third and every later attempt to open a source that is gone."""
JOIN_SECONDS = 6.0
"""Longer than any camera may keep a read waiting."""


class CaptureLoop:
    """Reads a source into a slot of one.

    Parameters
    ----------
    title : str
        What the source is called before it is open.
    open : callable
        Opens the source; called again whenever it is gone.
    newest : NewestFrame
        Where frames go.
    told : callable
        Called with how the source is, whenever that changes, by the thread.
    repeats : bool
        Whether a source that ends begins anew, or the loop ends with it.
    """

    def __init__(
        self,
        title: str,
        open: Callable[[], FrameSource],
        newest: NewestFrame,
        told: Callable[[SourceState], None],
        *,
        repeats: bool,
    ) -> None:
        self._title, self._open, self._newest, self._told = title, open, newest, told
        self._repeats = repeats
        self._stopping = threading.Event()
        self._number = 0
        self._due_seconds = 0.0
        self.rate = FrameRate()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reading; waits for the frame that is being read, `JOIN_SECONDS` at most."""
        self._stopping.set()
        self._thread.join(JOIN_SECONDS)

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            before = self._number
            try:
                ended = self._read_to_the_end()
            except Exception as error:  # a decoder's own too: the next attempt may do
                failures = 0 if self._number > before else failures
                said = str(error) if isinstance(error, BitlensError) else f"{type(error).__name__}: {error}"
                self._told(SourceState(self._title, "gone", " ".join(said.split())))
                self._stopping.wait(WAITS_SECONDS[min(failures, len(WAITS_SECONDS) - 1)])
                failures += 1
                continue
            if ended and not self._repeats:
                self._told(SourceState(self._title, "ended"))
                return

    def _read_to_the_end(self) -> bool:
        """Read until the source ends (true) or the loop is stopped (false)."""
        source = self._open()
        try:
            self._title = source.title
            before = self._number
            while not self._stopping.is_set():
                got = source.read()
                if got is None:
                    if self._number == before:
                        raise BitlensError(f"{source.title} holds no frame: choose another source")
                    return True
                self._stopping.wait(max(0.0, self._due_seconds - time.monotonic()))
                now = time.monotonic()  # one late frame does not make the next ones hurry
                is_late = now - self._due_seconds > source.interval_seconds
                self._due_seconds = (now if is_late else self._due_seconds) + source.interval_seconds
                self._number += 1
                self.rate.tick(now)
                self._newest.put(Frame(self._number, got[1], got[0]))
                self._told(SourceState(source.title, "live"))
            return False
        finally:
            source.close()
