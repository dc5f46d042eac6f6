"""What the live demo says to systemd, by a socket as systemd has one."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from bitlens.runtime.live.service_manager import tell_ready


@pytest.mark.parametrize("is_file", [True, False])
def test_systemd_hears_that_the_page_is_there(is_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = str(tmp_path / "notify") if is_file else f"@bitlens-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name if is_file else f"\0{name[1:]}")
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        tell_ready()
        assert listening.recv(100) == b"READY=1"


@pytest.mark.parametrize("name", ["", "nowhere/notify", "@nobody-listens"])
def test_without_systemd_nothing_is_said(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    tell_ready()
