"""What a board is like, found out by one shell script that changes nothing there; bitlens need not be on it yet."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from bitlens.runtime.board_state import BoardState
from bitlens.runtime.deploy.connection import Connection, answered
from bitlens.runtime.deploy.foreign_text import last_lines, plain_line
from bitlens.runtime.errors import BitlensError

OLDEST_PYTHON = (3, 10)
OLDEST_NUMPY = (1, 24)  # as pyproject.toml says
LOOK_SECONDS = 120
DATA = ".local/share/bitlens"
UNIT = "bitlens.service"
VERSION_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{8}")

# Asked of the board's own Python. A 32-bit system on a 64-bit kernel calls itself aarch64 and cannot run that.
_PYTHON = """
import importlib.metadata as m, importlib.util as u, os, struct, sys, sysconfig
def said(*words): print(*words, sep="\\t")
name = sysconfig.get_platform().split("-", 1)[-1]
narrow = {"aarch64": "armv7l", "x86_64": "i686"}
said("architecture", narrow.get(name, name) if struct.calcsize("P") == 4 else name)
said("python_version", "%d.%d" % sys.version_info[:2])
if u.find_spec("venv") and u.find_spec("ensurepip"): said("venv", "yes")
try: said("glibc", os.confstr("CS_GNU_LIBC_VERSION").split()[1])
except (AttributeError, IndexError, OSError, ValueError): pass
if u.find_spec("picamera2"): said("picamera2", "yes")
try: said("numpy", m.version("numpy"))
except m.PackageNotFoundError: pass
"""

_LOOK = f"""
said() {{ printf '%s\\t%s\\n' "$1" "$2"; }}
d=$HOME/{DATA}
said home "$HOME"
said user_id "$(id -u)"
said machine "$(uname -m)"
said model "$(tr -d '\\000' </proc/device-tree/model 2>/dev/null)"
for p in python3 python3.13 python3.12 python3.11 python3.10; do
    command -v $p >/dev/null 2>&1 || continue
    if $p -c 'import sys; sys.exit(sys.version_info < {OLDEST_PYTHON})' 2>/dev/null; then
        said python $p
        $p -c {shlex.quote(_PYTHON)} 2>/dev/null
        break
    fi
    said old_python "$($p --version 2>&1)"
done
near=$d
while [ ! -d "$near" ] && [ "$near" != / ] && [ "$near" != . ]; do near=$(dirname "$near"); done
said free_kb "$(df -Pk "$near" 2>/dev/null | awk 'END {{print $4}}')"
if [ -w "$near" ]; then said writable yes; else said near "$near"; fi
for p in rsync flock sha256sum vcgencmd systemctl; do command -v $p >/dev/null 2>&1 && said has $p; done
if [ -d /run/systemd/system ]; then said has systemd; fi
cat /sys/class/thermal/thermal_zone*/temp 2>/dev/null | while read -r t; do said temperature "$t"; done
said governor "$(cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor 2>/dev/null)"
said throttled "$(vcgencmd get_throttled 2>/dev/null)"
said current "$(readlink "$d/current" 2>/dev/null)"
said previous "$(cat "$d/current/previous" 2>/dev/null)"
said content "$(cat "$d/current/content" 2>/dev/null)"
for u in "$HOME/.config/systemd/user/{UNIT}" "/etc/systemd/system/{UNIT}"; do
    if [ -f "$u" ] && [ -w "$u" ]; then said has {UNIT}; fi
done
for v in "$d"/versions/*; do
    [ -f "$v/content" ] && said found "$(basename "$v") $(cat "$v/content")"
done
true
"""


@dataclass(frozen=True)
class Board:
    """What was found; empty or None where the board does not say.

    Parameters
    ----------
    home : str
        Absolute path of the user's folder.
    is_root : bool
    machine, model : str
        Of the kernel and of the maker, for a person.
    python : str
        Name of the program; empty where there is none that is new enough.
    old_python : str
        What a Python that is too old says of itself.
    python_version : (int, int)
    architecture : str
        Of that Python, which decides what can be installed: aarch64, armv7l, x86_64.
    has_venv : bool
        Whether it can make virtual environments with pip in them.
    glibc : (int, int), or None
    numpy : str
        Version that this Python imports.
    has_picamera2 : bool
        Whether this Python imports it.
    free_bytes : int or None
    unwritable : str
        The folder that stands in the way; empty if none does.
    programs : frozenset of str
        Which of rsync, flock, sha256sum, systemctl there are; `systemd` if it runs; `UNIT` if an earlier deploy made
        that service.
    state : BoardState
    current, previous : str
        Ids of the version in use and of the one before it.
    content : str
        Digest of what the version in use was made from.
    begun : tuple of (str, str)
        Ids and digests of versions that a broken-off deploy left.
    """

    home: str
    is_root: bool
    machine: str
    model: str
    python: str
    old_python: str
    python_version: tuple[int, int]
    architecture: str
    has_venv: bool
    glibc: tuple[int, int] | None
    numpy: str
    has_picamera2: bool
    free_bytes: int | None
    unwritable: str
    programs: frozenset[str]
    state: BoardState
    current: str
    previous: str
    content: str
    begun: tuple[tuple[str, str], ...] = ()

    @property
    def data(self) -> str:
        """Folder of everything that is deployed."""
        return f"{self.home}/{DATA}"

    @property
    def uses_system_packages(self) -> bool:
        """Whether versions see the system's packages: picamera2 comes by apt alone, and so does NumPy on 32-bit ARM."""
        return (
            bool(self.numpy)
            and numbers(self.numpy)[:2] >= OLDEST_NUMPY
            and (self.has_picamera2 or self.architecture in ("armv7l", "armv6l"))
        )

    @property
    def said_of_it(self) -> str:
        """What kind of board it is, in a few words."""
        words = [self.model or self.machine, f"Python {'.'.join(map(str, self.python_version))}"]
        if self.glibc is not None:
            words.append(f"glibc {'.'.join(map(str, self.glibc))}")
        if self.model:
            words.insert(1, self.architecture)
        return ", ".join(words)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of its state."""
        state, notes = self.state, []
        if state.temperature_celsius is not None:
            notes.append(f"{state.temperature_celsius:.1f} °C")
        if state.slowed_by:
            notes.append(f"slowed down now: {', '.join(state.slowed_by)}")
        if state.slowed_since_start:
            notes.append(f"slowed down since its start: {', '.join(state.slowed_since_start)}")
        return tuple(notes)


def numbers(version: str) -> tuple[int, ...]:
    """Read the leading numbers of a version.

    >>> numbers("1.24.2+rpt1"), numbers("none")
    ((1, 24, 2), ())
    """
    found = re.match(r"\d{1,6}(?:\.\d{1,6}){0,5}", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def look(connection: Connection) -> Board:
    """Look at a board; nothing there is changed.

    Raises
    ------
    BitlensError
        If it does not answer as a board does.
    """
    answer = answered(connection, _LOOK, timeout_seconds=LOOK_SECONDS)
    if answer.code != 0:
        words = last_lines(answer.text, 1)
        raise BitlensError(
            f"it did not say what it is ({words[0] if words else 'nothing came back'}): expected a Linux board with a "
            "POSIX shell"
        )
    return read_board(answer.text)


def read_board(text: str) -> Board:
    """Read what the script printed.

    Raises
    ------
    BitlensError
        If what must be there is not.
    """
    said: dict[str, list[str]] = {}
    for line in text.split("\n"):
        key, tab, value = line.partition("\t")
        if tab:
            said.setdefault(key, []).append(plain_line(value.strip()))

    def first(key: str) -> str:
        return said.get(key, [""])[0]

    home = first("home")
    if not home.startswith("/") or len(home) > 180 or "\\" in home:
        raise BitlensError(f"its user's home folder is {home[:60]!a}, expected an absolute path of plain characters")
    if not first("user_id").isdecimal():
        raise BitlensError(f"its user's number is {first('user_id')[:20]!a}, expected digits")
    version, glibc, free = numbers(first("python_version"))[:2], numbers(first("glibc"))[:2], first("free_kb")
    throttled = re.fullmatch(r"throttled=0x([0-9a-f]{1,8})", first("throttled"))
    celsius = [int(each) / 1000 for each in said.get("temperature", []) if re.fullmatch(r"-?[0-9]{1,7}", each)]
    current = first("current").removeprefix("versions/")
    found = [re.fullmatch(rf"({VERSION_ID.pattern}) ([0-9a-f]{{64}})", each) for each in said.get("found", [])]
    return Board(
        home=home.rstrip("/"),
        is_root=first("user_id") == "0",
        machine=first("machine"),
        model=first("model"),
        python=first("python") if len(version) == 2 else "",
        old_python=first("old_python"),
        python_version=(version[0], version[1]) if len(version) == 2 else (0, 0),
        architecture=first("architecture"),
        has_venv=first("venv") == "yes",
        glibc=(glibc[0], glibc[1]) if len(glibc) == 2 else None,
        numpy=first("numpy") if re.fullmatch(r"[0-9a-z.+]{1,40}", first("numpy")) else "",
        has_picamera2=first("picamera2") == "yes",
        free_bytes=int(free) * 1024 if free.isdecimal() and len(free) < 16 else None,
        unwritable="" if first("writable") == "yes" else first("near") or home,
        programs=frozenset(said.get("has", [])),
        state=BoardState(max(celsius, default=None), int(throttled[1], 16) if throttled else None, first("governor")),
        current=current if VERSION_ID.fullmatch(current) else "",
        previous=first("previous") if VERSION_ID.fullmatch(first("previous")) else "",
        content=first("content") if re.fullmatch(r"[0-9a-f]{64}", first("content")) else "",
        begun=tuple((each[1], each[2]) for each in found if each and each[1] not in (current, first("previous"))),
    )


def require_board(board: Board) -> None:
    """Refuse a board on which bitlens cannot be installed.

    Raises
    ------
    BitlensError
        In one sentence, with what to do.
    """
    if not board.python:
        found = board.old_python or "none"
        raise BitlensError(
            f"it has no Python from {'.'.join(map(str, OLDEST_PYTHON))} on (found: {found}): install Raspberry Pi OS "
            "bookworm or newer there, or apt install python3 python3-venv"
        )
    if not board.has_venv:
        raise BitlensError("its Python cannot make virtual environments: apt install python3-venv there")
    missing = sorted({"flock", "sha256sum"} - board.programs)
    if missing:
        raise BitlensError(f"it has no {' and no '.join(missing)}: apt install util-linux coreutils there")
    if board.unwritable:
        raise BitlensError(
            f"its user may not write in {board.unwritable}: deploy as another user, or change that there"
        )


def require_space(board: Board, needed_bytes: int) -> None:
    """Refuse a board whose disk is too full for an installation that takes so much.

    Raises
    ------
    BitlensError
        In one sentence, with what to do.
    """
    if board.free_bytes is not None and board.free_bytes < needed_bytes:
        raise BitlensError(
            f"it has {board.free_bytes / 1e6:.0f} MB of free disk, expected at least {needed_bytes / 1e6:.0f} MB: make "
            "room there"
        )
