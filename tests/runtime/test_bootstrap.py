from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bitlens.runtime.bootstrap import BootstrapMean, bootstrap_mean
from bitlens.runtime.errors import BitlensError


def test_the_interval_is_reproducible_and_is_that_of_scipy() -> None:
    values = np.random.default_rng(1).exponential(size=80)
    found = bootstrap_mean(values)
    assert found == bootstrap_mean(values)
    assert found != bootstrap_mean(values, seed=1)
    assert found.mean == pytest.approx(values.mean(), abs=1e-15)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    # Two draws of the same distribution: the ends scatter by a few per cent of the width.
    width = expected.high - expected.low
    assert found.low == pytest.approx(expected.low, abs=0.05 * width)
    assert found.high == pytest.approx(expected.high, abs=0.05 * width)


def coverage(true_mean: float, trials: int = 400) -> float:
    generator = np.random.default_rng(3)
    hits = 0
    for trial in range(trials):
        found = bootstrap_mean(generator.exponential(2.0, 100), resamples=400, seed=trial)
        hits += found.low <= true_mean <= found.high
    return hits / trials


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    # 400 trials scatter by 1.1 per cent; the percentile interval of a skewed distribution is a little short.
    assert 0.90 <= coverage(2.0) <= 0.98


def test_the_check_of_coverage_can_fail() -> None:
    assert coverage(2.4, trials=50) < 0.90


def test_undefined_values_are_left_out_and_counted() -> None:
    values = np.random.default_rng(4).random(50)
    holes = np.insert(values, [0, 7, 50], np.nan)
    found, without = bootstrap_mean(holes), bootstrap_mean(values)
    assert (found.mean, found.low, found.high) == (without.mean, without.low, without.high)
    assert (found.images, found.undefined) == (50, 3)
    assert (without.images, without.undefined) == (50, 0)


def test_too_few_values_say_nothing_about_spread() -> None:
    none = bootstrap_mean(np.full(3, np.nan))
    assert (math.isnan(none.mean), none.images, none.undefined) == (True, 0, 3)
    one = bootstrap_mean(np.array([0.25, np.nan]))
    assert (one.mean, one.images, one.undefined) == (0.25, 1, 1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert bootstrap_mean(np.array([0.25, 0.25])) == BootstrapMean(0.25, 0.25, 0.25, 2, 0)


def test_more_images_than_are_drawn_at_once() -> None:
    found = bootstrap_mean(np.random.default_rng(5).standard_normal(3_000), resamples=2_000)
    assert found.low < found.mean < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 / math.sqrt(3_000), rel=0.1)


def test_bad_use_is_refused() -> None:
    with pytest.raises(BitlensError, match=r"shape \(N,\), got float64 of shape \(2, 2\)"):
        bootstrap_mean(np.ones((2, 2)))
    with pytest.raises(BitlensError, match="got int64"):
        bootstrap_mean(np.ones(3, np.int64))  # type: ignore[arg-type]
    with pytest.raises(BitlensError, match="got infinity"):
        bootstrap_mean(np.array([1.0, np.inf]))
    with pytest.raises(BitlensError, match="confidence between 0 and 1"):
        bootstrap_mean(np.ones(3), confidence=95)
    with pytest.raises(BitlensError, match="at least 1 resample"):
        bootstrap_mean(np.ones(3), resamples=0)
