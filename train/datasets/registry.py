"""Data sets by name, and how one is opened: lazily, so that training never touches the test part."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TypeAlias

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.table import add_row
from bitlens.train.datasets.image_folder import DEFAULT_SIZE, TRAIN, open_image_folder
from bitlens.train.datasets.split_dataset import Report, SplitDataset

DatasetOpener: TypeAlias = Callable[[Report], SplitDataset]

DATASETS: dict[str, DatasetOpener] = {}
"""Every registered data set by name. An opener finds the files and reads no image; it always gives the same images."""


def register_dataset(name: str) -> Callable[[DatasetOpener], DatasetOpener]:
    """Register the decorated opener under `name`.

    Raises
    ------
    ValueError
        If the name is taken.
    """

    def register(opener: DatasetOpener) -> DatasetOpener:
        return add_row(DATASETS, "data set", name, opener)

    return register


def open_dataset(name: str, *, size: int | None = None, report: Report | None = None) -> SplitDataset:
    """Open a registered data set, or a folder of pictures; nothing is decoded before a part is asked for.

    Parameters
    ----------
    name : str
        A key of `DATASETS`, or the path of a folder `train/<class>/*.jpg` (see `open_image_folder`); where both
        exist the registered one is meant, and `./name` is the folder.
    size : int, optional
        Side of the square that the pictures of a folder are resized to; a registered data set has a size of its own.
    report : callable, optional
        Called with a line of text when something takes long: a download, the decoding of many pictures.

    Returns
    -------
    SplitDataset
        `train()` and `test()` each read their part once and keep it. `open_dataset(data.name,
        size=data.input_shape[1])` gives the same data again.

    Raises
    ------
    BitlensError
        If there is none of that name, its files are missing and cannot be downloaded, or `size` does not suit.
    """
    report = _say_nothing if report is None else report
    if name in DATASETS:
        opened = DATASETS[name](report)
        _, height, width = opened.input_shape
        if size is not None and (size, size) != (height, width):
            raise BitlensError(
                f"{name} has images of {height}x{width} pixels, so its size cannot be {size}: a size is for a folder"
            )
    elif os.sep in name or Path(name).is_dir():
        opened = open_image_folder(Path(name), DEFAULT_SIZE if size is None else size, report)
    else:
        raise BitlensError(
            f"unknown data set {name!r}: choose one of {', '.join(sorted(DATASETS))}, "
            f"or give a folder that holds {TRAIN}/<class>/*.jpg"
        )
    return replace(opened, train=cache(opened.train), test=cache(opened.test))


def _say_nothing(line: str) -> None:
    del line
