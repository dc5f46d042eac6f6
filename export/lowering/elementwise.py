"""BatchNormalization, Relu, Mul, Div, Add, Sub: maps of one value, or the sum of two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx

from bitlens.export.lowering.attributes import attributes_of_node, number
from bitlens.export.lowering.state import Lowering, rule
from bitlens.export.lowering.values import Float64, Linear, Padded, Value, constant, scalar
from bitlens.runtime.errors import BitlensError


def channel_constant(lowering: Lowering, value: Linear, operand: Float64) -> Float64:
    """Shape a constant operand to () or (C,), if it does not vary inside a channel."""
    if operand.size == 1:
        return scalar(float(operand.reshape(())))
    shape = lowering.types[value.tensor].shape
    aligned = operand.reshape((1,) * (len(shape) + 1 - operand.ndim) + operand.shape)
    if aligned.shape != (1, shape[0], *([1] * (len(shape) - 1))):
        raise BitlensError(
            f"a constant of shape {operand.shape} meets a tensor of shape {shape}: expected one number, or one per "
            "channel"
        )
    return aligned.reshape(-1)


@rule("BatchNormalization")
def _batch_norm(lowering: Lowering, node: onnx.NodeProto, name: str, inputs: Sequence[Value | None]) -> Value:
    attributes = attributes_of_node(node)
    if attributes.get("training_mode", 0):
        raise BitlensError("batch norm is in training mode: call model.eval() before the export")
    gamma, beta, mean, variance = (constant(value, "a batch-norm parameter").reshape(-1) for value in inputs[1:5])
    epsilon = number(attributes.get("epsilon", 1e-5))
    value = lowering.settled(lowering.linear(inputs[0], name), f"{name}.input")
    factor = gamma / np.sqrt(variance + epsilon)
    return Linear(value.tensor, value.slope * factor, (value.offset - mean) * factor + beta)


@rule("Relu")
def _relu(lowering: Lowering, node: onnx.NodeProto, name: str, inputs: Sequence[Value | None]) -> Value:
    value = lowering.linear(inputs[0], name)
    type = lowering.types[value.tensor]
    if type.is_integer and type.low >= 0 and np.all(value.slope >= 0) and np.all(value.offset >= 0):
        return value  # codes that are never negative
    if lowering.full_precision:
        # Written at once, so that the twin's feature maps carry the names of the quantized network's.
        return Linear(lowering.materialize(replace(value, rectified=True), name), scalar(1.0), scalar(0.0))
    return replace(value, rectified=True)


@rule("Mul", "Div")
def _scale(lowering: Lowering, node: onnx.NodeProto, name: str, inputs: Sequence[Value | None]) -> Value:
    first, second = inputs[0], inputs[1]
    if not isinstance(first, Linear | Padded) and node.op_type == "Mul":
        first, second = second, first
    value = lowering.linear(first, name)
    factor = channel_constant(lowering, value, constant(second, "the factor"))
    if node.op_type == "Div":
        factor = 1.0 / factor
    if np.any(factor <= 0):
        value = lowering.settled(value, f"{name}.input")
    return replace(value, slope=value.slope * factor, offset=value.offset * factor)


@rule("Add", "Sub")
def _sum(lowering: Lowering, node: onnx.NodeProto, name: str, inputs: Sequence[Value | None]) -> Value:
    first, second = inputs[0], inputs[1]
    sign = -1.0 if node.op_type == "Sub" else 1.0
    both = isinstance(first, Linear | Padded) and isinstance(second, Linear | Padded)
    if not both:
        turned = not isinstance(first, Linear | Padded)
        if turned and sign < 0:
            raise BitlensError("a constant minus a tensor is not supported: multiply by -1 and add")
        if turned:
            first, second = second, first
        value = lowering.settled(lowering.linear(first, name), f"{name}.input")
        added = channel_constant(lowering, value, constant(second, "what is added"))
        return replace(value, offset=value.offset + sign * added)
    if sign < 0:
        raise BitlensError("the difference of two tensors is not supported: add them")
    left = lowering.materialize(lowering.linear(first, name), f"{name}.left")
    right = lowering.materialize(lowering.linear(second, name), f"{name}.right")
    return Linear(lowering.emit("add", name, (left, right)), scalar(1.0), scalar(0.0))


@rule("Identity", "Dropout")
def _identity(lowering: Lowering, node: onnx.NodeProto, name: str, inputs: Sequence[Value | None]) -> Value:
    if inputs[0] is None:
        raise BitlensError("has no input")
    return inputs[0]
