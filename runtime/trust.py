"""The trust list: bundles whose ONNX and TFLite files may be parsed on this machine, by the SHA-256 of the whole file.

A line is ``trust SHA256 DATE NAME`` or ``forget SHA256 DATE NAME``; the last line about a bundle counts. Lines are only
ever added, each by one write to the end of the file, so that two writers lose nothing of each other's.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from bitlens.runtime.bounded_file import read_at_most
from bitlens.runtime.errors import BitlensError

TRUST_VARIABLE = "BITLENS_TRUST"
"""Environment variable that names another file."""
MAX_LIST_BYTES = 2**24

_LINE = re.compile(r"(trust|forget) ([0-9a-f]{64}) (\d{4}-\d\d-\d\d) (.{1,200})")
_NAME_CHARACTERS = 200


@dataclass(frozen=True)
class TrustedBundle:
    """A line of the list.

    Parameters
    ----------
    sha256 : str
        64 lower-case hexadecimal digits.
    date : str
        Day in UTC, YYYY-MM-DD, on which it was last trusted.
    name : str
        What the file was called then, for a person.
    """

    sha256: str
    date: str
    name: str


def trust_list_path() -> Path:
    """Where the list is: `BITLENS_TRUST`, or `bitlens/trusted` in the user's configuration folder."""
    named = os.environ.get(TRUST_VARIABLE)
    if named:
        return Path(named)
    configuration = os.environ.get("XDG_CONFIG_HOME", "")
    # The standard says that a relative one is to be ignored.
    root = Path(configuration) if os.path.isabs(configuration) else Path.home() / ".config"
    return root / "bitlens" / "trusted"


def trusted_bundles() -> Mapping[str, TrustedBundle]:
    """Bundles that are trusted now, by SHA-256, in the order in which they were first trusted.

    Lines of no known form are passed over: a machine may lose power while one is written.

    Raises
    ------
    BitlensError
        If there is a list and it cannot be read.
    """
    path = trust_list_path()
    advice = f"make it readable, or set {TRUST_VARIABLE} to another file"
    try:
        if not path.exists():
            return {}
        if not path.is_file():
            raise BitlensError(f"the trust list {path} is no plain file: remove it, or set {TRUST_VARIABLE}")
    except OSError as error:
        raise BitlensError(f"cannot read the trust list {path} ({error.strerror}): {advice}") from error
    content = read_at_most(path, MAX_LIST_BYTES, advice, what="the trust list")
    trusted: dict[str, TrustedBundle] = {}
    for line in content.decode("utf-8", "replace").split("\n"):
        parts = _LINE.fullmatch(line)
        if parts is None:
            continue
        verb, sha256, date, name = parts.groups()
        if verb == "trust":
            trusted[sha256] = TrustedBundle(sha256, date, name)
        else:
            trusted.pop(sha256, None)
    return trusted


def is_trusted(sha256: str) -> bool:
    """Whether a bundle is on the list; nothing is while the list cannot be read."""
    try:
        return sha256 in trusted_bundles()
    except BitlensError:
        return False


def trust_bundle(sha256: str, name: str) -> None:
    """Put a bundle on the list.

    Raises
    ------
    BitlensError
        If the list cannot be written.
    """
    if not is_trusted(sha256):
        _append("trust", sha256, name)


def forget_bundle(sha256: str, name: str) -> None:
    """Take a bundle off the list.

    Raises
    ------
    BitlensError
        If the list cannot be read or written.
    """
    if sha256 in trusted_bundles():
        _append("forget", sha256, name)


def _append(verb: str, sha256: str, name: str) -> None:
    path = trust_list_path()
    printable = "".join(character if character.isprintable() else "?" for character in name)[:_NAME_CHARACTERS] or "?"
    line = f"{verb} {sha256} {datetime.now(timezone.utc):%Y-%m-%d} {printable}\n".encode("utf-8", "replace")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if path.exists() and not path.is_file():
            raise BitlensError(f"the trust list {path} is no plain file: remove it, or set {TRUST_VARIABLE}")
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            # After a line that lost its end to a power cut, a new one begins; an empty line does no harm.
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line
            if os.write(descriptor, line) != len(line):
                raise OSError(errno.ENOSPC, "the disk is full")
            with suppress(OSError):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise BitlensError(
            f"cannot write the trust list {path} ({error.strerror}): make it writable, or set {TRUST_VARIABLE}"
        ) from error
