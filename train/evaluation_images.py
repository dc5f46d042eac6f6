"""Test parts by name, announced to `bitlens evaluate`, which imports neither torch nor this room."""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

NEEDS = (("torch", "train"), ("sklearn", "train"))


def names() -> tuple[str, ...]:
    """List the registered data sets; cost: importing torch."""
    from bitlens.train.datasets import DATASETS

    return tuple(sorted(DATASETS))


def open_evaluation_images(name: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Read the test part of a registered data set.

    Returns
    -------
    images : uint8 array, shape (N, C, H, W)
    labels : int64 array, shape (N,)

    Raises
    ------
    BitlensError
        If there is none of that name, or its files are missing and cannot be downloaded.
    """
    from bitlens.train.datasets import open_dataset

    part = open_dataset(name, report=lambda line: print(line, file=sys.stderr)).test()
    return part.images.numpy(), part.labels.numpy()
