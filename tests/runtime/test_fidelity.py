"""Fidelity metrics against SciPy and scikit-image, and against counting by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats
from skimage.metrics import structural_similarity

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.fidelity import (
    METRICS,
    metric,
    pearson,
    register_metric,
    sign_agreement,
    spearman,
    ssim,
    top_k_iou,
)
from bitlens.runtime.fidelity.registry import Float64

TOLERANCE = 1e-12


def maps(kind: str, shape: tuple[int, ...], seed: int) -> Float64:
    generator = np.random.default_rng(seed)
    values = generator.standard_normal(shape)
    if kind == "ties":
        return np.rint(values)
    if kind == "mostly zero":
        dark = generator.random(shape) < 0.9
        dark[..., -1, -1] = False  # or a small one would be zero everywhere
        return np.where(dark, 0.0, np.abs(values))
    if kind == "huge":
        return values * 1e300
    if kind == "tiny":
        return values * 1e-300
    if kind == "offset":
        return values + 100.0
    return np.abs(values) if kind == "unsigned" else values


KINDS = ("signed", "unsigned", "ties", "mostly zero", "offset")


def slow_ssim(one: Float64, other: Float64, data_range: float, radius: int) -> float:
    """Wang et al. 2004, window by window, for maps that scikit-image refuses as too small."""
    side = np.arange(-radius, radius + 1)
    weights = np.exp(-(side[:, None] ** 2 + side[None, :] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    found = []
    for y in range(radius, one.shape[0] - radius):
        for x in range(radius, one.shape[1] - radius):
            a, b = (m[y - radius : y + radius + 1, x - radius : x + radius + 1] for m in (one, other))
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            cov = (weights * (a - mean_a) * (b - mean_b)).sum()
            found.append(
                (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
            )
    return float(np.mean(found))


def oracle_ssim(one: Float64, other: Float64) -> float:
    data_range = 2.0 if (one < 0).any() or (other < 0).any() else 1.0
    a, b = one / np.abs(one).max(), other / np.abs(other).max()
    radius = min(5, (min(one.shape) - 1) // 2)
    if radius < 5:
        return slow_ssim(a, b, data_range, radius)
    return float(
        structural_similarity(
            a, b, data_range=data_range, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )


def oracle_top_k_iou(one: Float64, other: Float64) -> float:
    def top(values: Float64) -> set[int]:
        flat = [abs(value) for value in values.ravel().tolist()]
        best = sorted(range(len(flat)), key=lambda place: (-flat[place], place))
        return {place for place in best[: max(1, round(0.1 * len(flat)))] if flat[place] > 0}

    return len(top(one) & top(other)) / len(top(one) | top(other))


def oracle_sign_agreement(one: Float64, other: Float64) -> float:
    pairs = [(a, b) for a, b in zip(one.ravel().tolist(), other.ravel().tolist(), strict=True) if a or b]
    return sum(a * b > 0 for a, b in pairs) / len(pairs)


ORACLES: dict[str, Callable[[Float64, Float64], float]] = {
    "pearson": lambda one, other: float(stats.pearsonr(one.ravel(), other.ravel()).statistic),
    "spearman": lambda one, other: float(stats.spearmanr(one.ravel(), other.ravel()).statistic),
    "ssim": oracle_ssim,
    "top_k_iou": oracle_top_k_iou,
    "sign_agreement": oracle_sign_agreement,
}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(28, 28), (11, 17), (10, 12), (4, 5), (32, 11)])
def test_metric_is_what_the_oracle_gives(name: str, kind: str, shape: tuple[int, int]) -> None:
    for seed in range(4):
        one, noise = maps(kind, shape, 2 * seed), maps(kind, shape, 2 * seed + 1)
        mixed = np.rint(one + noise) if kind == "ties" else one + 0.5 * noise
        for other in (noise, mixed, -one):
            got = metric(name)(one, other)
            assert got == pytest.approx(ORACLES[name](one, other), abs=TOLERANCE, rel=0), (seed, name)
            assert METRICS[name].lowest <= got <= METRICS[name].highest


def test_the_comparison_with_the_oracle_can_fail() -> None:
    one, other = maps("signed", (28, 28), 0), maps("signed", (28, 28), 1)
    slightly = other.copy()
    slightly[14, 14] += 0.5
    for name, oracle in ORACLES.items():
        if name not in ("top_k_iou", "sign_agreement"):  # these two do not see so little
            assert abs(metric(name)(one, other) - oracle(one, slightly)) > 1e-6, name
    assert top_k_iou(one, other) != oracle_top_k_iou(one, np.roll(other, 1))
    assert sign_agreement(one, other) != oracle_sign_agreement(one, np.roll(other, 1))


@pytest.mark.parametrize("name", METRICS)
def test_a_batch_gives_what_each_pair_gives(name: str) -> None:
    one, other = maps("ties", (5, 13, 12), 1), maps("signed", (5, 13, 12), 2)
    one[3] = 0.0
    got = metric(name).batch(one, other)
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, [metric(name)(a, b) for a, b in zip(one, other, strict=True)])
    assert math.isnan(got[3])
    assert np.isfinite(np.delete(got, 3)).all()
    assert metric(name).batch(one[:0], other[:0]).shape == (0,)


@pytest.mark.parametrize("name", METRICS)
def test_equal_maps_are_the_best_and_the_order_does_not_matter(name: str) -> None:
    one, other = maps("signed", (28, 28), 3), maps("signed", (28, 28), 4)
    assert metric(name)(one, one) == pytest.approx(METRICS[name].highest, abs=TOLERANCE)
    assert metric(name)(one, other) == pytest.approx(metric(name)(other, one), abs=TOLERANCE)
    assert metric(name)(one, other) < METRICS[name].highest
    assert METRICS[name].higher_is_better


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("kind", ["huge", "tiny"])
def test_only_the_form_of_a_map_counts(name: str, kind: str) -> None:
    one, other = maps("signed", (28, 28), 5), maps("signed", (28, 28), 6)
    assert metric(name)(maps(kind, (28, 28), 5), other) == pytest.approx(metric(name)(one, other), abs=TOLERANCE)
    halves = (one.astype(np.float16), other.astype(np.float32))
    assert metric(name)(*halves) == pytest.approx(metric(name)(*(m.astype(np.float64) for m in halves)), abs=0)


@pytest.mark.parametrize("name", METRICS)
def test_a_map_of_zeros_has_no_fidelity(name: str) -> None:
    one, zero = maps("signed", (12, 12), 7), np.zeros((12, 12))
    for pair in ((one, zero), (zero, one), (zero, zero), (zero, -zero)):
        assert math.isnan(metric(name)(*pair))


def test_a_constant_map_that_is_not_zero() -> None:
    one, constant = maps("unsigned", (12, 12), 8), np.full((12, 12), 0.1)
    for name in ("pearson", "spearman", "top_k_iou"):
        assert math.isnan(metric(name)(one, constant))
        assert math.isnan(metric(name)(constant, constant))
    assert ssim(constant, 3 * constant) == pytest.approx(1.0, abs=TOLERANCE)
    assert ssim(one, constant) == pytest.approx(oracle_ssim(one, constant), abs=TOLERANCE)
    assert sign_agreement(constant, one) == 1.0
    assert sign_agreement(constant, -one) == 0.0


def test_one_pixel_is_too_few() -> None:
    one = np.ones((1, 1))
    assert math.isnan(spearman(one, one))
    assert ssim(one, one) == pytest.approx(1.0)


def test_ties_and_zeros_in_top_k_by_hand() -> None:
    one = np.array([[3.0, -3.0, 3.0, 0.0, 0.0]])
    other = np.array([[0.0, 3.0, -1.0, 0.0, 0.0]])
    assert top_k_iou(one, other, share=0.2) == 0.0  # the first of the three equal ones, and the second pixel
    assert top_k_iou(one, other, share=0.4) == pytest.approx(1 / 3)
    assert top_k_iou(one, other, share=1.0) == pytest.approx(2 / 3)  # no pixel of value 0 counts
    assert top_k_iou(np.array([[1.0, 0.0, 0.0]]), np.array([[0.0, 0.0, 1.0]]), share=0.9) == 0.0


def test_zeros_in_sign_agreement_by_hand() -> None:
    one = np.array([[1.0, -1.0, 0.0, 0.0, 2.0]])
    other = np.array([[5.0, -2.0, 0.0, 1.0, -2.0]])
    assert sign_agreement(one, other) == pytest.approx(2 / 4)


@pytest.mark.parametrize("name", METRICS)
def test_what_is_no_pair_of_maps_is_refused(name: str) -> None:
    one = maps("signed", (6, 7), 9)
    bad = one.copy()
    bad[2, 3] = np.nan
    for pair in ((one, bad), (bad, one)):
        with pytest.raises(BitlensError, match="got NaN or infinity"):
            metric(name)(*pair)
    with pytest.raises(BitlensError, match="got NaN or infinity"):
        metric(name)(one, one * np.inf)
    with pytest.raises(BitlensError, match=r"maps of one shape, got \(6, 7\) and \(7, 6\)"):
        metric(name)(one, one.T)
    with pytest.raises(BitlensError, match=r"first argument as a float array of shape \(H, W\), got float64 of shape"):
        metric(name)(one[None], one[None])
    with pytest.raises(BitlensError, match=r"second argument as a float array of shape \(H, W\), got int64"):
        metric(name)(one, np.ones((6, 7), np.int64))  # type: ignore[arg-type]
    with pytest.raises(BitlensError, match=r"shape \(N, H, W\)"):
        metric(name).batch(one, one)
    with pytest.raises(BitlensError, match="got float64 of shape"):
        metric(name)(one[:, :0], one[:, :0])


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, math.nan])
def test_impossible_share_is_refused(share: float) -> None:
    one = maps("signed", (6, 7), 9)
    with pytest.raises(BitlensError, match="share of the pixels above 0 and up to 1"):
        top_k_iou(one, one, share=share)


def test_the_table() -> None:
    assert sorted(METRICS) == sorted(ORACLES)
    for name, row in METRICS.items():
        assert row.name == name
        assert row.meaning.endswith(".")
        assert row.meaning.count(". ") == 0, "one sentence"
        assert row.undefined
    with pytest.raises(BitlensError, match="unknown metric 'rmse': choose from pearson"):
        metric("rmse")
    with pytest.raises(ValueError, match="already in the table"):
        register_metric("ssim", title="", lowest=0, highest=1, meaning="", undefined="")(lambda one, other: one)
    assert METRICS["pearson"] is pearson


def test_pixels_apart_by_less_than_a_rounding_error() -> None:
    almost: npt.NDArray[np.float64] = np.full((3, 3), 0.1)
    almost[0, 0] = np.nextafter(0.1, 1)
    assert math.isnan(pearson(almost, almost)) or pearson(almost, almost) == pytest.approx(1.0)
    assert spearman(almost, almost) == 1.0
