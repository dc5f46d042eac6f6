"""`pad`: a border of one explicit code per channel, for the rare pad that no convolution can take in; and `crop`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.ops.table import GradientGraph, Op, register
from bitlens.runtime.ops.window import bounded, map_shape, padded_with, padding_of
from bitlens.runtime.program import Array, Node, TensorType


def _infer(node: Node, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
    (source,) = types
    channels, height, width = map_shape(source, "the input of a pad")
    top, left, bottom, right = padding_of(node)
    shape = bounded((channels, height + top + bottom, width + left + right))
    if not source.is_integer:
        node.array("fill", ("float32",), (channels,))
        return (replace(source, shape=shape),)
    fill = node.array("fill", ("int16",), (channels,))
    low, high = int(fill.min()), int(fill.max())
    if not source.low <= low <= high <= source.high:
        raise BitlensError(f"pad codes from {low} to {high} lie outside the codes {source.low} to {source.high}")
    return (replace(source, shape=shape),)


def _run(node: Node, values: Sequence[Array]) -> tuple[Array, ...]:
    return (padded_with(values[0], padding_of(node), node.arrays["fill"]),)


def _vjp(graph: GradientGraph, node: Node, gradient: str) -> tuple[str | None, ...]:
    return (graph.emit("crop", node, (gradient,), {"padding": padding_of(node)}),)


def _infer_crop(node: Node, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
    (source,) = types
    channels, height, width = map_shape(source, "the input of a crop")
    top, left, bottom, right = padding_of(node)
    return (replace(source, shape=bounded((channels, height - top - bottom, width - left - right))),)


def _run_crop(node: Node, values: Sequence[Array]) -> tuple[Array, ...]:
    top, left, bottom, right = padding_of(node)
    height, width = values[0].shape[2:]
    return (np.ascontiguousarray(values[0][:, :, top : height - bottom, left : width - right]),)


PAD = register(Op("pad", _infer, _run, _vjp))
CROP = register(Op("crop", _infer_crop, _run_crop))
