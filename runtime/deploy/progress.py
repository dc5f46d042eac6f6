"""How far each board is: one table that is drawn anew on a terminal, plain lines anywhere else."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

from bitlens.runtime.deploy.host import Host


class Progress:
    """Hears of the steps of all boards, from several threads.

    Parameters
    ----------
    hosts : sequence of Host
    stream : text stream
    """

    def __init__(self, hosts: Sequence[Host], stream: TextIO) -> None:
        self._stream, self._lock = stream, threading.Lock()
        self._done: dict[Host, list[str]] = {host: [] for host in hosts}
        self._now = dict.fromkeys(hosts, "waits")
        self._width = max(len(host.text) for host in hosts)
        self._columns, self._drawn = _columns(stream, len(hosts)), 0

    def told(self, host: Host, step: str, state: str) -> None:
        """Take note of a step that begins or is done, or of the outcome when a board ends."""
        with self._lock:
            if state == "done":
                self._done[host].append(step)
                return
            self._now[host] = step if state == "ends" else f"{step} ..."
            with suppress(OSError):  # whoever listened has gone, which is no reason to break off
                if self._columns:
                    self._draw()
                else:
                    print(f"{host.text}: {self._now[host]}", file=self._stream, flush=True)

    def _draw(self) -> None:
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        lines = [f"\r\x1b[2K{self._row(host)}\n" for host in self._now]
        self._stream.write(up + "".join(lines))
        self._stream.flush()
        self._drawn = len(lines)

    def _row(self, host: Host) -> str:
        """Name a board and its latest steps, on one line of the terminal: a second one could not be drawn over."""
        most = self._columns - 1
        room = max(0, most - self._width - 2)
        steps = " > ".join([*self._done[host], self._now[host]])
        if len(steps) > room:
            steps = "..." + steps[len(steps) - room + 3 :]
        return f"{host.text:{self._width}}  {steps}"[:most]


def _columns(stream: TextIO, rows: int) -> int:
    """Width of a terminal on which a table of so many rows fits; 0 where there is none."""
    try:
        size = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return 0
    return size.columns if rows < size.lines else 0
