"""A data set with its fixed split, each part read only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from bitlens.train.datasets.augmentation import Augmentation
from bitlens.train.datasets.image_dataset import ImageDataset

Report: TypeAlias = Callable[[str], None]
"""Takes a line of text for a person who waits."""


@dataclass(frozen=True)
class SplitDataset:
    """A data set with its fixed split; the test part takes no part in training or in any choice.

    Parameters
    ----------
    name : str
        What opens it again: a registered name, or the absolute path of a folder.
    input_shape : tuple of int
        (C, H, W) of one image.
    class_names : tuple of str
        What each class is called.
    train : callable
        Reads the training part.
    test : callable
        Reads the test part. Only the last evaluation calls it; `train` reads none of its images.
    augment : callable
        The random changes that suit these images.
    """

    name: str
    input_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    train: Callable[[], ImageDataset]
    test: Callable[[], ImageDataset]
    augment: Augmentation
