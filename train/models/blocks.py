"""Layers at a given precision, and the sequence of them that networks without shortcuts are made of."""

from __future__ import annotations

from collections import OrderedDict

import brevitas.nn as qnn
from torch import nn

from bitlens.train.models.registry import ModelSpec
from bitlens.train.pooling import MaxPool2d
from bitlens.train.quantizers import activation, weight_quantizer

BINARY_PADDING = -1.0
"""Padding of a map of +-1 values: 0 is not a code there, so one of the two codes stands in, written into the net."""


def convolution(
    weight_bits: int | None, inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int = 0
) -> nn.Module:
    """Make a convolution without bias; full precision where `weight_bits` is None."""
    if weight_bits is None:
        return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False)
    quantizer = weight_quantizer(weight_bits)
    return qnn.QuantConv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False, weight_quant=quantizer)  # type: ignore[no-any-return]


def dense(weight_bits: int | None, features: int, outputs: int) -> nn.Module:
    """Make a dense layer with bias; full precision where `weight_bits` is None."""
    if weight_bits is None:
        return nn.Linear(features, outputs)
    quantizer = weight_quantizer(weight_bits)
    return qnn.QuantLinear(features, outputs, bias=True, weight_quant=quantizer)  # type: ignore[no-any-return]


def activation_or_relu(bits: int | None, alpha: float | None = None) -> nn.Module:
    """Make an activation with its quantizer, or the ReLU that stands for it at full precision."""
    return nn.ReLU() if bits is None else activation(bits, alpha)


def max_pool(
    full_precision: bool, kernel: int | tuple[int, int], *, stride: int | None = None, padding: int = 0
) -> nn.Module:
    """Make a max-pool; over the sums of a quantized layer the one that sees ties as an integer engine does."""
    return (nn.MaxPool2d if full_precision else MaxPool2d)(kernel, stride, padding)


def add_block(
    modules: OrderedDict[str, nn.Module],
    index: int,
    spec: ModelSpec,
    inputs: int,
    outputs: int,
    *,
    kernel: int,
    pool: tuple[int, int] | None,
) -> None:
    """Append pad (binary inputs only), convolution, batch norm, pool and activation number `index`, counted from 1.

    The pool stands before the quantizer, where a maximum over real values has hardly a tie; after it 1- and 2-bit
    codes tie nearly everywhere and the gradient would go to an arbitrary pixel.

    Parameters
    ----------
    modules : OrderedDict
        The network so far; extended in place.
    index : int
        Number of the layer, from 1.
    spec : ModelSpec
        Precision of all layers.
    inputs, outputs : int
        Channels.
    kernel : int
        Side of the convolution, odd; the map keeps its size.
    pool : tuple of int, optional
        Kernel and stride (height, width) of the max-pool.
    """
    precision, before = spec.layer(index), spec.layer(index - 1)
    padding = kernel // 2
    if before is not None and before.activation_bits == 1:
        modules[f"pad{index}"] = nn.ConstantPad2d(padding, BINARY_PADDING)
        padding = 0
    weight_bits, activation_bits = (
        (None, None) if precision is None else (precision.weight_bits, precision.activation_bits)
    )
    modules[f"conv{index}"] = convolution(weight_bits, inputs, outputs, kernel, padding=padding)
    modules[f"norm{index}"] = nn.BatchNorm2d(outputs)
    if pool is not None:
        # A full-precision map has no ties to be parted; PyTorch's own pool is the quicker one.
        modules[f"pool{index}"] = max_pool(precision is None, pool)
    modules[f"act{index}"] = activation_or_relu(activation_bits)
