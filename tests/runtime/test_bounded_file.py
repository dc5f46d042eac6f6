from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from bitlens.runtime.bounded_file import read_at_most
from bitlens.runtime.errors import BitlensError


def refusal(path: Path, most: int, what: str = "") -> str:
    with pytest.raises(BitlensError) as caught:
        read_at_most(path, most, "expected a note", what=what)
    return str(caught.value)


@pytest.mark.parametrize("content", [b"", b"a", bytes(range(256)) * 16])
def test_up_to_the_limit_the_whole_file_is_read(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "note"
    path.write_bytes(content)
    assert read_at_most(path, len(content), "") == content
    assert read_at_most(path, 2**40, "") == content  # the limit is no allocation


def test_one_byte_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "note"
    path.write_bytes(b"12345")
    assert refusal(path, 4) == f"{path} has more than 4 bytes: expected a note"
    assert refusal(path, 4, "the note") == f"the note {path} has more than 4 bytes: expected a note"


def test_what_is_not_there_or_no_file_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert refusal(missing, 4) == f"cannot read {missing} (No such file or directory): expected a note"
    assert refusal(tmp_path, 4, "the note") == f"cannot read the note {tmp_path} (Is a directory): expected a note"


def test_a_device_without_end_is_refused() -> None:
    assert refusal(Path("/dev/zero"), 3 * 2**20) == "/dev/zero has more than 3145728 bytes: expected a note"


def test_a_pipe_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    content = bytes(range(256)) * 10_000
    writer = threading.Thread(target=path.write_bytes, args=(content,))
    writer.start()
    assert read_at_most(path, len(content), "") == content
    writer.join()
