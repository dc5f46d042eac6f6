"""Files that are wholly there or not at all, whatever fails and wherever."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from bitlens.runtime.atomic_file import (
    check_file,
    check_place,
    check_replaceable,
    folder_written_atomically,
    write_bytes_atomically,
    write_files_atomically,
    write_text_atomically,
)
from bitlens.runtime.errors import BitlensError

Patch = pytest.MonkeyPatch


def listing(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, temporaries included."""
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in folder.rglob("*")}


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    before = listing(folder)
    yield
    assert listing(folder) == before


def no_space(*_: Any, **__: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FullStream:
    """A file whose disk has no room left for the last byte."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __enter__(self) -> FullStream:
        self._stream.__enter__()
        return self

    def __exit__(self, *details: Any) -> None:
        self._stream.__exit__(*details)

    def write(self, content: bytes) -> NoReturn:
        self._stream.write(content[:-1])
        no_space()


def fail_at_write(patch: Patch) -> None:
    opened = Path.open
    patch.setattr(Path, "open", lambda path, mode: FullStream(opened(path, mode)))


def fail_at_fsync(patch: Patch) -> None:
    patch.setattr(os, "fsync", no_space)


def fail_at_replace(patch: Patch) -> None:
    patch.setattr(os, "replace", no_space)


def fail_at_open(patch: Patch) -> None:
    patch.setattr(Path, "open", no_space)


FAILURES: dict[str, Callable[[Patch], None]] = {
    "open": fail_at_open,
    "write": fail_at_write,
    "fsync": fail_at_fsync,
    "replace": fail_at_replace,
}
EVERY_FAILURE = pytest.mark.parametrize("fail", FAILURES.values(), ids=FAILURES)


def test_writes_what_it_was_given(tmp_path: Path) -> None:
    write_bytes_atomically(tmp_path / "a", b"old")
    write_bytes_atomically(tmp_path / "a", b"new")
    write_text_atomically(tmp_path / "b", "é\n")
    assert listing(tmp_path) == {"a": b"new", "b": "é\n".encode()}


@EVERY_FAILURE
@pytest.mark.parametrize("old", [b"old", None])
def test_failure_leaves_what_was_there(
    fail: Callable[[Patch], None], old: bytes | None, tmp_path: Path, monkeypatch: Patch
) -> None:
    path = tmp_path / "a.program"
    if old is not None:
        path.write_bytes(old)
    with unchanged(tmp_path), monkeypatch.context() as patch:
        fail(patch)
        with pytest.raises(BitlensError, match=r"^cannot write .*a\.program \(No space left on device\): make room"):
            write_bytes_atomically(path, b"new content")


@EVERY_FAILURE
def test_several_files_are_written_together(fail: Callable[[Patch], None], tmp_path: Path, monkeypatch: Patch) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with unchanged(tmp_path), monkeypatch.context() as patch:
        fail(patch)
        with pytest.raises(BitlensError, match="No space left on device"):
            write_files_atomically({tmp_path / "a": b"new", tmp_path / "b": b"other"})
    write_files_atomically({tmp_path / "a": b"new", tmp_path / "b": b"other"})
    assert listing(tmp_path) == {"a": b"new", "b": b"other"}


@pytest.mark.parametrize("place", ["no/b", "folder"])
def test_one_place_that_cannot_be_written_stops_all(place: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with unchanged(tmp_path), pytest.raises(BitlensError, match=f"cannot write .*{place}"):
        write_files_atomically({tmp_path / "a": b"new", tmp_path / place: b"other"})


def test_interrupt_leaves_no_temporary(tmp_path: Path, monkeypatch: Patch) -> None:
    def interrupt(_: int) -> NoReturn:
        raise KeyboardInterrupt

    (tmp_path / "a").write_bytes(b"old")
    with unchanged(tmp_path), monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_bytes_atomically(tmp_path / "a", b"new")


def test_content_is_on_the_disk_before_it_takes_the_name(tmp_path: Path, monkeypatch: Patch) -> None:
    steps = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def noted_replace(source: Path, target: Path) -> None:
        steps.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_bytes_atomically(tmp_path / "a", b"new")
    assert steps == ["file", "rename", "folder"]


def test_a_file_system_that_cannot_sync_folders_is_no_failure(tmp_path: Path, monkeypatch: Patch) -> None:
    fsync = os.fsync

    def only_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    write_bytes_atomically(tmp_path / "a", b"new")
    with folder_written_atomically(tmp_path / "folder") as temporary:
        (temporary / "b").write_bytes(b"b")
    assert listing(tmp_path) == {"a": b"new", "folder": None, "folder/b": b"b"}


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o000])
def test_permissions_are_the_usual_ones(mask: int, tmp_path: Path) -> None:
    old = os.umask(mask)
    try:
        write_bytes_atomically(tmp_path / "a", b"new")
        with folder_written_atomically(tmp_path / "folder"):
            pass
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~mask
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~mask


def test_a_long_name_fits(tmp_path: Path) -> None:
    write_bytes_atomically(tmp_path / ("a" * 250), b"new")
    assert listing(tmp_path) == {"a" * 250: b"new"}


def written_folder(path: Path, names: str) -> None:
    with folder_written_atomically(path) as temporary:
        for name in names:
            (temporary / name).write_bytes(name.encode())


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    written_folder(tmp_path / "deep" / "folder", "ab")
    written_folder(tmp_path / "deep" / "folder", "bc")
    assert listing(tmp_path) == {"deep": None, "deep/folder": None, "deep/folder/b": b"b", "deep/folder/c": b"c"}


def rename_fails_at(number: int) -> Callable[[Patch], None]:
    def fail(patch: Patch) -> None:
        rename = Path.rename
        calls = []

        def counted(path: Path, target: Path) -> Path:
            calls.append(path)
            return no_space() if len(calls) == number else rename(path, target)

        patch.setattr(Path, "rename", counted)

    return fail


def fail_at_mkdir(patch: Patch) -> None:
    mkdir = Path.mkdir
    patch.setattr(Path, "mkdir", lambda path, **given: mkdir(path, **given) if given else no_space())


FOLDER_FAILURES: dict[str, Callable[[Patch], None]] = {
    "mkdir": fail_at_mkdir,
    "fsync": fail_at_fsync,
    "first rename": rename_fails_at(1),
    "second rename": rename_fails_at(2),
}


@pytest.mark.parametrize("fail", FOLDER_FAILURES.values(), ids=FOLDER_FAILURES)
def test_failure_leaves_the_folder_that_was_there(
    fail: Callable[[Patch], None], tmp_path: Path, monkeypatch: Patch
) -> None:
    written_folder(tmp_path / "folder", "ab")
    with unchanged(tmp_path), monkeypatch.context() as patch:
        fail(patch)
        with pytest.raises(BitlensError, match=r"cannot write .*folder \(No space left on device\)"):
            written_folder(tmp_path / "folder", "c")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), BitlensError("x"), KeyboardInterrupt()]
)
def test_failure_of_the_work_leaves_the_folder_that_was_there(error: BaseException, tmp_path: Path) -> None:
    written_folder(tmp_path / "folder", "ab")

    def work() -> None:
        with folder_written_atomically(tmp_path / "folder") as temporary:
            (temporary / "c").write_bytes(b"c")
            raise error

    expected = BitlensError if isinstance(error, OSError) else type(error)
    with unchanged(tmp_path), pytest.raises(expected):
        work()


def test_an_old_folder_that_cannot_be_removed_is_no_failure(tmp_path: Path, monkeypatch: Patch) -> None:
    written_folder(tmp_path / "folder", "a")
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", no_space)
        patch.setattr(os, "rmdir", no_space)
        written_folder(tmp_path / "folder", "b")
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {"b"}


def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with unchanged(tmp_path):
        with pytest.raises(BitlensError, match="is a file, expected a folder or nothing: choose another place"):
            written_folder(tmp_path / "a", "b")
        with pytest.raises(BitlensError, match="cannot write"):
            written_folder(tmp_path / "a" / "folder", "b")
        with pytest.raises(BitlensError, match="is a file, expected a folder or nothing"):
            check_replaceable(tmp_path / "a", frozenset())


def test_only_our_own_files_are_replaceable(tmp_path: Path) -> None:
    own = frozenset({"a", "b"})
    check_replaceable(tmp_path / "new", own)
    check_replaceable(tmp_path, own)
    written_folder(tmp_path / "folder", "ab")
    check_replaceable(tmp_path / "folder", own)
    (tmp_path / "folder" / "thesis.tex").write_bytes(b"")
    with pytest.raises(BitlensError, match=r"folder holds 'thesis\.tex', which is not ours to replace"):
        check_replaceable(tmp_path / "folder", own)


def test_a_folder_that_cannot_be_looked_into(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(Path, "iterdir", no_space)
    with pytest.raises(BitlensError, match="cannot look into"):
        check_replaceable(tmp_path, frozenset())


def test_a_place_is_checked_before_the_work(tmp_path: Path, monkeypatch: Patch) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with unchanged(tmp_path):
        check_place(tmp_path / "a")
        check_place(tmp_path / "new" / "folders" / "b")
        with pytest.raises(BitlensError, match=r"cannot write .*a/b \(Not a directory\): choose another place"):
            check_place(tmp_path / "a" / "b")
        with pytest.raises(BitlensError, match=r"cannot write .* \(Is a directory\): choose another place"):
            check_place(tmp_path)
        with pytest.raises(BitlensError, match=r"cannot write /dev/null \(it is not a plain file\)"):
            check_place(Path("/dev/null"))
        check_file(tmp_path / "b")
        with pytest.raises(BitlensError, match=r"cannot write .*new/b \(No such file or directory\)"):
            check_file(tmp_path / "new" / "b")
        monkeypatch.setattr(Path, "touch", no_space)
        with pytest.raises(BitlensError, match="No space left on device"):
            check_place(tmp_path / "b")


def test_unchanged_can_fail(tmp_path: Path) -> None:
    with pytest.raises(AssertionError), unchanged(tmp_path):
        (tmp_path / "a").write_bytes(b"")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_bytes_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    written_folder(tmp_path / "folder", "a")
    (tmp_path / "other").symlink_to(tmp_path / "folder")
    written_folder(tmp_path / "other", "b")
    assert (tmp_path / "other").is_symlink()
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {"b"}
    assert {path.name for path in tmp_path.iterdir()} == {"real", "link", "folder", "other"}


def test_a_device_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BitlensError, match=r"cannot write .*pipe \(it is not a plain file\): choose another place"):
        write_bytes_atomically(tmp_path / "pipe", b"new")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    # Standard output may be a plain file; it is not ours to replace all the same.
    (tmp_path / "captured").write_bytes(b"old")
    with (tmp_path / "captured").open("rb") as stream:
        for name in (f"/proc/self/fd/{stream.fileno()}", f"/dev/fd/{stream.fileno()}"):
            with pytest.raises(BitlensError, match="it is not a plain file"):
                write_bytes_atomically(Path(name), b"new")
        (tmp_path / "stdout").symlink_to(f"/proc/self/fd/{stream.fileno()}")
        with pytest.raises(BitlensError, match="it is not a plain file"):
            write_bytes_atomically(tmp_path / "stdout", b"new")
    assert (tmp_path / "captured").read_bytes() == b"old"


def test_a_place_where_nothing_can_be_made_is_noticed_before_the_work(tmp_path: Path, monkeypatch: Patch) -> None:
    with unchanged(tmp_path), monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", no_space)
        with pytest.raises(BitlensError, match=r"cannot write .*run \(No space left on device\): make room"):
            check_replaceable(tmp_path / "new" / "run", frozenset())
    check_replaceable(tmp_path / "new" / "run", frozenset())
    assert listing(tmp_path) == {}
