"""Perturbation curves and AUPC: how fast the class score falls when the places that a map points at are destroyed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitlens.runtime.bounds import expect_at_least
from bitlens.runtime.engines import Engine
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.faithfulness.simpson import simpson
from bitlens.runtime.noise import uniform
from bitlens.runtime.program import Array
from bitlens.runtime.subject import Subject, batches, logits_at, softmax, subjects

Float64 = npt.NDArray[np.float64]

WINDOW_SHARE = 15.0 / 224.0
"""The paper's windows are 15 pixels of 224; of 28 or 32 pixels that is 2."""

PERTURBATIONS, FILLS = 30, 50
"""L and P of the paper."""


@dataclass(frozen=True)
class PerturbationCurve:
    """Mean score of the target after each perturbation, the image as it is first.

    Parameters
    ----------
    logits : float64 (N, L + 1)
        Divided by |logit| of the image, as in the paper: begins at 1 (or -1). Unstable where that is near 0.
    probabilities : float64 (N, L + 1)
        Softmax, not divided: the same perturbations, stable for every network.
    """

    logits: Float64
    probabilities: Float64


def ranked_windows(values: Float64, window: int, count: int) -> list[tuple[int, int]]:
    """Choose windows that do not overlap, the largest mean |value| first, of equal ones the first in row-major order.

    Parameters
    ----------
    values : float64 (H, W)
    window : int
        Side in pixels.
    count : int
        How many.

    Returns
    -------
    list of (top, left)

    Raises
    ------
    BitlensError
        If there is no room for so many.
    """
    sums = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    sums[1:, 1:] = np.abs(values).cumsum(axis=0).cumsum(axis=1)
    inside = sums[window:, window:] - sums[:-window, window:] - sums[window:, :-window] + sums[:-window, :-window]
    taken = np.zeros(inside.shape, bool)
    chosen: list[tuple[int, int]] = []
    for place in np.argsort(-inside, axis=None, kind="stable"):
        top, left = (int(part) for part in np.unravel_index(place, inside.shape))
        if len(chosen) == count:
            break
        if not taken[top, left]:
            chosen.append((top, left))
            taken[max(0, top - window + 1) : top + window, max(0, left - window + 1) : left + window] = True
    if len(chosen) < count:
        raise BitlensError(
            f"{len(chosen)} windows of {window}x{window} pixels fit a map of {values.shape[0]}x{values.shape[1]}, "
            f"expected {count}: choose a smaller window or fewer perturbations"
        )
    return chosen


def _curve(
    engine: Engine, subject: Subject, values: Float64, window: int, perturbations: int, fills: int, seed: int
) -> Float64:
    """Mean logit and mean probability of the target after each perturbation: (2, L + 1)."""
    x = subject.x.copy()
    logits = logits_at(engine, x[None])
    curve = [(logits[0, subject.target], softmax(logits)[0, subject.target])]
    for step, (top, left) in enumerate(ranked_windows(values, window, perturbations)):
        shape = (fills, x.shape[0], window, window)
        drawn = uniform(shape, seed=seed, stream=(step,)).astype(np.float64)
        scores = []
        for part in batches(fills):
            images = np.repeat(x[None], len(part), axis=0)
            images[:, :, top : top + window, left : left + window] = drawn[part.start : part.stop]
            scores.append(logits_at(engine, images))
        every = np.concatenate(scores)
        ours = every[:, subject.target]
        kept = int(np.abs(ours - np.median(ours)).argmin())
        x[:, top : top + window, left : left + window] = drawn[kept]
        curve.append((ours.mean(), softmax(every)[:, subject.target].mean()))
    return np.asarray(np.transpose(curve))


def perturbation_curve(
    engine: Engine,
    images: Array,
    targets: Sequence[int],
    maps: npt.NDArray[np.floating],
    *,
    window: int | None = None,
    perturbations: int = PERTURBATIONS,
    fills: int = FILLS,
    seed: int = 0,
) -> PerturbationCurve:
    """Destroy the image window by window, in the order of a map, and watch the score (Goh et al., 2004.10484, 4.1).

    Each window is filled `fills` times with uniform noise; the mean score is noted, and the filling whose logit lies
    nearest to the median stays before the next window.

    Parameters
    ----------
    engine : Engine
    images : array (N, C, H, W)
        Codes or x, see `Engine.forward`.
    targets : sequence of int
        One class per image.
    maps : float array (N, H, W)
        Finite, channels summed; ranked by magnitude.
    window : int, optional
        Side in pixels; 15/224 of the shorter side if not given: 2 for 28 or 32.
    perturbations, fills : int
        L and P, at least 1.
    seed : int
        Of the fillings; the same for every image.

    Returns
    -------
    PerturbationCurve

    Raises
    ------
    BitlensError
        If an image, a target, a map or an option does not fit.

    Notes
    -----
    Cost: 1 + L * P forward passes.
    """
    explained = subjects(engine, images, targets)
    shape = engine.program.image_type.shape[1:]
    if maps.shape != (len(explained), *shape) or not np.isfinite(maps).all():
        raise BitlensError(
            f"expected finite maps of shape {(len(explained), *shape)}, got shape {maps.shape}: sum the channels, and "
            "give one map per image"
        )
    side = max(1, round(WINDOW_SHARE * min(shape))) if window is None else window
    expect_at_least("window", side, 1)
    if side > min(shape):
        raise BitlensError(f"window is {side}, the map {shape[0]}x{shape[1]}: expected a window inside the map")
    expect_at_least("perturbations", perturbations, 1)
    expect_at_least("fills", fills, 1)
    curves = [
        _curve(engine, subject, values.astype(np.float64), side, perturbations, fills, seed)
        for subject, values in zip(explained, maps, strict=True)
    ]
    logits, probabilities = np.stack(curves, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return PerturbationCurve(logits / np.abs(logits[:, :1]), probabilities)


def aupc(curve: Float64) -> Float64:
    """Area under perturbation curves (N, L + 1), Simpson's rule with step 1: float64 (N,); lower is better.

    The published values are of `PerturbationCurve.logits` with L = 30.
    """
    return simpson(curve)
