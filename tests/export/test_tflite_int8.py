"""The 8-bit TFLite graph: how near it is, and that its count of missed thresholds is a true one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from small_programs import (
    affine,
    conv2d,
    dense,
    image_input,
    max_pool,
    reshape,
    residual_network,
    small_network,
    small_twin,
    threshold,
)
from traces import Trace, channels_first, channels_last, open_tflite, partitions

from bitlens.export.tflite_int8 import channel_fits, indices, int8_model
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.interpreter import interpret
from bitlens.runtime.program import Node, Program

QUANTIZED = ("w4a4", "w2a4", "w2a2", "w1a1")


def codes_of(program: Program) -> list[str]:
    return [node.outputs[0] for node in program.nodes if node.op == "threshold"]


def int8_trace(program: Program, images: npt.NDArray[np.uint8]) -> Trace:
    names = [*codes_of(program), *program.outputs]
    runner = open_tflite(int8_model(program, names).content).get_signature_runner("forward")
    found: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in names}
    for image in images:
        for name, value in runner(image=channels_last(image[None].astype(np.float32))).items():
            found[name].append(np.array(channels_first(value)))
    return {name: np.concatenate(values) for name, values in found.items()}


@pytest.mark.parametrize("precision", QUANTIZED)
def test_few_codes_differ(precision: str, programs: dict[str, Program], held_out: npt.NDArray[np.uint8]) -> None:
    program, images = programs[precision], held_out[:200]
    got = int8_trace(program, images)
    names = [*codes_of(program), *program.outputs]
    expected = interpret(program, {"image": images.astype(np.int16)}, names)
    for name in codes_of(program):
        share = np.mean(got[name] != expected[name])
        assert share <= (0.0 if precision == "w1a1" else 1e-3), f"{name}: {share}"
        assert np.abs(got[name] - expected[name]).max() <= 1
    logits = program.outputs[0]
    agree = np.mean(got[logits].argmax(axis=1) == expected[logits].argmax(axis=1))
    assert agree == 1.0


@pytest.mark.parametrize("precision", QUANTIZED)
def test_the_graph_stays_in_one_partition(precision: str, programs: dict[str, Program]) -> None:
    assert partitions(open_tflite(int8_model(programs[precision]).content)) == 1


def convolution(program: Program) -> tuple[Node, Node]:
    return program.node("conv2"), program.node("act2")


@pytest.mark.parametrize("precision", QUANTIZED)
def test_missed_thresholds_are_counted(precision: str, programs: dict[str, Program]) -> None:
    conv, quantizer = convolution(programs[precision])
    weight = conv.arrays["weight"]
    before = programs[precision].node("act1")
    low, step, levels = before.integer("low"), before.integer("step"), before.arrays["thresholds"].shape[1]
    source, output = 6.0 / levels, 6.0 / quantizer.arrays["thresholds"].shape[1]
    source, output = float(np.float32(source)), float(np.float32(output))
    fits = channel_fits(weight.reshape(*weight.shape[:2], -1), quantizer, (low, step, levels), source, output)
    direction = quantizer.arrays["direction"].astype(np.int64)
    for channel, fit in enumerate(fits):
        kernel = weight[channel].astype(np.int64) * direction[channel]
        # Every sum over indices, and the accumulator it stands for.
        sums = np.arange(np.minimum(kernel, 0).sum() * levels, np.maximum(kernel, 0).sum() * levels + 1)
        facing = step * sums + low * kernel.sum()
        rows = quantizer.arrays["thresholds"][channel].astype(np.int64) * direction[channel]
        expected = (facing[:, None] >= rows).sum(axis=1)
        got = indices(sums.astype(np.float64), fit, source, output, len(rows))
        assert np.abs(got - expected).max() <= (1 if fit.missed else 0)
        wrong = np.flatnonzero(got != expected)
        # Runs of wrong sums, one beside each threshold that is missed.
        runs = 0 if not wrong.size else 1 + int(np.sum(np.diff(wrong) > 1))
        assert runs == fit.missed, f"channel {channel}: {fit}"


def test_no_sum_leaves_an_int32() -> None:
    kernels = np.repeat(np.array([1, -1], np.int8), 60_000)[None, :, None]
    span = 60_000 * 255
    for first in (-span + 1000, 0, span - 1000):
        (fit,) = channel_fits(kernels, threshold("sums", "codes", np.array([[first]], np.int32)), (0, 1, 255), 1.0, 6.0)
        assert all(abs(fit.multiplier * end + fit.bias) < 2**31 for end in (-span, 0, span))
        got = indices(np.array([first - 1.0, first]), fit, 1.0, 6.0, 1)
        assert fit.missed == 0
        assert got.tolist() == [0.0, 1.0]


def classifier(*nodes: Node, features: int) -> Program:
    """Nodes that end in `features` codes named "flat", and three classes behind them."""
    weight = np.random.default_rng(0).integers(-7, 8, (3, features)).astype(np.int8)
    last = (dense("flat", "sums", weight), affine("sums", "logits", [0.01] * 3, [0.0, 0.1, 0.2]))
    return Program((image_input((1, 8, 8)),), (*nodes, *last), ("logits",), {})


def test_a_classifier_of_codes_is_equal() -> None:
    program = classifier(reshape("image", "flat", 64), features=64)
    images = np.random.default_rng(1).integers(0, 256, (4, 1, 8, 8)).astype(np.uint8)
    expected = interpret(program, {"image": images.astype(np.int16)}, ["logits"])
    assert np.array_equal(int8_trace(program, images)["logits"], expected["logits"])


KERNELS = np.random.default_rng(2).integers(-1, 2, (4, 1, 3, 3)).astype(np.int8)
SIGNS = np.zeros((4, 1), np.int32)
TURNED = -np.ones(4, np.int8)


@pytest.mark.parametrize(
    ("nodes", "features", "named"),
    [
        ((threshold("image", "q", SIGNS[:1]), reshape("q", "flat", 64)), 64, r"'q' \(threshold\)"),
        (
            (
                conv2d("image", "c", KERNELS),
                threshold("c", "q", SIGNS),
                threshold("q", "r", SIGNS + 1),
                reshape("r", "flat", 144),
            ),
            144,
            r"'r' \(threshold\)",
        ),
        (
            (
                conv2d("image", "c", KERNELS),
                max_pool("c", "p", 4, direction=TURNED),
                threshold("p", "q", SIGNS),
                reshape("q", "flat", 36),
            ),
            36,
            r"'p' \(max_pool\): a pool that takes the smallest",
        ),
        ((max_pool("image", "p", 1, direction=TURNED[:1]), reshape("p", "flat", 16)), 16, r"'p' \(max_pool\)"),
        (
            (
                conv2d("image", "c", KERNELS),
                reshape("c", "f", 144),
                threshold("f", "flat", np.zeros((144, 1), np.int32)),
            ),
            144,
            r"'c' \(conv2d\)",
        ),
    ],
    ids=["quantized image", "quantized codes", "smallest sum", "smallest code", "quantizer behind a reshape"],
)
def test_what_it_would_compute_otherwise_is_refused(nodes: tuple[Node, ...], features: int, named: str) -> None:
    program = classifier(*nodes, features=features)
    interpret(program, {"image": np.zeros((1, 1, 8, 8), np.int16)}, ["logits"])  # the program is a whole one
    with pytest.raises(BitlensError, match=named):
        int8_model(program)


def test_outputs_that_are_not_there_are_refused() -> None:
    with pytest.raises(BitlensError, match="no tensor named 'nothing'"):
        int8_model(small_network(), ["nothing"])
    with pytest.raises(BitlensError, match="the sums 'conv1' are never there"):
        int8_model(small_network(), ["conv1"])


def test_what_has_no_form_is_refused() -> None:
    with pytest.raises(BitlensError, match=r"node '.*': it has no 8-bit form .* real-valued sums|8-bit form"):
        int8_model(residual_network())
    with pytest.raises(BitlensError, match="a full-precision network has no 8-bit form"):
        int8_model(small_twin())
