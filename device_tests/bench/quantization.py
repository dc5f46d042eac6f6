"""The 8-bit form that onnxruntime and LiteRT get: activations per tensor, weights per output channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.standard_network import Convolution, Dense, MaxPool, Reals, StandardNetwork


@dataclass(frozen=True)
class Scale:
    """An activation's real value is scale * (code - zero), codes 0..255."""

    scale: float
    zero: int


@dataclass(frozen=True)
class QuantizedWeights:
    """Weights int8 within +-127, bias int32 in units of the input's scale times the channel's."""

    weight: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float32]
    bias: npt.NDArray[np.int32]
    bias_scales: npt.NDArray[np.float32]


def activation_scales(network: StandardNetwork, ranges: Mapping[str, tuple[float, float]]) -> dict[str, Scale]:
    """Scale of every tensor; 0 is a code, so that a ReLU is the lower end of the range. A pool keeps its input's."""
    scales = {name: _scale(*ends) for name, ends in ranges.items()}
    for layer in network.layers:
        if isinstance(layer, MaxPool):
            scales[layer.output] = scales[layer.source]
    return scales


def _scale(low: float, high: float) -> Scale:
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32((high - low) / 255.0)) or 1.0
    return Scale(scale, round(-low / scale))


def quantized_weights(layer: Convolution | Dense, source: Scale, weight: Reals | None = None) -> QuantizedWeights:
    """Weights of a layer whose input has the scale `source`; `weight` in place of the layer's own if given."""
    weight = layer.weight if weight is None else weight
    axes = tuple(range(1, weight.ndim))
    scales = (np.abs(weight).max(axis=axes) / 127.0).astype(np.float32)
    codes = np.rint(weight / scales.reshape(-1, *(1 for _ in axes))).astype(np.int8)
    bias_scales = (np.float32(source.scale) * scales).astype(np.float32)
    bias: npt.NDArray[Any] = np.rint(layer.bias / bias_scales.astype(np.float64))
    return QuantizedWeights(codes, scales, bias.astype(np.int32), bias_scales)
