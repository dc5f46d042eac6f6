"""The held-out images that are explained after every epoch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from bitlens.runtime.errors import BitlensError
from bitlens.train.datasets import ImageDataset, stratified_split

MOST_SHOWN = 8
MOST_MEASURED = 128
_MOST_PIXELS = 2**24  # of all measured maps together: 64 MiB per method


@dataclass(frozen=True)
class WatchedImages:
    """Fixed for the whole run.

    Parameters
    ----------
    data : ImageDataset
        Each is explained for the class of its label, in every epoch and on the twin: a predicted class would change
        as the network learns, and maps of two classes are not to be compared.
    shown : int
        The first so many have a picture, one per class; the numbers are over all of them.
    """

    data: ImageDataset
    shown: int


def watched_images(held_out: ImageDataset, seed: int) -> WatchedImages:
    """Choose the images of a run.

    Parameters
    ----------
    held_out : ImageDataset
        The held-out part of the training images.
    seed : int
        The run's; the choice depends on nothing else.

    Returns
    -------
    WatchedImages
        At most 128, every class in proportion; the first, one per class, are at most 8.

    Raises
    ------
    BitlensError
        If there is no image, or they are neither grey nor of three colours.
    """
    if not len(held_out):
        raise BitlensError("there is no held-out image to watch: give more training images")
    channels, height, width = held_out.input_shape
    if channels not in (1, 3):
        raise BitlensError(f"expected images with 1 or 3 channels to show, got {channels}: leave --watch out")
    count = min(MOST_MEASURED, len(held_out), max(1, _MOST_PIXELS // (height * width)))
    measured, _ = stratified_split(held_out.labels, count, seed=seed)
    order = measured.numpy()[np.random.Generator(np.random.PCG64(seed)).permutation(count)]
    labels = held_out.labels.numpy()[order]
    _, first_of_class = np.unique(labels, return_index=True)
    # Where there are more classes than pictures, those that come first in the permutation; shown by class.
    chosen = np.sort(first_of_class)[:MOST_SHOWN]
    chosen = chosen[np.argsort(labels[chosen])]
    places = np.concatenate([chosen, np.setdiff1d(np.arange(count), chosen)])
    return WatchedImages(held_out.subset(torch.from_numpy(order[places])), len(chosen))
