"""The precision word: how many bits each layer's weights and activations have.

`fp32` is the full-precision twin. `w2a4` gives every layer 2-bit weights and 4-bit activations, except that the first
and the last layer keep 8-bit weights, as binary and low-bit networks customarily do. A list with one word per layer,
`w8a4,w2a4,w4a2,w8a4`, is taken literally.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from bitlens.runtime.errors import BitlensError

BITS = (1, 2, 4, 8)
"""Bit widths that a weight or an activation may have."""

FULL_PRECISION = "fp32"
"""The word for the network without quantizers."""

OUTER_WEIGHT_BITS = 8
"""Weights of the first and the last layer where one word stands for all layers."""

_WORD = re.compile(rf"w([{''.join(map(str, BITS))}])a([{''.join(map(str, BITS))}])")
_ACCEPTED = (
    f"expected {FULL_PRECISION}, one word w<bits>a<bits> with bits of {', '.join(map(str, BITS))} such as w2a4, "
    "or such words for all layers separated by commas"
)


@dataclass(frozen=True)
class LayerPrecision:
    """Bits of one layer.

    Parameters
    ----------
    weight_bits : int
        Bits of a weight: 1 (sign), 2 (ternary), 4 or 8.
    activation_bits : int
        Bits of the activation that follows the layer: 1 (sign), 2, 4 or 8 (PACT). The last layer gives logits, where
        nothing follows; its value is kept and unused.
    """

    weight_bits: int
    activation_bits: int

    def __str__(self) -> str:
        return f"w{self.weight_bits}a{self.activation_bits}"


@dataclass(frozen=True)
class Precision:
    """A precision word and what it means layer by layer.

    Parameters
    ----------
    word : str
        The text as the user gave it, in lower case and without spaces.
    layers : tuple of LayerPrecision
        One entry per layer with weights, first layer first; empty for full precision.
    """

    word: str
    layers: tuple[LayerPrecision, ...]

    @property
    def is_full(self) -> bool:
        """Whether this is the full-precision network, which has no quantizers."""
        return not self.layers


def parse_precision(text: str, layers: int) -> Precision:
    """Read a precision word for a network with `layers` layers.

    Parameters
    ----------
    text : str
        `fp32`; one word such as `w1a1`, `w2a2`, `w2a4`, `w4a4` for all layers (first and last keep 8-bit weights); or
        a comma-separated list with one word per layer, taken literally. Case and spaces do not matter.
    layers : int
        Number of layers with weights, at least 1.

    Returns
    -------
    Precision
        The word and `layers` layer precisions, or none for `fp32`.

    Raises
    ------
    BitlensError
        If a word is unknown, or a list has another length than `layers`.
    """
    word = "".join(text.split()).lower()
    if word == FULL_PRECISION:
        return Precision(word, ())
    words = word.split(",")
    parsed = tuple(_parse_word(part) for part in words)
    if len(words) > 1 or layers == 1:
        if len(parsed) != layers:
            raise BitlensError(
                f"precision list {text!r} has {len(parsed)} words for {layers} layers: give one word per layer, "
                "or a single word for all"
            )
        return Precision(word, parsed)
    inner = parsed[0]
    outer = replace(inner, weight_bits=OUTER_WEIGHT_BITS)
    return Precision(word, (outer, *[inner] * (layers - 2), outer))


def _parse_word(word: str) -> LayerPrecision:
    match = _WORD.fullmatch(word)
    if match is None:
        raise BitlensError(f"unknown precision word {word!r}: {_ACCEPTED}")
    return LayerPrecision(int(match[1]), int(match[2]))
