"""`add`: the float32 sum of two tensors (a residual connection, or two gradients that meet)."""

from __future__ import annotations

from collections.abc import Sequence

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.ops.table import GradientGraph, Op, register
from bitlens.runtime.program import Array, Node, TensorType


def _infer(node: Node, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
    first, second = types
    one_shape = first.shape == second.shape and first.batched and second.batched
    if (first.dtype, second.dtype) != ("float32", "float32") or not one_shape:
        raise BitlensError(
            f"add meets {first.dtype} of shape {first.shape} and {second.dtype} of shape {second.shape}, expected two "
            "float32 tensors of one shape"
        )
    return (TensorType("float32", first.shape),)


def _run(node: Node, values: Sequence[Array]) -> tuple[Array, ...]:
    return (values[0] + values[1],)


def _vjp(graph: GradientGraph, node: Node, gradient: str) -> tuple[str | None, ...]:
    return gradient, gradient


ADD = register(Op("add", _infer, _run, _vjp))
