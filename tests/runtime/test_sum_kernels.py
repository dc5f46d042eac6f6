"""Each sum kernel that runs here, and each expander, against a NumPy definition on plain codes and weights.

Nothing is shared with the kernels but the text of ``kernel.h``: what is packed is packed here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

kernels: Any = pytest.importorskip("bitlens.runtime._kernels", reason="a wheel without compiled kernels")

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]
Numbers = npt.NDArray[Any]

SENTINEL = 0x5EED1E55
MARGIN = 32  # sentinels on either side of the sums
ROUNDOFF = 2.0**-24


@dataclass(frozen=True)
class Family:
    """How a family stores its codes: an element is the smallest step between pixels, `lanes` are its channels."""

    element_bytes: int
    lanes: int
    elements_per_group: int
    codes: tuple[int, int]
    weights: tuple[int, int]


FAMILIES = {
    "conv2d_w1a1": Family(4, 32, 1, (-1, 1), (-1, 1)),
    "conv2d_w2a2": Family(8, 32, 1, (0, 3), (-1, 1)),
    "conv2d_i8": Family(1, 1, 4, (0, 255), (-128, 127)),
    "conv2d_i16": Family(2, 1, 2, (-32768, 32767), (-32768, 32767)),
    "conv2d_f32": Family(4, 1, 1, (-2, 2), (-2, 2)),
}


@dataclass(frozen=True)
class Kernel:
    family: str
    isa: str
    block: int
    largest_product: int
    activation_offset: int

    def __str__(self) -> str:
        return f"{self.family}__{self.isa}_block{self.block}"


KERNELS = [Kernel(*row[:5]) for row in kernels.sum_kernels() if row[5]]
EXPANDERS = [isa for isa, runs_here in kernels.expand_kernels() if runs_here]
every_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=str)


@dataclass(frozen=True)
class Case:
    """One row; steps are in elements, None for maps that lie side by side."""

    taps: tuple[int, int] = (3, 3)
    groups: int = 2
    pixels: int = 9
    stride: int = 1
    tap_step: int | None = None
    pixel_step: int | None = None
    row_gap: int = 0
    values: str = "random"  # or which corner of the ranges the codes and weights are in
    seed: int = 1


@dataclass(frozen=True)
class Operands:
    """A case with its numbers: the source's codes (elements, lanes), weights (block, taps, channels), start."""

    case: Case
    tap_step: int
    pixel_step: int
    row_pitch: int
    codes: Numbers
    weights: Numbers
    start: Numbers


def largest_magnitudes(kernel: Kernel) -> list[tuple[int, tuple[int, int]]]:
    """Largest code and range of weights: the family's, cut in either way to what the kernel admits."""
    family = FAMILIES[kernel.family]
    largest, (lowest_weight, highest_weight) = family.codes[1], family.weights
    if not kernel.largest_product:
        return [(largest, family.weights)]
    weight = min(kernel.largest_product // (2 * largest), highest_weight)
    return [(largest, (-weight, weight)), (kernel.largest_product // (2 * -lowest_weight), family.weights)]


def drawn(
    kernel: Kernel, draw: np.random.Generator, shape: tuple[int, ...], limits: tuple[int, int], corner: str
) -> Numbers:
    low, high = limits
    if kernel.family == "conv2d_f32":
        return (draw.standard_normal(shape) * 10.0 ** draw.uniform(-3, 3, shape)).astype(np.float32)
    if corner == "high":
        return np.full(shape, high, np.int64)
    if corner == "low":
        return np.full(shape, low, np.int64)
    step = 2 if kernel.family == "conv2d_w1a1" else 1
    return draw.integers(0, (high - low) // step + 1, shape) * step + low


def operands(kernel: Kernel, case: Case, cut: int = 0) -> Operands:
    family = FAMILIES[kernel.family]
    elements = case.groups * family.elements_per_group
    tap_step = elements if case.tap_step is None else case.tap_step
    pixel_step = case.stride * elements if case.pixel_step is None else case.pixel_step
    last_in_row = (case.pixels - 1) * pixel_step + (case.taps[1] - 1) * tap_step + elements
    row_pitch = last_in_row + case.row_gap
    draw = np.random.default_rng(case.seed)
    largest, weight_limits = largest_magnitudes(kernel)[cut]
    of_codes, _, of_weights = case.values.partition("*")
    taps = case.taps[0] * case.taps[1]
    source_elements = (case.taps[0] - 1) * row_pitch + last_in_row
    codes = drawn(kernel, draw, (source_elements, family.lanes), (family.codes[0], largest), of_codes)
    weights = drawn(kernel, draw, (kernel.block, taps, elements * family.lanes), weight_limits, of_weights)
    if kernel.family == "conv2d_f32":
        start: Numbers = draw.standard_normal(kernel.block).astype(np.float32)
    else:
        start = draw.integers(-(2**31), 2**31, kernel.block)
    return Operands(case, tap_step, pixel_step, row_pitch, codes, weights, start)


def packed_bits(bits: Numbers) -> Bytes:
    """Words of 32 channels along the last axis, the first channel lowest."""
    return np.packbits(bits.astype(np.uint8), axis=-1, bitorder="little")


def source_bytes(kernel: Kernel, codes: Numbers) -> Bytes:
    if kernel.family == "conv2d_w1a1":
        packed = packed_bits(codes > 0)
    elif kernel.family == "conv2d_w2a2":
        packed = np.concatenate([packed_bits(codes & 1), packed_bits(codes >> 1)], axis=1)
    else:
        kind = {"conv2d_i8": np.uint8, "conv2d_i16": np.int16, "conv2d_f32": np.float32}[kernel.family]
        packed = codes.astype(kind).view(np.uint8)
    assert packed.shape[1] == FAMILIES[kernel.family].element_bytes
    return np.ascontiguousarray(packed).reshape(-1)


def weight_bytes(kernel: Kernel, weights: Numbers) -> Bytes:
    """Canonical words of a bit family, else the panel."""
    block, taps, _ = weights.shape
    if kernel.family == "conv2d_w1a1":
        return packed_bits(weights > 0).reshape(-1)
    if kernel.family == "conv2d_w2a2":
        planes = np.stack([weights > 0, weights < 0], axis=2).reshape(block, taps, 2, -1, 32)
        return np.ascontiguousarray(packed_bits(planes.transpose(0, 1, 3, 2, 4))).reshape(-1)
    lanes = FAMILIES[kernel.family].elements_per_group
    kind = {"conv2d_i8": np.int8, "conv2d_i16": np.int16, "conv2d_f32": np.float32}[kernel.family]
    panel = weights.astype(kind).reshape(block, taps, -1, lanes).transpose(1, 2, 0, 3)
    return np.ascontiguousarray(panel).reshape(-1).view(np.uint8)


def gathered(kernel: Kernel, given: Operands) -> Numbers:
    """Codes as (pixels, taps, channels), by the addresses of a row."""
    case, elements = given.case, given.case.groups * FAMILIES[kernel.family].elements_per_group
    index = (
        np.arange(case.pixels)[:, None, None, None] * given.pixel_step
        + np.arange(case.taps[0])[:, None, None] * given.row_pitch
        + np.arange(case.taps[1])[:, None] * given.tap_step
        + np.arange(elements)
    )
    codes: Numbers = given.codes[index].reshape(case.pixels, case.taps[0] * case.taps[1], -1)
    return codes


def products(codes: Numbers, weights: Numbers) -> Numbers:
    sums: Numbers = codes.reshape(len(codes), -1) @ weights.reshape(len(weights), -1).T
    return sums


def expected_sums(kernel: Kernel, given: Operands) -> npt.NDArray[np.int32]:
    codes = gathered(kernel, given) - kernel.activation_offset
    sums: Int64 = given.start + products(codes, given.weights)
    if kernel.family == "conv2d_w1a1":
        sums -= codes[0].size  # -2 * differing is agreeing - differing - all
    return sums.astype(np.int32)  # modulo 2^32


def check_sums(kernel: Kernel, given: Operands, sums: Numbers) -> None:
    if kernel.family == "conv2d_f32":
        codes, weights = gathered(kernel, given).astype(np.float64), given.weights.astype(np.float64)
        terms = codes[0].size
        assert terms < 4000
        # Each product meets at most terms + 1 roundings, in whatever order they are added: (1 + u)^(terms + 1) - 1,
        # which is below (terms + 2) u at fewer than 1 / sqrt(u) terms.
        magnitude = np.abs(given.start) + products(np.abs(codes), np.abs(weights))
        wrong = ~(np.abs(sums - (given.start + products(codes, weights))) <= (terms + 2) * ROUNDOFF * magnitude)
    else:
        wrong = sums != expected_sums(kernel, given)
    first = np.argwhere(wrong)[:1].tolist()
    assert not wrong.any(), f"{kernel}: {int(wrong.sum())} of {sums.size} sums differ, first {first}; {given.case}"


def sums_of(kernel: Kernel, given: Operands) -> Numbers:
    """Run a kernel on a source of exactly the bytes that the row covers; nothing but the sums may change."""
    case, element_bytes = given.case, FAMILIES[kernel.family].element_bytes
    is_float = kernel.family == "conv2d_f32"
    source, weights = source_bytes(kernel, given.codes), weight_bytes(kernel, given.weights)
    start = given.start.astype(np.float32 if is_float else np.int32).view(np.uint8)
    untouched = source.copy(), weights.copy(), start.copy()
    size = case.pixels * kernel.block
    room = np.full(size + 2 * MARGIN, SENTINEL, np.uint32)
    kernels.sum_row(
        kernel.family,
        kernel.isa,
        source,
        given.row_pitch * element_bytes,
        given.tap_step * element_bytes,
        given.pixel_step * element_bytes,
        *case.taps,
        case.groups,
        case.pixels,
        weights,
        start,
        room[MARGIN : MARGIN + size].view(np.uint8),
    )
    assert (room[:MARGIN] == SENTINEL).all(), f"{kernel} wrote before its sums; {case}"
    assert (room[MARGIN + size :] == SENTINEL).all(), f"{kernel} wrote beyond its sums; {case}"
    for before, after in zip(untouched, (source, weights, start), strict=True):
        assert np.array_equal(before, after), f"{kernel} wrote into its operands; {case}"
    return room[MARGIN : MARGIN + size].view(np.float32 if is_float else np.int32).reshape(case.pixels, kernel.block)


def check(kernel: Kernel, case: Case) -> None:
    for cut in range(len(largest_magnitudes(kernel))):
        given = operands(kernel, case, cut)
        check_sums(kernel, given, sums_of(kernel, given))


def merged(kernel: Kernel, taps_high: int, taps_wide: int, channels: int, stride: int, pixels: int) -> Case:
    """A first layer whose taps of one row are merged into groups: pixels are closer than their groups are long."""
    per_group = FAMILIES[kernel.family].elements_per_group
    groups = -(-taps_wide * channels // per_group)
    return Case(taps=(taps_high, 1), groups=groups, pixels=pixels, pixel_step=stride * channels)


CASES = {
    **{f"{pixels} pixels": Case(pixels=pixels) for pixels in range(1, 21)},
    **{f"{groups} groups": Case(groups=groups, pixels=5) for groups in (1, 2, 3, 4, 5, 8, 16)},
    **{f"1 tap, {groups} groups": Case(taps=(1, 1), groups=groups) for groups in (1, 2, 3, 4, 5, 7, 31, 64)},
    **{f"{high}x{wide}": Case(taps=(high, wide)) for high, wide in ((1, 1), (2, 2), (3, 3), (5, 5), (7, 7), (1, 7))},
    "7x1, one pixel, one group": Case(taps=(7, 1), groups=1, pixels=1),
    "one product": Case(taps=(1, 1), groups=1, pixels=1),
    "long row": Case(pixels=67, groups=1),
    "many groups": Case(taps=(3, 3), groups=37, pixels=3),
    **{f"stride {stride}": Case(stride=stride, pixels=11) for stride in (2, 3)},
    "rows apart": Case(row_gap=5),
    "every pixel the same": Case(pixel_step=0),
    "every tap the same": Case(tap_step=0),
    "overlapping taps": Case(taps=(3, 2), groups=3, tap_step=1),
    "taps apart": Case(groups=1, tap_step=3, pixel_step=7),
    **{
        f"codes {codes}, weights {weights}": Case(groups=5, values=f"{codes}*{weights}")
        for codes in ("low", "high", "random")
        for weights in ("low", "high", "random")
    },
    "largest sums": Case(taps=(7, 7), groups=23, pixels=8, values="high*low"),
}


@every_kernel
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_sums_are_those_of_the_definition(kernel: Kernel, case: Case) -> None:
    check(kernel, case)


@every_kernel
@pytest.mark.parametrize(
    ("taps", "channels", "stride"), [((3, 3), 4, 1), ((3, 3), 3, 1), ((7, 7), 3, 2), ((5, 5), 1, 1)]
)
def test_first_layer_with_merged_taps(kernel: Kernel, taps: tuple[int, int], channels: int, stride: int) -> None:
    for pixels in (1, 8, 15):
        check(kernel, merged(kernel, *taps, channels, stride, pixels))


@every_kernel
@pytest.mark.parametrize("seed", range(25))  # the seed in the test's name replays it
def test_random_rows(kernel: Kernel, seed: int) -> None:
    draw = np.random.default_rng(seed)
    primes = (1, 2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31)
    case = Case(
        taps=(int(draw.choice(primes[:5])), int(draw.choice(primes[:5]))),
        groups=int(draw.choice(primes[:8])),
        pixels=int(draw.choice(primes)),
        stride=int(draw.integers(1, 4)),
        row_gap=int(draw.choice(primes)),
        seed=seed,
    )
    if draw.integers(2):
        case = replace(case, tap_step=int(draw.choice(primes)), pixel_step=int(draw.choice(primes)))
    check(kernel, case)


@every_kernel
def test_a_wrong_sum_is_reported(kernel: Kernel) -> None:
    given = operands(kernel, Case())
    sums = sums_of(kernel, given)
    check_sums(kernel, given, sums)
    spoilt = sums.copy()
    spoilt[-1, -1] += np.abs(sums).max() if kernel.family == "conv2d_f32" else 1
    with pytest.raises(AssertionError, match=rf"1 of {sums.size} sums differ, first \[\[8, {kernel.block - 1}\]\]"):
        check_sums(kernel, given, spoilt)


def field_bytes(fields: Int64, bits: int) -> Bytes:
    """Fields of `bits` bits, lowest first."""
    each = (fields[:, None] >> np.arange(bits)) & 1
    return np.packbits(each.astype(np.uint8).reshape(-1), bitorder="little")


@pytest.mark.parametrize("isa", EXPANDERS)
@pytest.mark.parametrize("to", ["i8", "f32"])
@pytest.mark.parametrize(
    ("bits", "low", "step"),
    [
        (1, -1, 2),
        (1, 127, -255),
        (1, 0, 0),
        (2, -1, 1),
        (2, -3, 2),
        (2, 127, -85),
        (4, -8, 1),
        (4, -15, 2),
        (4, -128, 17),
        (8, 0, 1),
    ],
)
def test_fields_expand_to_their_values(isa: str, to: str, bits: int, low: int, step: int) -> None:
    kind = np.dtype(np.int8 if to == "i8" else np.float32)
    for count in (32, 64, 96, 128, 160, 256, 32 * 7, 32 * 13, 32 * 37):
        every = np.arange(count) % 2**bits
        for fields in (every, np.random.default_rng(count).integers(0, 2**bits, count)):
            panel = np.zeros(count, kind)
            kernels.expand_fields(isa, to, field_bytes(fields, bits), bits, low, step, panel.view(np.uint8))
            values = fields.astype(np.uint8).view(np.int8) if bits == 8 else low + step * fields
            assert np.array_equal(panel, values.astype(kind)), f"{count} fields"


def test_every_family_has_a_kernel_that_runs_anywhere() -> None:
    assert {kernel.family for kernel in KERNELS if kernel.isa == "scalar"} == set(FAMILIES)
    assert "scalar" in EXPANDERS
