"""The trust list: nothing is lost, whoever writes, and nothing odd in it is believed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from bitlens.runtime import trust
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.trust import (
    TRUST_VARIABLE,
    forget_bundle,
    is_trusted,
    trust_bundle,
    trust_list_path,
    trusted_bundles,
)

A, B = "a" * 64, "b" * 64


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(TRUST_VARIABLE, str(tmp_path / "folder" / "trusted"))
    return tmp_path / "folder" / "trusted"


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUST_VARIABLE, "/x/y")
    assert trust_list_path() == Path("/x/y")
    monkeypatch.setenv(TRUST_VARIABLE, "")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert trust_list_path() == tmp_path / "bitlens" / "trusted"
    monkeypatch.setenv("HOME", "/home/someone")
    for relative in ("", "configuration"):
        monkeypatch.setenv("XDG_CONFIG_HOME", relative)
        assert trust_list_path() == Path("/home/someone/.config/bitlens/trusted")


def test_trust_and_forget(place: Path) -> None:
    assert trusted_bundles() == {}
    trust_bundle(A, "a name with spaces.bitlens")
    trust_bundle(B, "b.bitlens")
    trust_bundle(A, "again.bitlens")
    assert [(item.sha256, item.name) for item in trusted_bundles().values()] == [
        (A, "a name with spaces.bitlens"),
        (B, "b.bitlens"),
    ]
    assert place.stat().st_mode & 0o777 == 0o600
    forget_bundle(A, "a")
    forget_bundle("c" * 64, "never there")
    assert (is_trusted(A), is_trusted(B)) == (False, True)
    trust_bundle(A, "a.bitlens")
    assert is_trusted(A)
    assert len(place.read_text().splitlines()) == 4


def test_a_name_cannot_add_a_line(place: Path) -> None:
    trust_bundle(A, f"x\ntrust {B} 2025-01-01 y\r\x1b[2J")
    trust_bundle("c" * 64, "")
    assert set(trusted_bundles()) == {A, "c" * 64}
    assert place.read_text().count("\n") == 2
    assert all(line.isprintable() for line in place.read_text().splitlines())


def test_lines_of_no_known_form_are_passed_over(place: Path) -> None:
    place.parent.mkdir()
    sound = f"trust {A} 2025-01-01 a"
    place.write_bytes(
        b"\xff\xfe\n\n# a comment\n" + sound.encode() + b"\n"
        b"trust " + b"B" * 64 + b" 2025-01-01 capitals\n"
        b"trust " + b"b" * 63 + b" 2025-01-01 short\n"
        b" trust " + b"b" * 64 + b" 2025-01-01 indented\n"
        b"trust " + b"b" * 64 + b" 2025-01-01"  # power was lost here
    )
    assert set(trusted_bundles()) == {A}
    trust_bundle("c" * 64, "next")
    assert set(trusted_bundles()) == {A, "c" * 64}


def test_writers_at_the_same_time_lose_nothing(place: Path) -> None:
    code = (
        "import sys; from bitlens.runtime.trust import trust_bundle\n"
        "for number in range(40): trust_bundle(f'{int(sys.argv[1]) * 1000 + number:064x}', 'n')"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(number)]) for number in range(4)]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    assert set(trusted_bundles()) == {f"{writer * 1000 + number:064x}" for writer in range(4) for number in range(40)}


def test_a_list_that_cannot_be_used(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place.mkdir(parents=True)
    for work in (trusted_bundles, lambda: trust_bundle(A, "a"), lambda: forget_bundle(A, "a")):
        with pytest.raises(BitlensError, match="is no plain file: remove it, or set BITLENS_TRUST"):
            work()
    assert not is_trusted(A)
    monkeypatch.setenv(TRUST_VARIABLE, str(Path(__file__) / "trusted"))
    with pytest.raises(BitlensError, match=r"cannot write the trust list .* \(.*\): make it writable, or set BITLENS"):
        trust_bundle(A, "a")


def test_too_large_a_list(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trust_bundle(A, "a")
    monkeypatch.setattr(trust, "MAX_LIST_BYTES", 10)
    assert not is_trusted(A)
    with pytest.raises(BitlensError, match="has more than 10 bytes"):
        trusted_bundles()


def test_a_full_disk(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    trust_bundle(A, "a")
    monkeypatch.setattr(os, "write", no_space)
    with pytest.raises(BitlensError, match="No space left on device"):
        trust_bundle(B, "b")
    monkeypatch.setattr(os, "write", lambda descriptor, line: 5)
    with pytest.raises(BitlensError, match="the disk is full"):
        trust_bundle(B, "b")
    monkeypatch.undo()


def test_a_list_that_cannot_be_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trust_bundle(A, "a")

    def denied(*_: object) -> NoReturn:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", denied)
    assert not is_trusted(A)
    with pytest.raises(BitlensError, match=r"cannot read the trust list .*\(Permission denied\): make it readable"):
        trusted_bundles()
