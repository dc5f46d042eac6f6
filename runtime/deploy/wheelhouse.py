"""The wheels that bitlens depends on, fetched here for a board that has no network."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bitlens.runtime.deploy.board import Board
from bitlens.runtime.deploy.foreign_text import last_lines
from bitlens.runtime.deploy.wheel import OLD_NAMES, Wheel
from bitlens.runtime.errors import BitlensError

FETCH_SECONDS = 1200
_OLDEST_GLIBC_MINOR = 5


def platforms(board: Board) -> tuple[str, ...]:
    """List every platform tag that the board takes, the newest first: pip does not conclude from one to another."""
    tags = [f"linux_{board.architecture}"]
    if board.glibc is not None:
        major, minor = board.glibc
        tags += [f"manylinux_{major}_{each}_{board.architecture}" for each in range(minor, _OLDEST_GLIBC_MINOR - 1, -1)]
        tags += [f"{name}_{board.architecture}" for name, oldest in OLD_NAMES.items() if board.glibc >= oldest]
    return tuple(tags)


def fetched_wheels(
    wheel: Wheel, extras: Sequence[str], board: Board, folder: Path, wheelhouse: Path | None
) -> tuple[Path, ...]:
    """Fetch what a wheel needs on a board, as this machine's pip is set up to.

    Parameters
    ----------
    wheel : Wheel
        It fits the board.
    extras : sequence of str
    board : Board
    folder : Path
        Empty; filled.
    wheelhouse : Path, optional
        Take wheels from this folder alone, no index is asked.

    Returns
    -------
    tuple of Path
        Without the wheel itself; empty where the board's own packages do.

    Raises
    ------
    BitlensError
        If pip finds no wheel for something; its last words are in the message.
    """
    if board.uses_system_packages and not extras:
        return ()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--only-binary", ":all:", "--implementation", "cp", "--dest", str(folder)]
    command += ["--python-version", ".".join(map(str, board.python_version))]
    for tag in platforms(board):
        command += ["--platform", tag]
    if wheelhouse is not None:
        command += ["--no-index", "--find-links", str(wheelhouse.resolve())]
    if board.uses_system_packages:
        constraints = folder / "constraints.txt"
        constraints.write_text(f"numpy=={board.numpy.partition('+')[0]}\n", encoding="utf-8")
        command += ["--constraint", str(constraints)]
    listed = f"[{','.join(extras)}]" if extras else ""
    try:
        done = subprocess.run(
            [*command, f"{wheel.path.resolve()}{listed}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=FETCH_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise BitlensError(f"fetching its wheels took more than {FETCH_SECONDS} s: give --wheelhouse FOLDER") from error
    if done.returncode != 0:
        words = last_lines(done.stdout.decode(errors="replace"), 2)
        raise BitlensError(
            f"pip here has no wheels for it ({'; '.join(words) or 'it said nothing'}): give a folder of them with "
            "--wheelhouse, or leave --offline out"
        )
    return tuple(sorted(path for path in folder.glob("*.whl") if path.name != wheel.path.name))
