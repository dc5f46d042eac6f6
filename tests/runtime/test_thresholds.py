"""Thresholds and masks against brute force: the real formula in float64 at every accumulator there is."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from bitlens.runtime.program import ACCUMULATOR_LIMIT, Array
from bitlens.runtime.thresholds import Interval, channel_thresholds, first_passing, mask_bounds

Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

SPAN = 3000
ACCUMULATORS = np.arange(-SPAN, SPAN + 1, dtype=np.int64)
FLOAT_LIMIT = float(np.finfo(np.float32).max)


def random_line(seed: int, channels: int = 24) -> tuple[Float64, Float64]:
    """Slopes of either sign over seven decades, some zero, and offsets."""
    draw = np.random.default_rng(seed)
    slope = draw.choice([-1.0, 1.0], channels) * 10.0 ** draw.uniform(-5, 2, channels)
    slope[:: channels // 4] = 0.0
    return slope, draw.normal(0.0, 2.0, channels)


def passes(y: Float64, boundary: float, inclusive: bool) -> Bool:
    return y >= boundary if inclusive else y > boundary


def counted(thresholds: Array, direction: Array, values: Array) -> npt.NDArray[np.int64]:
    """Codes (C, values) by comparing with every threshold."""
    signs = direction.astype(np.float64)[:, None, None]
    passed = values[None, :, None] * signs >= thresholds.astype(np.float64)[:, None, :] * signs
    return np.asarray(passed.sum(axis=2), np.int64)


def check_codes(got: npt.NDArray[np.int64], expected: npt.NDArray[np.int64]) -> None:
    assert got.shape == expected.shape
    assert np.array_equal(got, expected), f"{int((got != expected).sum())} of {got.size} codes differ"


def check_masks(low: Array, high: Array, expected: Bool) -> None:
    inside = (low[:, None] <= ACCUMULATORS) & (high[:, None] >= ACCUMULATORS)
    assert np.array_equal(inside, expected), f"{int((inside != expected).sum())} of {expected.size} mask bits differ"


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("inclusive", [False, True])
def test_first_passing_is_the_first_of_all_that_pass(seed: int, inclusive: bool) -> None:
    draw = np.random.default_rng(seed)
    slope = 10.0 ** draw.uniform(-5, 2, 60)
    offset = draw.normal(0.0, 2.0, 60)
    # Half of the boundaries are met exactly by some accumulator.
    met = slope * draw.integers(-SPAN, SPAN, 60) + offset
    boundary = np.where(draw.random(60) < 0.5, met, draw.normal(0.0, 3.0, 60))
    got = first_passing(slope, offset, boundary, np.array(inclusive))
    for a, b, edge, first in zip(slope, offset, boundary, got, strict=True):
        passing = ACCUMULATORS[passes(a * ACCUMULATORS + b, edge, inclusive)]
        if passing.size == 0:
            assert first > SPAN
        elif passing[0] == -SPAN:
            assert first <= -SPAN
        else:
            assert first == passing[0]


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_codes_of_every_accumulator(seed: int, rectified: bool) -> None:
    slope, offset = random_line(seed)
    draw = np.random.default_rng(seed + 100)
    boundaries = np.sort(draw.normal(0.0, 2.0, int(draw.integers(1, 16))))
    inclusive = draw.random(len(boundaries)) < 0.5
    thresholds, direction = channel_thresholds(slope, offset, boundaries, inclusive, rectified=rectified)
    assert thresholds.dtype == np.int32
    assert direction.dtype == np.int8
    y = slope[:, None] * ACCUMULATORS + offset[:, None]
    y = np.maximum(y, 0.0) if rectified else y
    expected = sum(
        passes(y, edge, bool(ends)).astype(np.int64) for edge, ends in zip(boundaries, inclusive, strict=True)
    )
    assert isinstance(expected, np.ndarray)
    check_codes(counted(thresholds, direction, ACCUMULATORS), expected)


# Slopes and scale are powers of two, so that y / scale falls exactly on many halves.
@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("slope", [0.125, -0.125, 0.0625, -1.0, 0.0])
@pytest.mark.parametrize("offset", [0.0, 0.375, -0.125, 1.125])
def test_ties_round_half_to_even(slope: float, offset: float, rectified: bool) -> None:
    scale, levels = 0.25, 15
    halves = np.arange(levels, dtype=np.float64) + 0.5
    thresholds, direction = channel_thresholds(
        np.array([slope]), np.array([offset]), halves * scale, np.rint(halves) > halves, rectified=rectified
    )
    y = slope * ACCUMULATORS + offset
    y = np.maximum(y, 0.0) if rectified else y
    expected = np.clip(np.rint(y / scale), 0, levels).astype(np.int64)
    if slope:
        ties = np.abs(y / scale % 1.0 - 0.5) == 0.0
        assert slope in (-1.0,) or ties.any(), "no tie is tried"
    check_codes(counted(thresholds, direction, ACCUMULATORS), expected[None])


def test_sign_of_zero_is_plus_one() -> None:
    slope, offset = np.array([0.5, -0.5, 0.0, 0.0]), np.array([1.0, 1.0, 0.0, -1.0])
    thresholds, direction = channel_thresholds(slope, offset, np.zeros(1), np.ones(1, bool))
    y = slope[:, None] * ACCUMULATORS + offset[:, None]
    check_codes(counted(thresholds, direction, ACCUMULATORS), (y >= 0).astype(np.int64))


@pytest.mark.parametrize(("inclusive", "expected"), [(True, 1), (False, 0)])
def test_boundary_at_zero_behind_a_relu(inclusive: bool, expected: int) -> None:
    # max(y, 0) = 0 for every negative y: it passes an inclusive boundary at 0, and no exclusive one.
    thresholds, direction = channel_thresholds(
        np.array([0.5, -0.5]), np.array([0.0, 0.0]), np.zeros(1), np.array([inclusive]), rectified=True
    )
    codes = counted(thresholds, direction, ACCUMULATORS)
    assert codes[0, 0] == codes[1, -1] == expected
    assert codes[0, -1] == codes[1, 0] == 1


@pytest.mark.parametrize("is_float", [False, True])
def test_boundaries_out_of_reach(is_float: bool) -> None:
    slope, offset = np.array([1e-9, -1e-9]), np.array([0.0, 0.0])
    boundaries = np.array([-np.inf, -1e32, 1e32, np.inf]) if is_float else np.array([-1e9, -1.0, 1.0, 1e9])
    limit = FLOAT_LIMIT if is_float else ACCUMULATOR_LIMIT
    thresholds, direction = channel_thresholds(slope, offset, boundaries, np.ones(4, bool), is_float=is_float)
    reach = (1 - 2.0**-24) * limit if is_float else limit - 1  # the largest value an accumulator takes
    values = np.array([-reach, 0.0, reach])
    assert np.array_equal(counted(thresholds, direction, values), [[2, 2, 2], [2, 2, 2]])
    assert np.array_equal(np.abs(thresholds[:, [0, 3]]), np.full((2, 2), limit))


def test_limit_itself_is_never_a_wrong_answer() -> None:
    # The last accumulator below 2^24 is still told apart.
    last = ACCUMULATOR_LIMIT - 1
    got = first_passing(np.ones(2), np.zeros(2), np.array([last, -last], np.float64), np.array([True, False]))
    assert got.tolist() == [last, -last + 1]


def intervals() -> list[Interval]:
    return [
        Interval(low, high, low_closed, high_closed)
        for (low, high) in ((-1.0, 1.0), (0.0, 1.5), (-0.25, 0.0), (0.5, 0.5), (-np.inf, 0.75), (-np.inf, np.inf))
        for low_closed, high_closed in itertools.product((False, True), repeat=2)
    ]


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("interval", intervals(), ids=str)
def test_mask_of_every_accumulator(interval: Interval, rectified: bool) -> None:
    slope, offset = random_line(77)
    slope[1:5], offset[1:5] = [0.125, -0.125, 0.25, -0.5], [0.0, 0.5, -0.25, 1.0]  # meet the ends exactly
    low, high = mask_bounds(slope, offset, interval, rectified=rectified)
    assert low.dtype == high.dtype == np.int32
    y = slope[:, None] * ACCUMULATORS + offset[:, None]
    above = y >= interval.low if interval.low_closed else y > interval.low
    below = y <= interval.high if interval.high_closed else y < interval.high
    expected = above & below & (slope != 0)[:, None]
    if rectified:
        expected &= y > 0  # torch: the gradient of relu at 0 is 0
    check_masks(low, high, expected)
    assert np.all(low[slope == 0] > high[slope == 0])


@pytest.mark.parametrize("seed", range(6))
def test_float_accumulators_by_their_neighbours(seed: int) -> None:
    draw = np.random.default_rng(seed)
    slope = draw.choice([-1.0, 1.0], 50) * 10.0 ** draw.uniform(-2, 2, 50)
    offset, boundaries = draw.normal(0.0, 1.0, 50), np.sort(draw.normal(0.0, 2.0, 3))
    inclusive = np.array([True, False, True])
    thresholds, direction = channel_thresholds(slope, offset, boundaries, inclusive, is_float=True)
    assert thresholds.dtype == np.float32
    for column, (edge, ends) in enumerate(zip(boundaries, inclusive, strict=True)):
        first = thresholds[:, column]
        before = np.nextafter(first, -np.float32(np.inf) * direction, dtype=np.float32)
        assert passes(slope * first.astype(np.float64) + offset, edge, bool(ends)).all()
        assert not passes(slope * before.astype(np.float64) + offset, edge, bool(ends)).any()
    interval = Interval(-0.5, 0.7, True, False)
    low, high = mask_bounds(slope, offset, interval, is_float=True)
    assert low.dtype == high.dtype == np.float32

    def inside(values: Array) -> Bool:
        y = slope * values.astype(np.float64) + offset
        answer: Bool = (y >= -0.5) & (y < 0.7)
        return answer

    assert inside(low).all()
    assert inside(high).all()
    assert not inside(np.nextafter(low, np.float32(-np.inf))).any()
    assert not inside(np.nextafter(high, np.float32(np.inf))).any()


def test_float_boundary_met_exactly() -> None:
    thresholds, direction = channel_thresholds(
        np.array([1.0, -1.0, 2.0]), np.zeros(3), np.zeros(1), np.ones(1, bool), is_float=True
    )
    assert np.array_equal(thresholds, np.zeros((3, 1)))
    assert direction.tolist() == [1, -1, 1]


@pytest.mark.parametrize("is_float", [False, True])
def test_box_that_nothing_enters_is_finite_and_empty(is_float: bool) -> None:
    lines = np.array([1.0, -1.0, 1.0, 0.0]), np.array([0.0, 0.0, 9.0, 0.5])
    low, high = mask_bounds(*lines, Interval(1.0, -1.0, True, True), is_float=is_float)
    assert np.isfinite(low).all()
    assert np.isfinite(high).all()
    assert np.all(low > high)
    low, high = mask_bounds(np.ones(1), np.zeros(1), Interval(-np.inf, -np.inf, True, False), is_float=is_float)
    assert np.isfinite(high).all()
    assert np.all(low > high)


def test_checks_can_fail() -> None:
    slope, offset, boundaries = np.array([0.01]), np.array([0.3]), np.array([0.5, 1.0])
    thresholds, direction = channel_thresholds(slope, offset, boundaries, np.ones(2, bool))
    expected = counted(thresholds, direction, ACCUMULATORS)
    check_codes(expected, expected)
    with pytest.raises(AssertionError, match="1 of 6001 codes differ"):
        check_codes(counted(thresholds + np.array([0, 1], np.int32), direction, ACCUMULATORS), expected)
    low, high = mask_bounds(slope, offset, Interval(0.0, 1.0, True, True))
    inside = (low <= ACCUMULATORS) & (high >= ACCUMULATORS)
    check_masks(low, high, inside[None])
    with pytest.raises(AssertionError, match="1 of 6001 mask bits differ"):
        check_masks(low, high + 1, inside[None])


@pytest.mark.parametrize("inclusive", [True, False])
def test_crossing_where_float64_is_flat_over_many_neighbours(inclusive: bool) -> None:
    # 1e-18 * a is lost beside 1 until a is large: the crossing lies far from where a division would put it.
    slope, offset = np.array([1e-18, 3e-17, 1e-16]), np.ones(3)
    values = np.arange(-2000.0, 2000.0)
    y = slope[:, None] * values + 1.0
    passed = (y >= 1.0) if inclusive else (y > 1.0)
    got = first_passing(slope, offset, np.array(1.0), np.array(inclusive))
    assert got.tolist() == values[passed.argmax(axis=1)].tolist()


@pytest.mark.parametrize("inclusive", [True, False])
def test_crossing_of_float32_values_beside_a_large_offset(inclusive: bool) -> None:
    got = first_passing(np.ones(1), np.ones(1), np.array(1.0), np.array(inclusive), is_float=True)
    before = np.nextafter(got.astype(np.float32), np.float32(-np.inf)).astype(np.float64)
    for values, expected in ((got, True), (before, False)):
        y = values + 1.0
        assert bool((y >= 1.0 if inclusive else y > 1.0)[0]) is expected
