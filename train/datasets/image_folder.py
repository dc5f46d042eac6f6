"""Any folder of pictures as a data set: `train/<class>/*.jpg`, and `test/<class>/*.jpg` if there is one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from bitlens.runtime.bounded_file import read_at_most
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.picture_file import check_decoder
from bitlens.train.datasets.augmentation import shift_and_flip
from bitlens.train.datasets.decoding import (
    CHANNELS,
    PICTURE_SUFFIXES,
    EncodedPicture,
    decode_pictures,
)
from bitlens.train.datasets.image_dataset import ImageDataset
from bitlens.train.datasets.split import stratified_split
from bitlens.train.datasets.split_dataset import Report, SplitDataset

TRAIN, TEST = "train", "test"
DEFAULT_SIZE = 64
SIZES = range(8, 1025)
HELD_OUT = 0.2
"""Share of the pictures that becomes the test part where there is no folder `test`."""
LARGEST_FILE = 2**26
_SPLIT_SEED = 0
_LITTER = frozenset(("thumbs.db", "desktop.ini"))


@dataclass(frozen=True)
class PictureFile:
    """A picture on disk with the index of its class."""

    path: Path
    label: int


def open_image_folder(folder: Path, size: int, report: Report) -> SplitDataset:
    """Open a folder of pictures; they are listed, none is read.

    Parameters
    ----------
    folder : Path
        Holds `train/<class>/` with at least two classes, each with at least one picture, and `test/<class>/` with
        some of these classes. Without `test`, a fifth of the pictures of each class, drawn with a fixed seed, is
        held out instead. The classes are numbered in the order of their names.
    size : int
        Side that every picture is cropped and resized to, 8..1024.
    report : callable
        Called with a line every few seconds while pictures are decoded.

    Returns
    -------
    SplitDataset
        RGB images of shape (3, size, size), see `decode_picture` and `bitlens.runtime.resize`.

    Raises
    ------
    BitlensError
        If a folder is missing or empty, there is one class only, or a file is no picture; the message names it.
    """
    if size not in SIZES:
        raise BitlensError(f"the size must lie in {SIZES[0]}..{SIZES[-1]} pixels, got {size}: try {DEFAULT_SIZE}")
    check_decoder()
    folder = Path(folder).resolve()
    if not (folder / TRAIN).is_dir():
        raise BitlensError(f"{folder} has no folder {TRAIN}: expected pictures as {TRAIN}/<class>/*.jpg")
    classes = _listed(folder / TRAIN)
    for name, paths in classes.items():
        if not paths:
            raise BitlensError(f"{folder / TRAIN / name} holds no picture: add some, or remove the folder")
    if len(classes) < 2:
        raise BitlensError(f"{folder / TRAIN} has {len(classes)} class folders, expected at least 2: add another class")
    class_names = tuple(classes)
    train = [PictureFile(path, label) for label, name in enumerate(class_names) for path in classes[name]]
    if (folder / TEST).is_dir():
        test = _listed_test(folder / TEST, class_names)
    else:
        train, test = _held_out(train, class_names, folder)
    return SplitDataset(
        str(folder),
        (CHANNELS, size, size),
        class_names,
        train=partial(read_pictures, train, class_names, size, report, resize=True),
        test=partial(read_pictures, test, class_names, size, report, resize=True),
        augment=partial(shift_and_flip, pixels=size // 8),
    )


def read_pictures(
    files: Sequence[PictureFile], class_names: tuple[str, ...], size: int, report: Report, *, resize: bool
) -> ImageDataset:
    """Read and decode the files, in their order; see `decode_pictures`."""
    return decode_pictures(_read(files), len(files), class_names, size, report, resize=resize)


def _read(files: Sequence[PictureFile]) -> Iterator[EncodedPicture]:
    for file in files:
        content = read_at_most(file.path, LARGEST_FILE, "repair or remove it", what="the picture")
        yield EncodedPicture(str(file.path), file.label, content)


def _entries(folder: Path) -> list[Path]:
    """List a folder in the order of the names, without what systems leave behind."""
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise BitlensError(f"cannot look into {folder} ({error.strerror}): make it readable") from error
    return [path for path in found if not path.name.startswith(".") and path.name.lower() not in _LITTER]


def _listed(part: Path) -> dict[str, list[Path]]:
    """List the pictures of each class, in the order of the names."""
    classes: dict[str, list[Path]] = {}
    for place in _entries(part):
        if not place.is_dir():
            raise BitlensError(f"{place} is not a folder: put pictures into {part}/<class>")
        if not place.name.isprintable():
            raise BitlensError(f"{part} has a class folder {place.name!r}: rename it to something printable")
        classes[place.name] = _entries(place)
        for path in classes[place.name]:
            if path.suffix.lower() not in PICTURE_SUFFIXES or not path.is_file():
                raise BitlensError(
                    f"{path} is not a picture file ({' '.join(sorted(PICTURE_SUFFIXES))}): convert or remove it"
                )
    return classes


def _listed_test(part: Path, class_names: tuple[str, ...]) -> list[PictureFile]:
    files = []
    for name, paths in _listed(part).items():
        if name not in class_names:
            raise BitlensError(f"{part / name} is a class without training pictures: add some, or remove the folder")
        files += [PictureFile(path, class_names.index(name)) for path in paths]
    if not files:
        raise BitlensError(f"{part} holds no picture: add some, or remove it to have a part of {TRAIN} held out")
    return files


def _held_out(
    files: Sequence[PictureFile], class_names: tuple[str, ...], folder: Path
) -> tuple[list[PictureFile], list[PictureFile]]:
    """Split off the test part."""
    labels = torch.tensor([file.label for file in files])
    first = min(round(len(files) * (1 - HELD_OUT)), len(files) - 1)
    train, test = (
        [files[index] for index in part.tolist()] for part in stratified_split(labels, first, seed=_SPLIT_SEED)
    )
    kept = {file.label for file in train}
    for label, name in enumerate(class_names):
        if label not in kept:
            raise BitlensError(
                f"{folder / TRAIN / name} has too few pictures to hold a test part out: "
                f"add some, or give a folder {folder / TEST}"
            )
    return train, test


def class_pictures(part: Path, class_names: tuple[str, ...]) -> list[PictureFile]:
    """List the pictures of a part whose classes are known beforehand.

    Raises
    ------
    BitlensError
        If the class folders are not just these, or one is empty.
    """
    classes = _listed(part)
    for name in class_names:
        if not classes.get(name):
            raise BitlensError(f"{part / name} holds no picture, expected some of every class: complete the folder")
    for name in classes:
        if name not in class_names:
            raise BitlensError(f"{part / name} is not one of the classes {', '.join(class_names)}: remove the folder")
    return [PictureFile(path, label) for label, name in enumerate(class_names) for path in classes[name]]
