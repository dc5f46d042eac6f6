"""QONNX files from elsewhere: what is represented equals QONNX's own executor, everything else is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from qonnx_graph import DOMAIN, QonnxGraph, executed
from traces import differences, feeds_of, onnx_trace, reference_trace

from bitlens.export.lowering import lower
from bitlens.export.onnx_rules import ONNX_RULES
from bitlens.export.onnx_writer import onnx_model
from bitlens.runtime.autodiff import gradient_program
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.parity import GRADIENT_TOLERANCE, relative_errors
from bitlens.runtime.program import Program
from bitlens.runtime.type_check import infer_types

Build = Callable[[QonnxGraph, np.random.Generator], str]
IMAGES = 4


def first_block(
    graph: QonnxGraph, random: np.random.Generator, *, channels: int = 6, bits: float = 3, scale: float = 0.3712
) -> str:
    """8-bit convolution on the image, batch norm, ReLU and an unsigned quantizer."""
    shape = (channels, graph.input.type.tensor_type.shape.dim[1].dim_value, 3, 3)
    weight = graph.weight("conv1", random.normal(size=shape), 8, random.uniform(0.01, 0.03, (channels, 1, 1, 1)))
    summed = graph.add("conv1", "Conv", ["x", weight], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    normed = graph.norm("norm1", summed, channels, random)
    return graph.quant("act1", graph.add("relu1", "Relu", [normed]), bits, scale, signed=0)


def with_head(graph: QonnxGraph, source: str, features: int, random: np.random.Generator) -> str:
    return graph.dense(graph.add("flatten", "Flatten", [source]), features, random)


def grouped_convolution(graph: QonnxGraph, random: np.random.Generator) -> str:
    codes = first_block(graph, random)
    weight = graph.weight("conv2", random.normal(size=(4, 3, 3, 2)), 4, random.uniform(0.1, 0.3, (4, 1, 1, 1)))
    bias = graph.constant(random.normal(size=4))
    summed = graph.add(
        "conv2", "Conv", [codes, weight, bias], group=2, strides=[2, 1], pads=[0, 1, 2, 1], kernel_shape=[3, 2]
    )
    codes = graph.quant("act2", graph.norm("norm2", summed, 4, random), 4, 0.21)  # signed, no ReLU
    return with_head(graph, codes, 4 * 5 * 10, random)  # (9 + 2 - 3) // 2 + 1 by 9 + 2 - 2 + 1


def matmul(graph: QonnxGraph, random: np.random.Generator) -> str:
    codes = graph.add("flatten", "Flatten", [first_block(graph, random)])
    weight = graph.weight("hidden", random.normal(size=(6 * 81, 7)), 3, random.uniform(0.2, 0.6, (1, 7)))
    summed = graph.add("hidden", "MatMul", [codes, weight])
    summed = graph.add("hidden.bias", "Add", [graph.constant(random.normal(size=7)), summed])
    codes = graph.quant("act2", graph.add("relu2", "Relu", [summed]), 2, 1.3, signed=0)
    weight = graph.weight("fc", random.normal(size=(7, 3)), 8, 0.02)
    return graph.add("fc", "Gemm", [codes, weight])


def transposed_weight(graph: QonnxGraph, random: np.random.Generator) -> str:
    codes = graph.add("flatten", "Flatten", [first_block(graph, random)])
    weight = graph.weight("fc", random.normal(size=(3, 6 * 81)), 4, random.uniform(0.1, 0.3, (3, 1)))
    turned = graph.add("turn", "Transpose", [weight], perm=[1, 0])
    return graph.add("fc", "MatMul", [codes, turned])


def quantizer(zero_point: float, signed: int, narrow: int, mode: str) -> Build:
    def build(graph: QonnxGraph, random: np.random.Generator) -> str:
        codes = first_block(graph, random)
        weight = graph.weight("conv2", random.normal(size=(5, 6, 3, 3)), 2, 0.7)
        summed = graph.add("conv2", "Conv", [codes, weight], pads=[1, 1, 1, 1])
        normed = graph.norm("norm2", summed, 5, random)
        codes = graph.quant("act2", normed, 3, 0.61, zero_point, signed=signed, narrow=narrow, rounding_mode=mode)
        weight = graph.weight("conv3", random.normal(size=(5, 5, 3, 3)), 4, 0.2)
        # The pad is a code of its own; the bias keeps sums of 0 off the ties of FLOOR and CEIL.
        bias = graph.constant(random.normal(size=5))
        summed = graph.add("conv3", "Conv", [codes, weight, bias], pads=[1, 1, 1, 1])
        codes = graph.quant("act3", summed, 4, 1.7, rounding_mode=mode)
        return with_head(graph, codes, 5 * 81, random)

    return build


def bipolar(graph: QonnxGraph, random: np.random.Generator) -> str:
    weight = graph.bipolar("conv1.weight", graph.constant(random.normal(size=(8, 2, 3, 3))), np.full((8, 1, 1, 1), 0.3))
    normed = graph.norm("norm1", graph.add("conv1", "Conv", ["x", weight]), 8, random)
    pooled = graph.add("pool1", "MaxPool", [normed], kernel_shape=[2, 2], strides=[1, 1])
    codes = graph.bipolar("act1", pooled, 0.5)
    pads = graph.constant([0, 0, 1, 0, 0, 0, 1, 2], np.int64)
    padded = graph.add("pad2", "Pad", [codes, pads, graph.constant(-0.5)])
    scale = random.uniform(0.1, 0.4, (4, 1, 1, 1))
    weight = graph.bipolar("conv2.weight", graph.constant(random.normal(size=(4, 8, 3, 3))), scale)
    normed = graph.norm("norm2", graph.add("conv2", "Conv", [padded, weight]), 4, random)
    return with_head(graph, graph.bipolar("act2", normed), 4 * 6 * 6, random)


def pools(graph: QonnxGraph, random: np.random.Generator) -> str:
    weight = graph.weight("conv1", random.normal(size=(6, 2, 3, 3)), 8, 0.02)
    normed = graph.norm("norm1", graph.add("conv1", "Conv", ["x", weight]), 6, random)
    window: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    pooled = graph.add("pool1", "MaxPool", [normed], **window)  # overlapping, negative slopes, before the quantizer
    codes = graph.quant("act1", graph.add("relu1", "Relu", [pooled]), 3, 0.3, signed=0)
    pooled = graph.add("pool2", "MaxPool", [codes], kernel_shape=[2, 2], strides=[1, 1])  # and behind it
    averaged = graph.add("average", "AveragePool", [pooled], kernel_shape=[2, 2], strides=[1, 1])
    weight = graph.weight("conv2", random.normal(size=(6, 6, 1, 1)), 4, 0.2)
    codes = graph.quant("act2", graph.add("conv2", "Conv", [averaged, weight]), 4, 0.17)
    return with_head(graph, graph.add("global", "GlobalAveragePool", [codes]), 6, random)


def mean_over_the_map(graph: QonnxGraph, random: np.random.Generator) -> str:
    codes = first_block(graph, random)
    averaged = graph.add("mean", "ReduceMean", [codes], axes=[2, 3], keepdims=0)
    return graph.dense(averaged, 6, random)


def squeezed_mean(graph: QonnxGraph, random: np.random.Generator) -> str:
    averaged = graph.add("mean", "ReduceMean", [first_block(graph, random)], axes=[-1, -2], keepdims=1)
    return graph.dense(graph.add("squeeze", "Squeeze", [averaged, graph.constant([2, 3], np.int64)]), 6, random)


def residual(graph: QonnxGraph, random: np.random.Generator, *, bits: float = 4, scale: float = 0.43) -> str:
    codes = first_block(graph, random)
    branches = []
    for name in ("left", "right"):
        weight = graph.weight(name, random.normal(size=(6, 6, 3, 3)), 3, random.uniform(0.1, 0.4, (6, 1, 1, 1)))
        summed = graph.add(name, "Conv", [codes, weight], pads=[1, 1, 1, 1])
        branches.append(graph.norm(f"{name}.norm", summed, 6, random))
    added = graph.add("join", "Add", branches)
    added = graph.norm("join.norm", graph.add("join.again", "Add", [added, codes]), 6, random)
    codes = graph.quant("act2", graph.add("relu2", "Relu", [added]), bits, scale, signed=0)
    return with_head(graph, codes, 6 * 81, random)


def wide_residual(graph: QonnxGraph, random: np.random.Generator) -> str:
    return residual(graph, random, bits=8, scale=0.0271)


def mean_and_deviation(graph: QonnxGraph, random: np.random.Generator) -> str:
    mean = np.array([51.0, 102.0]).reshape(1, 2, 1, 1) / 255.0
    centred = graph.add("mean", "Sub", ["x", graph.constant(mean)])
    scaled = graph.add("deviation", "Div", [centred, graph.constant(0.25)])
    weight = graph.weight("conv1", random.normal(size=(6, 2, 3, 3)), 8, 0.02)
    summed = graph.add("conv1", "Conv", [scaled, weight], pads=[1, 1, 1, 1])  # padding 0 is code 51, code 102
    codes = graph.quant("act1", graph.norm("norm1", summed, 6, random), 4, 0.21)
    return with_head(graph, codes, 6 * 81, random)


def constants(graph: QonnxGraph, random: np.random.Generator) -> str:
    weight = graph.weight("conv1", random.normal(size=(6, 2, 3, 3)), 8, 0.02)
    value = graph.add("conv1", "Conv", ["x", weight])
    value = graph.add("mul", "Mul", [graph.constant(random.normal(size=(6, 1, 1))), value])
    value = graph.add("div", "Div", [value, graph.constant(-0.7)])
    value = graph.add("add", "Add", [value, graph.constant(random.normal(size=(1, 6, 1, 1)))])
    value = graph.add("sub", "Sub", [value, graph.constant(0.125)])
    value = graph.add("relu1", "Relu", [value])
    value = graph.add("mul2", "Mul", [value, graph.constant(1.5)])
    value = graph.add("copy", "Identity", [value])
    codes = graph.quant("act1", value, 3, 0.4, signed=0)
    codes = graph.add("drop", "Dropout", [codes])
    reshaped = graph.add("reshape", "Reshape", [codes, graph.constant([IMAGES, -1], np.int64)])
    return graph.dense(reshaped, 6 * 49, random)


def norm_behind_relu(graph: QonnxGraph, random: np.random.Generator) -> str:
    weight = graph.weight("conv1", random.normal(size=(6, 2, 3, 3)), 8, 0.02)
    rectified = graph.add("relu1", "Relu", [graph.add("conv1", "Conv", ["x", weight])])
    codes = graph.quant("act1", graph.norm("norm1", rectified, 6, random), 4, 0.2)
    return with_head(graph, codes, 6 * 49, random)


def pad_before_a_pool(graph: QonnxGraph, random: np.random.Generator) -> str:
    codes = first_block(graph, random)
    pads = graph.constant([0, 0, 1, 0, 0, 0, 0, 2], np.int64)
    padded = graph.add("pad", "Pad", [codes, pads, graph.constant(0.3712)])
    pooled = graph.add("pool", "MaxPool", [padded], kernel_shape=[2, 2], strides=[2, 2])
    return with_head(graph, pooled, 6 * 5 * 5, random)


def eight_bits(graph: QonnxGraph, random: np.random.Generator) -> str:
    codes = first_block(graph, random, bits=8, scale=0.0173)
    weight = graph.weight("conv2", random.normal(size=(5, 6, 3, 3)), 8, 0.0211)
    codes = graph.quant("act2", graph.add("conv2", "Conv", [codes, weight]), 8, 0.0839)
    return with_head(graph, codes, 5 * 49, random)


def powers_of_two(graph: QonnxGraph, random: np.random.Generator) -> str:
    """As hardware likes it: every sum is exact in float32, and many stand on ties that go either way."""
    codes = first_block(graph, random, bits=8, scale=2.0**-4)
    weight = graph.weight("conv2", random.normal(size=(5, 6, 3, 3)), 4, 2.0**-2)
    codes = graph.quant("act2", graph.add("conv2", "Conv", [codes, weight]), 8, 2.0**-3)
    return with_head(graph, codes, 5 * 49, random)


CASES: dict[str, Build] = {
    "grouped convolution": grouped_convolution,
    "matmul": matmul,
    "transposed weight": transposed_weight,
    "signed": quantizer(0.0, 1, 0, "ROUND"),
    "signed narrow": quantizer(0.0, 1, 1, "ROUND"),
    "unsigned": quantizer(0.0, 0, 0, "ROUND"),
    "unsigned narrow": quantizer(0.0, 0, 1, "ROUND"),
    "zero point": quantizer(3.0, 0, 0, "ROUND"),
    "signed zero point": quantizer(-1.0, 1, 0, "ROUND"),
    "floor": quantizer(0.0, 1, 0, "FLOOR"),
    "ceil": quantizer(2.0, 0, 0, "CEIL"),
    "bipolar": bipolar,
    "pools": pools,
    "mean over the map": mean_over_the_map,
    "squeezed mean": squeezed_mean,
    "residual": residual,
    "wide residual": wide_residual,
    "mean and deviation": mean_and_deviation,
    "constants": constants,
    "norm behind relu": norm_behind_relu,
    "pad before a pool": pad_before_a_pool,
    "eight bits": eight_bits,
    "powers of two": powers_of_two,
}


def built(build: Build, seed: int = 0) -> onnx.ModelProto:
    graph = QonnxGraph((2, 9, 9), batch=IMAGES)
    return graph.model(build(graph, np.random.default_rng(seed)))


def differing_codes(program: Program, got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, int]:
    """Codes of each quantizer that differ from the real values of QONNX's executor."""
    types, counts = infer_types(program), {}
    for node in program.nodes:
        if node.op != "threshold":
            continue
        real = next(
            value for name, value in expected.items() if name in (f"{node.name}.Quant", f"{node.name}.BipolarQuant")
        )
        codes = real.astype(np.float64) / types[node.name].scale
        whole = np.rint(codes)
        assert np.abs(codes - whole).max() < 1e-3, "the executor's value is on no code"
        counts[node.name] = int((got[node.name] != whole).sum())
    assert counts
    return counts


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CASES)
def test_equals_the_executor_of_qonnx(name: str, seed: int) -> None:
    model = built(CASES[name], seed)
    codes = np.random.default_rng(seed).integers(0, 256, (IMAGES, 2, 9, 9))
    expected = executed(model, codes / 255.0)
    program = lower(model)
    gradient = gradient_program(program)
    seeds = np.eye(3, dtype=np.float32)[np.arange(IMAGES) % 3]
    got = reference_trace(gradient, feeds_of(gradient, codes, seeds))
    assert set(differing_codes(program, got, expected).values()) == {0}
    logits = expected[model.graph.output[0].name]
    assert np.abs(got["logits"] - logits).max() <= 1e-5 * np.abs(logits).max()
    forward = onnx_trace(program, feeds_of(program, codes))
    assert differences(forward, {key: got[key] for key in forward}) == {}
    backward = onnx_trace(gradient, feeds_of(gradient, codes, seeds))
    assert differences(backward, got) == {}
    assert relative_errors(backward["input_gradient"], got["input_gradient"]).max() <= GRADIENT_TOLERANCE
    assert np.abs(got["input_gradient"]).max() > 0


def test_a_wrong_code_is_counted() -> None:
    model = built(grouped_convolution)
    codes = np.random.default_rng(0).integers(0, 256, (IMAGES, 2, 9, 9))
    program = lower(model)
    got = reference_trace(program, feeds_of(program, codes))
    got["act2"][1, 2, 3, 4] += 1
    assert differing_codes(program, got, executed(model, codes / 255.0)) == {"act1": 0, "act2": 1}


def test_a_graph_without_quantizers_is_a_full_precision_program() -> None:
    graph, random = QonnxGraph((2, 9, 9), batch=IMAGES), np.random.default_rng(0)
    weight, bias = graph.constant(random.normal(size=(6, 2, 3, 3)) / 4), graph.constant(random.normal(size=6))
    pads = graph.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    padded = graph.add("pad", "Pad", ["x", pads, graph.constant(0.5)])
    value = graph.norm("norm1", graph.add("conv1", "Conv", [padded, weight, bias]), 6, random)
    value = graph.add("relu1", "Relu", [value])
    value = graph.add("average", "AveragePool", [value], kernel_shape=[3, 3], strides=[2, 2])
    value = graph.add("join", "Add", [value, value])
    dense = graph.constant(random.normal(size=(6 * 16, 3)))
    logits = graph.add("fc", "Gemm", [graph.add("flatten", "Flatten", [value]), dense])
    model = graph.model(logits)
    program = lower(model)
    assert program.is_full_precision
    codes = random.integers(0, 256, (IMAGES, 2, 9, 9))
    expected = executed(model, codes / 255.0)[logits]
    got = reference_trace(program, feeds_of(program, codes))["logits"]
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


# Refusals: (how the graph is built, what the message must say: the node, the reason and a remedy).


def with_convolution(weights: str = "quantized", **attributes: Any) -> Build:
    def build(graph: QonnxGraph, random: np.random.Generator) -> str:
        codes = first_block(graph, random)
        values = random.normal(size=(4, 6, 3, 3))
        if weights == "real":
            weight = graph.constant(values)
        elif weights == "varying":
            weight = graph.weight("conv2", values, 4, random.uniform(0.1, 0.2, (4, 6, 1, 1)))
        elif weights == "wide":
            weight = graph.weight("conv2", values, 20, 1e-5)
        else:
            weight = graph.weight("conv2", values, 4, 0.2)
        summed = graph.add("conv2", "Conv", [codes, weight], **attributes)
        return with_head(graph, graph.quant("act2", summed, 4, 0.2), 4 * 81, random)

    return build


def with_activation(
    bits: float = 4, scale: object = 0.2, zero_point: object = 0.0, mode: str = "ROUND", signed: int = 1
) -> Build:
    def build(graph: QonnxGraph, random: np.random.Generator) -> str:
        weight = graph.weight("conv1", random.normal(size=(6, 2, 3, 3)), 8, 0.02)
        summed = graph.add("conv1", "Conv", ["x", weight])
        codes = graph.quant("act1", summed, bits, scale, zero_point, signed=signed, rounding_mode=mode)  # type: ignore[arg-type]
        return with_head(graph, codes, 6 * 49, random)

    return build


def behind_codes(layer: str, op: str, *constants: tuple[object, type[np.generic]], **attributes: Any) -> Build:
    """One op on codes of shape (6, 9, 9)."""

    def build(graph: QonnxGraph, random: np.random.Generator) -> str:
        codes = first_block(graph, random)
        given = [graph.constant(value, dtype) for value, dtype in constants]  # type: ignore[arg-type]
        return with_head(graph, graph.add(layer, op, [codes, *given], **attributes), 6 * 81, random)

    return build


def training_norm(graph: QonnxGraph, random: np.random.Generator) -> str:
    weight = graph.weight("conv1", random.normal(size=(6, 2, 3, 3)), 8, 0.02)
    normed = graph.norm("norm1", graph.add("conv1", "Conv", ["x", weight]), 6, random, training_mode=1)
    return with_head(graph, graph.quant("act1", normed, 4, 0.2), 6 * 49, random)


def inexact_pad(graph: QonnxGraph, random: np.random.Generator) -> str:
    centred = graph.add("mean", "Sub", ["x", graph.constant(0.1307)])
    weight = graph.weight("conv1", random.normal(size=(6, 2, 3, 3)), 8, 0.02)
    summed = graph.add("conv1", "Conv", [centred, weight], pads=[1, 1, 1, 1])
    return with_head(graph, graph.quant("act1", summed, 4, 0.2), 6 * 81, random)


def deviation_per_channel(graph: QonnxGraph, random: np.random.Generator) -> str:
    scaled = graph.add("deviation", "Div", ["x", graph.constant(np.array([0.2, 0.3]).reshape(1, 2, 1, 1))])
    weight = graph.weight("conv1", random.normal(size=(6, 2, 3, 3)), 8, 0.02)
    summed = graph.add("conv1", "Conv", [scaled, weight])
    return with_head(graph, graph.quant("act1", summed, 4, 0.2), 6 * 49, random)


def average_of_reals(graph: QonnxGraph, random: np.random.Generator) -> str:
    weight = graph.weight("conv1", random.normal(size=(6, 2, 3, 3)), 8, 0.02)
    rectified = graph.add("relu1", "Relu", [graph.add("conv1", "Conv", ["x", weight])])
    pooled = graph.add("average", "AveragePool", [rectified], kernel_shape=[7, 7])
    return with_head(graph, graph.quant("act1", pooled, 4, 0.2), 6, random)


def unquantized_input(graph: QonnxGraph, random: np.random.Generator) -> str:
    weight = graph.weight("conv1", random.normal(size=(6, 2, 3, 3)), 8, 0.02)
    rectified = graph.add("relu1", "Relu", [graph.add("conv1", "Conv", ["x", weight])])
    weight = graph.weight("conv2", random.normal(size=(6, 6, 3, 3)), 8, 0.02)
    summed = graph.add("conv2", "Conv", [rectified, weight])
    return with_head(graph, graph.quant("act2", summed, 4, 0.2), 6 * 25, random)


def difference_of_tensors(graph: QonnxGraph, random: np.random.Generator) -> str:
    codes = first_block(graph, random)
    return with_head(graph, graph.add("join", "Sub", [codes, codes]), 6 * 81, random)


def constant_minus_tensor(graph: QonnxGraph, random: np.random.Generator) -> str:
    codes = first_block(graph, random)
    return with_head(graph, graph.add("turn", "Sub", [graph.constant(1.0), codes]), 6 * 81, random)


def dead_norm(graph: QonnxGraph, random: np.random.Generator) -> str:
    weight = graph.weight("conv1", random.normal(size=(6, 2, 3, 3)), 8, 0.02)
    ones, zeros = graph.constant(np.ones(6)), graph.constant(np.zeros(6))
    summed = graph.add("conv1", "Conv", ["x", weight])
    normed = graph.add("norm1", "BatchNormalization", [summed, ones, zeros, zeros, zeros], epsilon=0.0)
    return with_head(graph, graph.quant("act1", normed, 4, 0.2), 6 * 49, random)


def no_dense_at_the_end(graph: QonnxGraph, random: np.random.Generator) -> str:
    return first_block(graph, random)


def huge_sum(graph: QonnxGraph, random: np.random.Generator) -> str:
    codes = first_block(graph, random, channels=64, bits=8)
    weight = graph.weight("conv2", np.ones((4, 64, 9, 9)), 8, 1 / 127)
    codes = graph.quant("act2", graph.add("conv2", "Conv", [codes, weight]), 4, 9.0)
    return with_head(graph, codes, 4, random)


def computed_weights(graph: QonnxGraph, random: np.random.Generator) -> str:
    codes = graph.add("flatten", "Flatten", [first_block(graph, random)])
    return graph.add("fc", "MatMul", [codes, codes])


def pad_below_a_relu(graph: QonnxGraph, random: np.random.Generator) -> str:
    rectified = graph.add("relu2", "Relu", [graph.quant("act1", "x", 4, 0.1)])
    pads = graph.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    padded = graph.add("pad", "Pad", [rectified, pads, graph.constant(-1.0)])
    return with_head(graph, graph.quant("act2", padded, 4, 0.1), 2 * 11 * 11, random)


def endless_loop(graph: QonnxGraph, random: np.random.Generator) -> str:
    first_block(graph, random)
    return graph.add("loop", "Loop", [graph.constant(2**62, np.int64)])


def huge_constant(graph: QonnxGraph, random: np.random.Generator) -> str:
    first_block(graph, random)
    return graph.add("huge", "ConstantOfShape", [graph.constant([2**20, 2**20, 2**40], np.int64)])


REFUSALS: dict[str, tuple[Build, str]] = {
    "pad below a ReLU": (
        pad_below_a_relu,
        r"node '/act2/Quant' \(Quant\): pads a ReLU's output with -1, which it cannot give: pad with 0 or more",
    ),
    "loop over constants": (endless_loop, r"node '/loop/Loop' \(Loop\): is applied to constants alone, which only "),
    "huge constant": (huge_constant, r"node '/huge/ConstantOfShape' .*makes a constant of more than \d+ elements"),
    "dilation": (
        with_convolution(dilations=[2, 2], pads=[2, 2, 2, 2]),
        r"node '/conv2/Conv' \(Conv\): dilation is not supported: use a larger kernel or a stride",
    ),
    "auto_pad": (
        with_convolution(auto_pad="SAME_UPPER"),
        r"node '/conv2/Conv' \(Conv\): auto_pad .*: export with explicit pads",
    ),
    "weights unquantized": (
        with_convolution("real"),
        r"node '/conv2/Conv' \(Conv\): its weights are not quantized .*: give it a weight quantizer",
    ),
    "weight scale inside an output": (
        with_convolution("varying"),
        r"node '/conv2/Conv' \(Conv\): its weight scale varies inside an output channel: use one scale per",
    ),
    "wide weights": (
        with_convolution("wide"),
        r"node '/conv2/Conv' \(Conv\): its weights need more than 16 bits: quantize them to 8 or fewer",
    ),
    "activation scale per channel": (
        with_activation(scale=np.full((1, 6, 1, 1), 0.2)),
        r"node '/act1/Quant' \(Quant\): its scale varies over channels.*: use one scale per tensor",
    ),
    "16-bit activation": (
        with_activation(bits=16),
        r"node '/act1/Quant' \(Quant\): 16-bit activations: use at most 8 bits",
    ),
    "half a bit": (with_activation(bits=2.5), r"node '/act1/Quant' \(Quant\): a 2\.5-bit quantizer .*whole numbers"),
    "zero point between codes": (
        with_activation(zero_point=0.5),
        r"node '/act1/Quant' \(Quant\): a 4-bit quantizer with zero point 0\.5: expected whole numbers",
    ),
    "negative scale": (
        with_activation(scale=-0.2),
        r"node '/act1/Quant' \(Quant\): its scale is not positive: train with a lower bound on scales",
    ),
    "rounding mode": (
        with_activation(mode="ROUND_TO_ZERO"),
        r"node '/act1/Quant' \(Quant\): rounding mode .*ROUND_TO_ZERO.* is not supported: use ROUND",
    ),
    "unknown op": (
        behind_codes("act2", "Sigmoid"),
        r"node '/act2/Sigmoid' \(Sigmoid\): a program has no such op: rebuild the network from .*Conv.*adding-an-op",
    ),
    "training norm": (training_norm, r"node '/norm1/BatchNormalization' .*training mode: call model\.eval\(\)"),
    "dead norm": (dead_norm, r"node '/act1/Quant' \(Quant\): what comes before it is not finite .*train .* again"),
    "inexact pad": (
        inexact_pad,
        r"node '/conv1/Conv' \(Conv\): padding with 0 is no whole code here .*33\.3285.*: train on codes",
    ),
    "deviation per channel": (
        deviation_per_channel,
        r"node '/conv1/Conv' \(Conv\): its input is not quantized \(or each channel has a scale.*put an activation",
    ),
    "average of reals": (
        average_of_reals,
        r"node '/average/AveragePool' .*averages real values.*: put a quantizer before it",
    ),
    "average over a border": (
        behind_codes("average", "AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        r"node '/average/AveragePool' .*divisor varies at the border: use count_include_pad=True or no padding",
    ),
    "unquantized input": (
        unquantized_input,
        r"node '/conv2/Conv' \(Conv\): its input is not quantized .*: put an activation quantizer",
    ),
    "difference": (difference_of_tensors, r"node '/join/Sub' \(Sub\): the difference of two tensors .*: add them"),
    "constant minus": (
        constant_minus_tensor,
        r"node '/turn/Sub' \(Sub\): a constant minus .*: multiply by -1 and add",
    ),
    "partial windows": (
        behind_codes("pool", "MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        r"node '/pool/MaxPool' \(MaxPool\): ceil_mode leaves a partial window here: use ceil_mode=False",
    ),
    "constant inside a channel": (
        behind_codes("scale", "Mul", (np.ones((9, 9)) + np.eye(9), np.float32)),
        r"node '/scale/Mul' \(Mul\): a constant of shape \(9, 9\) meets a tensor of shape \(6, 9, 9\): expected one",
    ),
    "reflected pad": (
        behind_codes("pad", "Pad", ([0, 0, 1, 1, 0, 0, 1, 1], np.int64), mode="reflect"),
        r"node '/pad/Pad' \(Pad\): pads with copies of the image: use a constant pad",
    ),
    "padded channels": (
        behind_codes("pad", "Pad", ([0, 1, 0, 0, 0, 0, 0, 0], np.int64)),
        r"node '/pad/Pad' \(Pad\): pads .*: only height and width can be padded",
    ),
    "reshape": (
        behind_codes("shape", "Reshape", ([IMAGES, 54, 9], np.int64)),
        r"node '/shape/Reshape' .*expected \(batch, 486\): only flattening is supported",
    ),
    "squeeze": (
        behind_codes("squeeze", "Squeeze", ([2, 3], np.int64)),
        r"node '/squeeze/Squeeze' .*a map of shape \(6, 9, 9\): only 1x1 maps",
    ),
    "transpose": (
        behind_codes("turn", "Transpose", perm=[0, 2, 3, 1]),
        r"node '/turn/Transpose' .*transposes a computed tensor: keep the order",
    ),
    "mean over channels": (
        behind_codes("mean", "ReduceMean", axes=[1], keepdims=1),
        r"node '/mean/ReduceMean' .*a mean over axes \(1,\), expected height and width",
    ),
    "flattened batch": (
        behind_codes("flat", "Flatten", axis=0),
        r"node '/flat/Flatten' .*flattens the batch too: use axis=1",
    ),
    "no dense layer": (no_dense_at_the_end, r"the output is of shape \(6, 9, 9\).*: end in a dense layer"),
    "huge sum": (huge_sum, r"node '/conv2/Conv' .*the sum can reach 1678\d+, expected below 2\^24.*fewer"),
    "computed weights": (computed_weights, r"node '/fc/MatMul' .*its weights are not quantized"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_name_node_reason_and_remedy(name: str) -> None:
    build, message = REFUSALS[name]
    with pytest.raises(BitlensError, match=message):
        lower(built(build))


def test_sizes_must_be_known() -> None:
    graph = QonnxGraph((2, 9, 9))
    model = graph.model(first_block(graph, np.random.default_rng(0)))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "H"
    with pytest.raises(BitlensError, match=r"the input's shape is .*, expected .* with fixed sizes"):
        lower(model)


def test_one_input_and_one_output() -> None:
    graph, random = QonnxGraph((2, 9, 9)), np.random.default_rng(0)
    codes = first_block(graph, random)
    logits = with_head(graph, codes, 6 * 81, random)
    with pytest.raises(BitlensError, match="the graph has 2 outputs, expected the logits alone"):
        lower(graph.model(logits, codes))
    model = graph.model(logits)
    model.graph.input.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2]))
    with pytest.raises(BitlensError, match="the graph has 2 inputs, expected one image"):
        lower(model)


def test_an_output_that_is_a_constant_is_refused() -> None:
    graph, random = QonnxGraph((2, 9, 9)), np.random.default_rng(0)
    first_block(graph, random)
    with pytest.raises(BitlensError, match="the output does not depend on the image"):
        lower(graph.model(graph.constant(np.zeros((4, 3)))))


def test_a_node_that_reads_nothing_is_damage() -> None:
    model = built(grouped_convolution)
    model.graph.node[-1].input[0] = "gone"
    with pytest.raises(BitlensError, match=r"node '/fc/Gemm' \(Gemm\): reads 'gone', which nothing before it writes"):
        lower(model)


@pytest.mark.parametrize(
    ("op", "surrogate", "message"),
    [("Quant", "hardtanh", "expected 'pact'"), ("BipolarQuant", "pact", "expected 'hardtanh'")],
)
def test_an_unknown_surrogate_is_refused(op: str, surrogate: str, message: str) -> None:
    model = built(bipolar if op == "BipolarQuant" else grouped_convolution)
    node = next(item for item in model.graph.node if item.name == f"/act1/{op}")
    node.metadata_props.add(key="bitlens.surrogate", value=surrogate)
    with pytest.raises(BitlensError, match=rf"node '/act1/{op}' .*straight-through gradient .*{message}"):
        lower(model)


def test_an_op_without_onnx_cell_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    program = lower(built(pools))
    monkeypatch.delitem(ONNX_RULES, "sum_pool")
    with pytest.raises(BitlensError, match=r"node 'average' \(sum_pool\): this op has no ONNX cell: run .* reference"):
        onnx_model(program)


def test_many_uneven_thresholds_have_no_onnx_form() -> None:
    program = lower(built(eight_bits))
    node = program.node("act2")
    node.arrays["thresholds"][2] = np.sort(np.random.default_rng(0).integers(-9999, 9999, 255))
    assert set(node.arrays["direction"]) == {1}
    with pytest.raises(BitlensError, match=r"node 'act2' \(threshold\): its 255 thresholds have no exact form .*: use"):
        onnx_model(program)
    # As many as a sum of comparisons holds are written as one.
    program = lower(built(powers_of_two))
    assert "GreaterOrEqual" not in {node.op_type for node in onnx_model(program).graph.node}
    program = lower(built(grouped_convolution))
    node = program.node("act2")
    uneven = np.sort(np.random.default_rng(0).integers(-99, 99, 15))
    node.arrays["thresholds"][2] = uneven * node.arrays["direction"][2]
    codes = np.random.default_rng(0).integers(0, 256, (IMAGES, 2, 9, 9))
    feeds = feeds_of(program, codes)
    assert "GreaterOrEqual" in {node.op_type for node in onnx_model(program).graph.node}
    assert differences(onnx_trace(program, feeds), reference_trace(program, feeds)) == {}


def test_constants_of_the_graph_are_folded() -> None:
    # A weight scale that the file computes from two constants, and a zero that is a node's and no initializer's.
    graph, random = QonnxGraph((2, 9, 9), batch=IMAGES), np.random.default_rng(0)
    scale = graph.add("scale", "Mul", [graph.constant(0.5), graph.constant(0.04)])
    zero = numpy_helper.from_array(np.zeros((), np.float32))
    graph.nodes.append(helper.make_node("Constant", [], ["zero"], name="/zero/Constant", value=zero))
    values = graph.constant(random.normal(size=(6, 2, 3, 3)))
    weight = graph.add(
        "w", "Quant", [values, scale, "zero", graph.constant(8.0)], DOMAIN, signed=1, narrow=1, rounding_mode="ROUND"
    )
    codes = graph.quant("act1", graph.add("conv1", "Conv", ["x", weight]), 4, 0.2)
    model = graph.model(with_head(graph, codes, 6 * 49, random))
    images = random.integers(0, 256, (IMAGES, 2, 9, 9))
    program = lower(model)
    got = reference_trace(program, feeds_of(program, images))
    assert differing_codes(program, got, executed(model, images / 255.0)) == {"act1": 0}


def test_any_flipped_bit_gives_a_program_or_a_refusal() -> None:
    for source in (built(bipolar), built(residual)):
        content = source.SerializeToString()
        random = np.random.default_rng(len(content))
        outcomes = {"lowered": 0, "refused": 0}
        for _ in range(250):
            place, bit = int(random.integers(len(content))), int(random.integers(8))
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            try:
                model = onnx.ModelProto.FromString(bytes(damaged))
            except Exception:  # protobuf's own; `read_qonnx` reports it
                continue
            try:
                lower(model)
                outcomes["lowered"] += 1
            except BitlensError:
                outcomes["refused"] += 1
            except Exception as error:
                raise AssertionError(f"byte {place}, bit {bit}: {error!r}") from error
        assert min(outcomes.values()) > 10


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_constants_must_be_finite(value: float) -> None:
    graph, random = QonnxGraph((2, 9, 9), batch=IMAGES), np.random.default_rng(0)
    weights = random.normal(size=(6, 2, 3, 3))
    weights[1, 1, 1, 1] = value
    summed = graph.add("conv1", "Conv", ["x", graph.weight("conv1", weights, 8, 0.02)])
    model = graph.model(with_head(graph, graph.quant("act1", summed, 4, 0.2), 6 * 49, random))
    with pytest.raises(BitlensError, match="constant 'constant0' holds NaN or infinity: train or export"):
        lower(model)
