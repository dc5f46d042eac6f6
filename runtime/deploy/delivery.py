"""Deploying to one board, and to many at once: a board that fails harms no other."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

from bitlens.runtime.deploy.board import Board, look, require_board, require_space
from bitlens.runtime.deploy.connection import Connection, answered, opened_connection
from bitlens.runtime.deploy.foreign_text import last_lines
from bitlens.runtime.deploy.host import Host
from bitlens.runtime.deploy.lock import Lock, held_lock, unless_locked
from bitlens.runtime.deploy.order import Order
from bitlens.runtime.deploy.plan import (
    CERTIFICATE,
    SHORT_SECONDS,
    Version,
    copy_step,
    deploy_steps,
    drop_step,
    return_script,
    rollback_steps,
    service_steps,
    service_undo_script,
    undo_script,
    verify_again_step,
)
from bitlens.runtime.deploy.report import (
    ALREADY_THERE,
    DEPLOYED,
    FAILED,
    ROLLED_BACK,
    WOULD_DEPLOY,
    WOULD_ROLL_BACK,
    HostReport,
)
from bitlens.runtime.deploy.service_unit import NO_LINGERING, SERVICE, description
from bitlens.runtime.deploy.step import Step, StepError, StepResult, Told, run_steps
from bitlens.runtime.deploy.wheel import Wheel, chosen_wheel
from bitlens.runtime.deploy.wheelhouse import fetched_wheels
from bitlens.runtime.errors import BitlensError

MAX_AT_ONCE = 8

Work = Callable[[Connection, Told], HostReport]
"""What is done with one board."""


def delivered(connection: Connection, told: Told, order: Order, *, dry_run: bool = False) -> HostReport:
    """Deploy to one board.

    Parameters
    ----------
    connection : Connection
    told : function
        Is told of each step.
    order : Order
    dry_run : bool
        Look, say what would be done, and change nothing.

    Raises
    ------
    BitlensError
        In one sentence; the version in use is as it was.
    """
    told("look", "begins")
    board = look(connection)
    order = order.on(board)
    require_board(board)
    wheel = chosen_wheel(order.wheels, board)
    content = order.content(wheel)
    if not _holds(board, content):  # to see whether it still does takes no room
        require_space(board, order.needed_bytes(board))
    if order.has_service and "systemd" not in board.programs:
        raise BitlensError(
            f"it does not run systemd, so there can be no service: leave --service out, and start {board.data}/current/"
            "venv/bin/bitlens by its own means"
        )
    told("look", "done")
    report = HostReport(connection.host.text, DEPLOYED, board.said_of_it, _notes(board, wheel))
    if dry_run:
        steps = deploy_steps(order, wheel, (), Version(board, chosen_id(board, content)), content)
        if _holds(board, content):
            here = Version(board, board.current)
            steps = [verify_again_step(order, here), *service_steps(order, here), drop_step(here)]
        plan = tuple(f"{step.name}: {step.purpose}" for step in steps)
        if order.is_offline:
            plan = ("fetch: the wheels of what bitlens needs, here", *plan)
        return replace(report, outcome=WOULD_DEPLOY, plan=plan, version=board.current, previous=board.previous)
    with contextlib.ExitStack() as stack:
        dependencies: tuple[Path, ...] = ()
        if order.is_offline:
            told("fetch", "begins")
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bitlens-")))
            dependencies = fetched_wheels(wheel, order.extras, board, folder, order.wheelhouse)
            told("fetch", "done")
        lock = stack.enter_context(held_lock(connection, board))
        board = look(connection)  # nobody else changes it from here on
        version = Version(board, board.current)
        is_there = _holds(board, content)
        results = _verified_again(connection, lock, order, version, told) if is_there else None
        if results is not None:
            kept = [*service_steps(order, version), drop_step(version)]
            results += _taken_or_undone(connection, board, lock, kept, service_undo_script(version), told)
            outcome, previous = ALREADY_THERE, board.previous
        else:
            version = Version(board, chosen_id(board, content))
            steps = deploy_steps(order, wheel, dependencies, version, content)
            undo = undo_script(version, to=board.current)
            results = _taken_or_undone(connection, board, lock, steps, undo, told)
            outcome, previous = DEPLOYED, board.current
    service: tuple[str, ...] = ()
    if order.has_service:
        said = [line for result in results if result.name == SERVICE for line in result.words]
        service = description(board, has_lingering=NO_LINGERING not in said)
    return replace(
        report,
        outcome=outcome,
        version=version.id,
        previous=previous,
        command=f"{board.data}/current/venv/bin/bitlens",
        network=f"{board.data}/current/network.bitlens",
        steps=tuple(results),
        service=service,
    )


def _holds(board: Board, content: str) -> bool:
    """Whether the version in use was made from this."""
    return bool(board.current) and board.content == content


def chosen_id(board: Board, content: str) -> str:
    """Go on with the version that a broken-off deploy left, or name a new one: when, and from what."""
    for begun, made_from in board.begun:
        if made_from == content:
            return begun
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{content[:8]}"


def _verified_again(
    connection: Connection, lock: Lock, order: Order, version: Version, told: Told
) -> list[StepResult] | None:
    """Results where what would be deployed is in use and still verifies; None if it is damaged."""
    steps = [verify_again_step(order, version)]
    if order.certificate is not None:
        steps.insert(0, copy_step(version, {order.certificate: CERTIFICATE}))
    try:
        return run_steps(connection, version.board, lock, steps, told)
    except StepError:
        return None


def _taken_or_undone(
    connection: Connection, board: Board, lock: Lock, steps: Sequence[Step], undo: str, told: Told
) -> list[StepResult]:
    """Take the steps; where one fails, or a person stops it, run the script that undoes them."""
    try:
        return run_steps(connection, board, lock, steps, told)
    except BaseException as error:
        # Without the lock another deploy may be at work there already, which clears up.
        script = undo if lock.is_held else unless_locked(board, undo)
        still_open = replace(connection, stopped=threading.Event())
        undone = answered(still_open, script, timeout_seconds=SHORT_SECONDS)
        if isinstance(error, StepError) and undone.code != 0:
            words = (*error.words, *last_lines(undone.text, 5))
            raise StepError(f"{error}; nor could it be undone there, which the next deploy does", words) from error
        raise


def rolled_back(connection: Connection, told: Told, *, dry_run: bool = False) -> HostReport:
    """Make the version before the current one; a second time goes forward again.

    Parameters
    ----------
    connection : Connection
    told : function
        Is told of each step.
    dry_run : bool
        Look, say what would be done, and change nothing.

    Raises
    ------
    BitlensError
        If there is none, or it does not start.
    """
    told("look", "begins")
    board = look(connection)
    _require_previous(board)
    told("look", "done")
    report = HostReport(connection.host.text, WOULD_ROLL_BACK, board.said_of_it, board.notes)
    if dry_run:
        plan = tuple(f"{step.name}: {step.purpose}" for step in rollback_steps(board))
        return replace(report, plan=plan, version=board.current, previous=board.previous)
    with held_lock(connection, board) as lock:
        board = look(connection)
        _require_previous(board)
        undo = return_script(Version(board, board.current))
        results = _taken_or_undone(connection, board, lock, rollback_steps(board), undo, told)
    return replace(
        report,
        outcome=ROLLED_BACK,
        version=board.previous,
        previous=board.current,
        command=f"{board.data}/current/venv/bin/bitlens",
        network=f"{board.data}/current/network.bitlens",
        steps=tuple(results),
    )


def _require_previous(board: Board) -> None:
    if not board.previous:
        there = f"only {board.current}" if board.current else "nothing deployed"
        raise BitlensError(f"there is no version to go back to ({there}): deploy one")
    if not board.python:
        raise BitlensError("its Python is gone: install python3 there")


def _notes(board: Board, wheel: Wheel) -> tuple[str, ...]:
    kind = ("without compiled kernels, which is slow",) if wheel.is_pure else ()
    return (wheel.path.name, *kind, *board.notes)


def worked_at_once(
    hosts: Sequence[Host], work: Work, told: Callable[[Host, str, str], None], ssh_config: Path | None = None
) -> list[HostReport]:
    """Work on many boards, a few at a time; a report each, in the order in which they were given.

    Parameters
    ----------
    hosts : sequence of Host
    work : function
    told : function
        Is told, from several threads, of each board and step.
    ssh_config : Path, optional
        Instead of the user's own.
    """
    stopped = threading.Event()
    with ThreadPoolExecutor(max_workers=min(MAX_AT_ONCE, len(hosts))) as pool:
        futures = [pool.submit(_worked, host, work, told, stopped, ssh_config) for host in hosts]
        try:
            wait(futures)
        except KeyboardInterrupt:
            stopped.set()  # each clears up behind itself
            pool.shutdown(wait=False, cancel_futures=True)  # those that wait for their turn are not begun
            raise
    return [future.result() for future in futures]


def _worked(
    host: Host,
    work: Work,
    told: Callable[[Host, str, str], None],
    stopped: threading.Event,
    ssh_config: Path | None,
) -> HostReport:
    start = time.monotonic()
    try:
        told(host, "connect", "begins")
        with opened_connection(host, stopped, ssh_config) as connection:
            told(host, "connect", "done")
            report = work(connection, lambda step, state: told(host, step, state))
    except (BitlensError, OSError, subprocess.SubprocessError) as error:
        words = error.words if isinstance(error, StepError) else ()
        report = HostReport(host.text, FAILED, problem=" ".join(str(error).split()), words=words)
    told(host, report.outcome, "ends")
    return replace(report, seconds=time.monotonic() - start)
