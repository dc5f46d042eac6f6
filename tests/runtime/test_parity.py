"""Parity holds where it should, and does not where one number differs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_programs import images_for, small_network, small_twin

from bitlens.runtime.certificate import Certificate
from bitlens.runtime.engines import INT8_GRADIENTS, Engine, open_engine
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.golden import Golden, record_golden
from bitlens.runtime.gradient_likeness import cosines, magnitude_spearmans
from bitlens.runtime.network import Network
from bitlens.runtime.parity import (
    GRADIENT_TOLERANCE,
    INT8_COSINE,
    INT8_SPEARMAN,
    EngineParity,
    compare_engine,
    relative_errors,
)
from bitlens.runtime.program import Array, Program


def opened(program: Program) -> Engine:
    return open_engine(Network(Path("memory"), program), "reference")


REFERENCE, TWIN = opened(small_network()), opened(small_twin())
LABELS = np.zeros(8, np.int64)


@pytest.fixture(scope="module")
def golden() -> Golden:
    return record_golden(REFERENCE, images_for(REFERENCE.program, 8), LABELS)


def with_constant(name: str, constant: str, change: Array) -> Engine:
    """The network with `change` added to one of its constants."""
    nodes = []
    for node in REFERENCE.program.nodes:
        if node.name == name:
            array = (node.arrays[constant] + change).astype(node.arrays[constant].dtype)
            node = replace(node, arrays={**node.arrays, constant: array})
        nodes.append(node)
    return opened(replace(REFERENCE.program, nodes=tuple(nodes)))


def single(shape: tuple[int, ...], value: int) -> Array:
    change = np.zeros(shape, np.int64)
    change.flat[0] = value
    return change


def compared(engine: Engine, golden: Golden) -> EngineParity:
    return compare_engine(engine, REFERENCE, golden)


def test_holds_for_the_same_engine(golden: Golden) -> None:
    result = compared(REFERENCE, golden)
    assert result.holds
    assert result.images == 8
    assert result.codes == result.masks == 8 * (3 * 16 + 4 * 16 + 6)
    assert result.differing_codes == result.differing_masks == result.differing_accumulators == 0
    assert result.gradient_error == 0.0
    assert result.trace_sha256 == golden.trace_sha256.tobytes().hex()
    assert "holds; 0 of 944 codes" in result.summary()


def test_one_moved_threshold_does_not_hold(golden: Golden) -> None:
    first = REFERENCE.program.node("act1").arrays["thresholds"]
    result = compared(with_constant("act1", "thresholds", single(first.shape, -400)), golden)
    assert result.differing_codes > 0
    assert not result.holds
    assert "DOES NOT HOLD" in result.summary()
    assert result.trace_sha256 != golden.trace_sha256.tobytes().hex()


def test_one_moved_threshold_behind_a_dense_layer_does_not_hold(golden: Golden) -> None:
    thresholds = REFERENCE.program.node("act3").arrays["thresholds"]
    result = compared(with_constant("act3", "thresholds", np.full(thresholds.shape, 3)), golden)
    assert result.differing_codes > 0
    assert not result.holds


def test_one_moved_mask_does_not_hold(golden: Golden) -> None:
    result = compared(with_constant("act2", "mask_low", np.array([0, 0, 3, 0])), golden)
    assert result.differing_masks > 0
    assert result.differing_codes == 0
    assert not result.holds


def test_one_changed_weight_does_not_hold(golden: Golden) -> None:
    weight = REFERENCE.program.node("sums").arrays["weight"]
    result = compared(with_constant("sums", "weight", single(weight.shape, 1)), golden)
    assert result.differing_codes == 0
    assert result.differing_accumulators > 0
    assert not result.holds


def with_gradient(engine: Engine, change: Array | float) -> Engine:
    """An engine whose input gradient is off by `change`."""

    def run_gradient(*given: object) -> dict[str, Array]:
        got = engine.run_gradient(*given)  # type: ignore[arg-type]
        return got | {"input_gradient": got["input_gradient"] + np.asarray(change, np.float32)}

    return replace(engine, run_gradient=run_gradient)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1.0])
def test_a_wrong_gradient_does_not_hold(wrong: float, golden: Golden) -> None:
    change = np.zeros(golden.images.shape)
    change[3, 0, 0, 0] = wrong
    result = compared(with_gradient(REFERENCE, change), golden)
    assert result.gradient_exceptions == 1
    assert not result.gradient_error <= GRADIENT_TOLERANCE
    assert not result.holds


def test_a_gradient_within_the_tolerance_holds(golden: Golden) -> None:
    size = np.abs(golden.input_gradient).max(axis=(1, 2, 3), keepdims=True)
    close = compared(with_gradient(REFERENCE, 0.5 * GRADIENT_TOLERANCE * size), golden)
    assert 0 < close.gradient_error <= GRADIENT_TOLERANCE
    assert close.holds
    assert not compared(with_gradient(REFERENCE, 2 * GRADIENT_TOLERANCE * size), golden).holds


def in_bytes(engine: Engine) -> Engine:
    """An engine that says its gradients go through bytes."""
    return replace(engine, info=replace(engine.info, gradients=INT8_GRADIENTS))


def orthogonal(golden: Golden) -> Array:
    """Noise as large as each image's gradient and at a right angle: t times as much makes a cosine 1/sqrt(1 + t^2)."""
    flat = golden.input_gradient.reshape(len(golden.images), -1).astype(np.float64)
    noise = np.random.default_rng(8).standard_normal(flat.shape)
    noise -= flat * (noise * flat).sum(axis=1, keepdims=True) / (flat * flat).sum(axis=1, keepdims=True)
    noise *= np.linalg.norm(flat, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
    return noise.reshape(golden.images.shape)


def test_a_gradient_in_bytes_is_held_to_its_cosine(golden: Golden) -> None:
    noise = orthogonal(golden)
    near = compared(with_gradient(in_bytes(REFERENCE), 0.01 * noise), golden)
    assert near.likeness is not None
    assert near.likeness.mean_cosine == pytest.approx(1 / np.sqrt(1.0001), abs=1e-7)
    assert near.gradient_error > GRADIENT_TOLERANCE
    assert (near.holds, near.differences()) == (True, [])
    assert "gradient in bytes: cosine 0.99995 in the mean, 0.99995 the smallest; Spearman of" in near.summary()
    assert not compared(with_gradient(REFERENCE, 0.01 * noise), golden).holds
    noise[3] *= 0.05 / 0.01  # one image
    far = compared(with_gradient(in_bytes(REFERENCE), 0.01 * noise), golden)
    assert far.likeness is not None
    assert far.likeness.smallest_cosine == pytest.approx(1 / np.sqrt(1.0025), abs=1e-7)
    assert (far.holds, far.gradient_exceptions) == (False, 1)
    assert "1 of 8 images with a cosine below 0.999, the smallest 0.99875" in far.differences()[0]


def test_a_gradient_in_bytes_is_held_to_the_order_of_its_magnitudes(golden: Golden) -> None:
    # In a map of a few large pixels the small ones take one another's magnitudes: the direction stays, ranks do not.
    steep = golden.input_gradient**3
    changed = steep.reshape(8, -1).copy()
    small = np.argsort(np.abs(changed), axis=1)[:, : changed.shape[1] // 5]
    values = np.take_along_axis(changed, small, axis=1)
    np.put_along_axis(changed, small, np.sign(values) * np.abs(values)[:, ::-1], axis=1)
    engine = with_gradient(in_bytes(REFERENCE), changed.reshape(steep.shape) - golden.input_gradient)
    result = compared(engine, replace(golden, input_gradient=steep))
    assert result.likeness is not None
    assert result.likeness.smallest_cosine >= INT8_COSINE
    assert result.likeness.mean_spearman < INT8_SPEARMAN
    assert (result.holds, result.gradient_exceptions) == (False, 0)
    assert "Spearman of magnitudes is 0.9" in result.differences()[0]


def test_a_gradient_in_bytes_that_is_no_number_does_not_hold(golden: Golden) -> None:
    change = np.zeros(golden.images.shape)
    change[3, 0, 0, 0] = np.nan
    result = compared(with_gradient(in_bytes(REFERENCE), change), golden)
    assert (result.holds, result.gradient_exceptions) == (False, 1)


def verdict(*engines: EngineParity) -> bool:
    return Certificate("0", None, None, None, engines, None).holds  # type: ignore[arg-type]


def test_beside_exact_engines_a_gradient_in_bytes_does_not_decide_alone_it_does(golden: Golden) -> None:
    exact, far = compared(REFERENCE, golden), compared(with_gradient(in_bytes(REFERENCE), 0.5), golden)
    assert (far.forward_holds, far.holds) == (True, False)
    assert "NOT NEAR ENOUGH" in far.summary()
    assert verdict(exact, far)
    assert not verdict(far)
    assert not verdict(exact, replace(far, differing_codes=1))
    assert not verdict(replace(exact, gradient_exceptions=1), far)


def test_another_class_does_not_hold(golden: Golden) -> None:
    wrong = golden.logits.copy()
    wrong[0] = wrong[0, ::-1]
    wrong[0, (wrong[0].argmax() + 1) % 3] = 99.0
    result = compared(REFERENCE, replace(golden, logits=wrong))
    assert result.differing_classes == 1
    assert not result.holds


def test_answers_of_another_network_are_refused(golden: Golden) -> None:
    wrong = replace(golden, logits=golden.logits[:, :2], accumulators=golden.accumulators[:, :2])
    with pytest.raises(
        BitlensError, match="golden answers have 2 classes, the network 3: they belong to another network"
    ):
        compared(REFERENCE, wrong)


def twin_parity(exceptions: int, value: float, count: int = 100) -> EngineParity:
    images = images_for(TWIN.program, count)
    golden = record_golden(TWIN, images, np.zeros(count, np.int64))
    change = np.zeros(images.shape)
    change[:exceptions] = value
    return compare_engine(with_gradient(TWIN, change), TWIN, golden)


def test_the_twin_may_have_an_exception_in_a_hundred() -> None:
    assert twin_parity(0, 0.0).holds
    assert twin_parity(1, 0.5).holds
    assert not twin_parity(2, 0.5).holds
    assert twin_parity(0, 0.0).codes == 0
    assert "codes" not in twin_parity(0, 0.0).summary()


def test_of_few_images_one_may_be_an_exception() -> None:
    assert twin_parity(1, 0.5, count=16).holds
    assert not twin_parity(2, 0.5, count=16).holds


def test_not_a_number_is_never_an_exception() -> None:
    assert not twin_parity(1, np.nan).holds


def test_relative_errors() -> None:
    values = np.array([[1.0, 2.0], [0.0, 0.0], [1.0, 0.0], [np.nan, 0.0], [4.0, -4.0], [1.0, 0.0]])
    expected = np.array([[1.0, 4.0], [0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [4.0, -5.0], [np.nan, 0.0]])
    got = relative_errors(values, expected)
    assert np.array_equal(got, [0.5, 0.0, np.inf, np.nan, 0.2, np.nan], equal_nan=True)


def test_cosines_and_spearmans_of_magnitudes() -> None:
    one = np.array(
        [[1.0, 2.0, 2.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [3.0, -1.0, 2.0], [np.nan, 0.0, 1.0], [1.0, 1, 1]]
    )
    two = np.array(
        [[2.0, 4.0, 4.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 2.0, -3.0], [1.0, 0.0, 1.0], [np.inf, 0, 0]]
    )
    expected = [1.0, 1.0, 0.0, (3 - 2 - 6) / 14, np.nan, np.nan]
    np.testing.assert_allclose(cosines(one, two), expected, atol=1e-15)
    # Ranks of the fourth: 3, 1, 2 and 1, 2, 3.
    np.testing.assert_allclose(magnitude_spearmans(one, two), [1.0, 1.0, 0.0, -0.5, np.nan, np.nan], atol=1e-15)
    tiny = np.full((1, 1, 2, 2), 1e-45, np.float32)
    tiny[0, 0, 0, 0] = -3e38
    assert cosines(tiny, tiny / 2)[0] == pytest.approx(1.0)
    assert magnitude_spearmans(-tiny, tiny)[0] == pytest.approx(1.0)


def test_does_not_hold_where_the_desktop_saw_other_codes(golden: Golden) -> None:
    # On a board with one engine this is the only comparison of codes and masks that is not with itself.
    other = replace(golden, trace_sha256=golden.trace_sha256 ^ np.uint8(1))
    result = compared(REFERENCE, other)
    assert result.differing_codes == 0
    assert not result.trace_equal
    assert not result.holds
    assert "hash of its codes, masks and accumulators is not the desktop's" in result.summary()
