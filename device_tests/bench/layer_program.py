"""A chain of equal quantized convolutions as one of our programs, with random weights and thresholds."""

from __future__ import annotations

import math

import numpy as np

from bench.shapes import LayerShape
from bitlens.runtime.program import Array, Attribute, Node, Program, ProgramInput, TensorType

_CLASSES = 10
_IMAGE_MEAN, _IMAGE_DEVIATION = 127.5, 73.9  # of uniform bytes

# As `bitlens.train.quantizers` makes them: weights, and how many codes there are.
_WEIGHTS = {"w1a1": (-1, 1), "w2a2": (-1, 0, 1), "w4a4": tuple(range(-7, 8))}
_CODES = {"w1a1": 2, "w2a2": 4, "w4a4": 16}


def last_codes(length: int) -> str:
    """Name of what the last layer of a chain gives."""
    return f"codes{length}"


def layer_program(shape: LayerShape, precision: str, length: int) -> Program:
    """Make an image of bytes (1, H, W) codes by a 1x1 convolution, then `length` layers, a pool and a dense layer.

    Thresholds stand where the sums are, so that every code occurs.
    """
    draw = np.random.default_rng(3)
    channels, sides = shape.channels, (shape.kernel, shape.kernel)
    levels, is_sign = _CODES[precision], precision == "w1a1"
    mean, deviation = (0.0, 1.0) if is_sign else ((levels - 1) / 2, math.sqrt((levels**2 - 1) / 12))
    first = draw.integers(32, 128, (channels, 1, 1, 1)) * draw.choice([-1, 1], (channels, 1, 1, 1))
    nodes = [
        _convolution("image", "sums0", first.astype(np.int8), 0, None),
        _threshold("sums0", last_codes(0), _thresholds(first, _IMAGE_MEAN, _IMAGE_DEVIATION, levels), is_sign, draw),
    ]
    pad = np.full(channels, -1, np.int16) if is_sign else None
    for index in range(1, length + 1):
        weight = draw.choice(_WEIGHTS[precision], (channels, channels, *sides)).astype(np.int8)
        thresholds = _thresholds(weight, mean, deviation, levels)
        nodes += [
            _convolution(last_codes(index - 1), f"sums{index}", weight, shape.kernel // 2, pad),
            _threshold(f"sums{index}", last_codes(index), thresholds, is_sign, draw),
        ]
    pool: dict[str, Attribute] = {
        "kernel": (shape.height, shape.width),
        "stride": (shape.height, shape.width),
        "padding": (0, 0, 0, 0),
    }
    slope, offset = np.full(_CLASSES, 0.01, np.float32), np.zeros(_CLASSES, np.float32)
    last = draw.choice([-1, 1], (_CLASSES, channels)).astype(np.int8)
    nodes += [
        Node("sum_pool", "pooled", (last_codes(length),), ("pooled",), pool),
        Node("reshape", "flat", ("pooled",), ("flat",), {"shape": (channels,)}),
        Node("dense", "sums", ("flat",), ("sums",), {}, {"weight": last}),
        Node("affine", "logits", ("sums",), ("logits",), {}, {"slope": slope, "offset": offset}),
    ]
    image = TensorType("int16", (1, shape.height, shape.width), -512, 767, 1.0 / 255.0)
    return Program((ProgramInput("image", image),), tuple(nodes), ("logits", "sums"), {"precision": precision})


def _convolution(source: str, output: str, weight: Array, padding: int, pad: Array | None) -> Node:
    attributes: dict[str, Attribute] = {"stride": (1, 1), "padding": (padding,) * 4, "groups": 1}
    arrays = {"weight": weight} | ({} if pad is None else {"pad": pad})
    return Node("conv2d", output, (source,), (output,), attributes, arrays)


def _thresholds(weight: Array, mean: float, deviation: float, levels: int) -> Array:
    """Places that part sums of independent codes into `levels` classes of like size, (outputs, levels - 1)."""
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    spread = deviation * np.sqrt((flat**2).sum(axis=1, keepdims=True))
    places = np.linspace(-1.3, 1.3, levels + 1)[1:-1]
    found: Array = np.rint(mean * flat.sum(axis=1, keepdims=True) + spread * places).astype(np.int32)
    return found


def _threshold(source: str, output: str, thresholds: Array, is_sign: bool, draw: np.random.Generator) -> Node:
    """Make a quantizer, half of its channels turned round, as a batch norm with a negative slope does."""
    channels = len(thresholds)
    direction = draw.choice([-1, 1], channels).astype(np.int8)
    ordered = np.where(direction[:, None] > 0, thresholds, thresholds[:, ::-1]).astype(np.int32)
    middle, reach = thresholds.mean(axis=1), np.ptp(thresholds, axis=1) + 10
    attributes: dict[str, Attribute] = {
        "low": -1 if is_sign else 0,
        "step": 2 if is_sign else 1,
        "scale": 1.0,
        "rectified": 0,
        "window_low": -1.0,
        "window_high": 1.0,
        "window_closed": (1, 1),
    }
    arrays = {
        "thresholds": np.ascontiguousarray(ordered),
        "direction": direction,
        "mask_low": (middle - reach).astype(np.int32),
        "mask_high": (middle + reach).astype(np.int32),
        "slope": direction.astype(np.float64),
        "offset": np.zeros(channels),
    }
    return Node("threshold", output, (source,), (output,), attributes, arrays)
