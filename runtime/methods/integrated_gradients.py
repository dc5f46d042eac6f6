"""Integrated Gradients: gradients along the straight way from a baseline to the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from bitlens.runtime.bounds import expect_at_least
from bitlens.runtime.engines import Engine
from bitlens.runtime.methods.baseline import BASELINES, baseline_of
from bitlens.runtime.methods.option import Value
from bitlens.runtime.methods.registry import Passes, register_method
from bitlens.runtime.program import Array, Program
from bitlens.runtime.subject import Subject, batches, gradients_at, logits_at, seen, subjects
from bitlens.runtime.thresholds import Interval

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


def _cost(program: Program, *, n_steps: int, **options: Value) -> Passes:
    return Passes(n_steps, n_steps)


def _seen_baseline(engine: Engine, subject: Subject, baseline: str, seed: int) -> Float64:
    (start,) = seen(engine, baseline_of(baseline, subject.x, seed)[None])
    return np.asarray(start)


@register_method(
    "integrated_gradients",
    title="Integrated Gradients",
    paper="Sundararajan et al., 1703.01365",
    cost=_cost,
    signed=True,
    meaning=(
        "What each pixel adds to the class score (red) or takes from it (blue) on the way from the baseline to the "
        "image. The values should add up to the difference of the two scores; the completeness gap says how far they "
        "do not. A pixel equal to the baseline's gets zero by construction."
    ),
    options={
        "baseline": "where the way begins: zero (black), blur (the image blurred) or noise (uniform)",
        "n_steps": "points on the way",
        "seed": "of the noise baseline",
    },
    choices={"baseline": tuple(BASELINES)},
)
def integrated_gradients(
    engine: Engine,
    images: Array,
    targets: Sequence[int],
    *,
    baseline: str = "zero",
    n_steps: int = 50,
    seed: int = 0,
    windows: Mapping[str, Interval] | None = None,
) -> Float32:
    """Compute (x - x') * integral over a in 0..1 of g(x' + a (x - x')) (Sundararajan et al., 1703.01365, eq. 1).

    The integral is taken by Gauss-Legendre quadrature, as Captum does by default: for the same number of points it
    meets a smooth integrand far better than a Riemann sum, and its points are no worse for a kinked one.

    Parameters
    ----------
    engine : Engine
    images : array (N, C, H, W)
        Codes or x, see `Engine.forward`.
    targets : sequence of int
        One class per image.
    baseline : {"zero", "blur", "noise"}
        x': black; the image blurred by a tenth of its shorter side; one draw of uniform noise from 0 to 1.
    n_steps : int
        Points of the quadrature, at least 1.
    seed : int
        Of the noise baseline.
    windows : mapping, optional
        Straight-through windows in place of the trained ones, see `Engine.gradient`.

    Returns
    -------
    float32 (N, C, H, W)
        In logits.

    Raises
    ------
    BitlensError
        If an image, a target, a window or an option does not fit.

    Notes
    -----
    Cost: n_steps forward and backward passes. For a quantized network x and x' are whole codes, and each point of the
    way is rounded to whole codes.
    """
    expect_at_least("n_steps", n_steps, 1)
    nodes, shares = np.polynomial.legendre.leggauss(n_steps)
    places, weights = 0.5 * (nodes + 1.0), 0.5 * shares
    maps = []
    for subject in subjects(engine, images, targets):
        start = _seen_baseline(engine, subject, baseline, seed)
        way = subject.x - start
        total = np.zeros_like(way)
        for part in batches(n_steps):
            points = start + places[part, None, None, None] * way
            gradients = gradients_at(engine, points, subject.target, windows=windows)
            total += (weights[part, None, None, None] * gradients).sum(axis=0)
        maps.append(way * total)
    return np.stack(maps).astype(np.float32)


def completeness_gap(
    engine: Engine,
    images: Array,
    targets: Sequence[int],
    maps: Float32,
    *,
    baseline: str = "zero",
    seed: int = 0,
) -> Float64:
    """Say how far maps are from adding up: sum(map) - (logit(x) - logit(x')), in logits.

    It is 0 for an exact integral of a true gradient (Sundararajan et al., 1703.01365, proposition 1). On a quantized
    network, whose gradient is a surrogate, it is what the surrogate misses; no number of steps makes it vanish.

    Parameters
    ----------
    engine, images, targets, baseline, seed
        As for the `integrated_gradients` that made the maps.
    maps : float32 (N, C, H, W)

    Returns
    -------
    float64 (N,)

    Raises
    ------
    BitlensError
        If an image, a target or the baseline does not fit.

    Notes
    -----
    Cost: 2 forward passes.
    """
    gaps = []
    for subject, values in zip(subjects(engine, images, targets), maps, strict=True):
        ends = np.stack([subject.x, _seen_baseline(engine, subject, baseline, seed)])
        score, start = logits_at(engine, ends)[:, subject.target]
        gaps.append(float(values.sum(dtype=np.float64)) - (score - start))
    return np.array(gaps)
