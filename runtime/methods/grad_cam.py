"""GradCAM: feature maps weighed by their mean gradient."""

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


def grad_cam_map(feature: FeatureMap) -> Float32:
    """ReLU(sum_k a_k A^k), a_k the mean over positions of d score / d A^k (Selvaraju et al., 1610.02391, eq. 1 and 2).

    Parameters
    ----------
    feature : FeatureMap
        Values and gradient (N, K, h, w).

    Returns
    -------
    float32 (N, 1, h, w)
        At the feature map's own resolution.
    """
    weights = feature.gradient.astype(np.float64).mean(axis=(2, 3), keepdims=True)
    weighed = (weights * feature.values).sum(axis=1, keepdims=True)
    return np.asarray(np.maximum(weighed, 0.0), np.float32)


@register_method(
    "grad_cam",
    title="GradCAM",
    paper="Selvaraju et al., 1610.02391",
    cost=one_gradient,
    signed=False,
    meaning=(
        "Where the feature maps that raise the class score are active, bright for most, at the resolution of the "
        "chosen layer. It shows evidence for the class only. Right before a dense layer, where each position has "
        "weights of its own, it is often zero: choose an earlier layer."
    ),
    options={"layer": LAYER_MEANING},
)
def grad_cam(
    engine: Engine,
    images: Array,
    targets: Sequence[int],
    *,
    layer: str | None = None,
    windows: Mapping[str, Interval] | None = None,
) -> Float32:
    """GradCAM at one layer, resized to the image.

    Parameters
    ----------
    engine : Engine
    images : array (N, C, H, W)
        Codes or x, see `Engine.forward`.
    targets : sequence of int
        One class per image.
    layer : str, optional
        One of `engine.feature_names`; the last one if not given.
    windows : mapping, optional
        Straight-through windows in place of the trained ones, see `Engine.gradient`.

    Returns
    -------
    float32 (N, 1, H, W)
        Not negative.

    Raises
    ------
    BitlensError
        If the network has no spatial activation, or none of that name.

    Notes
    -----
    Cost: 1 forward and 1 backward pass.
    """
    return class_activation_maps(engine, images, targets, grad_cam_map, layer=layer, windows=windows)
