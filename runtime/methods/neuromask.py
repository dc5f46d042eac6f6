"""NeuroMask: the smallest smooth mask through which the network still sees the class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitlens.runtime.bounds import expect_above, expect_at_least
from bitlens.runtime.engines import Engine
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.image import nearest_input
from bitlens.runtime.methods.option import Value
from bitlens.runtime.methods.registry import Passes, register_method
from bitlens.runtime.noise import uniform
from bitlens.runtime.program import Array, Program
from bitlens.runtime.subject import IMAGES_AT_ONCE, Subject, logits_at, softmax, subjects
from bitlens.runtime.thresholds import Interval

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

DECAY, STABILISER = 0.9, 1e-7
"""Of RMSProp's mean square, and what is added to its root; Keras' defaults."""

TOLERANCE = 1e-3
"""Share by which the loss must fall for an iteration to count as progress."""


def _cost(program: Program, *, iterations: int, **options: Value) -> Passes:
    return Passes(2 * iterations, iterations, at_most=True)


@dataclass(frozen=True)
class Weights:
    """Weights of the three terms of the loss, and the temperature."""

    l_pred: float
    l_sparse: float
    l_spatial: float
    temperature: float
    weight_limit: float


@dataclass
class _Search:
    """One image's mask, being optimised."""

    subject: Subject
    w: Float64
    mean_square: Float64
    best: Float64
    lowest: float = np.inf
    reference: float = np.inf  # the loss from which progress is counted
    idle: int = 0


def _mask(w: Float64, temperature: float) -> Float64:
    mask: Float64 = 1.0 / (1.0 + np.exp(-w / temperature))
    return mask


def _roughness(w: Float64) -> Float64:
    """Correlate w (H, W) with the 3x3 kernel of centre 8 and -1 around it, without padding: (H - 2, W - 2)."""
    height, width = w.shape
    around = sum(w[top : top + height - 2, left : left + width - 2] for top in range(3) for left in range(3))
    rough: Float64 = 9.0 * w[1:-1, 1:-1] - around
    return rough


def regulariser(w: Float64, weights: Weights) -> tuple[float, Float64]:
    """Compute l_sparse * mean|w + limit| + l_spatial * mean((K * w)^2), and its gradient (H, W)."""
    distance = w + weights.weight_limit
    rough = _roughness(w)
    loss = weights.l_sparse * np.abs(distance).mean() + weights.l_spatial * np.square(rough).mean()
    slope = weights.l_sparse * np.sign(distance) / w.size
    # The kernel is symmetric, so its transpose is the same kernel over the map with zeros around it.
    slope = slope + weights.l_spatial * 2.0 / rough.size * _roughness(np.pad(rough, 2))
    return float(loss), slope


def _advance(
    engine: Engine, searches: list[_Search], weights: Weights, windows: Mapping[str, Interval] | None
) -> list[tuple[float, Float64]]:
    """Loss and its gradient with respect to w, for each search."""
    masks = [_mask(search.w, weights.temperature) for search in searches]
    masked = np.stack([search.subject.x * mask for search, mask in zip(searches, masks, strict=True)])
    chances = softmax(logits_at(engine, masked))
    seeds = chances.copy()
    for seed, search in zip(seeds, searches, strict=True):
        seed[search.subject.target] -= 1.0  # d cross-entropy / d logits = softmax - one-hot
    slopes = engine.gradient(nearest_input(engine.program, masked), seeds, windows=windows).input_gradient
    results = []
    for search, mask, chance, slope in zip(searches, masks, chances, slopes, strict=True):
        loss, direction = regulariser(search.w, weights)
        entropy = -np.log(max(float(chance[search.subject.target]), np.finfo(np.float64).tiny))
        by_mask = (slope.astype(np.float64) * search.subject.x).sum(axis=0)
        by_weight = by_mask * mask * (1.0 - mask) / weights.temperature
        results.append((loss + weights.l_pred * float(entropy), direction + weights.l_pred * by_weight))
    return results


def _descend(search: _Search, loss: float, slope: Float64, learning_rate: float) -> None:
    if loss < search.lowest:
        search.lowest, search.best = loss, search.w
    if loss < search.reference - TOLERANCE * abs(search.reference) or not np.isfinite(search.reference):
        search.reference, search.idle = loss, 0
    else:
        search.idle += 1
    search.mean_square = DECAY * search.mean_square + (1.0 - DECAY) * slope**2
    search.w = search.w - learning_rate * slope / (np.sqrt(search.mean_square) + STABILISER)


@register_method(
    "neuromask",
    title="NeuroMask",
    paper="Alzantot et al., 1908.04389",
    cost=_cost,
    signed=False,
    meaning=(
        "The parts of the image that were left visible by a search for a small, smooth mask under which the network "
        "still gives the class: 1 visible, 0 black. One such mask of many; another seed may find another."
    ),
    options={
        "l_pred": "weight of the class's cross-entropy",
        "l_sparse": "weight of the mask's size",
        "l_spatial": "weight of the mask's roughness",
        "temperature": "of the sigmoid that makes the mask",
        "weight_limit": "the search begins uniformly between minus and plus this, and minus this is invisible",
        "learning_rate": "of RMSProp",
        "iterations": "steps at most",
        "patience": "steps without progress after which the search ends",
        "seed": "of the beginning",
    },
)
def neuromask(
    engine: Engine,
    images: Array,
    targets: Sequence[int],
    *,
    l_pred: float = 0.4,
    l_sparse: float = 0.35,
    l_spatial: float = 0.15,
    temperature: float = 1.0,
    weight_limit: float = 10.0,
    learning_rate: float = 0.03,
    iterations: int = 2000,
    patience: int = 100,
    seed: int = 0,
    windows: Mapping[str, Interval] | None = None,
) -> Float32:
    """Find the mask m = sigmoid(w / T) of lowest loss, by RMSProp on w (Alzantot et al., 1908.04389).

    loss = l_pred * CE(target, softmax(f(x * m))) + l_sparse * mean|w + limit| + l_spatial * mean((K * w)^2), K the 3x3
    kernel of centre 8 and -1 around it. The defaults are those of the authors' CIFAR-10 demo, whose images are of the
    size that fits a board.

    Parameters
    ----------
    engine : Engine
    images : array (N, C, H, W)
        Codes or x, see `Engine.forward`; at least 3 pixels a side.
    targets : sequence of int
        One class per image.
    l_pred, l_sparse, l_spatial : float
        Weights of the terms, not negative.
    temperature : float
        T, above 0.
    weight_limit : float
        w begins uniformly in plus or minus this, and is drawn to minus this; above 0.
    learning_rate : float
        Above 0.
    iterations : int
        At most so many, at least 1.
    patience : int
        The search ends when the loss has not fallen by a thousandth in so many iterations; at least 1.
    seed : int
        Of the beginning; the same for every image.
    windows : mapping, optional
        Straight-through windows in place of the trained ones, see `Engine.gradient`.

    Returns
    -------
    float32 (N, 1, H, W)
        The mask of the lowest loss that was met, from 0 (black) to 1 (visible).

    Raises
    ------
    BitlensError
        If an image, a target, a window or an option does not fit.

    Notes
    -----
    Cost: at most 2 * iterations forward and iterations backward passes, because the cross-entropy's gradient needs
    the logits first. A quantized network sees x * m in whole codes.
    """
    weights = Weights(l_pred, l_sparse, l_spatial, temperature, weight_limit)
    for name, value in (("l_pred", l_pred), ("l_sparse", l_sparse), ("l_spatial", l_spatial)):
        expect_at_least(name, value, 0.0)
    for name, value in (("temperature", temperature), ("weight_limit", weight_limit), ("learning_rate", learning_rate)):
        expect_above(name, value, 0.0)
    expect_at_least("iterations", iterations, 1)
    expect_at_least("patience", patience, 1)
    shape = engine.program.image_type.shape[1:]
    if min(shape) < 3:
        raise BitlensError(f"the image has {shape[0]}x{shape[1]} pixels, expected at least 3x3: use another method")
    start = weight_limit * (2.0 * uniform(shape, seed=seed, stream=(0,)).astype(np.float64) - 1.0)
    every = [_Search(subject, start, np.zeros(shape), start) for subject in subjects(engine, images, targets)]
    for first in range(0, len(every), IMAGES_AT_ONCE):
        active = every[first : first + IMAGES_AT_ONCE]
        for _ in range(iterations):
            for search, (loss, slope) in zip(active, _advance(engine, active, weights, windows), strict=True):
                _descend(search, loss, slope, learning_rate)
            active = [search for search in active if search.idle < patience]
            if not active:
                break
    return np.stack([_mask(search.best, temperature)[None] for search in every]).astype(np.float32)
