"""The softmax probability of one class on variants of one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitlens.runtime.engines import Engine

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Probability:
    """How likely a network holds a class, and how likely any other.

    Parameters
    ----------
    target, others : float64 (M,)
        Each computed by itself: near certainty 1 - target would have lost its digits.
    """

    target: Float64
    others: Float64


def probability(engine: Engine, x: Float64, target: int) -> Probability:
    """Ask a network about variants x (M, C, H, W) of one image, in one batch; cost: M forward passes.

    For a quantized network x is rounded to whole codes, as every image is.
    """
    logits = engine.forward(x).astype(np.float64)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return Probability(shares[:, target], np.delete(shares, target, axis=1).sum(axis=1))
