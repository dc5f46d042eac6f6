"""Noise: golden values, independence of streams, and its distribution."""

from __future__ import annotations

import hashlib
import math
from statistics import NormalDist

import numpy as np
import pytest
from scipy import special, stats

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.noise import LEVELS, normal, normal_table, uniform


def test_the_table_is_golden() -> None:
    """As written down on the machine that made it first; whole multiples of 2^-16, so bytes do not hang on floats."""
    table = normal_table()
    steps = table.astype(np.float64) * 2**16
    assert (table.dtype, table.shape) == (np.float32, (LEVELS,))
    assert np.array_equal(steps, np.rint(steps))
    digest = hashlib.sha256(steps.astype("<i4").tobytes()).hexdigest()
    assert digest == "ee46eda6f743ea9b2949c72134d6385025bcc7573bb0fba98b3bf40224779880"


def test_the_table_is_the_inverse_normal() -> None:
    table = normal_table().astype(np.float64)
    expected = special.ndtri((np.arange(LEVELS) + 0.5) / LEVELS)
    assert np.abs(table - expected).max() <= 2.0**-17 + 1e-12  # half a step
    assert np.array_equal(table, -table[::-1])
    assert np.all(np.diff(table) >= 0)
    assert np.mean(table**2) == pytest.approx(1 - 2.03e-5, abs=1e-7)


def test_no_quantile_lies_where_machines_could_round_it_apart() -> None:
    quantiles = [NormalDist().inv_cdf((index + 0.5) / LEVELS) for index in range(LEVELS // 2, LEVELS)]
    margins = [abs(value * 2**16 - math.floor(value * 2**16) - 0.5) * 2.0**-16 for value in quantiles]
    # The two are independent implementations of the quantile: they differ by far less than the smallest margin.
    other = special.ndtri((np.arange(LEVELS // 2, LEVELS) + 0.5) / LEVELS)
    assert np.abs(np.array(quantiles) - other).max() < 1e-13
    assert min(margins) > 1e-11


def test_golden_draws() -> None:
    first = normal((5,), seed=0, stream=(0,))
    assert first.dtype == np.float32
    assert (first * 2**16).astype(int).tolist() == [-5827, 55682, -24289, 103543, -28049]
    assert (uniform((5,), seed=7, stream=(2, 1)) * 2**17).astype(int).tolist() == [64723, 95959, 87781, 57785, 60151]
    digest = hashlib.sha256(normal((3, 28, 28), seed=3, stream=(24,)).astype("<f4").tobytes()).hexdigest()
    assert digest == "50cbf0e98e04f12953dbb580fe02558147013b32df29272d7b9887372308467f"


def test_a_longer_draw_begins_with_the_shorter() -> None:
    long = normal((7, 9), seed=4, stream=(1,)).ravel()
    for count in (1, 2, 3, 4, 5, 62):
        assert np.array_equal(normal((count,), seed=4, stream=(1,)), long[:count])


@pytest.mark.parametrize(
    "other", [{"seed": 1, "stream": (0,)}, {"seed": 0, "stream": (1,)}, {"seed": 0, "stream": (0, 0)}]
)
def test_streams_are_unrelated(other: dict[str, object]) -> None:
    count = 100_000
    one, two = normal((count,), seed=0, stream=(0,)), normal((count,), seed=other["seed"], stream=other["stream"])  # type: ignore[arg-type]
    assert abs(float(np.corrcoef(one, two)[0, 1])) < 4 / math.sqrt(count)


def test_distribution() -> None:
    count = 400_000
    values = normal((count,), seed=11, stream=(0,)).astype(np.float64)
    error = 1 / math.sqrt(count)
    assert abs(values.mean()) < 4 * error
    assert abs(values.var() - 1) < 4 * math.sqrt(2) * error
    assert abs(stats.skew(values)) < 4 * math.sqrt(6) * error
    assert abs(stats.kurtosis(values)) < 4 * math.sqrt(24) * error
    assert stats.kstest(values, "norm").pvalue > 0.01
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 4 * error
    flat = uniform((count,), seed=11, stream=(0,)).astype(np.float64)
    assert 0 < flat.min() < flat.max() < 1
    assert stats.kstest(flat, "uniform").pvalue > 0.01


def test_the_distribution_check_can_fail() -> None:
    values = normal((400_000,), seed=11, stream=(0,)).astype(np.float64)
    assert stats.kstest(1.01 * values, "norm").pvalue < 0.01
    assert stats.kstest(np.tanh(values), "uniform").pvalue < 0.01


@pytest.mark.parametrize(("seed", "stream"), [(-1, (0,)), (0, (0, -2))])
def test_negative_seeds_are_refused(seed: int, stream: tuple[int, ...]) -> None:
    with pytest.raises(BitlensError, match="expected whole numbers from 0 on"):
        normal((3,), seed=seed, stream=stream)
