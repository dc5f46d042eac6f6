"""`reshape`: the same elements of each image in row-major order (flatten before a dense layer, and back)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.ops.table import GradientGraph, Op, register
from bitlens.runtime.ops.window import bounded
from bitlens.runtime.program import Array, Node, TensorType


def _infer(node: Node, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
    (source,) = types
    result = replace(source, shape=bounded(node.integers("shape")))
    if not source.batched or result.elements != source.elements:
        raise BitlensError(f"cannot reshape {source.shape} to {result.shape}: the numbers of elements differ")
    return (result,)


def _run(node: Node, values: Sequence[Array]) -> tuple[Array, ...]:
    return (values[0].reshape(values[0].shape[0], *node.integers("shape")),)


def _vjp(graph: GradientGraph, node: Node, gradient: str) -> tuple[str | None, ...]:
    return (graph.emit("reshape", node, (gradient,), {"shape": graph.type_of(node.inputs[0]).shape}),)


RESHAPE = register(Op("reshape", _infer, _run, _vjp))
