"""Gradient, and gradient times input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from bitlens.runtime.engines import Engine
from bitlens.runtime.image import CODES_PER_UNIT, program_input
from bitlens.runtime.methods.registry import one_gradient, register_method
from bitlens.runtime.program import Array
from bitlens.runtime.subject import batches, checked_seeds
from bitlens.runtime.thresholds import Interval

Float32 = npt.NDArray[np.float32]


def input_gradients(
    engine: Engine,
    images: Array,
    targets: Sequence[int],
    windows: Mapping[str, Interval] | None,
    guided: bool,
) -> Float32:
    """Compute input gradients float32 (N, C, H, W), at most `IMAGES_AT_ONCE` images at a time."""
    given, seeds = checked_seeds(engine, images, targets)
    parts = [
        engine.gradient(given[part], seeds[part], windows=windows, guided=guided).input_gradient
        for part in batches(len(given))
    ]
    return np.concatenate(parts)


@register_method(
    "gradient",
    title="Gradient",
    paper="Simonyan et al., 1312.6034",
    cost=one_gradient,
    signed=True,
    meaning="How the class score would move with each pixel: red up, blue down.",
)
def gradient(
    engine: Engine, images: Array, targets: Sequence[int], *, windows: Mapping[str, Interval] | None = None
) -> Float32:
    """Compute d logit[target] / d x (Simonyan et al., 1312.6034, eq. 3), signed, every channel.

    Parameters
    ----------
    engine : Engine
    images : array (N, C, H, W)
        Codes or x, see `Engine.forward`.
    targets : sequence of int
        One class per image.
    windows : mapping, optional
        Straight-through windows in place of the trained ones, see `Engine.gradient`.

    Returns
    -------
    float32 (N, C, H, W)
        Logit per unit of x.

    Raises
    ------
    BitlensError
        If an image, a target or a window does not fit the network.

    Notes
    -----
    Cost: 1 forward and 1 backward pass.
    """
    return input_gradients(engine, images, targets, windows, guided=False)


@register_method(
    "gradient_x_input",
    title="Gradient x input",
    paper="Shrikumar et al., 1605.01713",
    cost=one_gradient,
    signed=True,
    meaning=(
        "What each pixel would add to the class score (red) or take from it (blue) if the network were linear around "
        "this image. Black pixels get zero by construction."
    ),
)
def gradient_x_input(
    engine: Engine, images: Array, targets: Sequence[int], *, windows: Mapping[str, Interval] | None = None
) -> Float32:
    """Compute x * d logit[target] / d x (Shrikumar et al., 1605.01713), in logits.

    Parameters, returns, errors and cost as for `gradient`.
    """
    x = program_input(engine.program, images).astype(np.float32)
    if engine.program.image_type.is_integer:  # x as the network saw it, rounded to whole codes
        x = x / np.float32(CODES_PER_UNIT)
    return x * gradient(engine, images, targets, windows=windows)
