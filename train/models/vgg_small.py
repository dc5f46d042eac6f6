"""`vgg_small`: the VGG of the binary-network papers, six 3x3 convolutions and a dense layer."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import nn

from bitlens.runtime.errors import BitlensError
from bitlens.train.models.blocks import add_block, dense
from bitlens.train.models.registry import ModelSpec, register_model

_LAST_SIDE = 4


@register_model("vgg_small", layers=7, width=128)
def vgg_small(spec: ModelSpec) -> nn.Module:
    """VGG-small, 128C3-128C3-MP2-256C3-256C3-MP2-512C3-512C3-MP2-fc at width 128.

    The convolutional part of the CIFAR-10 network of BinaryNet (Courbariaux et al., 1602.02830, section 2.3; CNV in
    FINN), with one dense layer as in the VGG-small of the low-bit papers that follow XNOR-Net (1603.05279). Made for
    images of 28 to 64 pixels a side. The last pool leaves at most 4x4 cells, as many as the paper has at 32x32: so the
    dense layer's sum stays below 2^24 at w4a4 for an image of any size.
    """
    channels, height, width = spec.input_shape
    if height < 8 or width < 8:
        raise BitlensError(f"vgg_small halves the image three times, got {height}x{width} pixels: give at least 8x8")
    w = spec.width
    quarter = (height // 4, width // 4)
    last_pool = (_last_kernel(quarter[0]), _last_kernel(quarter[1]))
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    plan: tuple[tuple[int, int, tuple[int, int] | None], ...] = (
        (channels, w, None),
        (w, w, (2, 2)),
        (w, 2 * w, None),
        (2 * w, 2 * w, (2, 2)),
        (2 * w, 4 * w, None),
        (4 * w, 4 * w, last_pool),
    )
    for index, (inputs, outputs, pool) in enumerate(plan, start=1):
        add_block(modules, index, spec, inputs, outputs, kernel=3, pool=pool)
    modules["flatten"] = nn.Flatten()
    features = 4 * w * (quarter[0] // last_pool[0]) * (quarter[1] // last_pool[1])
    last = spec.layer(len(plan) + 1)
    modules["fc"] = dense(None if last is None else last.weight_bits, features, spec.classes)
    return nn.Sequential(modules)


def _last_kernel(side: int) -> int:
    return max(2, math.ceil(side / _LAST_SIDE))
