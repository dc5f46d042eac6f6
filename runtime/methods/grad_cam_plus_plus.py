"""GradCAM++: feature maps weighed by a weighted sum of their positive gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from bitlens.runtime.engines import Engine, FeatureMap
from bitlens.runtime.methods.class_activation import LAYER_MEANING, class_activation_maps
from bitlens.runtime.methods.registry import one_gradient, register_method
from bitlens.runtime.program import Array
from bitlens.runtime.thresholds import Interval

Float32 = npt.NDArray[np.float32]


def grad_cam_plus_plus_map(feature: FeatureMap) -> Float32:
    """ReLU(sum_k w_k A^k), w_k = sum_ij a_ij ReLU(g_ij), a_ij = g_ij^2 / (2 g_ij^2 + g_ij^3 sum_ab A_ab).

    Chattopadhay et al., 1710.11063, with Y = exp(score): its second and third derivative are then powers of
    g = d score / d A, if the network is piecewise linear. The common factor exp(score) is left out. Where the
    denominator is 0, so is a_ij.

    Parameters and returns as for `grad_cam_map`.
    """
    gradient, values = feature.gradient.astype(np.float64), feature.values.astype(np.float64)
    squared = gradient**2
    denominator = 2.0 * squared + squared * gradient * values.sum(axis=(2, 3), keepdims=True)
    shares = np.divide(squared, denominator, out=np.zeros_like(squared), where=denominator != 0.0)
    weights = (shares * np.maximum(gradient, 0.0)).sum(axis=(2, 3), keepdims=True)
    return np.asarray(np.maximum((weights * values).sum(axis=1, keepdims=True), 0.0), np.float32)


@register_method(
    "grad_cam_plus_plus",
    title="GradCAM++",
    paper="Chattopadhay et al., 1710.11063",
    cost=one_gradient,
    signed=False,
    meaning=(
        "Like GradCAM, with positions weighed so that several small parts of an object count as much as one large "
        "part. Its derivation assumes activations that are not negative, which signs (1-bit activations) are not."
    ),
    options={"layer": LAYER_MEANING},
)
def grad_cam_plus_plus(
    engine: Engine,
    images: Array,
    targets: Sequence[int],
    *,
    layer: str | None = None,
    windows: Mapping[str, Interval] | None = None,
) -> Float32:
    """GradCAM++ at one layer, resized to the image: see `grad_cam_plus_plus_map`.

    Parameters, returns, errors and cost as for `grad_cam`.
    """
    return class_activation_maps(engine, images, targets, grad_cam_plus_plus_map, layer=layer, windows=windows)
