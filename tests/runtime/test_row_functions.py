"""Each set of row functions that runs here, against NumPy definitions, bit for bit.

Every operation on floats is one float32 operation, rounded once, so NumPy's float32 is exact here too. Arrays are
longer than what is written: the sentinels between and after pixels must stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

kernels: Any = pytest.importorskip("bitlens.runtime._kernels", reason="a wheel without compiled kernels")

Numbers = npt.NDArray[Any]

CHANNELS = 32
LOWEST, HIGHEST = -(2**31), 2**31 - 1
SETS = [isa for isa, runs_here in kernels.row_function_sets() if runs_here]
every_set = pytest.mark.parametrize("isa", SETS)
either_type = pytest.mark.parametrize("kind", [np.int32, np.float32], ids=["i32", "f32"])


def bits_of(values: Numbers) -> Numbers:
    """Floats as their bits, so that -0.0 is not 0.0 and NaN is itself."""
    whole: Numbers = np.ascontiguousarray(values).view({1: np.uint8, 4: np.uint32}[values.dtype.itemsize])
    return whole


def expect_same(got: Numbers, expected: Numbers, what: str) -> None:
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape), what
    wrong = bits_of(got) != bits_of(expected)
    first = np.argwhere(wrong)[:1].tolist()
    assert not wrong.any(), f"{int(wrong.sum())} of {wrong.size} differ, first {first}: {what}"


def spread(values: Numbers, step: int) -> Numbers:
    """Pixels `step` elements apart, with numbers between them that would be noticed."""
    rows = np.full((len(values), step), 0x5EED, values.dtype)
    rows[:, : values.shape[1]] = values
    return rows.reshape(-1)


def written(room: Numbers, pixels: int, count: int, sentinel: int, what: str) -> Numbers:
    """Give what was written, after a look at the sentinels beyond it."""
    rows = room.reshape(pixels, -1)
    assert (rows[:, count:] == np.asarray(sentinel).astype(room.dtype)).all(), f"wrote beyond its channels: {what}"
    return np.ascontiguousarray(rows[:, :count])


def turned(sums: Numbers, turn: Numbers) -> Numbers:
    """Negated where asked; the lowest int32 is its own negative."""
    with np.errstate(over="ignore"):
        both: Numbers = np.where(turn < 0, -sums, sums)
    return both


def words(bits: Numbers) -> Numbers:
    packed: Numbers = np.packbits(bits, axis=-1, bitorder="little").view("<u4")[:, 0]
    return packed.astype(np.uint32)


@dataclass(frozen=True)
class Quantizer:
    """Thresholds (levels, 32), on turned sums, and the box of the mask."""

    turn: Numbers
    thresholds: Numbers
    mask_low: Numbers | None = None
    mask_high: Numbers | None = None

    def codes(self, sums: Numbers) -> Numbers:
        values = turned(sums, self.turn)
        columns = [
            np.searchsorted(self.thresholds[:, channel], values[:, channel], side="right")
            for channel in range(CHANNELS)
        ]
        counts: Numbers = np.stack(columns, axis=1)
        counts[np.isnan(values.astype(np.float64))] = 0  # NaN passes nothing
        return counts

    def mask(self, sums: Numbers) -> Numbers:
        values = turned(sums, self.turn)
        return words((self.mask_low <= values) & (values <= self.mask_high))


FORMS = {1: "bits", 3: "planes"}


def threshold(
    isa: str,
    form: str,
    sums: Numbers,
    quantizer: Quantizer,
    *,
    gap: int = 3,
    code_step: int = 1,
    channels: int = CHANNELS,
) -> tuple[Numbers, Numbers | None]:
    """Run a threshold function: its words (pixels, 1 or 2) or codes (pixels, channels), and the mask."""
    pixels, kind = len(sums), sums.dtype.type
    count, out_kind = {"bits": (1, np.uint32), "planes": (2, np.uint32), "codes": (channels, np.uint8)}[form]
    room: Numbers = np.full(pixels * (count + gap), 0xA5, out_kind)
    masked = quantizer.mask_low is not None
    mask = np.full(pixels * (1 + gap), 0xA5, np.uint32)
    empty = np.zeros(0, kind)
    function = kernels.threshold_row_i32 if kind is np.int32 else kernels.threshold_row_f32
    function(
        isa,
        form,
        spread(sums, CHANNELS + gap),
        CHANNELS + gap,
        len(quantizer.thresholds),
        quantizer.turn,
        np.ascontiguousarray(quantizer.thresholds).reshape(-1),
        quantizer.mask_low if masked else empty,
        quantizer.mask_high if masked else empty,
        code_step,
        channels,
        room.view(np.uint8),
        count + gap,
        mask,
        1 + gap,
    )
    what = f"{isa}, {form}, {kind.__name__}, {len(quantizer.thresholds)} levels, {pixels} pixels, {channels} channels"
    out = written(room, pixels, count, 0xA5, what)
    if masked:
        return out, written(mask, pixels, 1, 0xA5, what)[:, 0]
    assert (mask == 0xA5).all(), f"wrote a mask that was not asked for: {what}"
    return out, None


def expected_form(form: str, sums: Numbers, quantizer: Quantizer, code_step: int, channels: int) -> Numbers:
    codes = quantizer.codes(sums)
    if form == "codes":
        return (code_step * codes[:, :channels]).astype(np.uint8)
    planes = [words((codes >> plane & 1).astype(np.uint8)) for plane in range(1 if form == "bits" else 2)]
    return np.stack(planes, axis=1)


def check_thresholds(isa: str, sums: Numbers, quantizer: Quantizer, code_step: int = 1, channels: int = 32) -> None:
    levels = len(quantizer.thresholds)
    for form in ["codes", *([FORMS[levels]] if levels in FORMS else [])]:
        for gap in (0, 3):
            out, mask = threshold(isa, form, sums, quantizer, gap=gap, code_step=code_step, channels=channels)
            what = f"{isa}, {form}, {levels} levels, {len(sums)} pixels, {channels} channels, gap {gap}"
            expect_same(out, expected_form(form, sums, quantizer, code_step, channels), what)
            if mask is not None:
                expect_same(mask, quantizer.mask(sums), f"mask of {what}")


def drawn(draw: np.random.Generator, kind: type, shape: tuple[int, ...], reach: int) -> Numbers:
    if kind is np.int32:
        return draw.integers(-reach, reach + 1, shape).astype(np.int32)
    return (draw.standard_normal(shape) * reach).astype(np.float32)


def line(kind: type, levels: int, step: float, draw: np.random.Generator) -> Numbers:
    """Thresholds of a uniform quantizer, another one in each channel."""
    steps = step * draw.uniform(0.25, 2, CHANNELS)
    thresholds = (np.arange(levels)[:, None] - levels * draw.uniform(0, 1, CHANNELS)) * steps
    return (np.ceil(thresholds) if kind is np.int32 else thresholds).astype(kind)


def with_mask(draw: np.random.Generator, kind: type, thresholds: Numbers, reach: int) -> Quantizer:
    turn = -draw.integers(0, 2, CHANNELS).astype(np.int32)
    low, high = np.sort(drawn(draw, kind, (2, CHANNELS), reach), axis=0)
    return Quantizer(turn, thresholds, np.ascontiguousarray(low), np.ascontiguousarray(high))


@every_set
@either_type
@pytest.mark.parametrize("levels", [1, 2, 3, 4, 7, 15, 16, 31, 32, 33, 63, 100, 127, 254, 255])
@pytest.mark.parametrize("step", [0.1, 1, 7, 900])
def test_codes_of_a_uniform_quantizer(isa: str, kind: type, levels: int, step: float) -> None:
    draw = np.random.default_rng([levels, int(10 * step)])
    reach = int(levels * step) + 2
    thresholds = line(kind, levels, step, draw)
    sums = drawn(draw, kind, (23, CHANNELS), reach)
    sums[:5] = thresholds[draw.integers(0, levels, 5)]  # exactly at a threshold
    if kind is np.int32:
        sums[5:10] = thresholds[draw.integers(0, levels, 5)] - 1
    check_thresholds(isa, sums, Quantizer(np.zeros(CHANNELS, np.int32), thresholds))
    check_thresholds(isa, sums, with_mask(draw, kind, thresholds, reach))


@every_set
@either_type
@pytest.mark.parametrize("levels", [15, 16, 31, 255])
@pytest.mark.parametrize("step", [0.019, 1, 6.3, 54])
def test_codes_beside_every_threshold_of_a_uniform_quantizer(isa: str, kind: type, levels: int, step: float) -> None:
    """A line gives the codes, and at a threshold a rounding more or less would give its neighbour's."""
    draw = np.random.default_rng([levels, int(1000 * step)])
    thresholds = line(kind, levels, step, draw)
    if kind is np.int32:
        sums = np.concatenate([thresholds - 1, thresholds, thresholds + 1])
    else:
        sums = np.concatenate([np.nextafter(thresholds, kind(end)) for end in (-np.inf, np.inf)] + [thresholds])
    check_thresholds(isa, sums, Quantizer(np.zeros(CHANNELS, np.int32), thresholds))
    check_thresholds(isa, -sums, with_mask(draw, kind, thresholds, 99))
    draw.shuffle(sums, axis=0)
    check_thresholds(isa, sums, with_mask(draw, kind, thresholds, 99), channels=12)


@every_set
@either_type
@pytest.mark.parametrize("levels", [1, 3, 7, 15, 32, 33, 255])
def test_codes_of_any_ascending_thresholds(isa: str, kind: type, levels: int) -> None:
    draw = np.random.default_rng(levels)
    far = 2**30
    sums = np.concatenate([drawn(draw, kind, (16, CHANNELS), reach) for reach in (2, 60, 40000, far)])
    for reach in (2, 60, 40000, far):
        thresholds = np.sort(drawn(draw, kind, (levels, CHANNELS), reach), axis=0)
        check_thresholds(isa, sums, with_mask(draw, kind, thresholds, reach))
    powers = np.sort(drawn(draw, kind, (levels, CHANNELS), 1) * 2 ** draw.integers(0, 30, (levels, CHANNELS)), axis=0)
    check_thresholds(isa, sums, with_mask(draw, kind, powers.astype(kind), far))


@every_set
@either_type
@pytest.mark.parametrize("levels", [1, 3, 7, 15, 32, 33, 255])
def test_thresholds_that_are_equal_or_out_of_reach(isa: str, kind: type, levels: int) -> None:
    draw = np.random.default_rng(levels)
    largest = HIGHEST if kind is np.int32 else np.finfo(np.float32).max
    lowest = LOWEST if kind is np.int32 else np.finfo(np.float32).min
    sums = drawn(draw, kind, (9, CHANNELS), 3 * levels)
    sums[0], sums[1] = lowest, largest
    turn = -(np.arange(CHANNELS) % 2).astype(np.int32)
    for part in (1, levels // 3, 2 * levels // 3, levels):
        for end in (largest, lowest, 5):
            thresholds = line(kind, levels, 3, draw)
            thresholds[:part] = lowest if end == lowest else thresholds[:part]
            thresholds[levels - part :] = end if end == largest else thresholds[levels - part :]
            thresholds = np.full_like(thresholds, end) if end == 5 else np.sort(thresholds, axis=0)
            check_thresholds(isa, sums, Quantizer(turn, thresholds))
    if kind is np.float32:
        infinite = line(kind, levels, 3, draw)
        infinite[levels // 2 :] = np.inf
        sums[2], sums[3], sums[4] = np.inf, -np.inf, np.nan
        check_thresholds(isa, sums, Quantizer(turn, infinite, np.full(32, -1, kind), np.full(32, np.inf, kind)))


@every_set
@pytest.mark.parametrize("levels", [1, 3, 15, 255])
def test_extreme_sums_and_thresholds(isa: str, levels: int) -> None:
    corners = np.array([LOWEST, LOWEST + 1, -1, 0, 1, HIGHEST - 1, HIGHEST], np.int32)
    sums = np.repeat(corners[:, None], CHANNELS, axis=1)
    draw = np.random.default_rng(levels)
    thresholds = np.sort(draw.choice(corners, (levels, CHANNELS)), axis=0)
    for turn in (0, -1):
        for low, high in ((LOWEST, HIGHEST), (HIGHEST, LOWEST), (0, 0), (-1, HIGHEST), (LOWEST, 1)):
            box = np.full(CHANNELS, low, np.int32), np.full(CHANNELS, high, np.int32)
            check_thresholds(isa, sums, Quantizer(np.full(CHANNELS, turn, np.int32), thresholds, *box))


@every_set
def test_zeros_of_either_sign_are_equal(isa: str) -> None:
    sums = np.repeat(np.array([[0.0], [-0.0]], np.float32), CHANNELS, axis=1)
    for zero in (0.0, -0.0):
        for levels in (1, 3, 7, 15, 32, 255):
            thresholds = np.full((levels, CHANNELS), zero, np.float32)
            for turn in (0, -1):
                box = np.full(CHANNELS, zero, np.float32)
                quantizer = Quantizer(np.full(CHANNELS, turn, np.int32), thresholds, box, box)
                assert (quantizer.codes(sums) == levels).all()
                check_thresholds(isa, sums, quantizer)


@every_set
@either_type
@pytest.mark.parametrize(("levels", "code_step"), [(1, 255), (3, 85), (15, 17), (15, 1), (51, 5), (255, 1), (127, 2)])
def test_code_steps_channels_and_row_lengths(isa: str, kind: type, levels: int, code_step: int) -> None:
    draw = np.random.default_rng(levels)
    quantizer = with_mask(draw, kind, line(kind, levels, 9, draw), 9 * levels)
    for pixels in (*range(1, 10), 31, 112):
        check_thresholds(isa, drawn(draw, kind, (pixels, CHANNELS), 9 * levels), quantizer, code_step)
    for channels in range(4, CHANNELS + 1, 4):
        check_thresholds(isa, drawn(draw, kind, (7, CHANNELS), 9 * levels), quantizer, code_step, channels)


def pool(
    isa: str,
    sums: Numbers,
    window: tuple[int, int],
    stride: int,
    pixels: int,
    turn: Numbers,
    *,
    gap: int,
    index_gap: int,
) -> tuple[Numbers, Numbers]:
    """Run the pool on sums (rows, row pixels, 32), with the index and without."""
    row_pixels = sums.shape[1]
    what = f"{isa}, {window}, stride {stride}, {pixels} pixels"
    source = spread(sums.reshape(-1, CHANNELS), CHANNELS + gap)
    pooled, alone = (np.full(pixels * CHANNELS, 0xA5, np.int32) for _ in range(2))
    index = np.full(pixels * (CHANNELS + index_gap), 0xA5, np.uint8)
    for out, index_out in ((pooled, index), (alone, np.zeros(0, np.uint8))):
        kernels.max_pool_row(
            isa, source, CHANNELS + gap, row_pixels, *window, stride, pixels, turn, out, index_out, CHANNELS + index_gap
        )
    expect_same(alone, pooled, f"without index: {what}")
    return pooled.reshape(pixels, CHANNELS), written(index, pixels, CHANNELS, 0xA5, what)


@every_set
@pytest.mark.parametrize("window", [(1, 1), (2, 2), (3, 3), (1, 5), (5, 1), (2, 3), (15, 17)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("reach", [1, 50, HIGHEST])
def test_largest_of_a_window_and_the_first_of_equals(
    isa: str, window: tuple[int, int], stride: int, reach: int
) -> None:
    draw = np.random.default_rng([*window, stride, reach])
    high, wide = window
    for pixels, gap, index_gap in ((1, 0, 0), (4, 5, 3), (9, 0, 32)):
        row_pixels = (pixels - 1) * stride + wide + 1
        sums = draw.integers(-reach, reach + 1, (high, row_pixels, CHANNELS)).astype(np.int32)
        if reach == HIGHEST:
            sums[draw.random(sums.shape) < 0.3] = LOWEST
        turn = -draw.integers(0, 2, CHANNELS).astype(np.int32)
        starts = np.arange(pixels) * stride
        windows = sums[:, starts[:, None] + np.arange(wide)]  # (high, pixels, wide, channels)
        candidates = windows.transpose(1, 0, 2, 3).reshape(pixels, -1, CHANNELS)
        winners = turned(candidates, turn).argmax(axis=1)  # NumPy's argmax is the first of equals
        pooled, index = pool(isa, sums, window, stride, pixels, turn, gap=gap, index_gap=index_gap)
        what = f"{isa}, {window}, stride {stride}, {pixels} pixels"
        expect_same(index, winners.astype(np.uint8), f"index: {what}")
        expect_same(pooled, np.take_along_axis(candidates, winners[:, None], axis=1)[:, 0], what)


@every_set
@either_type
@pytest.mark.parametrize("channels", [16, 32])
@pytest.mark.parametrize("gap", [0, 5])
def test_affine_rounds_each_operation_once(isa: str, kind: type, channels: int, gap: int) -> None:
    draw = np.random.default_rng(channels + gap)
    function = kernels.affine_row_i32 if kind is np.int32 else kernels.affine_row_f32
    for pixels in (1, 2, 7, 30):
        # Integers beyond 2^24 are rounded when they become floats; the rest cancel, so that one rounding less shows.
        sums = drawn(draw, kind, (pixels, CHANNELS), 2**30 if pixels == 30 else 2**20)
        if kind is np.int32:
            sums[0, :4] = LOWEST, HIGHEST, 0, 2**24 + 1
        else:
            sums[0, :4] = -0.0, 1e-42, 1e38, -1e38
        slope = draw.uniform(-1.5, 1.5, CHANNELS).astype(np.float32)
        offset = (-slope * sums[-1]).astype(np.float32)
        for addend in (None, draw.standard_normal((pixels, channels)).astype(np.float32)):
            out = np.full(pixels * (channels + gap), 0xA5, np.float32)
            rows = np.zeros(0, np.float32) if addend is None else spread(addend, channels + gap)
            source = spread(sums, CHANNELS + gap)
            function(isa, source, CHANNELS + gap, slope, offset, rows, channels, out, channels + gap)
            expected = (sums.astype(np.float32) * slope + offset)[:, :channels]
            expected = np.ascontiguousarray(expected) if addend is None else expected + addend
            what = f"{isa}, {kind.__name__}, {pixels} pixels, {channels} channels, addend {addend is not None}"
            expect_same(written(out, pixels, channels, 0xA5, what), expected, what)


@every_set
@pytest.mark.parametrize("channels", [16, 32])
@pytest.mark.parametrize("floor", [-np.inf, -1.0, -0.25, 0.0, -0.0])
def test_gradient_where_the_mask_has_a_bit(isa: str, channels: int, floor: float) -> None:
    draw = np.random.default_rng(channels)
    for pixels, gap in ((1, 0), (6, 0), (6, 7)):
        gradient = draw.standard_normal((pixels, channels)).astype(np.float32)
        gradient[0, :6] = 0.0, -0.0, -0.25, -1.0, 1e-42, np.inf
        gain = draw.standard_normal(CHANNELS).astype(np.float32)
        mask = draw.integers(0, 2**32, (pixels, 1), dtype=np.uint32)
        mask[0] = 2**32 - 1
        out = np.full(pixels * (channels + gap), 0xA5, np.float32)
        kernels.ste_gradient_row(
            isa, spread(gradient, channels + gap), channels + gap, spread(mask, 3), 3, floor, gain, channels, out
        )
        lowest = np.float32(floor)
        bit = (mask >> np.arange(channels, dtype=np.uint32) & 1).astype(bool)
        expected = np.where(bit, np.where(gradient > lowest, gradient, lowest) * gain[:channels], np.float32(0))
        what = f"{isa}, floor {floor}, {pixels} pixels, {channels} channels"
        expect_same(written(out, pixels, channels, 0xA5, what), expected, what)


COUNTS = [*range(1, 71), 127, 128, 129, 1000]


@every_set
def test_sums_of_floats(isa: str) -> None:
    draw = np.random.default_rng(3)
    for count in COUNTS:
        left, right = draw.standard_normal((2, count)).astype(np.float32)
        left[-1], right[-1] = -0.0, -0.0
        room = np.full(count + 64, 0xA5, np.float32)
        kernels.add_floats(isa, left, right, room[:count])
        assert (room[count:] == 0xA5).all(), f"{isa}: wrote beyond {count} floats"
        expect_same(room[:count], left + right, f"{isa}, {count} floats")


@every_set
def test_largest_magnitude_wherever_it_is(isa: str) -> None:
    draw = np.random.default_rng(4)
    for count in COUNTS:
        values = draw.uniform(-1, 1, count + 64).astype(np.float32)
        values[count:] = 100  # beyond
        for place in range(0, count, max(1, count // 40)):
            for largest in (2.0, -2.0):
                one = values.copy()
                one[place] = largest
                assert kernels.largest_magnitude(isa, one[:count]) == 2, f"{isa}: {place} of {count} floats"
    assert kernels.largest_magnitude(isa, np.zeros(40, np.float32)) == 0
    for value, magnitude in ((-0.0, 0), (np.nan, 0), (-np.inf, np.inf), (1e-42, np.float32(1e-42))):
        assert kernels.largest_magnitude(isa, np.full(40, value, np.float32)) == magnitude, f"{isa}: {value}"


def quantized(isa: str, values: Numbers, inverse_scale: float) -> Numbers:
    room = np.full(len(values) + 64, 0xA5, np.uint8)
    kernels.quantize_floats(isa, values, inverse_scale, room[: len(values)])
    assert (room[len(values) :] == 0xA5).all(), f"{isa}: wrote beyond {len(values)} bytes"
    return room[: len(values)]


@every_set
def test_quantized_bytes(isa: str) -> None:
    draw = np.random.default_rng(5)
    for count in COUNTS:
        values = (draw.standard_normal(count) * 60).astype(np.float32)
        for inverse_scale in (1.0, 0.37, 2.5):
            rounded = np.rint(values * np.float32(inverse_scale))  # half to even
            expected = (np.clip(rounded, -127, 127) + 128).astype(np.uint8)
            expect_same(quantized(isa, values, inverse_scale), expected, f"{isa}, {count} floats * {inverse_scale}")


@every_set
def test_quantized_bytes_at_the_clip_and_halfway(isa: str) -> None:
    halves = np.arange(-128.5, 129, 1, dtype=np.float32)
    expect_same(
        quantized(isa, halves, 1.0), np.clip(2 * np.round(halves / 2) + 128, 1, 255).astype(np.uint8), f"{isa}: halves"
    )
    for value, byte in (
        (126.49999, 254),
        (126.5, 254),
        (126.50001, 255),
        (127.0, 255),
        (127.5, 255),
        (1e30, 255),
        (np.inf, 255),
        (0.5, 128),
        (1.5, 130),
        (-0.5, 128),
        (-0.0, 128),
        (0.50001, 129),
        (-126.5, 2),
        (-126.50001, 1),
        (-127.5, 1),
        (-1e30, 1),
        (-np.inf, 1),
        (np.nan, 1),
    ):
        assert quantized(isa, np.full(33, value, np.float32), 1.0).tolist() == [byte] * 33, f"{isa}: {value}"
    assert quantized(isa, np.full(33, np.inf, np.float32), 0.0).tolist() == [1] * 33, f"{isa}: infinity * 0"


@every_set
def test_a_wrong_number_is_reported(isa: str) -> None:
    draw = np.random.default_rng(6)
    quantizer = with_mask(draw, np.int32, line(np.int32, 15, 9, draw), 90)
    sums = drawn(draw, np.int32, (5, CHANNELS), 90)
    codes, mask = threshold(isa, "codes", sums, quantizer)
    expected = expected_form("codes", sums, quantizer, 1, CHANNELS)
    expect_same(codes, expected, "codes")
    codes[4, 31] ^= 1
    with pytest.raises(AssertionError, match=r"1 of 160 differ, first \[\[4, 31\]\]: codes"):
        expect_same(codes, expected, "codes")
    assert mask is not None
    with pytest.raises(AssertionError, match=r"1 of 5 differ, first \[\[0\]\]"):
        expect_same(mask, quantizer.mask(sums) ^ np.array([1, 0, 0, 0, 0], np.uint32), "mask")
    with pytest.raises(AssertionError, match="1 of 1 differ"):
        expect_same(np.array([0.0], np.float32), np.array([-0.0], np.float32), "zeros")
    with pytest.raises(AssertionError, match="wrote beyond its channels"):
        written(np.arange(8), 2, 3, 3, "sentinels")


def test_there_are_functions_that_run_anywhere() -> None:
    assert "scalar" in SETS
