"""SmoothGrad: gradients at noisy copies of the image, averaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from bitlens.runtime.bounds import expect_at_least
from bitlens.runtime.engines import Engine
from bitlens.runtime.methods.option import Value
from bitlens.runtime.methods.registry import Passes, register_method
from bitlens.runtime.noise import normal
from bitlens.runtime.program import Array, Program
from bitlens.runtime.subject import Subject, batches, gradients_at, subjects
from bitlens.runtime.thresholds import Interval

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

PAPER = "Smilkov et al., 1706.03825"
OPTIONS = {
    "stdev_spread": "standard deviation of the noise, as a share of the image's largest value less its smallest",
    "nsamples": "noisy copies",
    "seed": "of the noise",
}


def smoothgrad_cost(program: Program, *, nsamples: int, **options: Value) -> Passes:
    """One gradient per noisy copy."""
    return Passes(nsamples, nsamples)


def noisy_copies(x: Float64, sigma: float, samples: range, seed: int) -> Float64:
    """Add noise of standard deviation `sigma` to x (C, H, W), one stream per sample: (samples, C, H, W).

    Every image gets the same noise: a map then depends on neither the batch nor the image's place in it, a video does
    not flicker, and maps of two networks differ by the networks alone. Another `seed` gives other noise.
    """
    return np.stack([x + sigma * normal(x.shape, seed=seed, stream=(sample,)).astype(np.float64) for sample in samples])


def _means_over_noise(
    engine: Engine,
    chosen: Sequence[Subject],
    of: Callable[[Float64], Float64],
    stdev_spread: float,
    nsamples: int,
    seed: int,
    windows: Mapping[str, Interval] | None,
) -> Float64:
    """Average `of` (gradients (M, C, H, W)) over the noisy copies of each subject: (N, C, H, W)."""
    expect_at_least("stdev_spread", stdev_spread, 0.0)
    expect_at_least("nsamples", nsamples, 1)
    means = []
    for subject in chosen:
        sigma = stdev_spread * float(subject.x.max() - subject.x.min())
        total = np.zeros_like(subject.x)
        for samples in batches(nsamples):
            noisy = noisy_copies(subject.x, sigma, samples, seed)
            total += of(gradients_at(engine, noisy, subject.target, windows=windows)).sum(axis=0)
        means.append(total / nsamples)
    return np.stack(means)


@register_method(
    "smoothgrad",
    title="SmoothGrad",
    paper=PAPER,
    cost=smoothgrad_cost,
    signed=True,
    meaning="How the class score would move with each pixel, averaged over slightly noisy images: red up, blue down.",
    options=OPTIONS,
)
def smoothgrad(
    engine: Engine,
    images: Array,
    targets: Sequence[int],
    *,
    stdev_spread: float = 0.15,
    nsamples: int = 25,
    seed: int = 0,
    windows: Mapping[str, Interval] | None = None,
) -> Float32:
    """Average the gradient over noisy copies: (1/n) sum_r g(x + e_r), e ~ N(0, sigma^2) (Smilkov et al., 1706.03825).

    The mean keeps its sign, as in the paper. Spread and number of samples are those of the authors' code (0.15, 25);
    the paper recommends 10 to 20 % and about 50 samples.

    Parameters
    ----------
    engine : Engine
    images : array (N, C, H, W)
        Codes or x, see `Engine.forward`.
    targets : sequence of int
        One class per image.
    stdev_spread : float
        sigma / (max x - min x), per image; not negative.
    nsamples : int
        At least 1.
    seed : int
        Of the noise, see `noisy_copies`.
    windows : mapping, optional
        Straight-through windows in place of the trained ones, see `Engine.gradient`.

    Returns
    -------
    float32 (N, C, H, W)
        Logit per unit of x.

    Raises
    ------
    BitlensError
        If an image, a target, a window or an option does not fit.

    Notes
    -----
    Cost: nsamples forward and backward passes. A quantized network sees a noisy copy rounded to whole codes.
    """
    chosen = subjects(engine, images, targets)
    return _means_over_noise(engine, chosen, np.positive, stdev_spread, nsamples, seed, windows).astype(np.float32)


@register_method(
    "smoothgrad_squared",
    title="SmoothGrad squared",
    paper=f"{PAPER}; Hooker et al., 1806.10758",
    cost=smoothgrad_cost,
    signed=False,
    meaning=(
        "How strongly the class score depends on each pixel, over slightly noisy images; for or against is not told."
    ),
    options=OPTIONS,
)
def smoothgrad_squared(
    engine: Engine,
    images: Array,
    targets: Sequence[int],
    *,
    stdev_spread: float = 0.15,
    nsamples: int = 25,
    seed: int = 0,
    windows: Mapping[str, Interval] | None = None,
) -> Float32:
    """Average the squared gradient over noisy copies: (1/n) sum_r g(x + e_r)^2; what the authors' code does by default.

    Parameters, errors and cost as for `smoothgrad`.

    Returns
    -------
    float32 (N, C, H, W)
        Not negative.
    """
    chosen = subjects(engine, images, targets)
    return _means_over_noise(engine, chosen, np.square, stdev_spread, nsamples, seed, windows).astype(np.float32)


@register_method(
    "smoothgrad_x_input",
    title="SmoothGrad x input",
    paper=f"{PAPER}; Shrikumar et al., 1605.01713",
    cost=smoothgrad_cost,
    signed=True,
    meaning=(
        "What each pixel adds to the class score (red) or takes from it (blue), by the gradient averaged over slightly "
        "noisy images. Black pixels get zero by construction."
    ),
    options=OPTIONS,
)
def smoothgrad_x_input(
    engine: Engine,
    images: Array,
    targets: Sequence[int],
    *,
    stdev_spread: float = 0.15,
    nsamples: int = 25,
    seed: int = 0,
    windows: Mapping[str, Interval] | None = None,
) -> Float32:
    """Multiply `smoothgrad` by the image, without its noise: x * (1/n) sum_r g(x + e_r), in logits.

    Parameters, returns, errors and cost as for `smoothgrad`.
    """
    chosen = subjects(engine, images, targets)
    means = _means_over_noise(engine, chosen, np.positive, stdev_spread, nsamples, seed, windows)
    return np.stack([subject.x * mean for subject, mean in zip(chosen, means, strict=True)]).astype(np.float32)
