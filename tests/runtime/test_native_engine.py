"""The native engine against the NumPy reference: codes, masks and sums bit for bit, gradients within a stated bound."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from drawn_programs import CLASSES, drawn_program
from small_programs import (
    affine,
    binary_network,
    conv2d,
    dense,
    image_input,
    max_pool,
    pact,
    reshape,
    residual_network,
    sign,
    small_network,
    small_twin,
)

from bitlens.runtime.autodiff import INPUT_GRADIENT, gradient_program
from bitlens.runtime.engines import Engine, one_hot, open_engine
from bitlens.runtime.engines.native import KERNELS_VARIABLE, MOST_LAYOUTS, LaidOutProgram, allowed_instruction_sets
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.gradient_likeness import cosines
from bitlens.runtime.interpreter import interpret
from bitlens.runtime.network import Network
from bitlens.runtime.parity import relative_errors
from bitlens.runtime.program import Node, Program, ProgramInput, TensorType
from bitlens.runtime.thresholds import Interval

pytest.importorskip("bitlens.runtime._kernels", reason="bitlens was installed without its compiled part")

# A float32 sum of n products is within (n + 1) epsilon of sum|products|; through the few layers of these networks, with
# sums of some hundred products whose cancellation the largest element of the map does not share, this is generous.
GRADIENT_BOUND = 3e-5

FIXED = {"small": small_network(), "residual": residual_network(), "twin": small_twin()}
DRAWS = 60
FOUND = (137, 158)  # seeds that once found a fault


def opened(program: Program, name: str, threads: int = 1) -> Engine:
    return open_engine(Network(Path("drawn"), program), name, threads=threads)


def images_of(program: Program, count: int, seed: int) -> npt.NDArray[np.generic]:
    """Pictures, and in every other batch codes that only int16 holds."""
    draw = np.random.default_rng(seed)
    shape = (count, *program.image_type.shape)
    if program.is_full_precision:
        return draw.uniform(-1.0, 2.0, shape).astype(np.float32)
    return draw.integers(*((0, 256) if seed % 2 else (-512, 768)), shape).astype(np.int16)


def differing(ours: Engine, expected: Engine, seed: int, images: int = 3) -> list[str]:
    """What the two engines do not agree on, by name; nothing if all is well."""
    given = images_of(ours.program, images, seed)
    seeds = one_hot([place % CLASSES for place in range(images)], CLASSES)
    a, b = ours.traced_gradient(given, seeds), expected.traced_gradient(given, seeds)
    found = [name for name in b.codes if not np.array_equal(a.codes[name], b.codes[name])]
    found += [f"{name} mask" for name in b.masks if not np.array_equal(a.masks[name], b.masks[name])]
    if not np.array_equal(ours.accumulators(given), expected.accumulators(given)):
        found.append("accumulators")
    if not np.array_equal(ours.forward(given), expected.forward(given)):
        found.append("logits")
    errors = relative_errors(a.input_gradient, b.input_gradient)
    if not (errors <= GRADIENT_BOUND).all():
        found.append(f"gradient by {errors.max():.1e}")
    return found


@pytest.mark.parametrize("seed", [*range(DRAWS), *FOUND])
def test_random_networks_equal_the_reference(seed: int) -> None:
    program = drawn_program(seed)
    said = differing(opened(program, "native"), opened(program, "reference"), seed)
    assert not said, f"{said}; replay: drawn_program({seed}), ops {[node.op for node in program.nodes]}"


@pytest.mark.parametrize("name", ["small", "residual"])
def test_fixed_networks_equal_the_reference(name: str) -> None:
    ours, expected = opened(FIXED[name], "native"), opened(FIXED[name], "reference")
    for seed in range(4):
        assert not differing(ours, expected, seed, images=1 + 11 * seed)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_an_image_that_a_pool_reads_too(channels: int) -> None:
    draw = np.random.default_rng(channels)
    weight = draw.integers(-9, 10, (channels, channels, 3, 3)).astype(np.int8)
    nodes = (
        conv2d("image", "sums", weight),
        affine("sums", "left", np.full(channels, 1e-3), np.zeros(channels)),
        max_pool("image", "pool", channels, kernel=(3, 3), stride=(1, 1)),
        affine("pool", "right", np.full(channels, 1e-2), np.zeros(channels)),
        Node("add", "both", ("left", "right"), ("both",)),
        reshape("both", "flat", 16 * channels),
        dense("flat", "logits", draw.normal(size=(CLASSES, 16 * channels)).astype(np.float32), np.zeros(3, np.float32)),
    )
    program = Program((image_input((channels, 6, 6)),), nodes, ("logits", "sums"), {})
    ours, expected = opened(program, "native"), opened(program, "reference")
    for seed in range(2):
        given = images_of(program, 3, seed)
        assert np.array_equal(ours.accumulators(given), expected.accumulators(given))
        assert relative_errors(ours.forward(given), expected.forward(given)).max() <= 1e-5


def test_a_strided_convolution_whose_shortcut_is_its_own_image() -> None:
    """The sum reads its image twice, in two places: an incremental forward follows a change through both."""
    draw = np.random.default_rng(7)
    weight = draw.normal(size=(3, 3, 1, 1)).astype(np.float32)
    nodes = (
        conv2d("image", "conv", weight, stride=(2, 2), padding=(2, 2, 2, 2), bias=np.zeros(3, np.float32)),
        Node("add", "sum", ("conv", "image"), ("sum",)),
        reshape("sum", "flat", 75),
        dense("flat", "logits", draw.normal(size=(CLASSES, 75)).astype(np.float32), np.zeros(CLASSES, np.float32)),
    )
    program = Program((image_input((3, 5, 5), is_float=True),), nodes, ("logits",), {})
    ours, expected = opened(program, "native"), opened(program, "reference")
    base = images_of(program, 1, 1)[0]
    others = np.repeat(base[None], 25, axis=0)
    for place, other in enumerate(others):
        other[:, place // 5, place % 5] += 1.0
    assert np.array_equal(ours.forward_near(base, others), ours.forward(others))
    assert relative_errors(ours.forward(others), expected.forward(others)).max() <= 1e-6


@pytest.mark.parametrize("channels", [3, 32, 40])
@pytest.mark.parametrize("bits", [1, 2, 5])
@pytest.mark.parametrize("is_pooled", [False, True])
def test_sums_that_a_quantizer_and_a_shortcut_want(channels: int, bits: int, is_pooled: bool) -> None:
    draw = np.random.default_rng([channels, bits])
    slopes, offsets = draw.normal(0, 1e-3, channels), draw.normal(0.5, 0.5, channels)
    first = draw.integers(-9, 10, (channels, 3, 3, 3)).astype(np.int8)
    second = draw.choice([-1, 1], (channels, channels, 3, 3)).astype(np.int8)
    last = draw.normal(size=(CLASSES, 16 * channels)).astype(np.float32)
    size, name = (8, "pooled") if is_pooled else (4, "sums")
    quantizer = sign(name, "act1", slopes, offsets) if bits == 1 else pact(name, "act1", slopes, offsets, bits, 1.5)
    nodes = (
        conv2d("image", "sums", first, padding=(1, 1, 1, 1)),
        *([max_pool("sums", "pooled", channels)] if is_pooled else []),
        quantizer,
        conv2d("act1", "inner", second, padding=(1, 1, 1, 1), pad=np.full(channels, 1, np.int16)),
        affine("inner", "left", np.full(channels, 1e-2), np.zeros(channels)),
        affine(name, "right", slopes, offsets),
        Node("add", "both", ("left", "right"), ("both",)),
        reshape("both", "flat", 16 * channels),
        dense("flat", "logits", last, np.zeros(CLASSES, np.float32)),
    )
    program = Program((image_input((3, size, size)),), nodes, ("logits", "inner"), {})
    ours, expected = opened(program, "native"), opened(program, "reference")
    for seed in range(2):
        given, seeds = images_of(program, 3, seed), one_hot([0, 1, 2], CLASSES)
        a, b = ours.traced_gradient(given, seeds), expected.traced_gradient(given, seeds)
        assert all(np.array_equal(a.codes[code], b.codes[code]) for code in ("act1",))
        assert all(np.array_equal(a.masks[mask], b.masks[mask]) for mask in b.masks)
        assert np.array_equal(ours.accumulators(given), expected.accumulators(given))
        assert relative_errors(ours.forward(given), b.logits).max() <= 1e-5
        assert relative_errors(a.input_gradient, b.input_gradient).max() <= GRADIENT_BOUND
        near = np.repeat(given[:1], 3, axis=0)
        near[1, :, 1, 2] += 1
        near[2, 1, size - 1] -= 1
        assert np.array_equal(ours.forward_near(given[0], near), ours.forward(near))


@pytest.mark.parametrize("are_few", [True, False])
@pytest.mark.parametrize("seed", range(24))
def test_the_gradient_of_a_convolution(seed: int, are_few: bool) -> None:
    """Of few channels, in tiles: those at the edges reach over it, and pixels that no tap sees have a gradient of 0.
    Of more than 16, also in bytes."""
    draw = np.random.default_rng(seed)
    channels, outputs = int(draw.integers(1, 9) if are_few else draw.integers(17, 40)), int(draw.integers(1, 40))
    kernel, stride = draw.integers(1, 8, 2), draw.integers(1, 4, 2)
    size = kernel + draw.integers(0, 12, 2)
    top, left, bottom, right = (int(side) for side in draw.integers(0, 5, 4))
    padding = np.array([top + bottom, left + right])
    rows, columns = (int(side) for side in (size + padding - kernel) // stride + 1)
    flat = outputs * rows * columns
    weight = draw.integers(-3, 4, (outputs, channels, *kernel)).astype(np.int8)
    strides = (int(stride[0]), int(stride[1]))
    nodes = (
        conv2d("image", "sums", weight, stride=strides, padding=(top, left, bottom, right)),
        affine("sums", "real", np.full(outputs, 1e-3), np.zeros(outputs)),
        reshape("real", "flat", flat),
        dense("flat", "logits", draw.normal(size=(CLASSES, flat)).astype(np.float32), np.zeros(CLASSES, np.float32)),
    )
    shape = (channels, int(size[0]), int(size[1]))
    program = Program((image_input(shape),), nodes, ("logits", "sums"), {})
    given, seeds = images_of(program, 2, seed), one_hot([0, 1], CLASSES)
    expected = opened(program, "reference").gradient(given, seeds).input_gradient
    what = f"image {shape}, {outputs} outputs, kernel {kernel}, stride {stride}, padding {top, left, bottom, right}"
    exact = opened(program, "native").gradient(given, seeds).input_gradient
    assert relative_errors(exact, expected).max() <= GRADIENT_BOUND, what
    rough = opened(program, "native-int8").gradient(given, seeds).input_gradient
    if are_few:
        assert np.array_equal(rough, exact), what
        return
    assert not np.array_equal(rough, exact), what
    # Each arriving value is off by half a step at most, of 127 to the largest; a code is 1/255 of x.
    step = np.abs(program.nodes[3].arrays["weight"]).max() / 127 * 1e-3 * 255
    bound = 0.5 * step * np.abs(weight.astype(np.int64)).sum(axis=(0, 2, 3)).max()
    assert np.abs(rough - expected).max() <= bound + GRADIENT_BOUND * np.abs(expected).max(), what


def test_an_image_among_the_outputs() -> None:
    program = replace(FIXED["small"], outputs=("logits", "image"))
    given = images_of(program, 2, 1)
    assert np.array_equal(opened(program, "native").accumulators(given), given)


def test_a_pool_that_is_wanted_for_its_index_alone() -> None:
    gradient = gradient_program(FIXED["small"])
    feeds = {"image": images_of(FIXED["small"], 3, 1), "seed": one_hot([0, 1, 2], CLASSES)}
    ours = LaidOutProgram(gradient, 1, int8_gradients=False).run(feeds, (INPUT_GRADIENT,))[INPUT_GRADIENT]
    expected = interpret(gradient, feeds, (INPUT_GRADIENT,))[INPUT_GRADIENT]
    assert relative_errors(ours, expected).max() <= GRADIENT_BOUND


def test_a_window_that_fails_half_way_leaves_nothing_behind() -> None:
    laid_out = LaidOutProgram(gradient_program(FIXED["small"]), 1, int8_gradients=False)
    feeds = {"image": images_of(FIXED["small"], 3, 1), "seed": one_hot([0, 1, 2], CLASSES)}
    before = laid_out.run(feeds, (INPUT_GRADIENT,))[INPUT_GRADIENT]
    closed = {f"act1.{end}": np.zeros(3, np.int32) for end in ("mask_low", "mask_high")}
    with pytest.raises(ValueError, match=r"."):
        laid_out.run(feeds | closed | {"act2.mask_low": np.zeros(99, np.int32)}, (INPUT_GRADIENT,))
    assert np.array_equal(laid_out.run(feeds, (INPUT_GRADIENT,))[INPUT_GRADIENT], before)


def test_an_image_beyond_int16_is_refused() -> None:
    item = ProgramInput("image", TensorType("int32", (1, 2, 2), 0, 40_000, 1.0))
    nodes = (
        conv2d("image", "sums", np.ones((3, 1, 2, 2), np.int8)),
        reshape("sums", "flat", 3),
        affine("flat", "logits", np.ones(3), np.zeros(3)),
    )
    with pytest.raises(BitlensError, match=r"takes integers from 0 to 40000.*use --engine reference"):
        opened(Program((item,), nodes, ("logits",), {}), "native")


def test_the_comparison_can_fail() -> None:
    other = opened(small_network(seed=2), "reference")
    assert "accumulators" in differing(opened(FIXED["small"], "native"), other, 1)


def test_twin_is_within_float32_of_the_reference() -> None:
    ours, expected = opened(FIXED["twin"], "native"), opened(FIXED["twin"], "reference")
    given, seeds = images_of(FIXED["twin"], 5, 1), one_hot([0, 1, 2, 0, 1], CLASSES)
    assert relative_errors(ours.forward(given), expected.forward(given)).max() <= 1e-6
    a, b = ours.traced_gradient(given, seeds), expected.traced_gradient(given, seeds)
    assert relative_errors(a.input_gradient, b.input_gradient).max() <= 1e-6
    assert all(relative_errors(a.codes[name], b.codes[name]).max() <= 1e-6 for name in b.codes)


@pytest.mark.parametrize("kernels", ["scalar", "avx2", "avx512,avx512vnni,avx512vpopcntdq", "neon"])
def test_every_instruction_set_gives_the_same_bits(kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    present = set(allowed_instruction_sets())
    if not set(kernels.split(",")) <= present:
        pytest.skip(f"no kernels for {kernels} on this architecture")
    monkeypatch.setenv(KERNELS_VARIABLE, kernels)
    for seed in range(12):
        program = drawn_program(100 + seed)
        said = differing(opened(program, "native"), opened(program, "reference"), seed)
        assert not said, f"{said} with {kernels}; replay: drawn_program({100 + seed})"


def test_an_instruction_set_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KERNELS_VARIABLE, "mmx")
    with pytest.raises(BitlensError, match=r"BITLENS_KERNELS names 'mmx'.*choose from .*scalar"):
        opened(FIXED["small"], "native")


def test_forced_kernels_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KERNELS_VARIABLE, "scalar")
    named = opened(FIXED["small"], "native").info.kernels.split(", ")
    assert "conv2d_i8__scalar" in named
    assert all(name.endswith("__scalar") for name in named)


def test_plans_are_kept_by_what_they_compute_and_the_oldest_goes() -> None:
    laid_out = LaidOutProgram(FIXED["residual"], 1, int8_gradients=False)
    both = laid_out.layout(("logits", "act1"))
    assert laid_out.layout(("act1", "logits", "act1")) is both
    names = [name for node in FIXED["residual"].nodes for name in node.outputs]
    assert len(names) > MOST_LAYOUTS
    for place, name in enumerate(names):
        laid_out.layout((name,))
        kept = laid_out.layout(("logits", "act1"))
        assert kept is both, f"after {place + 1} others"
    assert laid_out.layout((names[-1],)) is laid_out.layout((names[-1],))
    first = laid_out.layout((names[0],))
    for name in names[1:]:
        laid_out.layout((name,))
    assert laid_out.layout((names[0],)) is not first


def test_any_batch_gives_the_same_bits() -> None:
    ours = opened(FIXED["residual"], "native")
    given, seeds = images_of(FIXED["residual"], 75, 2), one_hot([1] * 75, CLASSES)
    whole = ours.gradient(given, seeds)
    for place in (0, 31, 32, 74):
        alone = ours.gradient(given[place : place + 1], seeds[:1])
        assert np.array_equal(alone.input_gradient[0], whole.input_gradient[place])
        assert np.array_equal(alone.logits[0], whole.logits[place])


def test_windows_guided_rule_and_features_equal_the_reference() -> None:
    program = FIXED["small"]
    ours, expected = opened(program, "native"), opened(program, "reference")
    given, seeds = images_of(program, 4, 3), one_hot([0, 1, 2, 0], CLASSES)
    windows = {"act2": Interval(-0.3, 0.7, True, False)}
    plain = ours.gradient(given, seeds, features=ours.feature_names)
    for options in ({"windows": windows}, {"guided": True}, {}):
        a, b = (
            engine.gradient(given, seeds, features=engine.feature_names, **options)  # type: ignore[arg-type]
            for engine in (ours, expected)
        )
        assert relative_errors(a.input_gradient, b.input_gradient).max() <= GRADIENT_BOUND
        for name in ours.feature_names:
            assert np.array_equal(a.features[name].values, b.features[name].values)
            assert relative_errors(a.features[name].gradient, b.features[name].gradient).max() <= GRADIENT_BOUND
    # What a call widened is as it was for the next one.
    again = ours.gradient(given, seeds, features=ours.feature_names)
    assert np.array_equal(again.input_gradient, plain.input_gradient)


def test_images_near_one_are_computed_exactly() -> None:
    """1,000 draws of (network, image, rectangle): what is computed again gives the bits of a whole forward pass."""
    differing_draws = []
    for seed in range(50):
        program = drawn_program(seed) if seed else FIXED["twin"]
        ours = opened(program, "native")
        draw = np.random.default_rng(seed)
        base = images_of(program, 1, seed)[0]
        others = np.repeat(base[None], 20, axis=0)
        _, height, width = base.shape
        for other in others:
            top, left = draw.integers(0, height), draw.integers(0, width)
            bottom, right = draw.integers(top, height + 1), draw.integers(left, width + 1)
            rectangle = other[:, top:bottom, left:right]
            rectangle[...] = draw.permutation(images_of(program, 1, seed)[0].reshape(-1))[: rectangle.size].reshape(
                rectangle.shape
            )
        near, whole = ours.forward_near(base, others), ours.forward(others)
        differing_draws += [(seed, place) for place in range(20) if not np.array_equal(near[place], whole[place])]
    assert not differing_draws, f"(drawn_program seed, rectangle): {differing_draws}"


def test_an_image_near_that_is_the_same() -> None:
    ours = opened(FIXED["small"], "native")
    base = images_of(FIXED["small"], 1, 1)
    assert np.array_equal(ours.forward_near(base[0], base), ours.forward(base))


def test_engines_without_an_incremental_forward_run_the_images_whole() -> None:
    expected = opened(FIXED["small"], "reference")
    given = images_of(FIXED["small"], 3, 1)
    assert np.array_equal(expected.forward_near(given[0], given), expected.forward(given))


def test_one_engine_serves_several_threads() -> None:
    ours = opened(FIXED["residual"], "native", threads=2)
    given = images_of(FIXED["residual"], 40, 1)
    expected = ours.forward(given)
    wrong: list[int] = []

    def serve(place: int) -> None:
        for _ in range(20):
            if not np.array_equal(ours.forward(given[place:]), expected[place:]):
                wrong.append(place)

    workers = [threading.Thread(target=serve, args=(place,)) for place in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.parametrize("name", ["small", "residual", "binary"])
def test_int8_gradients_resemble_float_ones(name: str) -> None:
    """Of the three only the binary network has maps wide enough for bytes: 32 channels and 64."""
    program = FIXED[name] if name in FIXED else binary_network(2, channels=32)
    ours, expected = opened(program, "native-int8"), opened(program, "reference")
    assert not [said for said in differing(ours, expected, 1) if "gradient" not in said]
    given, seeds = images_of(program, 6, 1), one_hot([0, 1, 2, 0, 1, 2], CLASSES)
    a, b = (engine.gradient(given, seeds).input_gradient.reshape(6, -1) for engine in (ours, expected))
    assert (cosines(a, b) >= 0.999).all()
    is_rounded = relative_errors(a, b).max() > 10 * GRADIENT_BOUND
    assert is_rounded == (name == "binary")


def test_environment_is_as_it_was() -> None:
    assert KERNELS_VARIABLE not in os.environ, "this test file expects the kernels that the processor has"
