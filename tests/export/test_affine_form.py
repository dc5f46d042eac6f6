"""Thresholds as divide, add, round and clip: equal for every accumulator, or refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from bitlens.export.affine_form import (
    DIVIDE,
    MULTIPLY,
    AffineForm,
    Scaling,
    affine_form,
    deciding_values,
    evaluate,
    is_proved,
    passed_counts,
)
from bitlens.runtime.program import ACCUMULATOR_LIMIT, Array
from bitlens.runtime.thresholds import channel_thresholds

Float64 = npt.NDArray[np.float64]
DTYPES = (np.float32, np.float64)


def uniform_thresholds(slope: Float64, offset: Float64, levels: int) -> tuple[Array, Array, Float64]:
    """Thresholds of a quantizer to 0..levels with half-even ties, their direction and spacing."""
    codes = np.arange(1, levels + 1, dtype=np.float64)
    thresholds, direction = channel_thresholds(slope, offset, codes - 0.5, codes % 2 == 0)
    with np.errstate(divide="ignore"):
        return thresholds, direction, 1.0 / np.abs(slope)


def counts_one_by_one(thresholds: Array, direction: Array, values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The definition, comparison by comparison: (C, values)."""
    signed = values[None, None, :] * direction[:, None, None]
    passed = signed >= thresholds[:, :, None].astype(np.int64) * direction[:, None, None]
    return np.asarray(passed.sum(axis=1))


def form_one_by_one(form: AffineForm, values: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The form with NumPy's own scalars of its dtype: (C, values)."""
    with np.errstate(over="raise", invalid="raise"):
        facing, constant = values.astype(form.constant.dtype)[None, :], form.constant[:, None]
        scaled = facing / constant if form.scaling is DIVIDE else facing * constant
        return np.asarray(np.clip(np.round(scaled + form.shift[:, None]), form.low, form.high), np.float64)


@pytest.mark.parametrize("scaling", [DIVIDE, MULTIPLY], ids=["divide", "multiply"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", [2, 3, 15, 255])
def test_equal_for_every_accumulator(levels: int, dtype: type[np.floating], scaling: Scaling) -> None:
    feasible = 0
    for seed in range(25):
        random = np.random.default_rng([seed, levels])
        channels, reach = 6, int(random.integers(40, 6000))
        slope = random.choice([-1.0, 1.0], channels) * 10.0 ** random.uniform(-3.0, 0.5, channels) * levels / 15
        slope[0] = 0.0  # a constant channel
        slope[1] = 1e-9  # one that no accumulator moves
        offset = random.uniform(-levels, 2 * levels, channels)
        low, high = -reach, int(random.integers(1, reach + 1))
        thresholds, direction, spacing = uniform_thresholds(slope, offset, levels)
        form = affine_form(thresholds, direction, spacing, low, high, dtype, scaling=scaling)
        if form is None:
            continue
        feasible += 1
        values = np.arange(low, high + 1)
        replay = f"seed {seed}, {levels} levels, {dtype.__name__}"
        assert form.constant.dtype == form.shift.dtype == dtype, replay
        expected = counts_one_by_one(thresholds, direction, values)
        assert np.array_equal(form_one_by_one(form, values), expected), replay
        assert is_proved(form, thresholds, direction, low, high), replay
    # float64 always has room here; float32 lacks it only where many steps meet a steep slope.
    assert feasible == 25 if dtype is np.float64 else feasible >= 20


@pytest.mark.parametrize("low", [-(ACCUMULATOR_LIMIT - 1), 0, ACCUMULATOR_LIMIT - 70_000])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_equal_out_to_the_edges_of_the_accumulator(low: int, sign: float) -> None:
    high = ACCUMULATOR_LIMIT - 1
    span = high - low
    slope = np.array([sign * 15.0 / span, sign * 3.0 / span, sign * 15.3 / span])
    offset = np.array([np.sqrt(0.05), -np.pi / 30, np.e]) - slope * (low if sign > 0 else high)
    thresholds, direction, spacing = uniform_thresholds(slope, offset, 15)
    form = affine_form(thresholds, direction, spacing, low, high) or affine_form(
        thresholds, direction, spacing, low, high, np.float64
    )
    assert form is not None
    # Exhaustive in pieces: up to 33 million values for each channel would take a minute, so blocks around every
    # threshold, both ends, and a coarse grid between.
    near = (thresholds.reshape(-1, 1).astype(np.int64) + np.arange(-300, 301)).ravel()
    ends = np.concatenate([low + np.arange(500), high - np.arange(500)])
    values = np.unique(np.concatenate([near, ends, np.arange(low, high, 997)]))
    values = values[(values >= low) & (values <= high)]
    assert np.array_equal(form_one_by_one(form, values), counts_one_by_one(thresholds, direction, values))


def test_equal_for_all_of_a_24_bit_range() -> None:
    low, high = -(ACCUMULATOR_LIMIT - 1), ACCUMULATOR_LIMIT - 1
    slope = np.array([15.0 / high, -7.0 / high])
    thresholds, direction, spacing = uniform_thresholds(slope, np.array([np.pi, np.e * 3]), 15)
    form = affine_form(thresholds, direction, spacing, low, high) or affine_form(
        thresholds, direction, spacing, low, high, np.float64
    )
    assert form is not None
    for begin in range(low, high + 1, 2**20):
        values = np.arange(begin, min(begin + 2**20, high + 1))
        assert np.array_equal(form_one_by_one(form, values), counts_one_by_one(thresholds, direction, values))


def test_float64_where_float32_has_no_room() -> None:
    # Spacing 3.1 with a million steps of offset: quotients near 3e6 leave float32 a quarter of a code, and rounding
    # the constant alone moves them by more than a code.
    slope, offset = np.array([1 / 3.1]), np.array([-(2.0**23) / 3.1])
    thresholds, direction, spacing = uniform_thresholds(slope, offset, 200)
    low, high = 2**23 - 100, 2**23 + 700
    assert affine_form(thresholds, direction, spacing, low, high, np.float32) is None
    form = affine_form(thresholds, direction, spacing, low, high, np.float64)
    assert form is not None
    values = np.arange(low, high + 1)
    assert np.array_equal(form_one_by_one(form, values), counts_one_by_one(thresholds, direction, values))


def test_ties_that_are_met_exactly_leave_one_shift_and_it_is_found() -> None:
    # Power-of-two scales: y = a/4 + 3 stands on ties that go down and on ties that go up.
    thresholds, direction, spacing = uniform_thresholds(np.array([0.25, -0.25]), np.array([3.0, 300.0]), 255)
    form = affine_form(thresholds, direction, spacing, -3000, 3000)
    assert form is not None
    values = np.arange(-3000, 3001)
    assert np.array_equal(form_one_by_one(form, values), counts_one_by_one(thresholds, direction, values))


@pytest.mark.parametrize("levels", [15, 255])
def test_equal_for_real_values_on_both_sides_of_every_threshold(levels: int) -> None:
    random = np.random.default_rng(levels)
    slope = random.choice([-1.0, 1.0], 6) * 10.0 ** random.uniform(-2, 2, 6)
    offset = random.uniform(-levels, 2 * levels, 6)
    codes = np.arange(1, levels + 1, dtype=np.float64)
    thresholds, direction = channel_thresholds(slope, offset, codes - 0.5, codes % 2 == 0, is_float=True)
    assert thresholds.dtype == np.float32
    largest = float(np.finfo(np.float32).max)
    form = affine_form(thresholds, direction, 1 / np.abs(slope), -largest, largest, np.float64, is_float=True)
    assert form is not None
    steps = np.arange(-40, 41, dtype=np.int32)
    for channel in range(6):
        bits = thresholds[channel].view(np.int32)[:, None] + steps  # the 40 floats to either side of each threshold
        near = bits.view(np.float32).ravel()
        values = np.concatenate([near[np.isfinite(near)], random.normal(size=20_000).astype(np.float32) * 1000])
        sign = direction[channel]
        expected = (values[:, None] * sign >= thresholds[channel] * sign).sum(axis=1)
        got = evaluate(form.scaling, values, form.constant[channel], form.shift[channel], form.low, form.high)
        assert np.array_equal(got, expected)


def test_thresholds_that_are_not_evenly_spaced_are_refused() -> None:
    thresholds = np.array([[0, 10, 11, 500]], np.int32)
    for dtype in DTYPES:
        assert affine_form(thresholds, np.array([1], np.int8), np.array([10.0]), -1000, 1000, dtype) is None


def test_a_constant_channel_beside_others_keeps_its_code() -> None:
    thresholds = np.array([[1, 5, 9], [-(2**24), -(2**24), 2**24], [2**24] * 3], np.int32)
    form = affine_form(thresholds, np.ones(3, np.int8), np.array([4.0, np.inf, np.inf]), -20, 20)
    assert form is not None
    values = np.arange(-20, 21)
    got = form_one_by_one(form, values)
    assert np.all(got[1] == 2)
    assert np.all(got[2] == 0)
    assert np.array_equal(got, counts_one_by_one(thresholds, np.ones(3, np.int8), values))


THRESHOLDS: Array = np.array([[-7, 1, 9], [8, 0, -8]], np.int32)
DIRECTION: Array = np.array([1, -1], np.int8)
SPACING = np.array([8.0, 8.0])


def proved_form() -> AffineForm:
    form = affine_form(THRESHOLDS, DIRECTION, SPACING, -100, 100)
    assert form is not None
    return form


def is_still_proved(form: AffineForm, low: int = -100, high: int = 100) -> bool:
    return is_proved(form, THRESHOLDS, DIRECTION, low, high)


@pytest.mark.parametrize("channel", [0, 1])
@pytest.mark.parametrize("field", ["constant", "shift"])
@pytest.mark.parametrize("change", [0.7, 1.3, -1.0, 0.0, np.nan, np.inf])
def test_a_wrong_constant_is_not_proved(field: str, channel: int, change: float) -> None:
    form = proved_form()
    assert is_still_proved(form)
    wrong = getattr(form, field).copy()
    wrong[channel] = wrong[channel] * change if field == "constant" else wrong[channel] + change
    if field == "shift" and change == 0.0:
        wrong[channel] += 1.0
    assert not is_still_proved(replace(form, **{field: wrong}))


@pytest.mark.parametrize(("low", "high"), [(1, 3), (-1, 3), (0, 2), (0, 4)])
def test_a_wrong_clip_is_not_proved(low: int, high: int) -> None:
    assert not is_still_proved(replace(proved_form(), low=low, high=high))


def test_a_form_for_another_range_or_other_thresholds_is_not_proved() -> None:
    near = affine_form(THRESHOLDS, DIRECTION, SPACING, -3, 3)
    assert near is not None
    assert is_still_proved(near, -3, 3)
    assert not is_still_proved(near)
    for row in range(2):
        for column in range(3):
            other = THRESHOLDS.copy()
            other[row, column] += 1
            assert not is_proved(proved_form(), other, DIRECTION, -100, 100)
    assert not is_proved(proved_form(), THRESHOLDS * -1, DIRECTION * np.int8(-1), -100, 100)


def test_deciding_values_are_both_sides_of_every_threshold_inside() -> None:
    thresholds = np.array([-50.0, 3.0, 7.0, 7.0, 90.0])
    assert deciding_values(thresholds, 0, 10).tolist() == [0, 2, 3, 6, 7, 10]
    assert deciding_values(thresholds, 3, 6).tolist() == [3, 6]
    assert passed_counts(np.array([2.0, 3.0, 7.0, 90.0]), thresholds).tolist() == [1, 2, 4, 5]


def test_evaluation_rounds_every_operation_once_half_to_even() -> None:
    third = np.float32(3.0)
    values = np.array([4.5, 7.5, 10.5, 1e9], np.float32)
    assert evaluate(DIVIDE, values, np.array(third), np.array(np.float32(0.0)), 0, 3).tolist() == [2.0, 2.0, 3.0, 3.0]
    # 16777216 / 3 and + 0.4 in float32 differ from float64's answer.
    large = np.array([16777216.0], np.float32)
    got = evaluate(DIVIDE, large, np.array(third), np.array(np.float32(0.25)), 0, 10**8)
    assert got.tolist() == [float(np.rint(np.float32(large[0] / third) + np.float32(0.25)))]
