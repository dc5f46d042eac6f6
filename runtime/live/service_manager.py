"""What a program that systemd started says to it."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def tell_ready() -> None:
    """Say that the page is there, where systemd waits to hear it: `READY=1` of sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    place = f"\0{address[1:]}" if address.startswith("@") else address  # a name that is no file's
    # Where it cannot be said, systemd gives the reason itself: nothing came in time.
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
        sending.sendto(b"READY=1", place)
