"""`max_pool` (first maximum in row-major order; a minimum where a channel's direction is -1) and `sum_pool`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.ops.table import GradientGraph, Op, register
from bitlens.runtime.ops.threshold import per_channel
from bitlens.runtime.ops.window import attributes_of, bounded, map_shape, padded_with, window_of
from bitlens.runtime.program import Array, Node, TensorType, accumulator_type


def _infer_max(node: Node, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
    (source,) = types
    if not node.outputs:
        raise BitlensError("writes nothing, expected the pooled map and perhaps its index")
    channels, height, width = map_shape(source, "the input of a max_pool")
    window = window_of(node)
    top, left, bottom, right = window.padding
    if max(top, bottom) >= window.kernel[0] or max(left, right) >= window.kernel[1]:
        raise BitlensError(
            f"padding {window.padding} is as large as the {window.kernel} kernel: a window would be empty"
        )
    if not np.isin(node.array("direction", ("int8",), (channels,)), (-1, 1)).all():
        raise BitlensError("constant 'direction' holds something other than -1 and +1")
    shape = bounded((channels, *window.output_size(height, width)))
    pooled = TensorType(source.dtype, shape, source.low, source.high, source.scale)
    return (pooled, TensorType("int32", shape, 0, height * width - 1))[: len(node.outputs)]


def _run_max(node: Node, values: Sequence[Array]) -> tuple[Array, ...]:
    (source,) = values
    window = window_of(node)
    top, left = window.padding[:2]
    # float64 holds every code, accumulator and float32; -inf never wins against a real element, not even one that
    # overflowed to -inf itself.
    turned = np.maximum(source.astype(np.float64) * per_channel(node.arrays["direction"], 4), np.finfo(np.float64).min)
    views = window.views(padded_with(turned, window.padding, -np.inf))
    flat = views.reshape(*views.shape[:4], -1)
    winner = flat.argmax(axis=-1)  # the first of equal maxima
    rows = np.arange(views.shape[2])[:, None] * window.stride[0] - top + winner // window.kernel[1]
    columns = np.arange(views.shape[3])[None, :] * window.stride[1] - left + winner % window.kernel[1]
    index = (rows * source.shape[3] + columns).astype(np.int32)
    plane = source.reshape(*source.shape[:2], -1)
    pooled = np.take_along_axis(plane, index.reshape(*index.shape[:2], -1).astype(np.int64), axis=2)
    return (pooled.reshape(index.shape), index)[: len(node.outputs)]


def _vjp_max(graph: GradientGraph, node: Node, gradient: str) -> tuple[str | None, ...]:
    attributes = attributes_of(window_of(node), with_kernel=True)
    attributes["input_shape"] = graph.type_of(node.inputs[0]).shape
    return (graph.emit("max_pool_gradient", node, (gradient, graph.second_output(node)), attributes),)


def _infer_max_gradient(node: Node, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
    gradient, index = types
    channels, height, width = bounded(node.integers("input_shape"))
    pooled = (channels, *window_of(node).output_size(height, width))
    if (gradient.dtype, index.dtype) != ("float32", "int32") or not gradient.shape == index.shape == pooled:
        raise BitlensError(
            f"a gradient {gradient.dtype} of shape {gradient.shape} meets indices {index.dtype} of shape "
            f"{index.shape}, expected float32 and int32 of {pooled}"
        )
    if not (gradient.batched and index.batched and 0 <= index.low <= index.high < height * width):
        raise BitlensError(f"indices from {index.low} to {index.high} point outside a map of {height}x{width}")
    return (TensorType("float32", (channels, height, width)),)


def _run_max_gradient(node: Node, values: Sequence[Array]) -> tuple[Array, ...]:
    gradient, index = values
    channels, height, width = node.integers("input_shape")
    batch = gradient.shape[0]
    total = np.zeros((batch * channels, height * width))
    planes = np.arange(batch * channels)[:, None]
    np.add.at(total, (planes, index.reshape(batch * channels, -1)), gradient.reshape(batch * channels, -1))
    return (total.astype(np.float32).reshape(batch, channels, height, width),)


def _infer_sum(node: Node, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
    (source,) = types
    channels, height, width = map_shape(source, "the input of a sum_pool")
    window = window_of(node)
    shape = bounded((channels, *window.output_size(height, width)))
    if source.dtype == "bool":
        raise BitlensError("the input of a sum_pool is bool, expected numbers")
    if not source.is_integer:
        return (TensorType("float32", shape),)
    cells = window.kernel[0] * window.kernel[1]
    return (accumulator_type(shape, cells * min(source.low, 0), cells * max(source.high, 0)),)


def _run_sum(node: Node, values: Sequence[Array]) -> tuple[Array, ...]:
    (source,) = values
    window = window_of(node)
    sums = window.views(padded_with(source.astype(np.float64), window.padding, 0.0)).sum(axis=(4, 5))
    return (sums.astype(np.float32 if source.dtype == np.float32 else np.int32),)


def _vjp_sum(graph: GradientGraph, node: Node, gradient: str) -> tuple[str | None, ...]:
    attributes = attributes_of(window_of(node), with_kernel=True)
    attributes["input_shape"] = graph.type_of(node.inputs[0]).shape
    return (graph.emit("sum_pool_gradient", node, (gradient,), attributes),)


def _infer_sum_gradient(node: Node, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
    (gradient,) = types
    channels, height, width = bounded(node.integers("input_shape"))
    expected = TensorType("float32", (channels, *window_of(node).output_size(height, width)))
    if gradient != expected:
        raise BitlensError(
            f"the gradient is {gradient.dtype} of shape {gradient.shape}, expected float32 of {expected.shape}"
        )
    return (TensorType("float32", (channels, height, width)),)


def _run_sum_gradient(node: Node, values: Sequence[Array]) -> tuple[Array, ...]:
    (gradient,) = values
    window = window_of(node)
    _, height, width = node.integers("input_shape")
    cells = np.broadcast_to(gradient[..., None, None].astype(np.float64), (*gradient.shape, *window.kernel))
    return (window.add_back(cells, height, width).astype(np.float32),)


MAX_POOL = register(Op("max_pool", _infer_max, _run_max, _vjp_max))
MAX_POOL_GRADIENT = register(Op("max_pool_gradient", _infer_max_gradient, _run_max_gradient))
SUM_POOL = register(Op("sum_pool", _infer_sum, _run_sum, _vjp_sum))
SUM_POOL_GRADIENT = register(Op("sum_pool_gradient", _infer_sum_gradient, _run_sum_gradient))
