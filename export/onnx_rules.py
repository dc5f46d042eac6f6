"""The ONNX column of the op table: how each op of a program is written with stock ONNX operators.

A missing cell is a refusal. The forms are chosen so that no optimizer can fold a scale into a convolution over codes:
that would turn exact integer sums into rounded ones and change codes (seen with Conv-Mul-Add-Round). ONNX Runtime
folds a Mul, an Add or a BatchNormalization that follows a Conv, but not a Div, a Sub or a comparison.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from bitlens.export.affine_form import affine_form
from bitlens.export.onnx_graph import OnnxGraph
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.ops.conv2d import conv2d_window, pad_codes
from bitlens.runtime.ops.window import Window, padding_of, window_of
from bitlens.runtime.program import Array, Node
from bitlens.runtime.table import add_row

OnnxRule = Callable[[OnnxGraph, Node], None]
ONNX_RULES: dict[str, OnnxRule] = {}

# From this many input channels a stride-1 convolution with flipped weights beats ConvTranspose (measured on x86:
# 1.15 to 1.45 times; with 1 or 3 channels it loses 3 to 9 times).
FLIP_FROM_CHANNELS = 8

MAX_COMPARISONS = 64

# The largest float32 itself stands for a threshold that nothing passes, as in a channel of slope 0.
_LARGEST_FLOAT32 = float(np.nextafter(np.finfo(np.float32).max, np.float32(0.0)))


def onnx_rule(op: str) -> Callable[[OnnxRule], OnnxRule]:
    """Put the decorated cell into the column.

    Raises
    ------
    ValueError
        If the op has one already.
    """

    def register(function: OnnxRule) -> OnnxRule:
        return add_row(ONNX_RULES, "ONNX cell of", op, function)

    return register


def _spatial(window: Window) -> dict[str, tuple[int, ...]]:
    return {"strides": window.stride, "pads": window.padding}


def _bordered(graph: OnnxGraph, source: str, padding: tuple[int, int, int, int], fill: Array) -> str:
    """Put a border of `fill` (C,) around a map."""
    pads = graph.integers(0, 0, padding[0], padding[1], 0, 0, padding[2], padding[3])
    if np.all(fill == fill[0]):
        return graph.add("Pad", [source, pads, graph.constant(np.array(fill[0], np.float32))], mode="constant")
    # Pad takes one number: move each channel's fill to 0 and back. Whole numbers, so nothing is rounded.
    shift = graph.constant(fill.astype(np.float32).reshape(-1, 1, 1))
    moved = graph.add("Sub", [source, shift])
    padded = graph.add("Pad", [moved, pads, graph.constant(np.array(0.0, np.float32))], mode="constant")
    return graph.add("Add", [padded, shift])


@onnx_rule("conv2d")
def _conv2d(graph: OnnxGraph, node: Node) -> None:
    source, window = graph.value(node.inputs[0]), conv2d_window(node)
    spatial = _spatial(window)
    pad = pad_codes(node, graph.types[node.inputs[0]].shape[0])
    if pad.any() and any(window.padding):
        source, spatial["pads"] = _bordered(graph, source, window.padding, pad), (0, 0, 0, 0)
    weight = node.arrays["weight"]
    inputs = [source, graph.floats(weight)]
    if "bias" in node.arrays:
        inputs.append(graph.constant(node.arrays["bias"]))
    graph.add("Conv", inputs, node.outputs, kernel_shape=weight.shape[2:], group=node.integer("groups"), **spatial)


@onnx_rule("conv2d_input_gradient")
def _conv2d_input_gradient(graph: OnnxGraph, node: Node) -> None:
    gradient, window, groups = graph.value(node.inputs[0]), conv2d_window(node), node.integer("groups")
    channels, height, width = node.integers("input_shape")
    kernel, weight = window.kernel, graph.floats(node.arrays["weight"])
    top, left, bottom, right = window.padding
    flipped = (kernel[0] - 1 - top, kernel[1] - 1 - left, kernel[0] - 1 - bottom, kernel[1] - 1 - right)
    if groups == 1 and window.stride == (1, 1) and channels >= FLIP_FROM_CHANNELS and min(flipped) >= 0:
        turned = graph.add("Transpose", [weight], perm=(1, 0, 2, 3))
        ends = graph.integers(-(2**31), -(2**31))
        minus = graph.integers(-1, -1)
        weight = graph.add("Slice", [turned, minus, ends, graph.integers(2, 3), minus])
        graph.add("Conv", [gradient, weight], node.outputs, kernel_shape=kernel, pads=flipped, strides=(1, 1), group=1)
        return
    rest = _rest(window, height, width)
    graph.add(
        "ConvTranspose",
        [gradient, weight],
        node.outputs,
        kernel_shape=kernel,
        output_padding=rest,
        group=groups,
        **_spatial(window),
    )


def _rest(window: Window, height: int, width: int) -> tuple[int, int]:
    """Rows and columns at the end that no window reached; ConvTranspose calls them output_padding."""
    top, left, bottom, right = window.padding
    return (
        (height + top + bottom - window.kernel[0]) % window.stride[0],
        (width + left + right - window.kernel[1]) % window.stride[1],
    )


@onnx_rule("dense")
def _dense(graph: OnnxGraph, node: Node) -> None:
    inputs = [graph.value(node.inputs[0]), graph.floats(node.arrays["weight"])]
    if "bias" in node.arrays:
        inputs.append(graph.constant(node.arrays["bias"]))
    graph.add("Gemm", inputs, node.outputs, transB=1)


@onnx_rule("dense_input_gradient")
def _dense_input_gradient(graph: OnnxGraph, node: Node) -> None:
    graph.add("Gemm", [graph.value(node.inputs[0]), graph.floats(node.arrays["weight"])], node.outputs)


@onnx_rule("threshold")
def _threshold(graph: OnnxGraph, node: Node) -> None:
    tensor = node.inputs[0]
    source, type = graph.value(tensor), graph.types[tensor]
    thresholds, direction = node.arrays["thresholds"], node.arrays["direction"]
    low, step = node.integer("low"), node.integer("step")
    if thresholds.shape[1] == 1:
        # Turned round, "passes" is value <= threshold; written as value >= the next value, with the codes swapped.
        turned = direction < 0
        following = thresholds[:, 0] + 1 if type.is_integer else np.nextafter(thresholds[:, 0], np.float32(np.inf))
        begin = np.where(turned, following, thresholds[:, 0])
        above, below = np.where(turned, low, low + step), np.where(turned, low + step, low)
        passed = graph.add("GreaterOrEqual", [source, graph.channels(begin, tensor)])
        choices = [graph.channels(above, tensor), graph.channels(below, tensor)]
        graph.add("Where", [passed, *choices], node.outputs)
        return
    # Neighbouring float32, which a real value can be, are closer than a float32 quotient can tell apart.
    arithmetics = ((np.float32, TensorProto.FLOAT), (np.float64, TensorProto.DOUBLE))[0 if type.is_integer else 1 :]
    ends = (type.low, type.high) if type.is_integer else (-_LARGEST_FLOAT32, _LARGEST_FLOAT32)
    with np.errstate(divide="ignore"):
        spacing = node.number("scale") / np.abs(node.arrays["slope"].astype(np.float64))
    for dtype, code in arithmetics:
        form = affine_form(thresholds, direction, spacing, ends[0], ends[1], dtype, is_float=not type.is_integer)
        if form is None:
            continue
        shape = (-1, *([1] * (len(type.shape) - 1)))
        if dtype is np.float64:
            source = graph.add("Cast", [source], to=code)
        quotient = graph.add("Div", [source, graph.constant(form.constant.reshape(shape))])
        shifted = graph.add("Add", [quotient, graph.constant(form.shift.reshape(shape))])
        rounded = graph.add("Round", [shifted])
        bounds = [graph.constant(np.array(bound, dtype)) for bound in (form.low, form.high)]
        counted = low == 0 and step == 1 and dtype is np.float32
        clipped = graph.add("Clip", [rounded, *bounds], node.outputs if counted else None)
        if counted:
            return
        if dtype is np.float64:
            clipped = graph.add("Cast", [clipped], to=TensorProto.FLOAT)
        _codes_from_counts(graph, clipped, low, step, node.outputs[0])
        return
    if thresholds.shape[1] > MAX_COMPARISONS:
        raise BitlensError(
            f"its {thresholds.shape[1]} thresholds have no exact form in ONNX (they are unevenly spaced): "
            "use at most 4 bits here, or the reference engine"
        )
    total = ""
    value = graph.add("Mul", [source, graph.channels(direction, tensor)])
    for column in range(thresholds.shape[1]):
        boundary = graph.channels(thresholds[:, column] * direction, tensor)
        passed = graph.add("Cast", [graph.add("GreaterOrEqual", [value, boundary])], to=TensorProto.FLOAT)
        total = graph.add("Add", [total, passed]) if total else passed
    _codes_from_counts(graph, total, low, step, node.outputs[0])


def _codes_from_counts(graph: OnnxGraph, counts: str, low: int, step: int, output: str) -> None:
    scaled = graph.add("Mul", [counts, graph.constant(np.array(step, np.float32))])
    graph.add("Add", [scaled, graph.constant(np.array(low, np.float32))], [output])


@onnx_rule("ste_mask")
def _ste_mask(graph: OnnxGraph, node: Node) -> None:
    source, low, high = (graph.value(tensor) for tensor in node.inputs)
    if len(graph.types[node.inputs[0]].shape) == 3:
        shape = graph.integers(-1, 1, 1)
        low, high = graph.add("Reshape", [low, shape]), graph.add("Reshape", [high, shape])
    inside = [graph.add("GreaterOrEqual", [source, low]), graph.add("LessOrEqual", [source, high])]
    graph.add("And", inside, node.outputs)


@onnx_rule("ste_gradient")
def _ste_gradient(graph: OnnxGraph, node: Node) -> None:
    gradient, mask, floor = (graph.value(tensor) for tensor in node.inputs)
    raised = graph.add("Max", [gradient, floor])
    passed = graph.add("Where", [mask, raised, graph.constant(np.array(0.0, np.float32))])
    graph.add("Mul", [passed, graph.channels(node.arrays["gain"], node.inputs[0])], node.outputs)


@onnx_rule("affine")
def _affine(graph: OnnxGraph, node: Node) -> None:
    tensor = node.inputs[0]
    source, slope = graph.value(tensor), node.arrays["slope"]
    if graph.types[tensor].is_integer:
        # Dividing by 2 and doubling the slope rounds nothing, and keeps the Mul away from the convolution.
        source = graph.add("Div", [source, graph.constant(np.array(2.0, np.float32))])
        slope = slope * np.float32(2.0)
    product = graph.add("Mul", [source, graph.channels(slope, tensor)])
    graph.add("Add", [product, graph.channels(node.arrays["offset"], tensor)], node.outputs)


@onnx_rule("channel_scale")
def _channel_scale(graph: OnnxGraph, node: Node) -> None:
    scale = graph.channels(node.arrays["scale"], node.inputs[0])
    graph.add("Mul", [graph.value(node.inputs[0]), scale], node.outputs)


@onnx_rule("add")
def _add(graph: OnnxGraph, node: Node) -> None:
    graph.add("Add", [graph.value(tensor) for tensor in node.inputs], node.outputs)


@onnx_rule("relu")
def _relu(graph: OnnxGraph, node: Node) -> None:
    graph.add("Relu", [graph.value(node.inputs[0])], node.outputs)


@onnx_rule("relu_gradient")
def _relu_gradient(graph: OnnxGraph, node: Node) -> None:
    gradient, activation, floor = (graph.value(tensor) for tensor in node.inputs)
    zero = graph.constant(np.array(0.0, np.float32))
    passed = graph.add("Greater", [activation, zero])
    graph.add("Where", [passed, graph.add("Max", [gradient, floor]), zero], node.outputs)


@onnx_rule("max_pool")
def _max_pool(graph: OnnxGraph, node: Node) -> None:
    tensor, window = node.inputs[0], window_of(node)
    source, direction = graph.value(tensor), node.arrays["direction"]
    turned = bool(np.any(direction < 0))
    if turned:  # times +-1 is exact, wherever it is folded to
        source = graph.add("Mul", [source, graph.channels(direction, tensor)])
    outputs = [f"{node.name}.turned" if turned else node.outputs[0], *node.outputs[1:]]
    graph.add("MaxPool", [source], outputs, kernel_shape=window.kernel, **_spatial(window))
    if turned:
        graph.add("Mul", [outputs[0], graph.channels(direction, tensor)], node.outputs[:1])


@onnx_rule("max_pool_gradient")
def _max_pool_gradient(graph: OnnxGraph, node: Node) -> None:
    # ONNX counts indices through the whole batch, so the scatter runs over the flattened batch.
    gradient, index = (graph.value(tensor) for tensor in node.inputs)
    channels, height, width = node.integers("input_shape")
    flat, first = graph.integers(-1), graph.integers(0)
    batch = graph.add("Slice", [graph.add("Shape", [gradient]), first, graph.integers(1)])
    size = graph.add("Mul", [batch, graph.integers(channels * height * width)])
    zeros = graph.add("Expand", [graph.constant(np.zeros(1, np.float32)), size])
    updates = [graph.add("Reshape", [index, flat]), graph.add("Reshape", [gradient, flat])]
    total = graph.add("ScatterElements", [zeros, *updates], axis=0, reduction="add")
    graph.add("Reshape", [total, graph.integers(-1, channels, height, width)], node.outputs)


def _covers(window: Window, height: int, width: int) -> bool:
    return window.kernel == (height, width) and not any(window.padding)


def _ones(graph: OnnxGraph, window: Window, channels: int) -> str:
    return graph.floats(np.ones((channels, 1, *window.kernel), np.int8))


@onnx_rule("sum_pool")
def _sum_pool(graph: OnnxGraph, node: Node) -> None:
    source, window = graph.value(node.inputs[0]), window_of(node)
    channels, height, width = graph.types[node.inputs[0]].shape
    if _covers(window, height, width):
        graph.add("ReduceSum", [source, graph.integers(2, 3)], node.outputs, keepdims=1)
        return
    # AveragePool would divide, and round; a depthwise convolution with ones adds whole numbers exactly.
    inputs = [source, _ones(graph, window, channels)]
    graph.add("Conv", inputs, node.outputs, kernel_shape=window.kernel, group=channels, **_spatial(window))


@onnx_rule("sum_pool_gradient")
def _sum_pool_gradient(graph: OnnxGraph, node: Node) -> None:
    gradient, window = graph.value(node.inputs[0]), window_of(node)
    channels, height, width = node.integers("input_shape")
    if _covers(window, height, width):
        graph.add("Expand", [gradient, graph.integers(1, channels, height, width)], node.outputs)
        return
    graph.add(
        "ConvTranspose",
        [gradient, _ones(graph, window, channels)],
        node.outputs,
        kernel_shape=window.kernel,
        group=channels,
        output_padding=_rest(window, height, width),
        **_spatial(window),
    )


@onnx_rule("reshape")
def _reshape(graph: OnnxGraph, node: Node) -> None:
    graph.add("Reshape", [graph.value(node.inputs[0]), graph.integers(-1, *node.integers("shape"))], node.outputs)


@onnx_rule("pad")
def _pad(graph: OnnxGraph, node: Node) -> None:
    padded = _bordered(graph, graph.value(node.inputs[0]), padding_of(node), node.arrays["fill"])
    graph.add("Identity", [padded], node.outputs)


@onnx_rule("crop")
def _crop(graph: OnnxGraph, node: Node) -> None:
    top, left, _, _ = padding_of(node)
    _, height, width = graph.types[node.outputs[0]].shape
    bounds = [graph.integers(top, left), graph.integers(top + height, left + width), graph.integers(2, 3)]
    graph.add("Slice", [graph.value(node.inputs[0]), *bounds], node.outputs)
