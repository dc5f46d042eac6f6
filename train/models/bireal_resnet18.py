"""`bireal_resnet18`: Bi-Real Net with 18 layers, for photographs."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from bitlens.runtime.errors import BitlensError
from bitlens.train.models.blocks import convolution, max_pool
from bitlens.train.models.registry import ModelSpec, register_model
from bitlens.train.models.residual import Chain, Flow, ResidualNetwork, halved

_SMALLEST_SIDE = 64
_BLOCKS_PER_STAGE = 2


@register_model("bireal_resnet18", layers=18, width=64)
def bireal_resnet18(spec: ModelSpec) -> nn.Module:
    """Bi-Real Net-18 (Liu et al., 1808.00278, section 3.1): 64, 128, 256 and 512 channels at width 64.

    A 7x7 convolution with stride 2 and a max-pool, then 16 convolutions of 3x3, each with a real-valued shortcut of
    its own; where the map is halved, the shortcut is the average of 2x2 pixels and a 1x1 convolution. Shortcuts are
    the same at every precision, the twin included, so that the twin is one: with PACT it is an ordinary low-bit
    ResNet-18 with such shortcuts. Made for images of 64 to 224 pixels a side, odd ones too.

    The three projections have 8-bit weights and are not counted among the 18 layers. The straight-through gradient of
    the sign is 1{|x| <= 1}, not the paper's 2 - 2|x|, which a program has no mask for.
    """
    channels, height, width = spec.input_shape
    if height < _SMALLEST_SIDE or width < _SMALLEST_SIDE:
        raise BitlensError(
            f"bireal_resnet18 halves the image five times, got {height}x{width} pixels: give at least 64x64"
        )
    w, first = spec.width, spec.layer(1)
    stem: OrderedDict[str, nn.Module] = OrderedDict()
    stem["conv1"] = convolution(None if first is None else first.weight_bits, channels, w, 7, stride=2, padding=3)
    stem["norm1"] = nn.BatchNorm2d(w)
    stem["pool1"] = max_pool(first is None, 3, stride=2, padding=1)
    flow = Flow(w, halved(halved(height)), halved(halved(width)), 1)
    plan = tuple(
        (w * 2**stage, 2 if stage > 0 and block == 0 else 1) for stage in range(4) for block in range(_BLOCKS_PER_STAGE)
    )
    return ResidualNetwork(spec, Chain(stem), flow, plan, bi_real=True)
