"""The data set `digits`: scikit-learn's 1797 handwritten digits, enlarged to 28x28 pixels and split once for all."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bitlens.train.datasets.augmentation import shift_and_rotate
from bitlens.train.datasets.image_dataset import ImageDataset
from bitlens.train.datasets.registry import register_dataset
from bitlens.train.datasets.split import stratified_split
from bitlens.train.datasets.split_dataset import Report, SplitDataset

IMAGE_SIDE = 28
TRAINING_IMAGES = 1400
CLASS_NAMES = tuple("0123456789")
_SPLIT_SEED = 0
_BRIGHTEST = 16  # load_digits counts 0..16


@register_dataset("digits")
def open_digits(report: Report) -> SplitDataset:
    """Open scikit-learn's digits, 8x8 with values 0..16, as 28x28 codes 0..255; they come with scikit-learn.

    Enlarged bicubically (corners not aligned), rounded to whole codes, half to even, and clipped.

    Returns
    -------
    SplitDataset
        1400 training and 397 test images, every class in the same proportion in both, drawn with a fixed seed.
    """
    del report  # nothing here takes long
    return SplitDataset(
        "digits",
        (1, IMAGE_SIDE, IMAGE_SIDE),
        CLASS_NAMES,
        train=lambda: _part(0),
        test=lambda: _part(1),
        augment=shift_and_rotate,
    )


def _part(index: int) -> ImageDataset:
    from sklearn.datasets import load_digits  # half a second, which the other data sets need not wait

    source = load_digits()
    labels = torch.from_numpy(np.asarray(source.target, dtype=np.int64))
    chosen = stratified_split(labels, TRAINING_IMAGES, seed=_SPLIT_SEED)[index]
    return ImageDataset(_enlarged(source.images[chosen.numpy()]), labels[chosen], CLASS_NAMES)


def _enlarged(images: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Tensor:
    coarse = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float64))[:, None] * (255 / _BRIGHTEST)
    fine = functional.interpolate(coarse, size=(IMAGE_SIDE, IMAGE_SIDE), mode="bicubic", align_corners=False)
    return fine.round().clamp(0, 255).to(torch.uint8)
