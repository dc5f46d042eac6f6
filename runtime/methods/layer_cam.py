"""Layer-CAM: feature maps weighed place by place."""

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


def layer_cam_map(feature: FeatureMap) -> Float32:
    """ReLU(sum_k ReLU(g^k) * A^k), place by place (Jiang et al., IEEE TIP 30, 2021).

    Parameters and returns as for `grad_cam_map`.
    """
    weighed = (np.maximum(feature.gradient.astype(np.float64), 0.0) * feature.values).sum(axis=1, keepdims=True)
    return np.asarray(np.maximum(weighed, 0.0), np.float32)


@register_method(
    "layer_cam",
    title="Layer-CAM",
    paper="Jiang et al., IEEE Transactions on Image Processing 30, 2021",
    cost=one_gradient,
    signed=False,
    meaning=(
        "Like GradCAM, but each position of a feature map has its own weight, so that early, finer layers can be "
        "looked at too."
    ),
    options={"layer": LAYER_MEANING},
)
def layer_cam(
    engine: Engine,
    images: Array,
    targets: Sequence[int],
    *,
    layer: str | None = None,
    windows: Mapping[str, Interval] | None = None,
) -> Float32:
    """Layer-CAM at one layer, resized to the image: see `layer_cam_map`.

    Parameters, returns, errors and cost as for `grad_cam`.
    """
    return class_activation_maps(engine, images, targets, layer_cam_map, layer=layer, windows=windows)
