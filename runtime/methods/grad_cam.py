"""GradCAM: feature maps weighed by their mean gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from bitlens.runtime.engines import Engine, FeatureMap, one_hot
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.methods.registry import register_method
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


def resized_bilinear(maps: Float32, height: int, width: int) -> Float32:
    """Bilinear resize of (N, C, h, w), pixel centres aligned (PyTorch's align_corners=False), edges held."""
    for axis, size in ((2, height), (3, width)):
        source = maps.shape[axis]
        place = np.clip((np.arange(size) + 0.5) * source / size - 0.5, 0.0, source - 1.0)
        first = np.floor(place).astype(np.int64)
        second = np.minimum(first + 1, source - 1)
        shape = [1, 1, 1, 1]
        shape[axis] = size
        share = (place - first).reshape(shape).astype(np.float32)
        maps = np.take(maps, first, axis) * (np.float32(1.0) - share) + np.take(maps, second, axis) * share
    return maps


@register_method(
    "grad_cam",
    forward_passes=1,
    backward_passes=1,
    signed=False,
    meaning=(
        "Where the feature maps that raise the class score are active, bright for most, at the resolution of the "
        "chosen layer. It shows evidence for the class only. Right before a dense layer, where each position has "
        "weights of its own, it is often zero: choose an earlier layer."
    ),
    options=("layer",),
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
    names = engine.feature_names
    if not names:
        raise BitlensError("this network has no feature map with a height and a width: use another method")
    chosen = layer or names[-1]
    seed = one_hot(targets, engine.classes)
    result = engine.gradient(images, seed, features=(chosen,), windows=windows)
    return resized_bilinear(grad_cam_map(result.features[chosen]), *engine.program.image_type.shape[1:])
