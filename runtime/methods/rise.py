"""RISE: random masks, averaged by the probability of the class under each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bitlens.runtime.bilinear import resized_bilinear
from bitlens.runtime.bounds import expect_at_least
from bitlens.runtime.engines import Engine
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.methods.option import Value
from bitlens.runtime.methods.registry import Passes, register_method
from bitlens.runtime.noise import uniform
from bitlens.runtime.program import Array, Program
from bitlens.runtime.subject import batches, logits_at, softmax, subjects

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


def _cost(program: Program, *, masks: int, **options: Value) -> Passes:
    return Passes(masks, 0)


def rise_mask(height: int, width: int, grid: int, p1: float, *, seed: int, sample: int) -> Float64:
    """Draw one mask: a grid of 0 and 1, enlarged bilinearly to one cell more than the image, cut at a random place.

    Parameters
    ----------
    height, width : int
        Of the image.
    grid : int
        Cells along each side of the image.
    p1 : float
        Probability that a cell is 1.
    seed, sample : int
        Choose the stream of noise.

    Returns
    -------
    float64 (height, width)
        From 0 to 1.
    """
    draws = uniform((grid * grid + 2,), seed=seed, stream=(sample,)).astype(np.float64)
    cells = (draws[2:].reshape(1, 1, grid, grid) < p1).astype(np.float32)
    rows, columns = math.ceil(height / grid), math.ceil(width / grid)  # pixels of a cell
    large = resized_bilinear(cells, (grid + 1) * rows, (grid + 1) * columns)[0, 0]
    top, left = int(draws[0] * rows), int(draws[1] * columns)
    mask: Float64 = large[top : top + height, left : left + width].astype(np.float64)
    return mask


@register_method(
    "rise",
    title="RISE",
    paper="Petsiuk et al., 1806.07421",
    cost=_cost,
    needs_gradient=False,
    signed=False,
    shown_from="minimum",
    meaning=(
        "How probable the class is, on average, when the place is visible and random other parts are black. Bright is "
        "only relative: the picture begins at the map's smallest value, which is far from zero. It measures the "
        "network itself, no surrogate, and is grainy with few masks."
    ),
    options={
        "masks": "random masks; the paper has 4000",
        "grid": "cells of a mask along each side of the image",
        "p1": "probability that a cell is visible",
        "seed": "of the masks",
    },
)
def rise(
    engine: Engine,
    images: Array,
    targets: Sequence[int],
    *,
    masks: int = 1000,
    grid: int = 7,
    p1: float = 0.5,
    seed: int = 0,
) -> Float32:
    """Average random masks by the class's probability: 1 / (N p1) sum_i f(x * M_i) M_i (Petsiuk et al., 1806.07421).

    f is the softmax probability of the target; grid 7 and p1 0.5 are the paper's. The number of masks is a quarter of
    the paper's smallest (4000, for VGG16), at twice its sampling error.

    Parameters
    ----------
    engine : Engine
    images : array (N, C, H, W)
        Codes or x, see `Engine.forward`.
    targets : sequence of int
        One class per image.
    masks : int
        N, at least 1. Every image is seen through the same masks.
    grid : int
        Cells along each side, at least 1 and not more than there are pixels.
    p1 : float
        Probability that a cell is visible, above 0 and up to 1.
    seed : int
        Of the masks.

    Returns
    -------
    float32 (N, 1, H, W)
        Not negative.

    Raises
    ------
    BitlensError
        If an image, a target or an option does not fit.

    Notes
    -----
    Cost: N forward passes. Hidden is black, x = 0; a quantized network sees the masked image in whole codes.
    """
    expect_at_least("masks", masks, 1)
    expect_at_least("grid", grid, 1)
    if grid > min(engine.program.image_type.shape[1:]):
        raise BitlensError(f"grid is {grid}, the image smaller: expected cells of at least one pixel")
    if not 0.0 < p1 <= 1.0:
        raise BitlensError(f"p1 is {p1}, expected a probability above 0")
    explained = subjects(engine, images, targets)
    height, width = engine.program.image_type.shape[1:]
    totals = np.zeros((len(explained), 1, height, width))
    for part in batches(masks):
        drawn = np.stack([rise_mask(height, width, grid, p1, seed=seed, sample=sample) for sample in part])[:, None]
        for total, subject in zip(totals, explained, strict=True):
            scores = softmax(logits_at(engine, drawn * subject.x))[:, subject.target]
            total += (scores[:, None, None, None] * drawn).sum(axis=0)
    return (totals / (masks * p1)).astype(np.float32)
