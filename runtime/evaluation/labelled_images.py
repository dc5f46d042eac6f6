"""Images with their classes, to evaluate on: from an `.npz`, a folder of pictures, or a data set by name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt

from bitlens.runtime.array_file import read_arrays
from bitlens.runtime.errors import BitlensError, MissingExtraError, context
from bitlens.runtime.image import read_image
from bitlens.runtime.program import Array
from bitlens.runtime.resize import RULE
from bitlens.runtime.stratified import stratified_order

DATA_GROUP = "bitlens.evaluation_images"
"""Entry points: modules with NEEDS, `names()` and `open_evaluation_images(name)`, because runtime imports no data."""

ARRAYS = ".npz"
PICTURES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class LabelledImages:
    """Images with their classes.

    Parameters
    ----------
    name : str
        Where they come from, for the person who reads the result.
    images : uint8 (N, C, H, W)
        Codes.
    labels : int64 (N,)
        Class of each.
    places : int64 (N,)
        Where each stood in its source; a random map hangs on it, so that it is the same however many are chosen.
    """

    name: str
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: npt.NDArray[np.int64] | slice) -> LabelledImages:
        """Give the images at `indices`, in that order."""
        return LabelledImages(self.name, self.images[indices], self.labels[indices], self.places[indices])

    def chosen(self, count: int | None, seed: int) -> LabelledImages:
        """Choose `count` of them, all for None, so that every class has its share; the first k are those of any count.

        Raises
        ------
        BitlensError
            If there are not so many.
        """
        if count is None:
            count = len(self)
        if not 1 <= count <= len(self):
            raise BitlensError(f"--images is {count}, expected 1 to {len(self)}, which {self.name} has")
        return self.subset(stratified_order(self.labels, seed=seed)[:count])


def labelled(name: str, images: Array, labels: Array) -> LabelledImages:
    """Check arrays from outside.

    Raises
    ------
    BitlensError
        If they are not uint8 (N, C, H, W) and whole numbers (N,) from 0 on, N at least 1.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise BitlensError(
            f"images is {images.dtype} of shape {images.shape}, expected uint8 codes of shape (N, C, H, W), "
            "N at least 1"
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1] or labels.min() < 0:
        raise BitlensError(
            f"labels is {labels.dtype} of shape {labels.shape}, expected one class number from 0 on for each of the "
            f"{len(images)} images"
        )
    return LabelledImages(name, images, labels.astype(np.int64), np.arange(len(labels), dtype=np.int64))


def announced_names() -> tuple[str, ...]:
    """List the data sets that --data knows by name on this machine."""
    return tuple(name for module in _announced() if _missing_need(module) is None for name in module.names())


def open_labelled_images(
    what: str, shape: tuple[int, ...], labels: tuple[str, ...], *, rule: str = RULE
) -> LabelledImages:
    """Open what --data names.

    Parameters
    ----------
    what : str
        A data set by name (its test part), an `.npz` with `images` and `labels`, or a folder `<class>/*.png|jpg` of
        pictures of any size. Where a name and a folder both exist the data set is meant; `./name` is
        the folder.
    shape : tuple of int
        (C, H, W) of the network.
    labels : tuple of str
        Its classes, if it names them: the folders of a folder are then looked up among them, else counted in
        alphabetical order.
    rule : str
        Name of the rule by which the network wants the pictures of a folder prepared.

    Raises
    ------
    BitlensError
        If it is none of them, cannot be read, or does not fit the network.
    """
    found = _opened(what, shape, labels, rule)
    if found.images.shape[1:] != shape:
        raise BitlensError(
            f"{what} has images of {'x'.join(map(str, found.images.shape[1:]))}, the network takes "
            f"{'x'.join(map(str, shape))}: choose the data it was trained on"
        )
    return found


def _opened(what: str, shape: tuple[int, ...], labels: tuple[str, ...], rule: str) -> LabelledImages:
    path = Path(what)
    missing: list[ModuleType] = []
    if os.sep not in what and path.suffix != ARRAYS:  # a path is no name, and asking for names imports torch
        for module in _announced():
            if _missing_need(module) is not None:
                missing.append(module)
            elif what in module.names():
                opened: tuple[Array, Array] = module.open_evaluation_images(what)
                return labelled(what, *opened)
    if path.is_dir():
        return _from_folder(path, shape, labels, rule)
    if path.suffix == ARRAYS:
        arrays = read_arrays(path, ("images", "labels"))
        with context(what):
            return labelled(path.name, arrays["images"], arrays["labels"])
    for module in missing:
        need = _missing_need(module)
        assert need is not None
        raise MissingExtraError(f"--data {what}, a data set by its name,", *need)
    known = ", ".join(announced_names())
    raise BitlensError(f"--data {what} is no data set ({known}), no folder and no .npz file: give one of them")


def _announced() -> Iterator[ModuleType]:
    for entry in sorted(entry_points(group=DATA_GROUP)):
        yield entry.load()


def _missing_need(module: ModuleType) -> tuple[str, str] | None:
    return next((need for need in module.NEEDS if find_spec(need[0]) is None), None)


def _from_folder(folder: Path, shape: tuple[int, ...], labels: tuple[str, ...], rule: str) -> LabelledImages:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if not names:
        raise BitlensError(f"{folder} holds no folder per class: expected <class>/*.png or *.jpg")
    foreign = [name for name in names if labels and name not in labels]
    if foreign:
        raise BitlensError(
            f"{folder / foreign[0]} is no class of the network, which has {', '.join(labels)}: rename it"
        )
    images, classes = [], []
    for place, name in enumerate(names):
        for path in sorted(each for each in (folder / name).iterdir() if each.suffix.lower() in PICTURES):
            images.append(read_image(path, shape, rule=rule)[0])
            classes.append(labels.index(name) if labels else place)
    if not images:
        raise BitlensError(f"{folder} holds no picture: expected <class>/*.png or *.jpg")
    return labelled(folder.resolve().name, np.stack(images), np.array(classes, np.int64))
