"""Forms that decide a code in float32 alone: equal beside every threshold, or refused."""

from __future__ import annotations

from dataclasses import fields, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest

from bitlens.export.exact_quotient import (
    REAL_LIMIT,
    ExactQuotient,
    evaluate_quotient,
    exact_quotient,
    is_quotient_proved,
)
from bitlens.export.nearest_threshold import evaluate_nearest, is_nearest_proved, nearest_threshold
from bitlens.runtime.thresholds import channel_thresholds

Float32 = npt.NDArray[np.float32]


def quantizer(alpha: float, levels: int) -> tuple[Float32, float]:
    """Thresholds of round(v / step), and the step."""
    step, codes = float(np.float32(alpha)) / levels, np.arange(1, levels + 1, dtype=np.float64)
    slope, offset = np.array([1.0 / step]), np.zeros(1)
    thresholds, _ = channel_thresholds(slope, offset, codes - 0.5, codes % 2 == 0, is_float=True)
    return thresholds, step


def beside(values: Float32, reach: int) -> Float32:
    """Every float32 within `reach` places of each value."""
    places = values.view(np.int32)[:, None] + np.arange(-reach, reach + 1, dtype=np.int32)
    return np.unique(places.astype(np.int32).view(np.float32))


@pytest.mark.parametrize("levels", [3, 15, 255])
def test_the_quotient_is_equal_beside_every_threshold(levels: int) -> None:
    random, found = np.random.default_rng(levels), 0
    for draw in range(30):
        alpha = float(np.float32(10.0 ** random.uniform(-2, 2)))
        thresholds, step = quantizer(alpha, levels)
        form = exact_quotient(thresholds, np.array([step]), -REAL_LIMIT, REAL_LIMIT)
        if form is None:
            continue
        found += 1
        ties = (np.arange(levels) * step).astype(np.float32)
        values = np.concatenate(
            [beside(thresholds[0], 40), beside(ties[1:], 3), -thresholds[0], np.zeros(1, np.float32)]
        )
        values = np.concatenate([values, random.normal(0, alpha, 5000).astype(np.float32)])
        expected = (values[:, None] >= thresholds[0]).sum(axis=1)
        got = evaluate_quotient(values, form.channel(0), levels)
        assert np.array_equal(got, expected), f"levels {levels}, draw {draw}, alpha {alpha!r}"
    assert found >= 27  # ties of a rounded step may fall to both sides


def test_the_quotient_is_the_exact_one() -> None:
    alpha = float(np.float32(0.7371))
    thresholds, step = quantizer(alpha, 15)
    form = exact_quotient(thresholds, np.array([step]), -REAL_LIMIT, REAL_LIMIT)
    assert form is not None
    values = beside(thresholds[0], 20)
    # Python's Fraction rounds half to even, as the paper's quantizer does; only a tie may fall otherwise.
    exact = [min(max(round(Fraction(float(value)) * 15 / Fraction(alpha)), 0), 15) for value in values]
    is_tie = [(Fraction(float(value)) * 30 / Fraction(alpha)).denominator == 1 for value in values]
    got = evaluate_quotient(values, form.channel(0), 15)
    assert all(tie or code == count for tie, code, count in zip(is_tie, exact, got, strict=True))


def test_constant_channels_of_a_quotient() -> None:
    largest = np.finfo(np.float32).max
    thresholds = np.array([[largest] * 3, [-largest] * 3], np.float32)
    form = exact_quotient(thresholds, np.array([np.inf, np.inf]), -REAL_LIMIT, REAL_LIMIT)
    assert form is not None
    values = np.array([-REAL_LIMIT, -1.0, 0.0, 1.0, REAL_LIMIT], np.float32)
    assert evaluate_quotient(values, form.channel(0), 3).tolist() == [0.0] * 5
    assert evaluate_quotient(values, form.channel(1), 3).tolist() == [3.0] * 5


@pytest.mark.parametrize("thresholds", [[0.5, 1.5, 2.7], [1.0, 2.0, 3.0]])
def test_what_is_no_quotient_is_refused(thresholds: list[float]) -> None:
    assert exact_quotient(np.array([thresholds], np.float32), np.array([1.0]), -REAL_LIMIT, REAL_LIMIT) is None


@pytest.mark.parametrize("name", [item.name for item in fields(ExactQuotient)])
def test_a_wrong_quotient_is_not_proved(name: str) -> None:
    thresholds, step = quantizer(3.3, 15)
    form = exact_quotient(thresholds, np.array([step]), -REAL_LIMIT, REAL_LIMIT)
    assert form is not None
    assert is_quotient_proved(form, thresholds, -REAL_LIMIT, REAL_LIMIT)
    wrong = replace(form, **{name: getattr(form, name) * np.float32(2.0) - np.float32(0.6)})
    assert not is_quotient_proved(wrong, thresholds, -REAL_LIMIT, REAL_LIMIT)


def test_the_nearest_threshold_of_large_sums() -> None:
    found = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        spacing = random.uniform(2_000.0, 60_000.0, 3)
        first = random.uniform(-(2.0**23), 0.0, 3)
        thresholds = np.ceil(first[:, None] + np.arange(255) * spacing[:, None])
        form = nearest_threshold(thresholds, spacing, -(2**24) + 1, 2**24 - 1)
        if form is None:
            continue
        found += 1
        for channel, row in enumerate(thresholds):
            values = np.unique(
                np.concatenate([(row[:, None] + np.arange(-30, 31)).ravel(), random.integers(-(2**24), 2**24, 4000)])
            )
            values = values[np.abs(values) < 2**24].astype(np.float32)
            expected = (values[:, None] >= row).sum(axis=1)
            assert np.array_equal(evaluate_nearest(values, form.channel(channel), 255), expected), f"seed {seed}"
        wrong = replace(form, rest=form.rest + np.float32(1.0))
        assert not is_nearest_proved(wrong, thresholds, -(2**24) + 1, 2**24 - 1)
    assert found >= 15
