"""What is explained: one image, as the network sees it, and one class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitlens.runtime.engines import Engine, one_hot
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.image import nearest_input, program_input, real_values
from bitlens.runtime.program import Array
from bitlens.runtime.thresholds import Interval

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

IMAGES_AT_ONCE = 32
"""Largest batch that a method hands to an engine: it bounds the memory, whatever the number of images or samples."""


@dataclass(frozen=True)
class Subject:
    """One image and the class it is explained for.

    Parameters
    ----------
    x : float64 (C, H, W)
        The image as the network sees it: code / 255 of whole codes, or the twin's float32.
    target : int
    """

    x: Float64
    target: int


def checked_seeds(engine: Engine, images: Array, targets: Sequence[int]) -> tuple[Array, Float32]:
    """Check images and targets; give what the program reads (N, C, H, W), and one-hot seeds (N, classes).

    Raises
    ------
    BitlensError
        If an image does not fit, a target is no class, or there is not one target per image.
    """
    given = program_input(engine.program, images)
    seeds = one_hot(targets, engine.classes)
    if len(seeds) != len(given):
        raise BitlensError(f"there are {len(given)} images and {len(seeds)} targets: give one target per image")
    return given, seeds


def subjects(engine: Engine, images: Array, targets: Sequence[int]) -> list[Subject]:
    """Check images and targets, and pair them.

    Raises
    ------
    BitlensError
        As `checked_seeds`.
    """
    given, seeds = checked_seeds(engine, images, targets)
    x = real_values(engine.program, given)
    return [Subject(one, int(target)) for one, target in zip(x, seeds.argmax(axis=1), strict=True)]


def batches(count: int) -> Iterator[range]:
    """Cut 0..count-1 into ranges of at most `IMAGES_AT_ONCE`, always in the same places."""
    for start in range(0, count, IMAGES_AT_ONCE):
        yield range(start, min(start + IMAGES_AT_ONCE, count))


def seen(engine: Engine, x: Float64) -> Float64:
    """Give x (N, C, H, W) as the network would see it: rounded to whole codes, or to float32."""
    return real_values(engine.program, nearest_input(engine.program, x))


def gradients_at(engine: Engine, x: Float64, target: int, *, windows: Mapping[str, Interval] | None = None) -> Float64:
    """Compute d logit[target] / d x at at most `IMAGES_AT_ONCE` points x (M, C, H, W); cost: M of each pass."""
    seeds = one_hot([target] * len(x), engine.classes)
    got = engine.gradient(nearest_input(engine.program, x), seeds, windows=windows)
    return got.input_gradient.astype(np.float64)


def logits_at(engine: Engine, x: Float64) -> Float64:
    """Compute the logits (M, classes) at at most `IMAGES_AT_ONCE` points x (M, C, H, W); cost: M forward passes."""
    return engine.forward(nearest_input(engine.program, x)).astype(np.float64)


def logits_near(engine: Engine, x: Float64, others: Float64) -> Float64:
    """Compute the logits (M, classes) at `others` (M, C, H, W), which differ from x (C, H, W) in a part.

    As `logits_at`, bit for bit; an engine that can computes again only what the difference reaches.
    """
    base, near = nearest_input(engine.program, x[None])[0], nearest_input(engine.program, others)
    return engine.forward_near(base, near).astype(np.float64)


def softmax(logits: Float64) -> Float64:
    """Turn logits (M, classes) into probabilities, each row by itself, so that none depends on the batch."""
    powers = [np.exp(row - row.max()) for row in logits]
    return np.stack([row / row.sum() for row in powers])
