"""A thread that looks at the board's temperature and throttling every few seconds."""

from __future__ import annotations

import threading

from bitlens.runtime.board_state import board_state
from bitlens.runtime.live.bulletin import Bulletin

EVERY_SECONDS = 5.0
JOIN_SECONDS = 3.0


class BoardWatch:
    """Tells a bulletin how the board is."""

    def __init__(self, bulletin: Bulletin) -> None:
        self._bulletin = bulletin
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="board", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking."""
        self._stopping.set()
        self._thread.join(JOIN_SECONDS)

    def _run(self) -> None:
        while not self._stopping.wait(EVERY_SECONDS):
            self._bulletin.tell(board=board_state())
