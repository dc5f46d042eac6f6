"""`resnet20`: the residual network for CIFAR-10 with 20 layers."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from bitlens.runtime.errors import BitlensError
from bitlens.train.models.blocks import convolution
from bitlens.train.models.registry import ModelSpec, register_model
from bitlens.train.models.residual import Chain, Flow, ResidualNetwork

_BLOCKS_PER_STAGE = 3


@register_model("resnet20", layers=20, width=16)
def resnet20(spec: ModelSpec) -> nn.Module:
    """ResNet-20 (He et al., 1512.03385, section 4.2; n = 3): 3x3 convolutions with 16, 32 and 64 channels at width 16.

    The shortcut between stages is the paper's option B, a 1x1 convolution with stride 2 and batch norm; 8-bit weights,
    and not counted among the 20 layers. A block whose convolutions read +-1 codes takes the form of Bi-Real Net
    (1808.00278): a real-valued shortcut around each convolution, between stages over the average of 2x2 pixels.
    """
    channels, height, width = spec.input_shape
    if height < 4 or width < 4:
        raise BitlensError(f"resnet20 halves the image twice, got {height}x{width} pixels: give at least 4x4")
    w, first = spec.width, spec.layer(1)
    stem: OrderedDict[str, nn.Module] = OrderedDict()
    stem["conv1"] = convolution(None if first is None else first.weight_bits, channels, w, 3, padding=1)
    stem["norm1"] = nn.BatchNorm2d(w)
    plan = tuple(
        (w * 2**stage, 2 if stage > 0 and block == 0 else 1) for stage in range(3) for block in range(_BLOCKS_PER_STAGE)
    )
    return ResidualNetwork(spec, Chain(stem), Flow(w, height, width, 1), plan, bi_real=None)
