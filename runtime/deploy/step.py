"""One step of a deploy: plain data that says what shall hold on the board, how to see it, and how to bring it about."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bitlens.runtime.deploy.board import Board
from bitlens.runtime.deploy.connection import Answer, Connection, answered, sent
from bitlens.runtime.deploy.foreign_text import last_lines
from bitlens.runtime.deploy.lock import BUSY, Lock, alone
from bitlens.runtime.errors import BitlensError

CHECK_SECONDS = 120
_HELD = 0


@dataclass(frozen=True)
class Transfer:
    """A file to copy: from here, to an absolute path there, with the SHA-256 it must have."""

    source: Path
    destination: str
    sha256: str


@dataclass(frozen=True)
class Step:
    """What shall hold.

    Parameters
    ----------
    name : str
        A word for the progress table.
    purpose : str
        What it does, for a person.
    check : str
        Script that ends with 0 where it holds already; it changes nothing.
    script : str
        Brings it about, however far an earlier try came.
    advice : str
        What it means, and what to do, if that fails.
    timeout_seconds : float
    transfers : tuple of Transfer
        Copied before the script runs.
    """

    name: str
    purpose: str
    check: str
    script: str
    advice: str
    timeout_seconds: float
    transfers: tuple[Transfer, ...] = ()


@dataclass(frozen=True)
class StepResult:
    """What became of a step.

    Parameters
    ----------
    name : str
    changed : bool
        False where it held before.
    seconds : float
    words : tuple of str
        What the board said, fit to be shown.
    """

    name: str
    changed: bool
    seconds: float
    words: tuple[str, ...]


class StepError(BitlensError):
    """A step failed; `words` are the board's own, fit to be shown."""

    def __init__(self, message: str, words: tuple[str, ...]) -> None:
        super().__init__(message)
        self.words = words


Told = Callable[[str, str], None]
"""Is told the name of a step, and "begins" or "done"."""


def run_steps(connection: Connection, board: Board, lock: Lock, steps: Sequence[Step], told: Told) -> list[StepResult]:
    """Take the steps one by one.

    Raises
    ------
    StepError
        At the first that fails.
    BitlensError
        If the connection or the lock is lost.
    """
    results = []
    for step in steps:
        lock.require()
        told(step.name, "begins")
        results.append(_taken(connection, board, step))
        told(step.name, "done")
    return results


def _taken(connection: Connection, board: Board, step: Step) -> StepResult:
    start = time.monotonic()
    changed, answer = False, answered(connection, step.check, timeout_seconds=max(CHECK_SECONDS, step.timeout_seconds))
    if answer.code is None:
        raise StepError(_reason(step, answer), last_lines(answer.text))
    if answer.code != _HELD:
        changed = True
        for transfer in step.transfers:
            _transferred(connection, board, transfer)
        # What was broken off may still be running there; our children keep this lock while they do.
        script = alone(
            board,
            f"if (\n{step.check}\n) >/dev/null 2>&1; then exit 0; fi\n"  # done while we waited
            f"(\nset -e\n{step.script}\n)\ncode=$?\nif [ $code -ne 0 ]; then exit $code; fi\n"
            f"(\n{step.check}\n) >/dev/null",
        )
        answer = answered(connection, script, timeout_seconds=step.timeout_seconds)
        if answer.code != _HELD:
            raise StepError(_reason(step, answer), last_lines(answer.text))
    return StepResult(step.name, changed, time.monotonic() - start, last_lines(answer.text))


def _reason(step: Step, answer: Answer) -> str:
    if answer.code is None:
        return f"the connection broke, or took too long, in the step {step.name!r}: deploy again"
    if answer.code == BUSY:
        return "what an earlier deploy began there is still running: try again in a minute"
    if "No space left on device" in answer.text:
        return f"its disk is full, in the step {step.name!r}: make room there"
    return step.advice


def _transferred(connection: Connection, board: Board, transfer: Transfer) -> None:
    part, whole = shlex.quote(transfer.destination + ".part"), shlex.quote(transfer.destination)
    holds = f'[ "$(sha256sum <{{}} | cut -c1-64)" = {transfer.sha256} ]'
    name, folder = transfer.source.name, shlex.quote(str(PurePosixPath(transfer.destination).parent))
    there = answered(connection, f"mkdir -p {folder}; {holds.format(whole)} 2>/dev/null", timeout_seconds=CHECK_SECONDS)
    if there.code == _HELD:
        return
    # A second try: what rsync found half done there need not be ours.
    for with_rsync in ("rsync" in board.programs and shutil.which("rsync") is not None, False):
        answer = sent(connection, transfer.source, transfer.destination, with_rsync=with_rsync)
        if answer.code == 0:
            moved = answered(connection, f"{holds.format(part)} && mv -f {part} {whole}", timeout_seconds=CHECK_SECONDS)
            if moved.code == 0:
                return
            answer = moved
        if "No space left on device" in answer.text:
            raise StepError(f"its disk is full, {name} does not fit: make room there", last_lines(answer.text))
    raise StepError(
        f"{name} did not arrive as it was sent: check the network and the disk there", last_lines(answer.text)
    )
