"""`conv2d`: codes and integer weights to exact int32 sums, or floats and float weights to float32; and its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.ops.table import GradientGraph, Op, register
from bitlens.runtime.ops.window import Window, attributes_of, bounded, map_shape, padded_with, window_of
from bitlens.runtime.program import Array, Node, TensorType, accumulator_type

WEIGHT_DTYPES = ("int8", "int16", "float32")

# The reference unfolds every window; this keeps its memory below about 64 MB at any batch size.
_UNFOLDED_ELEMENTS = 8_000_000


def weight_range(weight: Array, low: Array, high: Array) -> tuple[int, int]:
    """Smallest and largest sum of weight[g, o] * code, with each code anywhere in [low, high] of its input.

    Parameters
    ----------
    weight : integer array (groups, outputs, inputs)
    low, high : integer arrays (groups, inputs)
    """
    # In float64, exact up to 2^53 and still far beyond every limit where an int64 would come round again.
    positive, negative = np.maximum(weight, 0).astype(np.float64), np.minimum(weight, 0).astype(np.float64)
    least, most = low.astype(np.float64)[:, :, None], high.astype(np.float64)[:, :, None]
    return int((positive @ least + negative @ most).min()), int((positive @ most + negative @ least).max())


def conv2d_window(node: Node) -> Window:
    """Window of a `conv2d`."""
    height, width = node.arrays["weight"].shape[2:]
    return window_of(node, (height, width))


def pad_codes(node: Node, channels: int) -> Array:
    """Code of the padding for each input channel: the constant `pad`, else 0."""
    if "pad" not in node.arrays:
        return np.zeros(channels, np.int16)
    return node.array("pad", ("int16",), (channels,))


def _infer(node: Node, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
    (source,) = types
    channels, height, width = map_shape(source, "the input of a conv2d")
    weight = node.array("weight", WEIGHT_DTYPES, (None, None, None, None))
    groups = node.integer("groups")
    outputs = weight.shape[0]
    if groups < 1 or channels % groups or outputs % groups or weight.shape[1] != channels // groups:
        raise BitlensError(
            f"weights of shape {weight.shape} with groups={groups} do not fit {channels} input channels: expected "
            "(outputs, channels / groups, height, width)"
        )
    shape = bounded((outputs, *conv2d_window(node).output_size(height, width)))
    if source.dtype == "bool" or source.is_integer != (weight.dtype != np.float32):
        raise BitlensError(f"{weight.dtype} weights meet {source.dtype} values: both must be integers or both floats")
    if not source.is_integer:
        node.array("bias", ("float32",), (outputs,))
        return (TensorType("float32", shape),)
    pad = pad_codes(node, channels)
    low, high = np.minimum(source.low, pad.astype(np.int64)), np.maximum(source.high, pad.astype(np.int64))
    taps = weight.shape[2] * weight.shape[3]
    ends = [np.repeat(end, taps).reshape(groups, -1) for end in (low, high)]
    return (accumulator_type(shape, *weight_range(weight.reshape(groups, outputs // groups, -1), *ends)),)


def _run(node: Node, values: Sequence[Array]) -> tuple[Array, ...]:
    (source,) = values
    weight = node.arrays["weight"]
    groups = node.integer("groups")
    window = conv2d_window(node)
    batch, channels, height, width = source.shape
    rows, columns = window.output_size(height, width)
    outputs, per_group = weight.shape[0], weight.shape[0] // groups
    # float64 sums of these integers are exact (far below 2^53) and run at BLAS speed; for the float twin they are
    # the closest thing to the real sum.
    kernels = weight.astype(np.float64).reshape(groups, per_group, -1)
    result = np.empty((batch, outputs, rows, columns))
    chunk = max(1, _UNFOLDED_ELEMENTS // (rows * columns * channels * window.kernel[0] * window.kernel[1]))
    for start in range(0, batch, chunk):
        part = padded_with(source[start : start + chunk], window.padding, pad_codes(node, channels))
        unfolded = window.views(part).transpose(0, 2, 3, 1, 4, 5).astype(np.float64)
        cells = unfolded.reshape(len(part), rows * columns, groups, kernels.shape[2]).transpose(0, 2, 1, 3)
        # One product per image: in one over the whole batch the order of a sum may hang on the batch size.
        sums = cells @ kernels.transpose(0, 2, 1)  # (images, groups, positions, outputs per group)
        result[start : start + chunk] = sums.transpose(0, 1, 3, 2).reshape(-1, outputs, rows, columns)
    if weight.dtype != np.float32:
        return (result.astype(np.int32),)
    # The sum is rounded to float32 once, then the bias is one more float32 addition, as on every engine.
    return (result.astype(np.float32) + node.arrays["bias"][:, None, None],)


def _vjp(graph: GradientGraph, node: Node, gradient: str) -> tuple[str | None, ...]:
    attributes = attributes_of(conv2d_window(node), with_kernel=False)
    shape = graph.type_of(node.inputs[0]).shape
    attributes |= {"groups": node.integer("groups"), "input_shape": shape}
    return (graph.emit("conv2d_input_gradient", node, (gradient,), attributes, {"weight": node.arrays["weight"]}),)


def _infer_gradient(node: Node, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
    (gradient,) = types
    channels, height, width = bounded(node.integers("input_shape"))
    weight, groups = node.array("weight", WEIGHT_DTYPES, (None, None, None, None)), node.integer("groups")
    if groups < 1 or channels != groups * weight.shape[1] or weight.shape[0] % groups:
        raise BitlensError(f"weights of shape {weight.shape} with groups={groups} do not fit {channels} channels")
    expected = TensorType("float32", (weight.shape[0], *conv2d_window(node).output_size(height, width)))
    if gradient != expected:
        raise BitlensError(
            f"the gradient is {gradient.dtype} of shape {gradient.shape}, expected float32 of {expected.shape}"
        )
    return (TensorType("float32", (channels, height, width)),)


def _run_gradient(node: Node, values: Sequence[Array]) -> tuple[Array, ...]:
    (gradient,) = values
    weight, groups = node.arrays["weight"], node.integer("groups")
    window = conv2d_window(node)
    channels, height, width = node.integers("input_shape")
    batch, outputs, rows, columns = gradient.shape
    kernels = weight.astype(np.float64).reshape(groups, outputs // groups, -1)
    result = np.empty((batch, channels, height, width), np.float32)
    chunk = max(1, _UNFOLDED_ELEMENTS // (rows * columns * channels * window.kernel[0] * window.kernel[1]))
    for start in range(0, batch, chunk):
        part = gradient[start : start + chunk].astype(np.float64)
        grouped = part.reshape(len(part), groups, outputs // groups, rows * columns).transpose(0, 1, 3, 2)
        cells = (grouped @ kernels).transpose(0, 2, 1, 3)  # per image, see `_run`: (images, positions, groups, taps)
        taps = cells.reshape(-1, rows, columns, channels, *window.kernel).transpose(0, 3, 1, 2, 4, 5)
        result[start : start + chunk] = window.add_back(taps, height, width)
    return (result,)


CONV2D = register(Op("conv2d", _infer, _run, _vjp))
CONV2D_INPUT_GRADIENT = register(Op("conv2d_input_gradient", _infer_gradient, _run_gradient))
