"""The structural similarity of two maps."""

from __future__ import annotations

import numpy as np

from bitlens.runtime.fidelity.registry import Float64, is_zero, on_own_scale, register_metric

SIGMA = 1.5  # pixels
RADIUS = 5  # pixels: the window of 11 x 11 of the paper
K1, K2 = 0.01, 0.03


def window(radius: int) -> Float64:
    """Gauss' curve at -radius..radius, sum 1."""
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / SIGMA) ** 2)
    normed: Float64 = weights / weights.sum()
    return normed


def local_mean(maps: Float64, weights: Float64) -> Float64:
    """Weigh the neighbours of every pixel whose whole window lies inside (N, H, W)."""
    for axis in (1, 2):
        inside = maps.shape[axis] - len(weights) + 1
        maps = np.sum(
            [weight * np.take(maps, range(place, place + inside), axis) for place, weight in enumerate(weights)], axis=0
        )
    return maps


@register_metric(
    "ssim",
    title="SSIM",
    lowest=-1.0,
    highest=1.0,
    meaning="How alike the maps look in small neighbourhoods, each on its own scale as it is shown: 1 the same, 0 "
    "nothing in common, below 0 light where the other is dark.",
    undefined="one of the maps is zero everywhere",
)
def ssim(one: Float64, other: Float64) -> Float64:
    """Compare local means, spreads and covariance (Wang et al. 2004, eq. 13), with the paper's settings.

    Each map is first divided by its largest magnitude: a network's logits, and so its gradients, have a scale of their
    own. The data range is what maps then span: 2 (-1..1) where either map of the pair has a negative value, else 1.

    The window is Gaussian with sigma 1.5, 11 x 11 pixels; its weights are those of the population, not of a sample; the
    mean is over the pixels whose whole window lies inside. That is scikit-image's `structural_similarity` with
    `gaussian_weights=True, sigma=1.5, use_sample_covariance=False`. Where a side is shorter than 11 pixels, the window
    is cut to the largest odd side that fits.

    Notes
    -----
    Cost: 110 multiplications per pixel.
    """
    undefined = is_zero(one) | is_zero(other)
    one, other = on_own_scale(one), on_own_scale(other)
    weights = window(min(RADIUS, (min(one.shape[1:]) - 1) // 2))
    data_range = np.where((one < 0).any(axis=(1, 2)) | (other < 0).any(axis=(1, 2)), 2.0, 1.0)
    c1, c2 = ((k * data_range[:, np.newaxis, np.newaxis]) ** 2 for k in (K1, K2))
    mean_a, mean_b = local_mean(one, weights), local_mean(other, weights)
    variance_a = local_mean(one * one, weights) - mean_a * mean_a
    variance_b = local_mean(other * other, weights) - mean_b * mean_b
    covariance = local_mean(one * other, weights) - mean_a * mean_b
    likeness = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    )
    return np.where(undefined, np.nan, np.clip(likeness.mean(axis=(1, 2)), -1.0, 1.0))
