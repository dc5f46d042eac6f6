"""Residual blocks: real-valued sums in float32 between quantizers, and the head that follows the last of them.

Two forms of one block of two 3x3 convolutions, with the same modules that hold weights:

- **plain** (He et al., 1512.03385, figure 2): one shortcut around both convolutions. It carries what the first one
  reads, the codes of the activation before it.
- **Bi-Real** (Liu et al., 1808.00278, section 3.1): a shortcut around each convolution. It carries the real value that
  stands before the activation, so a binary network keeps more than one bit of it.

An activation follows the sum, as in the paper's figures; "the activation of a layer" is the one behind its sum.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn

from bitlens.runtime.program import ACCUMULATOR_LIMIT
from bitlens.train.models.blocks import BINARY_PADDING, activation_or_relu, convolution, dense
from bitlens.train.models.registry import ModelSpec
from bitlens.train.precision import LayerPrecision
from bitlens.train.quantizers import FIRST_ALPHA

PROJECTION_BITS = 8
"""Weights of a projection, and the activation that a real value passes before it is averaged."""

_LARGEST_WEIGHT = {1: 1, 2: 1, 4: 7, 8: 127}


def first_alpha(bits: int | None, terms: int) -> float | None:
    """Give PACT's first alpha behind a sum of `terms` independent values of variance 1; None where there is none."""
    return None if bits in (None, 1) else FIRST_ALPHA[bits] * math.sqrt(terms)


def largest_sum(weight_bits: int, activation_bits: int, products: int) -> int:
    """Largest accumulator of a sum of `products` weights and codes, whatever they are."""
    code = 1 if activation_bits == 1 else 2**activation_bits - 1
    return _LARGEST_WEIGHT[weight_bits] * code * products


def behind_sum(bits: int | None, terms: int) -> nn.Module:
    """Make the activation behind a sum of `terms` values of variance 1, with a first alpha that suits its spread."""
    return activation_or_relu(bits, first_alpha(bits, terms))


class ResidualSum(nn.Module):
    """branch + shortcut, a module so that the sum has a name in every exported file."""

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        """Add two real values of one shape."""
        return branch + shortcut


class Chain(nn.Module):
    """Named modules one after the other; unlike `nn.Sequential`, exporters name its parts once."""

    def __init__(self, modules: OrderedDict[str, nn.Module]) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        """Apply each module to what the one before it gives."""
        for module in self.children():
            x = module(x)
        return x


@dataclass(frozen=True)
class Flow:
    """What arrives at a block.

    Parameters
    ----------
    channels, height, width : int
        Shape of the map.
    terms : int
        How many values of variance 1 the real value is a sum of, before training.
    """

    channels: int
    height: int
    width: int
    terms: int


def halved(side: int) -> int:
    """Side of a map behind a 3x3 convolution with stride 2 and padding 1."""
    return (side + 1) // 2


def _projection(full_precision: bool, flow: Flow, outputs: int, stride: int, *, bi_real: bool) -> Chain:
    """Make a shortcut to another number of channels or size.

    In the plain form, a 1x1 convolution with the block's stride. In the Bi-Real form, the average over 2x2 pixels and a
    1x1 convolution; the real value is quantized before it is averaged, because the float sum of real values would
    depend on its order, and again where the convolution's sum could otherwise reach 2^24. At full precision the first
    of these quantizers is the ReLU behind the sum, which is there already.
    """
    bits = None if full_precision else PROJECTION_BITS
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    if bi_real and not full_precision:
        modules["act"] = behind_sum(bits, flow.terms)
    averaged = bi_real and stride == 2
    if averaged:
        # At an odd side the first window begins outside, as that of the 3x3 convolution does.
        modules["pool"] = nn.AvgPool2d(2, padding=(flow.height % 2, flow.width % 2), count_include_pad=True)
        if not full_precision and largest_sum(PROJECTION_BITS, PROJECTION_BITS, 4 * flow.channels) >= ACCUMULATOR_LIMIT:
            modules["pooled_act"] = behind_sum(bits, flow.terms)
    modules["conv"] = convolution(bits, flow.channels, outputs, 1, stride=1 if averaged else stride)
    modules["norm"] = nn.BatchNorm2d(outputs)
    return Chain(modules)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, their shortcuts and activations.

    Parameters
    ----------
    before, first, second : LayerPrecision or None
        Precision of the layer that the block reads, and of its two convolutions; None for full precision.
    flow : Flow
        What arrives.
    outputs : int
        Channels that leave.
    stride : int
        1 or 2, of the first convolution.
    bi_real : bool
        Which of the two forms, see the module.
    last_bits : int, optional
        Bits of the second activation, instead of those of `second`.
    """

    def __init__(
        self,
        before: LayerPrecision | None,
        first: LayerPrecision | None,
        second: LayerPrecision | None,
        flow: Flow,
        outputs: int,
        stride: int,
        *,
        bi_real: bool,
        last_bits: int | None = None,
    ) -> None:
        super().__init__()
        self.bi_real = bi_real
        projected = stride != 1 or outputs != flow.channels
        self.carries_real = bi_real and not (projected and first is None)
        terms = 1 if projected else flow.terms
        self.shortcut: nn.Module = (
            _projection(first is None, flow, outputs, stride, bi_real=bi_real) if projected else nn.Identity()
        )
        self.pad1, self.conv1 = _padded_convolution(before, first, flow.channels, outputs, stride)
        self.norm1 = nn.BatchNorm2d(outputs)
        if bi_real:
            self.sum1 = ResidualSum()
        first_terms = terms + 1 if bi_real else 1
        self.act1 = behind_sum(None if first is None else first.activation_bits, first_terms)
        self.pad2, self.conv2 = _padded_convolution(first, second, outputs, outputs, 1)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.sum2 = ResidualSum()
        # Codes do not add up from block to block: the plain form's shortcut is clipped at the activation before it.
        second_terms = first_terms + 1 if bi_real else 2
        bits = None if second is None else second.activation_bits
        self.act2 = behind_sum(bits if last_bits is None else last_bits, second_terms)
        height, width = (flow.height, flow.width) if stride == 1 else (halved(flow.height), halved(flow.width))
        self.leaving = Flow(outputs, height, width, second_terms)

    def forward(self, real: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Map the real value before an activation and the activation itself to those behind the block.

        Parameters
        ----------
        real, codes : Tensor
            (N, channels, height, width) each.

        Returns
        -------
        real, codes : Tensor
            (N, outputs, rows, columns) each.
        """
        carried = self.shortcut(real if self.carries_real else codes)
        branch = self.norm1(self.conv1(self.pad1(codes)))
        if self.bi_real:
            branch = carried = self.sum1(branch, carried)
        total = self.sum2(self.norm2(self.conv2(self.pad2(self.act1(branch)))), carried)
        return total, self.act2(total)


def _padded_convolution(
    before: LayerPrecision | None, own: LayerPrecision | None, inputs: int, outputs: int, stride: int
) -> tuple[nn.Module, nn.Module]:
    """Make a 3x3 convolution and the pad before it: of +-1 codes an explicit one, else the convolution's own zeros."""
    weight_bits = None if own is None else own.weight_bits
    if before is not None and before.activation_bits == 1:
        return nn.ConstantPad2d(1, BINARY_PADDING), convolution(weight_bits, inputs, outputs, 3, stride=stride)
    return nn.Identity(), convolution(weight_bits, inputs, outputs, 3, stride=stride, padding=1)


class ResidualNetwork(nn.Module):
    """A first convolution, residual blocks `block1`, `block2`, ..., the average over the map and a dense layer.

    Parameters
    ----------
    spec : ModelSpec
        Precision of the first layer, two layers a block, and the dense layer.
    stem : Chain
        Image to real value: convolution, batch norm and perhaps a pool.
    flow : Flow
        What leaves the stem.
    plan : sequence of (outputs, stride)
        One entry a block.
    bi_real : bool, optional
        The form of every block; None for the Bi-Real form where a block reads or makes +-1 codes, else the plain one.
    """

    def __init__(
        self, spec: ModelSpec, stem: Chain, flow: Flow, plan: tuple[tuple[int, int], ...], *, bi_real: bool | None
    ) -> None:
        super().__init__()
        self.stem_modules = tuple(name for name, _ in stem.named_children())
        for name, module in stem.named_children():
            self.add_module(name, module)
        first = spec.layer(1)
        self.act1 = behind_sum(None if first is None else first.activation_bits, flow.terms)
        last_bits = _bits_before_the_average(spec.layer(2 * len(plan) + 1))
        self.block_names = tuple(f"block{index}" for index in range(1, len(plan) + 1))
        for index, (name, (outputs, stride)) in enumerate(zip(self.block_names, plan, strict=True)):
            before, one, two = (spec.layer(2 * index + place) for place in (1, 2, 3))
            binary = any(layer is not None and layer.activation_bits == 1 for layer in (before, one))
            block = ResidualBlock(
                before,
                one,
                two,
                flow,
                outputs,
                stride,
                bi_real=binary if bi_real is None else bi_real,
                last_bits=last_bits if name == self.block_names[-1] else None,
            )
            flow = block.leaving
            self.add_module(name, block)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        last = spec.layer(2 * len(plan) + 2)
        self.pooled_act: nn.Module = nn.Identity()
        if last is not None and last_bits is not None:
            reach = largest_sum(last.weight_bits, last_bits, flow.channels * flow.height * flow.width)
            if reach >= ACCUMULATOR_LIMIT:
                self.pooled_act = behind_sum(PROJECTION_BITS, flow.terms)
        self.fc = dense(None if last is None else last.weight_bits, flow.channels, spec.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, classes)."""
        real = x
        for name in self.stem_modules:
            real = self.get_submodule(name)(real)
        codes = self.act1(real)
        for name in self.block_names:
            real, codes = self.get_submodule(name)(real, codes)
        logits: Tensor = self.fc(self.pooled_act(self.flatten(self.pool(codes))))
        return logits


def _bits_before_the_average(last: LayerPrecision | None) -> int | None:
    """Bits of the map that is averaged: those of the last convolution's activation, but 8 instead of 1.

    Bi-Real averages real values. An average of signs would drop all but one bit of each, just before the classifier.
    """
    if last is None:
        return None
    return PROJECTION_BITS if last.activation_bits == 1 else last.activation_bits
