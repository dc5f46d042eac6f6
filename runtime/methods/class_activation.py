"""What GradCAM and its kin share: a feature map, some way to weigh it, and the way up to the image's size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from bitlens.runtime.bilinear import resized_bilinear
from bitlens.runtime.engines import Engine, FeatureMap
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.program import Array
from bitlens.runtime.subject import batches, checked_seeds
from bitlens.runtime.thresholds import Interval

Float32 = npt.NDArray[np.float32]

LAYER_MEANING = "a feature map, by the name `bitlens info` lists (default: the last one)"


def class_activation_maps(
    engine: Engine,
    images: Array,
    targets: Sequence[int],
    weigh: Callable[[FeatureMap], Float32],
    *,
    layer: str | None,
    windows: Mapping[str, Interval] | None,
) -> Float32:
    """Weigh one layer's feature map and resize it to the image.

    Parameters
    ----------
    engine, images, targets, layer, windows
        As for `grad_cam`.
    weigh : callable
        Feature map -> float32 (N, 1, h, w).

    Returns
    -------
    float32 (N, 1, H, W)

    Raises
    ------
    BitlensError
        If the network has no spatial activation, or none of that name.
    """
    names = engine.feature_names
    if not names:
        raise BitlensError("this network has no feature map with a height and a width: use another method")
    chosen = layer or names[-1]
    given, seeds = checked_seeds(engine, images, targets)
    small = [
        weigh(engine.gradient(given[part], seeds[part], features=(chosen,), windows=windows).features[chosen])
        for part in batches(len(given))
    ]
    return resized_bilinear(np.concatenate(small), *engine.program.image_type.shape[1:])
