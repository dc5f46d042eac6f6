"""Where a board is: `pi@host`, `host` or `pi@host:2222`; whatever else there is to say is in the SSH configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bitlens.runtime.errors import BitlensError

_HOST = re.compile(
    r"(?:(?P<user>[a-z_][a-z0-9_.-]*)@)?(?P<name>[a-z0-9_][a-z0-9_.-]*|\[[0-9a-f:.]+(?:%[a-z0-9_.-]+)?\])"
    r"(?::(?P<port>[0-9]{1,5}))?",
    re.IGNORECASE,
)
_LONGEST = 300


@dataclass(frozen=True)
class Host:
    """A board as a person names it.

    Parameters
    ----------
    text : str
        As it was given.
    user : str
        Empty where the SSH configuration says who.
    name : str
        Name, alias of the SSH configuration, or address; an IPv6 address without its brackets.
    port : int or None
        None where the SSH configuration says which.
    """

    text: str
    user: str
    name: str
    port: int | None

    @property
    def destination(self) -> str:
        """What `ssh` is told, the port aside."""
        return f"{self.user}@{self.name}" if self.user else self.name


def parsed_host(text: str) -> Host:
    """Read `[user@]host[:port]`; nothing that `ssh` could take for an option is one.

    >>> parsed_host("pi@[fe80::1%eth0]:2222")
    Host(text='pi@[fe80::1%eth0]:2222', user='pi', name='fe80::1%eth0', port=2222)

    Raises
    ------
    BitlensError
        If it is none.
    """
    found = _HOST.fullmatch(text) if len(text) <= _LONGEST else None
    port = int(found["port"]) if found and found["port"] else None
    if found is None or (port is not None and not 0 < port < 2**16):
        raise BitlensError(f"expected a board as user@host or user@host:port, got {ascii(text)[:80]}")
    return Host(text, found["user"] or "", found["name"].strip("[]"), port)
