"""What kind of machine this is: enough to repeat a measurement, nothing that says whose it is."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# Where Linux says which board it is, and which processor; what is first found counts.
_BOARD = Path("/proc/device-tree/model")
_PROCESSORS = Path("/proc/cpuinfo")
_LINES = ("model name", "Model", "Hardware")


@dataclass(frozen=True)
class Machine:
    """A kind of machine.

    Parameters
    ----------
    name : str
        What its owner calls it; empty unless said, and never the host's name.
    processor : str
        As Linux names it, a board's name before it; the architecture where it says nothing.
    architecture : str
        x86_64, aarch64 or the like.
    system : str
        Operating system with its release.
    python, numpy : str
        Versions.
    board : str
        As the board calls itself, `Raspberry Pi 5 Model B Rev 1.0` say; empty if it does not.
    """

    name: str
    processor: str
    architecture: str
    system: str
    python: str
    numpy: str
    board: str = ""


def this_machine(name: str = "") -> Machine:
    """Describe the machine this runs on; `name` is what its owner calls it."""
    board = _text(_BOARD)
    return Machine(
        name=name,
        processor=processor_name(_text(_PROCESSORS), board) or platform.processor() or platform.machine(),
        architecture=platform.machine(),
        system=_system(),
        python=platform.python_version(),
        numpy=np.__version__,
        board=_printable(board),
    )


def processor_name(cpuinfo: str, board: str) -> str:
    r"""Read the name of the processor from what Linux says; empty if it says none.

    >>> processor_name("processor : 0\nmodel name\t: Fast  CPU 3000\n", "")
    'Fast CPU 3000'
    >>> processor_name("processor : 0\nmodel name : ARMv7 rev 4\n", "Raspberry Pi 2\0")
    'Raspberry Pi 2, ARMv7 rev 4'
    """
    said: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        said.setdefault(key.strip(), value)
    found = [board, next((said[key] for key in _LINES if said.get(key, "").strip()), "")]
    return ", ".join(dict.fromkeys(filter(None, map(_printable, found))))


def _printable(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _system() -> str:
    try:
        distribution = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        distribution = ""
    kernel = f"{platform.system()} {platform.release()}"
    return f"{distribution}, {kernel}" if distribution else kernel
