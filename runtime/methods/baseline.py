"""The image that stands for nothing: where Integrated Gradients begins."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from bitlens.runtime.gaussian import gaussian_blurred
from bitlens.runtime.noise import uniform
from bitlens.runtime.table import row_of

Float64 = npt.NDArray[np.float64]

BLUR = 0.1
"""Standard deviation of the blur, as a share of the image's shorter side: shapes go, colours stay."""


def zero(x: Float64, seed: int) -> Float64:
    """Give black."""
    return np.zeros_like(x)


def blur(x: Float64, seed: int) -> Float64:
    """Blur the image itself (C, H, W), strongly."""
    return gaussian_blurred(x, BLUR * min(x.shape[1:]))


def noise(x: Float64, seed: int) -> Float64:
    """Draw uniform noise between 0 and 1, each channel its own."""
    return uniform(x.shape, seed=seed, stream=(0,)).astype(np.float64)


BASELINES: dict[str, Callable[[Float64, int], Float64]] = {"zero": zero, "blur": blur, "noise": noise}


def baseline_of(name: str, x: Float64, seed: int) -> Float64:
    """Give the baseline of that name for an image x (C, H, W).

    Raises
    ------
    BitlensError
        If there is none of that name.
    """
    return row_of(BASELINES, "baseline", name)(x, seed)
