"""What the emulated board is made with; no board is needed for these."""

from __future__ import annotations

import lzma
import shutil
import subprocess
from pathlib import Path

import board_image
import pytest
from board_image import NoBoardError, cpio_archive, needed_modules, require_programs
from page_client import News, is_explained


def test_an_archive_is_what_cpio_reads(tmp_path: Path) -> None:
    if shutil.which("cpio") is None:
        pytest.skip("no cpio here: apt install cpio")
    packed = cpio_archive({"init": (0o755, b"#!/bin/sh\n"), "etc/ssh/key": (0o600, b"x" * 1001)})
    subprocess.run(["cpio", "--extract", "--make-directories", "--quiet"], input=packed, cwd=tmp_path, check=True)
    assert (tmp_path / "etc/ssh/key").read_bytes() == b"x" * 1001
    assert (tmp_path / "etc/ssh/key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "init").stat().st_mode & 0o777 == 0o755
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["etc", "init", "key", "ssh"]


def test_modules_come_behind_those_they_need(tmp_path: Path) -> None:
    depends = {"vivid": "videodev,v4l2-tpg", "videodev": "mc", "v4l2-tpg": "", "mc": "", "alone": ""}
    for name, others in depends.items():
        content = b"\0license=GPL\0depends=" + others.encode() + b"\0name=" + name.encode() + b"\0"
        (tmp_path / f"{name}.ko.xz").write_bytes(lzma.compress(content))
    found = [path.name.removesuffix(".ko.xz") for path in needed_modules(tmp_path, ["vivid", "built_in"])]
    assert found == ["mc", "videodev", "v4l2-tpg", "vivid"]


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(board_image.PROGRAMS, "qemu-system-none", "qemu-none")
    with pytest.raises(NoBoardError, match=r"apt install .*qemu-none"):
        require_programs()


@pytest.mark.parametrize(
    ("changed", "holds"),
    [({}, True), ({"classes": []}, False), ({"method": None}, False), ({"map_latency_ms": 0.0}, False)],
)
def test_what_counts_as_explained(changed: dict[str, object], holds: bool) -> None:
    seen = {"classes": [[3, 0.5]], "method": "layer_cam", "forward_latency_ms": 1.0, "map_latency_ms": 1.0} | changed
    assert is_explained(News({"explained": seen}, [])) is holds
    assert not is_explained(News({"explained": None}, []))
