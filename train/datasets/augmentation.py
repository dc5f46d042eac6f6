"""Augmentations: small random changes of a batch of uint8 images, after which the label is still right.

Each is a function of a batch and a generator; whole batches are moved at once, so that the trainer never waits.
What a data set uses is its `SplitDataset.augment`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from bitlens.runtime.errors import BitlensError

Augmentation: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]
"""(uint8 (N, C, H, W), generator) -> uint8 (N, C, H, W), a tensor of its own; the same state gives the same result."""


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


def shift_and_flip(images: Tensor, generator: torch.Generator, *, pixels: int) -> Tensor:
    """Shift each image by whole pixels and mirror every second one, left to right, on average.

    The same as a random crop of H x W from the image with a black border of `pixels` on every side.

    Parameters
    ----------
    images : Tensor
        uint8 codes of shape (N, C, H, W).
    generator : torch.Generator
        Source of the random moves; the same state gives the same result.
    pixels : int
        Largest shift in x and in y, at least 0; every whole shift is equally likely.

    Returns
    -------
    Tensor
        uint8 codes of shape (N, C, H, W); what moves in is 0.

    Raises
    ------
    BitlensError
        If `pixels` is negative.
    """
    if pixels < 0:
        raise BitlensError(f"pixels must be at least 0, got {pixels}: give the largest shift")
    count, channels, height, width = images.shape
    top, left = torch.randint(0, 2 * pixels + 1, (2, count), generator=generator)
    mirrored = torch.rand(count, generator=generator) < 0.5
    across = torch.arange(width)
    rows = top[:, None] + torch.arange(height)
    columns = left[:, None] + torch.where(mirrored[:, None], across.flip(0), across)
    bordered = functional.pad(images, (pixels, pixels, pixels, pixels))
    # One gather over flat planes is 2 to 4 times as fast as indexing rows and columns, or a loop over the images.
    places = (rows[:, :, None] * (width + 2 * pixels) + columns[:, None, :]).view(count, 1, height * width)
    moved = bordered.flatten(2).gather(2, places.expand(-1, channels, -1))
    return moved.view(count, channels, height, width)
