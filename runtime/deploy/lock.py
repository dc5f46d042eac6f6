"""One deploy at a time on a board: a lock that goes with the connection, however either side ends."""

from __future__ import annotations

import os
import selectors
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from bitlens.runtime.deploy.board import Board
from bitlens.runtime.deploy.connection import Connection, answered
from bitlens.runtime.deploy.foreign_text import last_lines
from bitlens.runtime.errors import BitlensError

BUSY = 75  # a script's exit code: somebody else is at work there
_WAIT_SECONDS = 60
_STEP_WAIT_SECONDS = 60
_BEAT_SECONDS = 20
_SILENCE_SECONDS = 120  # a desktop that fell asleep, or a network that went, holds nothing longer than that

# Holds the lock while it hears from us. One line: not every login shell takes a quoted line break.
_HOLD = (
    "import fcntl,os,select,sys; f=open(sys.argv[1],'a'); fcntl.flock(f,fcntl.LOCK_EX|fcntl.LOCK_NB); "
    "print('locked',flush=True); "
    f"all(iter(lambda: bool(select.select([0],[],[],{_SILENCE_SECONDS})[0] and os.read(0,64)), False))"
)


@dataclass(frozen=True)
class Lock:
    """The lock of a board, held while this process and the connection live."""

    process: subprocess.Popen[bytes]

    def require(self) -> None:
        """Refuse to go on without it.

        Raises
        ------
        BitlensError
            If the connection broke.
        """
        if not self.is_held:
            raise BitlensError("the connection broke, and with it the lock on the board: deploy again")

    @property
    def is_held(self) -> bool:
        """Whether it still is, as far as is known here."""
        return self.process.poll() is None


def unless_locked(board: Board, script: str) -> str:
    """Let a script run only if nobody holds the lock of the board, and hold it meanwhile."""
    return f"exec 8>>{shlex.quote(_path(board))}\nflock -n 8 || exit {BUSY}\n{script}"


def alone(board: Board, script: str) -> str:
    """Let a script wait for what a step, broken off, still does on the board, and keep others waiting meanwhile."""
    place = shlex.quote(f"{board.data}/step.lock")
    return f"exec 9>>{place}\nflock -w {_STEP_WAIT_SECONDS} 9 || exit {BUSY}\n{script}"


def _path(board: Board) -> str:
    return f"{board.data}/deploy.lock"


@contextmanager
def held_lock(connection: Connection, board: Board) -> Iterator[Lock]:
    """Hold the board's lock.

    Raises
    ------
    BitlensError
        If another deploy holds it.
    """
    made = answered(connection, f"mkdir -p {shlex.quote(board.data)}", timeout_seconds=_WAIT_SECONDS)
    if made.code != 0:
        raise BitlensError(f"cannot make {board.data} there ({'; '.join(last_lines(made.text, 1))})")
    command = connection.command("exec", board.python, "-c", _HOLD, _path(board))
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # the terminal's Ctrl-C is for us, who clear up
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        _await_lock(process)
        threading.Thread(target=_beat, args=(process,), daemon=True).start()
        yield Lock(process)
    finally:
        with suppress(OSError):
            process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()
        process.wait()
        process.stdout.close()


def _await_lock(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    said, deadline = b"", time.monotonic() + _WAIT_SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while time.monotonic() < deadline and len(said) < 2**16:
            if selector.select(0.2):
                piece = os.read(process.stdout.fileno(), 2**12)
                said += piece
                if b"locked\n" in said:
                    return
                if not piece:
                    break
    if b"BlockingIOError" in said:
        raise BitlensError("another deploy is at work on it: try again when that is done")
    words = last_lines(said.decode(errors="replace"), 1)
    raise BitlensError(f"cannot lock it ({words[0] if words else 'it says nothing'}): try again")


def _beat(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with suppress(OSError, ValueError):  # it is over
        while process.poll() is None:
            process.stdin.write(b"\n")
            process.stdin.flush()
            time.sleep(_BEAT_SECONDS)
