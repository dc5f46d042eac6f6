"""`affine`: float32 y = slope * x + offset per channel, each elementary operation rounded once; and its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.ops.table import GradientGraph, Op, register
from bitlens.runtime.ops.threshold import per_channel
from bitlens.runtime.program import Array, Node, TensorType


def _infer(node: Node, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
    (source,) = types
    if source.dtype == "bool" or not source.batched or not source.shape:
        raise BitlensError(f"the input of an affine is {source.dtype} of shape {source.shape}, expected numbers")
    for name in ("slope", "offset"):
        node.array(name, ("float32",), source.shape[:1])
    return (TensorType("float32", source.shape),)


def _run(node: Node, values: Sequence[Array]) -> tuple[Array, ...]:
    (source,) = values
    product = source.astype(np.float32) * per_channel(node.arrays["slope"], source.ndim)
    return (product + per_channel(node.arrays["offset"], source.ndim),)


def _vjp(graph: GradientGraph, node: Node, gradient: str) -> tuple[str | None, ...]:
    return (graph.emit("channel_scale", node, (gradient,), {}, {"scale": node.arrays["slope"]}),)


def _infer_scale(node: Node, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
    (source,) = types
    if source.dtype != "float32" or not source.batched or not source.shape:
        raise BitlensError(f"the input of a channel_scale is {source.dtype} of shape {source.shape}, expected float32")
    node.array("scale", ("float32",), source.shape[:1])
    return (TensorType("float32", source.shape),)


def _run_scale(node: Node, values: Sequence[Array]) -> tuple[Array, ...]:
    return (values[0] * per_channel(node.arrays["scale"], values[0].ndim),)


AFFINE = register(Op("affine", _infer, _run, _vjp))
CHANNEL_SCALE = register(Op("channel_scale", _infer_scale, _run_scale))
