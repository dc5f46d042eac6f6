"""`relu`: max(x, 0) in float32; and its gradient, with the guided rule's floor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.ops.table import GradientGraph, Op, register
from bitlens.runtime.ops.threshold import GUIDED_FLOOR, NO_FLOOR
from bitlens.runtime.program import Array, Node, TensorType


def _infer(node: Node, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
    if types[0].dtype != "float32":
        raise BitlensError(f"relu meets {types[0].dtype}, expected float32")
    return (TensorType("float32", types[0].shape),)


def _run(node: Node, values: Sequence[Array]) -> tuple[Array, ...]:
    return (np.maximum(values[0], np.float32(0.0)),)


def _vjp(graph: GradientGraph, node: Node, gradient: str) -> tuple[str | None, ...]:
    floor = graph.input(GUIDED_FLOOR, TensorType("float32", (1,), batched=False), np.array([NO_FLOOR], np.float32))
    return (graph.emit("relu_gradient", node, (gradient, node.outputs[0], floor)),)


def _infer_gradient(node: Node, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
    if types[0].shape != types[1].shape:
        raise BitlensError(f"a gradient of shape {types[0].shape} meets an activation of shape {types[1].shape}")
    return (TensorType("float32", types[0].shape),)


def _run_gradient(node: Node, values: Sequence[Array]) -> tuple[Array, ...]:
    gradient, activation, floor = values
    return (np.where(activation > 0, np.maximum(gradient, floor[0]), np.float32(0.0)).astype(np.float32),)


RELU = register(Op("relu", _infer, _run, _vjp))
RELU_GRADIENT = register(Op("relu_gradient", _infer_gradient, _run_gradient))
