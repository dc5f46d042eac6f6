"""Files and folders that are either wholly there or not there at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from bitlens.runtime.errors import BitlensError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def _sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut (a board is often just unplugged)."""
    # Some network file systems cannot; the rename has happened all the same.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _beside(path: Path) -> Path:
    """Name something that is not there yet, in the same folder; `tempfile` would make it private to its owner."""
    return path.parent / f".{path.name[:100]}.{secrets.token_hex(8)}"


def _destination(path: Path) -> Path:
    """Follow links to what is to be replaced, so that a link stays one; a device or the like is refused."""
    origin = path.parent.resolve() / path.name
    # /dev/stdout leads to whatever file or pipe the process happens to write to, through /proc.
    places = (origin, origin.readlink()) if origin.is_symlink() else (origin,)
    is_stream = any(place.parts[1:2] == ("proc",) for place in places)
    destination = path.resolve()
    if destination.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if is_stream or (destination.exists() and not destination.is_file()):
        raise OSError(errno.EINVAL, "it is not a plain file")
    return destination


def _not_written(path: Path, error: OSError) -> BitlensError:
    advice = "make room or choose another place" if error.errno in _NO_ROOM else "choose another place"
    return BitlensError(f"cannot write {path} ({error.strerror}): {advice}; nothing was changed")


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, or leave it as it was.

    Raises
    ------
    BitlensError
        If the folder is missing or not writable, or the disk is full; nothing is left behind then.
    """
    write_files_atomically({Path(path): content})


def write_files_atomically(contents: Mapping[Path, bytes]) -> None:
    """Replace several files, each wholly; none is touched before all of them are on the disk under other names.

    Raises
    ------
    BitlensError
        As for `write_bytes_atomically`; the message names the file.
    """
    temporaries: dict[Path, tuple[Path, Path]] = {}
    try:
        for path, content in contents.items():
            try:
                destination = _destination(path)
                temporary = _beside(destination)
                with temporary.open("xb") as stream:
                    temporaries[path] = temporary, destination
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
            except OSError as error:
                raise _not_written(path, error) from error
        for path in contents:
            temporary, destination = temporaries[path]
            try:
                os.replace(temporary, destination)
            except OSError as error:
                raise _not_written(path, error) from error
            del temporaries[path]
            _sync_folder(destination.parent)
    finally:
        for temporary, _ in temporaries.values():
            with suppress(OSError):
                temporary.unlink()


def check_place(path: Path) -> None:
    """Refuse a place where no file can be made, before the work that is to end there; missing folders are no obstacle.

    Raises
    ------
    BitlensError
        If a folder or a device is there, or the nearest folder that exists takes no file.
    """
    path = Path(path)
    whole = path.resolve()
    parent = next(place for place in whole.parents if place.exists())
    probe = _beside(parent / whole.name)
    try:
        _destination(path)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise _not_written(path, error) from error


def check_file(path: Path) -> None:
    """Refuse a file that could not be written, before the work that is to end there: its folder must be there.

    Raises
    ------
    BitlensError
        As `check_place`, and where there is no such folder.
    """
    check_place(path)
    if not Path(path).resolve().parent.is_dir():
        raise _not_written(path, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))


def write_text_atomically(path: Path, content: str) -> None:
    """`write_bytes_atomically` of UTF-8 text."""
    write_bytes_atomically(path, content.encode())


@contextmanager
def folder_written_atomically(path: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; it takes the place of `path` when the block ends without an error.

    A folder that was at `path` before is replaced as a whole; if anything fails it stays as it was.

    Raises
    ------
    BitlensError
        If the place is not writable, the disk is full, or `path` exists and is not a folder.
    """
    path = Path(path).resolve()  # a link to a folder stays one
    if path.exists() and not path.is_dir():
        raise BitlensError(f"{path} is a file, expected a folder or nothing: choose another place")
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        place = _beside(path)
        place.mkdir()
        temporary = place
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
        if path.exists():
            old = temporary.with_name(temporary.name + ".old")
            path.rename(old)
            try:
                temporary.rename(path)
            except BaseException:
                old.rename(path)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.rename(path)
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def check_replaceable(folder: Path, own_files: frozenset[str]) -> None:
    """Refuse a folder that could not be written, or whose replacement would lose anything but `own_files`.

    Call it before the work starts: an hour of training should not end here.

    Raises
    ------
    BitlensError
        If `folder` is a file, holds something else, or lies where nothing can be made.
    """
    folder = Path(folder).resolve()
    try:
        if folder.exists() and not folder.is_dir():
            raise BitlensError(f"{folder} is a file, expected a folder or nothing: choose another place")
        strangers = {entry.name for entry in folder.iterdir()} - own_files if folder.is_dir() else set()
    except OSError as error:
        raise BitlensError(f"cannot look into {folder} ({error.strerror}): choose another place") from error
    if strangers:
        raise BitlensError(
            f"{folder} holds {min(strangers)!r}, which is not ours to replace: choose a new or an empty folder"
        )
    parent = next(place for place in folder.parents if place.exists())
    probe = _beside(parent / folder.name)
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise _not_written(folder, error) from error
