"""The data set `digits`: scikit-learn's 1797 handwritten digits, enlarged to 28x28 pixels and split once for all."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from bitlens.runtime.errors import BitlensError

IMAGE_SIDE = 28
TRAINING_IMAGES = 1400
_SPLIT_SEED = 0
_BRIGHTEST = 16  # load_digits counts 0..16


@dataclass(frozen=True)
class ImageDataset:
    """Images with their labels.

    Parameters
    ----------
    images : Tensor
        uint8 codes of shape (N, C, H, W), 0..255; the network sees code / 255.
    labels : Tensor
        int64 of shape (N,), indices into `class_names`.
    class_names : tuple of str
        What each class is called.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def subset(self, indices: Tensor) -> ImageDataset:
        """Give the images at `indices` (int64, shape (M,)), in that order."""
        return ImageDataset(self.images[indices], self.labels[indices], self.class_names)


@dataclass(frozen=True)
class SplitDataset:
    """A data set with its fixed split; the test part takes no part in training or in any choice."""

    train: ImageDataset
    test: ImageDataset


DATASETS: dict[str, Callable[[], SplitDataset]] = {}
"""Every registered data set by name; loading takes no argument and always gives the same images."""


def register_dataset(name: str) -> Callable[[Callable[[], SplitDataset]], Callable[[], SplitDataset]]:
    """Register the decorated loader under `name`.

    Raises
    ------
    BitlensError
        If the name is taken.
    """

    def register(load: Callable[[], SplitDataset]) -> Callable[[], SplitDataset]:
        if name in DATASETS:
            raise BitlensError(f"data set {name!r} is registered already: choose another name")
        DATASETS[name] = load
        return load

    return register


def load_dataset(name: str) -> SplitDataset:
    """Load a registered data set.

    Raises
    ------
    BitlensError
        If there is none of that name.
    """
    if name not in DATASETS:
        raise BitlensError(f"unknown data set {name!r}: choose one of {', '.join(sorted(DATASETS))}")
    return DATASETS[name]()


@register_dataset("digits")
def digits() -> SplitDataset:
    """Load scikit-learn's digits, 8x8 with values 0..16, as 28x28 codes 0..255.

    Enlarged bicubically (corners not aligned), rounded to whole codes, half to even, and clipped.

    Returns
    -------
    SplitDataset
        1400 training and 397 test images, every class in the same proportion in both, drawn with a fixed seed.
    """
    source = load_digits()
    coarse = torch.from_numpy(np.ascontiguousarray(source.images, dtype=np.float64))[:, None] * (255 / _BRIGHTEST)
    fine = functional.interpolate(coarse, size=(IMAGE_SIDE, IMAGE_SIDE), mode="bicubic", align_corners=False)
    images = fine.round().clamp(0, 255).to(torch.uint8)
    labels = torch.from_numpy(np.asarray(source.target, dtype=np.int64))
    everything = ImageDataset(images, labels, tuple(str(name) for name in source.target_names))
    train, test = stratified_split(labels, TRAINING_IMAGES, seed=_SPLIT_SEED)
    return SplitDataset(everything.subset(train), everything.subset(test))


def network_input(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn uint8 codes into what every network is trained on: code / 255, in 0..1, shape unchanged."""
    return images.to(dtype) / 255


def stratified_split(labels: Tensor, first: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Draw `first` of the samples so that every class keeps its share, up to one sample.

    Parameters
    ----------
    labels : Tensor
        int64 of shape (N,).
    first : int
        Size of the first part, 0..N.
    seed : int
        Seed of NumPy's PCG64; the split depends on nothing else.

    Returns
    -------
    tuple of Tensor
        Ascending int64 indices of the two parts, shapes (first,) and (N - first,).

    Raises
    ------
    BitlensError
        If `first` does not lie in 0..N.
    """
    total = len(labels)
    if not 0 <= first <= total:
        raise BitlensError(f"cannot draw {first} of {total} samples: ask for 0..{total}")
    order = np.random.Generator(np.random.PCG64(seed)).permutation(total)
    shuffled = labels.numpy()[order]
    # Each sample's place within its class, as a fraction of the class: the lowest fractions over all classes are
    # every class in proportion.
    place = np.empty(total)
    for label in np.unique(shuffled):
        members = np.flatnonzero(shuffled == label)
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    chosen = order[np.argsort(place, kind="stable")]
    return torch.from_numpy(np.sort(chosen[:first])), torch.from_numpy(np.sort(chosen[first:]))


def shift_and_rotate(
    images: Tensor, generator: torch.Generator, *, pixels: float = 2.0, degrees: float = 10.0
) -> Tensor:
    """Move each image a little, as a training augmentation.

    Parameters
    ----------
    images : Tensor
        uint8 codes of shape (N, C, H, W).
    generator : torch.Generator
        Source of the random moves; the same state gives the same result.
    pixels : float
        Largest shift in x and in y.
    degrees : float
        Largest rotation about the centre, either way.

    Returns
    -------
    Tensor
        uint8 codes of shape (N, C, H, W), interpolated bilinearly and rounded half to even; what moves in is 0.
    """
    count, _, height, width = images.shape
    draw = torch.rand((3, count), generator=generator, dtype=torch.float32) * 2 - 1
    angle = draw[0] * math.radians(degrees)
    cosine, sine = angle.cos(), angle.sin()
    # affine_grid works in units of half the image; the aspect ratio keeps a rotation rigid.
    aspect = height / width
    rows = (
        torch.stack([cosine, -sine * aspect, draw[1] * (2 * pixels / width)], dim=1),
        torch.stack([sine / aspect, cosine, draw[2] * (2 * pixels / height)], dim=1),
    )
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    moved = functional.grid_sample(images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return moved.round().to(torch.uint8)
