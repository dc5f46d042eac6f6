"""Networks that can be trained at any precision, each with a full-precision twin of the same module names.

A network is a function that makes an `nn.Module` from a `ModelSpec`; `register_model` puts it under its name into
`MODELS`. The twin's weights load by name: a `QuantConv2d` keeps its latent weight under the name the twin's
`Conv2d` uses.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import brevitas.nn as qnn
import torch
from torch import Tensor, nn

from bitlens.runtime.errors import BitlensError
from bitlens.train.precision import LayerPrecision, Precision, parse_precision
from bitlens.train.quantizers import ALPHA_NAME, activation, weight_quantizer

BINARY_PADDING = -1.0
"""Padding of a map of +-1 values: 0 is not a code there, so one of the two codes stands in, written into the net."""


@dataclass(frozen=True)
class ModelSpec:
    """What a network is built from.

    Parameters
    ----------
    precision : Precision
        Bits of every layer, or full precision.
    input_shape : tuple of int
        (channels, height, width) of one image.
    classes : int
        Number of logits.
    width : int
        Channels of the first convolution.
    """

    precision: Precision
    input_shape: tuple[int, int, int]
    classes: int
    width: int


@dataclass(frozen=True)
class ModelEntry:
    """A registered network.

    Parameters
    ----------
    layers : int
        Layers with weights: the length of a precision list.
    build : callable
        Makes the network from its specification.
    """

    layers: int
    build: Callable[[ModelSpec], nn.Module]


MODELS: dict[str, ModelEntry] = {}
"""Every registered network by name."""


def register_model(
    name: str, *, layers: int
) -> Callable[[Callable[[ModelSpec], nn.Module]], Callable[[ModelSpec], nn.Module]]:
    """Register the decorated builder under `name`; it has `layers` layers with weights.

    Raises
    ------
    BitlensError
        If the name is taken.
    """

    def register(build: Callable[[ModelSpec], nn.Module]) -> Callable[[ModelSpec], nn.Module]:
        if name in MODELS:
            raise BitlensError(f"model {name!r} is registered already: choose another name")
        MODELS[name] = ModelEntry(layers, build)
        return build

    return register


def build_model(
    name: str,
    precision: str,
    input_shape: tuple[int, int, int] = (1, 28, 28),
    classes: int = 10,
    width: int = 16,
    *,
    seed: int = 0,
) -> nn.Module:
    """Make an untrained network.

    Parameters
    ----------
    name : str
        A key of `MODELS`.
    precision : str
        A precision word or list, see `parse_precision`.
    input_shape : tuple of int
        (channels, height, width) of one image.
    classes : int
        Number of logits.
    width : int
        Channels of the first convolution.
    seed : int
        Seed of the first weights; torch's global random state is left as it was.

    Returns
    -------
    nn.Module
        Maps float images (N, *input_shape), codes / 255, to logits (N, classes) of the same dtype.

    Raises
    ------
    BitlensError
        If the name or the precision is unknown, or a size is too small for the network.
    """
    if name not in MODELS:
        raise BitlensError(f"unknown model {name!r}: choose one of {', '.join(sorted(MODELS))}")
    entry = MODELS[name]
    spec = ModelSpec(parse_precision(precision, entry.layers), input_shape, classes, width)
    for what, size in (("classes", classes), ("width", width), ("image channels", input_shape[0])):
        if size < 1:
            raise BitlensError(f"{what} must be at least 1, got {size}: give a positive number")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return entry.build(spec)


@register_model("lenet", layers=4)
def lenet(spec: ModelSpec) -> nn.Module:
    """Three convolutions (5x5, 3x3, 3x3; widths w, 2w, 2w) and one dense layer, as LeNet.

    Pools stand before the quantizer, where a maximum over real values has hardly a tie; after it 1- and 2-bit codes
    tie nearly everywhere and the gradient would go to an arbitrary pixel.
    """
    channels, height, width = spec.input_shape
    if height < 4 or width < 4:
        raise BitlensError(f"lenet halves the image twice, got {height}x{width} pixels: give at least 4x4")
    w = spec.width
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    _add_block(modules, 1, spec, channels, w, kernel=5, pool=True)
    _add_block(modules, 2, spec, w, 2 * w, kernel=3, pool=True)
    _add_block(modules, 3, spec, 2 * w, 2 * w, kernel=3, pool=False)
    modules["flatten"] = nn.Flatten()
    features = 2 * w * (height // 4) * (width // 4)
    precision = _layer(spec, 4)
    if precision is None:
        modules["fc"] = nn.Linear(features, spec.classes)
    else:
        quantizer = weight_quantizer(precision.weight_bits)
        modules["fc"] = qnn.QuantLinear(features, spec.classes, bias=True, weight_quant=quantizer)
    return nn.Sequential(modules)


def _add_block(
    modules: OrderedDict[str, nn.Module],
    index: int,
    spec: ModelSpec,
    inputs: int,
    outputs: int,
    *,
    kernel: int,
    pool: bool,
) -> None:
    """Append pad (binary inputs only), convolution, batch norm, pool and activation number `index`, counted from 1."""
    precision, before = _layer(spec, index), _layer(spec, index - 1)
    padding = kernel // 2
    if before is not None and before.activation_bits == 1:
        modules[f"pad{index}"] = nn.ConstantPad2d(padding, BINARY_PADDING)
        padding = 0
    if precision is None:
        convolution: nn.Module = nn.Conv2d(inputs, outputs, kernel, padding=padding, bias=False)
        following: nn.Module = nn.ReLU()
    else:
        quantizer = weight_quantizer(precision.weight_bits)
        convolution = qnn.QuantConv2d(inputs, outputs, kernel, padding=padding, bias=False, weight_quant=quantizer)
        following = activation(precision.activation_bits)
    modules[f"conv{index}"] = convolution
    modules[f"norm{index}"] = nn.BatchNorm2d(outputs)
    if pool:
        modules[f"pool{index}"] = nn.MaxPool2d(2)
    modules[f"act{index}"] = following


def _layer(spec: ModelSpec, index: int) -> LayerPrecision | None:
    """Give the precision of layer `index`, counted from 1, or None: full precision, or the image before layer 1."""
    if spec.precision.is_full or index == 0:
        return None
    return spec.precision.layers[index - 1]


def initialise_from_twin(model: nn.Module, twin: Mapping[str, Tensor]) -> None:
    """Copy the twin's weights and batch-norm state into `model`, in place.

    Only what the quantizers learn, PACT's alphas, keeps its first value.

    Parameters
    ----------
    model : nn.Module
        A network of the twin's architecture and width, at any precision.
    twin : mapping of str to Tensor
        The twin's `state_dict()`.

    Raises
    ------
    BitlensError
        If a tensor is missing, left over, or of another shape; the model is unchanged then.
    """
    own = model.state_dict()
    expected = {name for name in own if not name.endswith(ALPHA_NAME)}
    given = {name for name in twin if not name.endswith(ALPHA_NAME)}
    if expected != given:
        missing = ", ".join(sorted(expected - given)) or "none"
        left_over = ", ".join(sorted(given - expected)) or "none"
        raise BitlensError(
            f"the twin is another network (missing tensors: {missing}; left over: {left_over}): "
            "train a twin of the same model"
        )
    for name in sorted(expected):
        if own[name].shape != twin[name].shape:
            raise BitlensError(
                f"the twin's {name} has shape {tuple(twin[name].shape)}, expected {tuple(own[name].shape)}: "
                "train a twin of the same width, image size and classes"
            )
    # Not strict: the alphas are meant to be missing, and everything else has just been checked.
    model.load_state_dict({name: twin[name] for name in expected}, strict=False)
