"""Who may come in: the Host header, the Origin of what changes something, and the token."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qs

Verdict = Literal["enter", "take token", "no token", "foreign"]
TOKEN_BYTES = 16


@dataclass(frozen=True)
class Door:
    """A door.

    Parameters
    ----------
    port : int
    token : str
        What a visitor must know; empty where only this machine can reach the door.
    names : frozenset of str
        Host names under which it is reached, lower case. Addresses in numbers are always taken: no foreign page can
        have one as its own.
    """

    port: int
    token: str
    names: frozenset[str]

    @property
    def cookie(self) -> str:
        """Name of the cookie that holds the token; cookies know no ports, so it has its own."""
        return f"bitlens-{self.port}"

    def verdict(self, method: str, path: str, query: str, headers: Mapping[str, str]) -> Verdict:
        """Decide on one request.

        Parameters
        ----------
        method, path, query : str
        headers : mapping
            Lower-case name -> value.

        Returns
        -------
        {"enter", "take token", "no token", "foreign"}
            `take token`: it came with the address and belongs into a cookie.
        """
        host = headers.get("host", "")
        if not self._is_own(host):
            return "foreign"  # a name that someone else's page made lead here
        is_link = method == "GET" and headers.get("sec-fetch-mode") == "navigate"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not is_link:
            return "foreign"
        if method not in ("GET", "HEAD") and headers.get("origin") != f"http://{host}":
            return "foreign"
        if not self.token:
            return "enter"
        if path == "/" and method == "GET" and self._knows(parse_qs(query).get("token", [""])[0]):
            return "take token"  # once more from who has the cookie: it must leave the address bar
        return "enter" if self._knows(self._told(headers)) else "no token"

    def _knows(self, token: str) -> bool:
        return secrets.compare_digest(token.encode("utf-8", "replace"), self.token.encode())

    def _told(self, headers: Mapping[str, str]) -> str:
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return token.strip()
        # Not by http.cookies, which gives up on all of them where another program of this host has set an odd one.
        cookies = (each.strip().partition("=") for each in headers.get("cookie", "").split(";"))
        return next((value for name, _, value in cookies if name == self.cookie), "")

    def _is_own(self, host: str) -> bool:
        name, port = _split(host)
        # Any port: a tunnel may begin at another one, and only names are what a foreign page can make lead here.
        return (not port or port.isdecimal()) and (name in self.names or _is_numeric(name))


def _split(host: str) -> tuple[str, str]:
    """Host header -> name in lower case, port."""
    if host.startswith("["):
        name, closing, rest = host[1:].partition("]")
        return (name.lower() if closing else "", rest.removeprefix(":"))
    name, _, port = host.partition(":")
    return name.lower().removesuffix("."), port


def _is_numeric(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def door_for(host: str, listening: socket.socket) -> Door:
    """Make the door for a socket that listens: a new token unless only this machine can reach it.

    Parameters
    ----------
    host : str
        As the user named it.
    listening : socket
    """
    address, port = listening.getsockname()[:2]
    names = {"localhost"}
    if ipaddress.ip_address(address).is_loopback:
        return Door(port, "", frozenset(names))
    names |= {host.lower(), socket.gethostname().lower(), _short_name(), f"{_short_name()}.local"}
    return Door(port, secrets.token_urlsafe(TOKEN_BYTES), frozenset(names))


def addresses(host: str, door: Door) -> list[str]:
    """List the addresses at which the door is reached, the token in them: what a person opens."""
    names = [host]
    if host in ("0.0.0.0", "::", ""):
        own = _own_address()
        names = [each for each in (own, f"{_short_name()}.local") if each]
    shown = [f"[{name}]" if ":" in name else name for name in names]
    ending = f"/?token={door.token}" if door.token else "/"
    return [f"http://{name}:{door.port}{ending}" for name in shown]


def _short_name() -> str:
    """Name of this machine without its domain: what mDNS announces below `.local`."""
    return socket.gethostname().lower().partition(".")[0]


def _own_address() -> str:
    """Address of this machine towards the world; nothing is sent. Empty where there is no way out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # of a network that is reserved for documentation
            return str(probe.getsockname()[0])
        except OSError:
            return ""
