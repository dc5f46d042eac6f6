"""`threshold`: an accumulator becomes a code, by how many thresholds of its channel it passes.

With it come the two ops of its straight-through gradient: `ste_mask` (inside the box?) and `ste_gradient`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.ops.table import GradientGraph, Op, register
from bitlens.runtime.program import Array, Node, TensorType, integer_type
from bitlens.runtime.thresholds import Interval

MAX_THRESHOLDS = 255
GUIDED_FLOOR = "guided_floor"
NO_FLOOR = float(np.finfo(np.float32).min)


def per_channel(values: Array, rank: int) -> Array:
    """Shape (C, ...) constants so that they broadcast over (N, C, H, W) or (N, C)."""
    return values.reshape(values.shape[0], *([1] * (rank - 2)), *values.shape[1:])


def surrogate_interval(node: Node) -> Interval:
    """Interval of y inside which this quantizer's straight-through gradient passes, as it was trained."""
    closed = node.integers("window_closed")
    return Interval(node.number("window_low"), node.number("window_high"), bool(closed[0]), bool(closed[1]))


def _infer(node: Node, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
    (source,) = types
    if source.dtype == "bool" or not source.batched or not source.shape:
        raise BitlensError(f"the input of a threshold is {source.dtype} of shape {source.shape}, expected numbers")
    channels = source.shape[0]
    kind = ("int32",) if source.is_integer else ("float32",)
    thresholds = node.array("thresholds", kind, (channels, None))
    direction = node.array("direction", ("int8",), (channels,))
    if not 1 <= thresholds.shape[1] <= MAX_THRESHOLDS:
        raise BitlensError(f"there are {thresholds.shape[1]} thresholds, expected 1 to {MAX_THRESHOLDS}")
    if not np.isin(direction, (-1, 1)).all():
        raise BitlensError("constant 'direction' holds something other than -1 and +1")
    if not (np.diff(thresholds.astype(np.float64), axis=1) * direction[:, None] >= 0).all():
        raise BitlensError("constant 'thresholds' is not in order: each code must begin where the one below ends")
    for name in ("mask_low", "mask_high"):
        node.array(name, kind, (channels,))
    slope = node.array("slope", ("float64",), (channels,))
    node.array("offset", ("float64",), (channels,))
    closed = node.integers("window_closed")
    if len(closed) != 2 or not set(closed) <= {0, 1} or node.number("window_low") > node.number("window_high"):
        raise BitlensError(f"the straight-through window is not an interval: {dict(node.attributes)}")
    if node.integer("rectified") not in (0, 1):
        raise BitlensError(f"attribute 'rectified' is {node.integer('rectified')}, expected 0 or 1")
    low, step, scale = node.integer("low"), node.integer("step"), node.number("scale")
    if step not in (1, 2) or not 1e-30 < scale < 1e30 or abs(low) > 2**15:
        raise BitlensError(
            f"codes start at {low} in steps of {step} worth {scale} each: expected a start within +-2^15, step 1 or 2, "
            "worth 1e-30 to 1e30"
        )
    if np.abs(slope).max() > scale * float(np.finfo(np.float32).max):
        raise BitlensError(f"a slope of {np.abs(slope).max():g} over codes worth {scale:g} exceeds a float32")
    return (integer_type(source.shape, low, low + step * thresholds.shape[1], scale),)


def _run(node: Node, values: Sequence[Array]) -> tuple[Array, ...]:
    (source,) = values
    thresholds, direction = node.arrays["thresholds"], node.arrays["direction"]
    low, step = node.integer("low"), node.integer("step")
    passed = np.empty(source.shape, np.int64)
    # Turned round, "how many thresholds are >= the value" is "how many are <= it"; in float64, where every code can be.
    turned = thresholds * direction[:, None].astype(np.float64)
    facing = source * per_channel(direction.astype(np.float64), source.ndim)
    for channel in range(source.shape[1]):
        passed[:, channel] = np.searchsorted(turned[channel], facing[:, channel], side="right")
    dtype = integer_type((), low, low + step * thresholds.shape[1]).dtype
    return ((low + step * passed).astype(dtype),)


def _vjp(graph: GradientGraph, node: Node, gradient: str) -> tuple[str | None, ...]:
    channels = (node.arrays["slope"].shape[0],)
    bounds = [
        graph.input(
            f"{node.name}.{bound}",
            TensorType(node.arrays[bound].dtype.name, channels, batched=False),
            node.arrays[bound],
        )
        for bound in ("mask_low", "mask_high")
    ]
    mask = graph.emit("ste_mask", node, (node.inputs[0], *bounds))
    floor = graph.input(GUIDED_FLOOR, TensorType("float32", (1,), batched=False), np.array([NO_FLOOR], np.float32))
    # d code / d accumulator = mask * slope / scale, the slope being that of y = slope * accumulator + offset.
    gain = (node.arrays["slope"].astype(np.float64) / node.number("scale")).astype(np.float32)
    return (graph.emit("ste_gradient", node, (gradient, mask, floor), {}, {"gain": gain}),)


def check_floor(floor: TensorType) -> None:
    """Refuse a guided floor that is not one float for the whole batch."""
    if (floor.dtype, floor.shape, floor.batched) != ("float32", (1,), False):
        raise BitlensError(f"the floor is {floor.dtype} of shape {floor.shape}, expected one float32 for all images")


def _infer_mask(node: Node, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
    source, low, high = types
    if source.dtype == "bool" or not source.batched or not source.shape:
        raise BitlensError(f"the input of a mask is {source.dtype} of shape {source.shape}, expected numbers")
    for bound in (low, high):
        if bound.batched or bound.shape != source.shape[:1] or bound.is_integer != source.is_integer:
            raise BitlensError(
                f"mask bounds are {bound.dtype} of shape {bound.shape}, expected one per channel for all images, "
                f"{source.shape[:1]}, to compare with {source.dtype}"
            )
    return (TensorType("bool", source.shape),)


def _run_mask(node: Node, values: Sequence[Array]) -> tuple[Array, ...]:
    source, low, high = values
    return ((source >= per_channel(low, source.ndim)) & (source <= per_channel(high, source.ndim)),)


def _infer_gradient(node: Node, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
    gradient, mask, floor = types
    one_shape = gradient.shape == mask.shape and gradient.batched and mask.batched
    if (gradient.dtype, mask.dtype) != ("float32", "bool") or not one_shape:
        raise BitlensError(
            f"a mask {mask.dtype} of shape {mask.shape} meets a gradient {gradient.dtype} of shape {gradient.shape}, "
            "expected bool and float32 of one shape"
        )
    node.array("gain", ("float32",), gradient.shape[:1])
    check_floor(floor)
    return (TensorType("float32", gradient.shape),)


def _run_gradient(node: Node, values: Sequence[Array]) -> tuple[Array, ...]:
    gradient, mask, floor = values
    # Guided backprop at any quantizer is mask * max(gradient, 0); the floor is 0 then, else the lowest float.
    passed = np.where(mask, np.maximum(gradient, floor[0]), np.float32(0.0))
    return ((passed * per_channel(node.arrays["gain"], gradient.ndim)).astype(np.float32),)


THRESHOLD = register(Op("threshold", _infer, _run, _vjp))
STE_MASK = register(Op("ste_mask", _infer_mask, _run_mask))
STE_GRADIENT = register(Op("ste_gradient", _infer_gradient, _run_gradient))
