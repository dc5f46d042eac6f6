"""MaxPool, AveragePool and global averages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from bitlens.export.lowering.attributes import attributes_of_node, kernel_window, wholes
from bitlens.export.lowering.shapes import flattened
from bitlens.export.lowering.state import Lowering, rule
from bitlens.export.lowering.values import Linear, Value, constant, scalar
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.ops.window import Window, attributes_of, map_shape


@rule("MaxPool")
def _max_pool(lowering: Lowering, node: onnx.NodeProto, name: str, inputs: Sequence[Value | None]) -> Value:
    attributes = attributes_of_node(node)
    if len(node.output) > 1:
        raise BitlensError("the indices of a pool are not supported: use its values only")
    kernel = wholes(attributes["kernel_shape"])
    value = lowering.linear(inputs[0], name)
    window = _pool_window(lowering, value, attributes, kernel)
    slope, _ = lowering.per_channel(value)
    # slope * t is largest where t is smallest, if the slope is negative. A ReLU commutes with a maximum.
    direction = np.where(slope < 0, -1, 1).astype(np.int8)
    tensor = lowering.emit(
        "max_pool", name, (value.tensor,), attributes_of(window, with_kernel=True), {"direction": direction}
    )
    return replace(value, tensor=tensor)


def _pool_window(
    lowering: Lowering, value: Linear, attributes: Mapping[str, object], kernel: tuple[int, ...]
) -> Window:
    if len(kernel) != 2:
        raise BitlensError(f"a pool of {len(kernel)} dimensions, expected 2: only images are supported")
    window = kernel_window(attributes, (kernel[0], kernel[1]))
    if attributes.get("ceil_mode", 0):
        _, height, width = map_shape(lowering.types[value.tensor], "the input of a pool")
        top, left, bottom, right = window.padding
        spare = (
            (height + top + bottom - kernel[0]) % window.stride[0],
            (width + left + right - kernel[1]) % window.stride[1],
        )
        if any(spare):
            raise BitlensError(
                "ceil_mode leaves a partial window here: use ceil_mode=False or an image size that divides"
            )
    return window


def _mean_pool(lowering: Lowering, name: str, value: Linear, window: Window) -> Value:
    type = lowering.types[value.tensor]
    if not lowering.full_precision and (value.rectified or not type.is_integer):
        raise BitlensError("averages real values, whose float sum depends on its order: put a quantizer before it")
    if lowering.full_precision:
        value = Linear(lowering.materialize(value, f"{name}.input"), scalar(1.0), scalar(0.0))
    if any(window.padding) and np.any(value.offset != 0.0):
        raise BitlensError("averages over padding behind an offset: quantize before it")
    cells = window.kernel[0] * window.kernel[1]
    tensor = lowering.emit("sum_pool", name, (value.tensor,), attributes_of(window, with_kernel=True))
    return replace(value, tensor=tensor, slope=value.slope / cells)


@rule("AveragePool")
def _average_pool(lowering: Lowering, node: onnx.NodeProto, name: str, inputs: Sequence[Value | None]) -> Value:
    attributes = attributes_of_node(node)
    value = lowering.linear(inputs[0], name)
    window = _pool_window(lowering, value, attributes, wholes(attributes["kernel_shape"]))
    if any(window.padding) and not attributes.get("count_include_pad", 0):
        raise BitlensError("its divisor varies at the border: use count_include_pad=True or no padding")
    return _mean_pool(lowering, name, value, window)


@rule("GlobalAveragePool", "ReduceMean")
def _global_average_pool(lowering: Lowering, node: onnx.NodeProto, name: str, inputs: Sequence[Value | None]) -> Value:
    attributes = attributes_of_node(node)
    value = lowering.linear(inputs[0], name)
    _, height, width = map_shape(lowering.types[value.tensor], "the input of a global average")
    pooled = _mean_pool(lowering, name, value, Window((height, width), (1, 1), (0, 0, 0, 0)))
    if node.op_type == "GlobalAveragePool":
        return pooled
    axes = wholes(attributes["axes"]) if "axes" in attributes else tuple(constant(inputs[1], "its axes").astype(int))
    if {axis % 4 for axis in axes} != {2, 3}:
        raise BitlensError(f"a mean over axes {axes}, expected height and width (2, 3)")
    return pooled if attributes.get("keepdims", 1) else flattened(lowering, name, pooled)
