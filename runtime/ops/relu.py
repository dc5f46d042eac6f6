"""`relu`: max(x, 0) in float32; and its gradient, with the guided rule's floor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.ops.table import GradientGraph, Op, register
from bitlens.runtime.ops.threshold import GUIDED_FLOOR, NO_FLOOR, check_floor
from bitlens.runtime.program import Array, Node, TensorType


def _infer(node: Node, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
    (source,) = types
    if source.dtype != "float32" or not source.batched:
        raise BitlensError(f"relu meets {source.dtype} of shape {source.shape}, expected float32")
    return (TensorType("float32", source.shape),)


def _run(node: Node, values: Sequence[Array]) -> tuple[Array, ...]:
    return (np.maximum(values[0], np.float32(0.0)),)


def _vjp(graph: GradientGraph, node: Node, gradient: str) -> tuple[str | None, ...]:
    floor = graph.input(GUIDED_FLOOR, TensorType("float32", (1,), batched=False), np.array([NO_FLOOR], np.float32))
    return (graph.emit("relu_gradient", node, (gradient, node.outputs[0], floor)),)


def _infer_gradient(node: Node, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
    gradient, activation, floor = types
    one_shape = gradient.shape == activation.shape and gradient.batched and activation.batched
    if (gradient.dtype, activation.dtype) != ("float32", "float32") or not one_shape:
        raise BitlensError(
            f"a gradient {gradient.dtype} of shape {gradient.shape} meets an activation {activation.dtype} of shape "
            f"{activation.shape}, expected two float32 tensors of one shape"
        )
    check_floor(floor)
    return (TensorType("float32", gradient.shape),)


def _run_gradient(node: Node, values: Sequence[Array]) -> tuple[Array, ...]:
    gradient, activation, floor = values
    return (np.where(activation > 0, np.maximum(gradient, floor[0]), np.float32(0.0)).astype(np.float32),)


RELU = register(Op("relu", _infer, _run, _vjp))
RELU_GRADIENT = register(Op("relu_gradient", _infer_gradient, _run_gradient))
