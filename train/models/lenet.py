"""`lenet`: three convolutions and one dense layer, for digits and other small grey images."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from bitlens.runtime.errors import BitlensError
from bitlens.train.models.blocks import add_block, dense
from bitlens.train.models.registry import ModelSpec, register_model


@register_model("lenet", layers=4, width=16)
def lenet(spec: ModelSpec) -> nn.Module:
    """Three convolutions (5x5, 3x3, 3x3; widths w, 2w, 2w) and one dense layer, as LeNet."""
    channels, height, width = spec.input_shape
    if height < 4 or width < 4:
        raise BitlensError(f"lenet halves the image twice, got {height}x{width} pixels: give at least 4x4")
    w = spec.width
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    add_block(modules, 1, spec, channels, w, kernel=5, pool=(2, 2))
    add_block(modules, 2, spec, w, 2 * w, kernel=3, pool=(2, 2))
    add_block(modules, 3, spec, 2 * w, 2 * w, kernel=3, pool=None)
    modules["flatten"] = nn.Flatten()
    last = spec.layer(4)
    modules["fc"] = dense(
        None if last is None else last.weight_bits, 2 * w * (height // 4) * (width // 4), spec.classes
    )
    return nn.Sequential(modules)
