"""How a board is doing: its temperature, whether it slows itself down, and how its clock is governed."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

SYSTEM = Path("/sys")
_GOVERNOR = Path("devices/system/cpu/cpu0/cpufreq/scaling_governor")
_THERMAL = Path("class/thermal")
_MILLIDEGREES = re.compile(r"-?[0-9]{1,7}")

# Bits of `vcgencmd get_throttled`, as Raspberry Pi documents them; 16 higher: the same since the last start.
THROTTLE_BITS = {
    0: "under-voltage",
    1: "clock capped",
    2: "throttled",
    3: "soft temperature limit",
}
_SINCE_START = 16


@dataclass(frozen=True)
class BoardState:
    """One look at a board.

    Parameters
    ----------
    temperature_celsius : float or None
        The hottest sensor; None where there is none.
    throttle_bits : int or None
        What `vcgencmd get_throttled` says; None where there is no such program.
    governor : str
        Of the first processor's clock; empty where Linux says nothing.
    """

    temperature_celsius: float | None
    throttle_bits: int | None
    governor: str

    @property
    def slowed_by(self) -> tuple[str, ...]:
        """What slows the board down at this moment."""
        bits = self.throttle_bits or 0
        return tuple(name for bit, name in THROTTLE_BITS.items() if bits >> bit & 1)

    @property
    def slowed_since_start(self) -> tuple[str, ...]:
        """What has slowed it down at some time since it was started."""
        bits = self.throttle_bits or 0
        return tuple(name for bit, name in THROTTLE_BITS.items() if bits >> (bit + _SINCE_START) & 1)


@dataclass(frozen=True)
class BoardLooks:
    """Two looks at a board, before and after some work."""

    before: BoardState
    after: BoardState

    @property
    def slowed_by(self) -> tuple[str, ...]:
        """What slowed the board down: at one of the looks, or between them, which the board remembers."""
        new = set(self.after.slowed_since_start) - set(self.before.slowed_since_start)
        seen = {*self.before.slowed_by, *self.after.slowed_by, *new}
        return tuple(name for name in THROTTLE_BITS.values() if name in seen)

    def __str__(self) -> str:
        """Say it for a person; empty where the board says nothing of itself."""
        first, last = self.before.temperature_celsius, self.after.temperature_celsius
        said = []
        if first is not None and last is not None:
            said.append(f"{first:.1f} to {last:.1f} \N{DEGREE SIGN}C")
        if self.after.governor:
            said.append(f"governor {self.after.governor}")
        if self.after.throttle_bits is not None:
            said.append(f"slowed down ({', '.join(self.slowed_by)})" if self.slowed_by else "not slowed down")
        return ", ".join(said)


def board_state(system: Path = SYSTEM, throttle_command: str = "vcgencmd") -> BoardState:
    """Look at the board; what it does not say is None or empty.

    Parameters
    ----------
    system : Path
        Where Linux shows its devices.
    throttle_command : str
        Program that knows of throttling.
    """
    return BoardState(_hottest(system / _THERMAL), _throttle_bits(throttle_command), device_line(system / _GOVERNOR))


def device_line(path: Path) -> str:
    """Read what Linux says in a small file of /sys; empty where it does not, or says it with odd characters."""
    try:
        text = path.read_text(errors="replace").strip()
    except OSError:
        return ""
    return text if text.isprintable() else ""


def _hottest(zones: Path) -> float | None:
    found = []
    for path in sorted(zones.glob("thermal_zone*/temp")):
        text = device_line(path)
        if _MILLIDEGREES.fullmatch(text):
            found.append(int(text) / 1000)
    return max(found, default=None)


def _throttle_bits(command: str) -> int | None:
    try:
        said = subprocess.run([command, "get_throttled"], capture_output=True, text=True, timeout=2, check=True)
        return int(said.stdout.strip().removeprefix("throttled="), 16)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
