"""CIFAR-10: 50,000 + 10,000 photographs of 32x32 pixels, from the binary version, or a zip or folder of pictures.

The Python version, which is pickled, is not read: a pickle runs what its author wrote.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from bitlens.runtime.bounded_file import read_at_most
from bitlens.runtime.data_folder import DATA_VARIABLE, data_folder
from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.picture_file import check_decoder
from bitlens.train.datasets.augmentation import shift_and_flip
from bitlens.train.datasets.decoding import (
    CHANNELS,
    PICTURE_SUFFIXES,
    EncodedPicture,
    decode_pictures,
)
from bitlens.train.datasets.download import downloaded_folder
from bitlens.train.datasets.image_dataset import ImageDataset
from bitlens.train.datasets.image_folder import TEST, TRAIN, class_pictures, read_pictures
from bitlens.train.datasets.registry import register_dataset
from bitlens.train.datasets.split_dataset import Report, SplitDataset

NAME = "cifar10"
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGE_SIDE = 32
BATCH_FOLDER = "cifar-10-batches-bin"
BATCH_ARCHIVE = "cifar-10-binary.tar.gz"
BATCHES = {TRAIN: tuple(f"data_batch_{number}.bin" for number in range(1, 6)), TEST: ("test_batch.bin",)}
_RECORD = 1 + CHANNELS * IMAGE_SIDE * IMAGE_SIDE  # a label, then the planes of red, green and blue
_LARGEST_BATCH = 10_000 * _RECORD
_LARGEST_ARCHIVE = 8 * _LARGEST_BATCH  # bytes of a tar, unpacked; the published one has six batches
_LARGEST_MEMBER = 2**16  # bytes of a 32x32 picture; none of those met has more than 1,200
_LARGEST_COUNT = 60_000


@register_dataset(NAME)
def open_cifar10(report: Report) -> SplitDataset:
    """Open CIFAR-10 in the first form that is there.

    In the folder named by `BITLENS_DATA`, in this order: `cifar-10-batches-bin/` or `cifar-10-binary.tar.gz`, also
    within `cifar10/` (the binary version); `cifar10.zip`; `cifar10/` (pictures as `{train,test}/<class>/*`). Else
    the binary version is downloaded.
    """
    root = data_folder()
    if root is not None:
        for place in (root, root / NAME):
            if (place / BATCH_FOLDER).is_dir():
                return _split_dataset(partial(_batches_in_folder, place / BATCH_FOLDER))
            if (place / BATCH_ARCHIVE).is_file():
                return _split_dataset(partial(_batches_in_tar, place / BATCH_ARCHIVE))
        if (root / f"{NAME}.zip").is_file():
            return _open_zip(root / f"{NAME}.zip", report)
        if (root / NAME / BATCHES[TRAIN][0]).is_file():
            return _split_dataset(partial(_batches_in_folder, root / NAME))
        if (root / NAME).is_dir():
            return _open_folder(root / NAME, report)
    return _split_dataset(partial(_batches_in_tar, downloaded_folder(NAME, report) / BATCH_ARCHIVE))


def _split_dataset(read: Callable[[str], ImageDataset]) -> SplitDataset:
    return SplitDataset(
        NAME,
        (CHANNELS, IMAGE_SIDE, IMAGE_SIDE),
        CLASS_NAMES,
        train=partial(read, TRAIN),
        test=partial(read, TEST),
        augment=partial(shift_and_flip, pixels=4),
    )


def _batches_in_folder(folder: Path, part: str) -> ImageDataset:
    found = {}
    for name in BATCHES[part]:
        found[name] = read_at_most(folder / name, _LARGEST_BATCH, "expected the binary version of CIFAR-10")
    return _from_batches(str(folder), found)


def _batches_in_tar(archive: Path, part: str) -> ImageDataset:
    """Read the members of a part; nothing is unpacked to the disk, and the members of the other part are skipped."""
    found: dict[str, bytes] = {}
    with context(str(archive)):
        try:
            with (
                gzip.open(archive) as packed,
                tarfile.open(fileobj=_Bounded(packed, _LARGEST_ARCHIVE), mode="r|") as tar,
            ):
                for member in tar:
                    _check_name(member.name)
                    if not (member.isreg() or member.isdir()):
                        raise BitlensError(
                            f"{member.name!r} is a link or a device, expected files: download the archive again"
                        )
                    name = PurePosixPath(member.name).name
                    stream = tar.extractfile(member) if name in BATCHES[part] else None
                    if stream is not None:
                        if name in found:
                            raise BitlensError(f"{name} is in it twice: download the archive again")
                        found[name] = stream.read(_LARGEST_BATCH + 1)
        except EOFError as error:
            raise BitlensError("the gzip stream ends early: download the archive again") from error
        except (OSError, tarfile.TarError, zlib.error, ValueError) as error:
            reason = " ".join(str(error).split())[:100]
            raise BitlensError(f"not a sound .tar.gz ({reason}): download the archive again") from error
    missing = [name for name in BATCHES[part] if name not in found]
    if missing:
        raise BitlensError(f"{archive} holds no {missing[0]}: expected the binary version of CIFAR-10")
    return _from_batches(str(archive), found)


class _Bounded(io.RawIOBase):
    """A stream that refuses to give more than `limit` bytes: a few bytes of gzip can become any number."""

    def __init__(self, stream: gzip.GzipFile, limit: int) -> None:
        self._stream = stream
        self._left = limit

    def read(self, size: int = -1) -> bytes:
        content = self._stream.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise BitlensError(f"it unpacks to more than {_LARGEST_ARCHIVE} bytes: not the CIFAR-10 archive")
        return content


def _from_batches(where: str, batches: Mapping[str, bytes]) -> ImageDataset:
    """Take the records of the batches, in the order of their names."""
    parts = []
    for name in sorted(batches):
        content = batches[name]
        if not content or len(content) % _RECORD or len(content) > _LARGEST_BATCH:
            raise BitlensError(
                f"{where}: {name} has {_amount(len(content))} bytes, expected up to 10000 records of {_RECORD}: "
                "copy or download it again"
            )
        parts.append(np.frombuffer(content, dtype=np.uint8).reshape(-1, _RECORD))
        if parts[-1][:, 0].max() >= len(CLASS_NAMES):
            raise BitlensError(
                f"{where}: {name} has a label {parts[-1][:, 0].max()}, expected 0..{len(CLASS_NAMES) - 1}: "
                "copy or download it again"
            )
    records = torch.from_numpy(np.concatenate(parts))
    images = records[:, 1:].reshape(-1, CHANNELS, IMAGE_SIDE, IMAGE_SIDE)
    return ImageDataset(images.contiguous(), records[:, 0].to(torch.int64), CLASS_NAMES)


def _amount(size: int) -> str:
    return f"more than {_LARGEST_BATCH}" if size > _LARGEST_BATCH else str(size)


@dataclass(frozen=True)
class _ZippedPicture:
    member: zipfile.ZipInfo
    label: int


def _open_zip(archive: Path, report: Report) -> SplitDataset:
    check_decoder()
    listed = _listed_zip(archive)

    def read(part: str) -> ImageDataset:
        pictures = listed[part]
        contents = _zip_contents(archive, pictures)
        return decode_pictures(contents, len(pictures), CLASS_NAMES, IMAGE_SIDE, report, resize=False)

    return _split_dataset(read)


def _listed_zip(archive: Path) -> dict[str, list[_ZippedPicture]]:
    """List the pictures of both parts, by class and name, from the directory of the zip; no member is read."""
    listed: dict[str, list[_ZippedPicture]] = {TRAIN: [], TEST: []}
    with context(str(archive)):
        try:
            with zipfile.ZipFile(archive) as opened:
                members = opened.infolist()
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise BitlensError(f"not a sound zip file ({error}): copy it again") from error
        for member in members:
            _check_name(member.filename)
            if member.is_dir():
                continue
            parts = PurePosixPath(member.filename).parts
            part, class_name = parts[-3:-1] if len(parts) >= 3 else ("", "")
            is_picture = PurePosixPath(member.filename).suffix.lower() in PICTURE_SUFFIXES
            if part not in listed or class_name not in CLASS_NAMES or not is_picture:
                raise BitlensError(
                    f"it holds {member.filename!r}, expected pictures as {{train,test}}/<class of CIFAR-10>/*.jpg: "
                    "remove it"
                )
            if member.file_size > _LARGEST_MEMBER:
                raise BitlensError(
                    f"{member.filename!r} unpacks to {member.file_size} bytes, expected at most {_LARGEST_MEMBER}: "
                    "not a picture of CIFAR-10"
                )
            listed[part].append(_ZippedPicture(member, CLASS_NAMES.index(class_name)))
        for part, pictures in listed.items():
            if not 0 < len(pictures) <= _LARGEST_COUNT:
                raise BitlensError(f"it holds {len(pictures)} pictures to {part}, expected 1..{_LARGEST_COUNT}")
            pictures.sort(key=lambda picture: (picture.label, picture.member.filename))
    return listed


def _zip_contents(archive: Path, pictures: Sequence[_ZippedPicture]) -> Iterator[EncodedPicture]:
    try:
        opened = zipfile.ZipFile(archive)
    except (OSError, zipfile.BadZipFile) as error:
        raise BitlensError(f"{archive} is no longer a sound zip file ({error}): copy it again") from error
    with opened:
        for picture in pictures:
            where = f"{archive}: {picture.member.filename}"
            try:
                with opened.open(picture.member) as stream:
                    content = stream.read(_LARGEST_MEMBER)
            # RuntimeError: a password is wanted; NotImplementedError: an unknown compression.
            except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
                raise BitlensError(f"{where} is damaged ({error}): copy the zip again") from error
            yield EncodedPicture(where, picture.label, content)


def _check_name(name: str) -> None:
    """Refuse names that point out of the archive: they are never followed, but nothing sound holds one."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise BitlensError(f"it holds {name!r}, which points out of the archive: take it from its official place")


def _open_folder(folder: Path, report: Report) -> SplitDataset:
    check_decoder()
    for part in (TRAIN, TEST):
        if not (folder / part).is_dir():
            raise BitlensError(
                f"{folder} has no folder {part}: expected CIFAR-10's binary version, or pictures as "
                f"{{train,test}}/<class>/*, in the folder that {DATA_VARIABLE} names"
            )
    files = {part: class_pictures(folder / part, CLASS_NAMES) for part in (TRAIN, TEST)}

    def read(part: str) -> ImageDataset:
        return read_pictures(files[part], CLASS_NAMES, IMAGE_SIDE, report, resize=False)

    return _split_dataset(read)
