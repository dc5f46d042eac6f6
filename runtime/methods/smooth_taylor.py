"""SmoothTaylor: first-order Taylor terms from many roots near the image, averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from bitlens.runtime.bounds import expect_above, expect_at_least
from bitlens.runtime.engines import Engine
from bitlens.runtime.methods.option import Value
from bitlens.runtime.methods.registry import Passes, register_method
from bitlens.runtime.methods.smoothgrad import noisy_copies
from bitlens.runtime.program import Array, Program
from bitlens.runtime.subject import Subject, batches, gradients_at, seen, subjects
from bitlens.runtime.thresholds import Interval

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

SIGNED_MEANING = (
    "What each pixel adds to the class score (red) or takes from it (blue), by straight lines drawn at many noisy "
    "copies of the image. With more copies the map tends to the curvature of the score, not to its slope."
)


def _cost(program: Program, *, roots: int, **options: Value) -> Passes:
    return Passes(roots, roots)


def smooth_taylor_map(
    engine: Engine,
    subject: Subject,
    sigma: float,
    roots: int,
    seed: int,
    windows: Mapping[str, Interval] | None,
) -> Float64:
    """Average (x - z_r) * g(z_r) over the roots z_r, each as the network sees it: float64 (C, H, W)."""
    total = np.zeros_like(subject.x)
    for samples in batches(roots):
        points = seen(engine, noisy_copies(subject.x, sigma, samples, seed))
        gradients = gradients_at(engine, points, subject.target, windows=windows)
        total += ((subject.x - points) * gradients).sum(axis=0)
    return total / roots


@register_method(
    "smooth_taylor",
    title="SmoothTaylor",
    paper="Goh et al., 2004.10484",
    cost=_cost,
    signed=True,
    meaning=SIGNED_MEANING,
    options={
        "sigma": "standard deviation of the noise, in units of x",
        "roots": "noisy copies",
        "seed": "of the noise",
    },
)
def smooth_taylor(
    engine: Engine,
    images: Array,
    targets: Sequence[int],
    *,
    sigma: float = 0.113,
    roots: int = 150,
    seed: int = 0,
    windows: Mapping[str, Interval] | None = None,
) -> Float32:
    """Compute (1/R) sum_r (x - z_r) * g(z_r), z_r = x + e_r, e ~ N(0, sigma^2) (Goh et al., 2004.10484, eq. 9 and 10).

    Parameters
    ----------
    engine : Engine
    images : array (N, C, H, W)
        Codes or x, see `Engine.forward`.
    targets : sequence of int
        One class per image.
    sigma : float
        In units of x, above 0. The paper's 0.3, 0.5 and 0.7 are in units of an input normalised by ImageNet's
        standard deviations (0.229, 0.224, 0.225), 0.226 of x: 0.068, 0.113 and 0.158.
    roots : int
        R, at least 1; the paper has 100, 150 and 200.
    seed : int
        Of the noise, see `noisy_copies`.
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
    Cost: R forward and backward passes. For a quantized network z_r is rounded to whole codes first, and x - z_r is
    taken from what it saw. For R to infinity the map tends to -sigma^2 times the diagonal second derivative of the
    smoothed score (Stein's lemma); what a finite R adds to that is noise of size sigma |g| / sqrt(R).
    """
    expect_above("sigma", sigma, 0.0)
    expect_at_least("roots", roots, 1)
    maps = [
        smooth_taylor_map(engine, subject, sigma, roots, seed, windows) for subject in subjects(engine, images, targets)
    ]
    return np.stack(maps).astype(np.float32)
