"""The table of networks: what one is built from, and how one is built by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.table import add_row, row_of
from bitlens.train.precision import LayerPrecision, Precision, parse_precision


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

    def layer(self, index: int) -> LayerPrecision | None:
        """Give the precision of layer `index`, counted from 1, or None: full precision, or the image before layer 1."""
        if self.precision.is_full or index == 0:
            return None
        return self.precision.layers[index - 1]


@dataclass(frozen=True)
class ModelEntry:
    """A registered network.

    Parameters
    ----------
    layers : int
        Layers with weights that have a precision of their own: the length of a precision list. The projections on
        the shortcuts of a residual network are not counted; they have 8-bit weights in every quantized network.
    build : callable
        Makes the network from its specification.
    width : int
        Channels of the first convolution in the paper.
    """

    layers: int
    build: Callable[[ModelSpec], nn.Module]
    width: int


MODELS: dict[str, ModelEntry] = {}
"""Every registered network by name."""


def register_model(
    name: str, *, layers: int, width: int = 16
) -> Callable[[Callable[[ModelSpec], nn.Module]], Callable[[ModelSpec], nn.Module]]:
    """Register the decorated builder under `name`, with its number of layers and its width in the paper.

    Raises
    ------
    ValueError
        If the name is taken.
    """

    def register(build: Callable[[ModelSpec], nn.Module]) -> Callable[[ModelSpec], nn.Module]:
        add_row(MODELS, "model", name, ModelEntry(layers, build, width))
        return build

    return register


def build_model(
    name: str,
    precision: str,
    input_shape: tuple[int, int, int] = (1, 28, 28),
    classes: int = 10,
    width: int | None = None,
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
    width : int, optional
        Channels of the first convolution; the paper's (`ModelEntry.width`) if not given.
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
    entry = row_of(MODELS, "model", name)
    chosen = entry.width if width is None else width
    spec = ModelSpec(parse_precision(precision, entry.layers), input_shape, classes, chosen)
    for what, size in (("classes", classes), ("width", chosen), ("image channels", input_shape[0])):
        if size < 1:
            raise BitlensError(f"{what} must be at least 1, got {size}: give a positive number")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return entry.build(spec)
