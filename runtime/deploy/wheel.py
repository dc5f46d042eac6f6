"""Wheels of bitlens, and which of them a board can install: a compiled one that fits, else a pure one."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bitlens.runtime.deploy.board import Board, numbers
from bitlens.runtime.errors import BitlensError

_NAME = re.compile(
    r"bitlens-(?P<version>[0-9][0-9A-Za-z.+!_]*)(?:-[0-9][^-]*)?-(?P<python>[a-z0-9_.]+)-(?P<abi>[a-z0-9_.]+)"
    r"-(?P<platform>[a-z0-9_.]+)\.whl"
)
OLD_NAMES = {"manylinux2014": (2, 17), "manylinux2010": (2, 12), "manylinux1": (2, 5)}
"""What some platform tags are called besides: the oldest glibc each of them takes."""

_MANYLINUX = re.compile(r"(manylinux_([0-9]+)_([0-9]+)|manylinux1|manylinux2010|manylinux2014|linux)_(.+)")
HOW_TO_MAKE = "`make wheels` makes them for boards, `BITLENS_PURE_PYTHON=1 make wheel` a slow one for any machine"


@dataclass(frozen=True)
class Wheel:
    """One file.

    Parameters
    ----------
    path : Path
    version : str
    pythons, abis, platforms : tuple of str
        Its tags; any combination of them is meant.
    """

    path: Path
    version: str
    pythons: tuple[str, ...]
    abis: tuple[str, ...]
    platforms: tuple[str, ...]

    @property
    def is_pure(self) -> bool:
        """Whether it runs anywhere, without compiled kernels."""
        return "any" in self.platforms


def opened_wheel(path: Path) -> Wheel:
    """Read what a file's name says, after a look whether it is a zip.

    Raises
    ------
    BitlensError
        If it is no wheel of bitlens.
    """
    found = _NAME.fullmatch(path.name)
    if found is None:
        raise BitlensError(f"{path} is no wheel of bitlens by its name: expected bitlens-VERSION-...whl as pip made it")
    try:
        is_zip = zipfile.is_zipfile(path)
        if not path.is_file():
            raise BitlensError(f"cannot read the wheel {path}: there is no such file")
    except OSError as error:
        raise BitlensError(f"cannot read the wheel {path} ({error.strerror})") from error
    if not is_zip:
        raise BitlensError(f"the wheel {path} is damaged: build it again")
    tags = (tuple(found[part].split(".")) for part in ("python", "abi", "platform"))
    return Wheel(path, found["version"], *tags)


def found_wheels(folder: Path, version: str) -> tuple[Wheel, ...]:
    """Open the wheels of one version of bitlens in a folder, which need not exist.

    Raises
    ------
    BitlensError
        If one is damaged.
    """
    wheels = [opened_wheel(path) for path in sorted(folder.glob("bitlens-*.whl")) if _NAME.fullmatch(path.name)]
    return tuple(wheel for wheel in wheels if wheel.version == version)


def fits(wheel: Wheel, board: Board) -> bool:
    """Whether the board's Python can install it."""
    return (
        any(_interpreter_fits(python, abi, board) for python in wheel.pythons for abi in wheel.abis)
        and any(_platform_fits(platform, board) for platform in wheel.platforms)
    )  # fmt: skip


def _interpreter_fits(python: str, abi: str, board: Board) -> bool:
    found = re.fullmatch(r"(py|cp)([0-9])([0-9]*)", python)
    if found is None or int(found[2]) != board.python_version[0]:
        return False
    minor = int(found[3]) if found[3] else None
    if found[1] == "cp" and abi == python:
        return minor == board.python_version[1]
    if abi in ("none", "abi3"):
        if found[1] == "cp" and abi == "none" and minor is not None:
            return minor == board.python_version[1]
        return (found[1] == "cp" or abi == "none") and (minor or 0) <= board.python_version[1]
    return False


def _platform_fits(platform: str, board: Board) -> bool:
    if platform == "any":
        return True
    found = _MANYLINUX.fullmatch(platform)
    if found is None or found[4] != board.architecture:
        return False
    if found[1] == "linux":  # as the machine that built it: whether its glibc is too new shows when it is loaded
        return True
    needed = (int(found[2]), int(found[3])) if found[2] else OLD_NAMES[found[1]]
    return board.glibc is not None and board.glibc >= needed


def chosen_wheel(wheels: Sequence[Wheel], board: Board) -> Wheel:
    """Choose the newest version, compiled rather than pure, of what fits.

    Raises
    ------
    BitlensError
        If none fits.
    """
    fitting = [wheel for wheel in wheels if fits(wheel, board)]
    if not fitting:
        glibc = f", glibc {'.'.join(map(str, board.glibc))}" if board.glibc else ""
        raise BitlensError(
            f"no wheel fits it ({board.architecture}, Python {'.'.join(map(str, board.python_version))}{glibc}): got "
            f"{', '.join(wheel.path.name for wheel in wheels) or 'none'}; give one with --wheel, {HOW_TO_MAKE}"
        )
    return max(fitting, key=lambda wheel: (numbers(wheel.version), not wheel.is_pure, "abi3" not in wheel.abis))
