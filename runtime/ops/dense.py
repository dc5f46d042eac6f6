"""`dense`: codes and integer weights to exact int32 sums, or floats and float weights to float32; and its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.ops.conv2d import WEIGHT_DTYPES, weight_range
from bitlens.runtime.ops.table import GradientGraph, Op, register
from bitlens.runtime.ops.window import bounded
from bitlens.runtime.program import Array, Node, TensorType, accumulator_type


def _infer(node: Node, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
    (source,) = types
    if len(source.shape) != 1 or not source.batched:
        raise BitlensError(f"the input of a dense layer is of shape {source.shape}, expected a flat (features,)")
    weight = node.array("weight", WEIGHT_DTYPES, (None, source.shape[0]))
    if source.dtype == "bool" or source.is_integer != (weight.dtype != np.float32):
        raise BitlensError(f"{weight.dtype} weights meet {source.dtype} values: both must be integers or both floats")
    shape = bounded((weight.shape[0],))
    if not source.is_integer:
        node.array("bias", ("float32",), shape)
        return (TensorType("float32", shape),)
    features = np.ones((1, source.shape[0]), np.int64)
    return (accumulator_type(shape, *weight_range(weight[None], features * source.low, features * source.high)),)


def _product(values: Array, matrix: Array) -> npt.NDArray[np.float64]:
    """Multiply each row (N, K) by (K, M), in float64.

    Row by row: in one product over the whole batch the order of a sum may hang on the batch size.
    """
    products: npt.NDArray[np.float64] = values.astype(np.float64)[:, None, :] @ matrix.astype(np.float64)
    return products[:, 0]


def _run(node: Node, values: Sequence[Array]) -> tuple[Array, ...]:
    weight = node.arrays["weight"]
    sums = _product(values[0], weight.T)
    if weight.dtype != np.float32:
        return (sums.astype(np.int32),)
    return (sums.astype(np.float32) + node.arrays["bias"],)


def _vjp(graph: GradientGraph, node: Node, gradient: str) -> tuple[str | None, ...]:
    return (graph.emit("dense_input_gradient", node, (gradient,), {}, {"weight": node.arrays["weight"]}),)


def _infer_gradient(node: Node, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
    (gradient,) = types
    if gradient.dtype != "float32" or len(gradient.shape) != 1 or not gradient.batched:
        raise BitlensError(f"the gradient is {gradient.dtype} of shape {gradient.shape}, expected flat float32")
    weight = node.array("weight", WEIGHT_DTYPES, (*gradient.shape, None))
    return (TensorType("float32", bounded((weight.shape[1],))),)


def _run_gradient(node: Node, values: Sequence[Array]) -> tuple[Array, ...]:
    return (_product(values[0], node.arrays["weight"]).astype(np.float32),)


DENSE = register(Op("dense", _infer, _run, _vjp))
DENSE_INPUT_GRADIENT = register(Op("dense_input_gradient", _infer_gradient, _run_gradient))
