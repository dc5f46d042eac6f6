"""How weights are handed to the kernels: bits, fields and panels (`runtime/kernels/kernel.h` says what each means)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.program import Array

WORD = 32  # channels in a word of bits, and in a block of a panel
MAX_PADDED_WEIGHTS = 2**28
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Fields:
    """How a weight is stored: value = low + step * field, fields of `bits` bits."""

    bits: int
    low: int
    step: int


RAW_I8 = Fields(8, 0, 1)
RAW_I16 = Fields(16, 0, 1)
RAW_F32 = Fields(32, 0, 1)
CANONICAL = Fields(0, 0, 1)


def rounded_up(value: int, to: int) -> int:
    """Give the smallest multiple of `to` that is not below `value`."""
    return -(-value // to) * to


def padded(values: Array, channels: int, fill: float = 0) -> Array:
    """Lengthen the first axis to `channels`."""
    widths = [(0, channels - values.shape[0])] + [(0, 0)] * (values.ndim - 1)
    return np.pad(values, widths, constant_values=fill)


def _bounded(outputs: int, others: int) -> None:
    """Refuse weights that a stranger's file makes large by padding: one output takes the memory of 32."""
    if rounded_up(outputs, WORD) * others > MAX_PADDED_WEIGHTS:
        raise BitlensError(
            f"a layer needs {rounded_up(outputs, WORD) * others} padded weights, the native engine takes "
            f"{MAX_PADDED_WEIGHTS}: use --engine reference"
        )


def fields_for(weight: Array) -> Fields:
    """Give the fewest bits that hold whole weights: 1, 2, 4 or 8."""
    low, high = int(weight.min()), int(weight.max())
    offsets = weight.astype(np.int64) - low
    step = 2 if offsets.any() and not (offsets % 2).any() else 1
    for bits in (1, 2, 4):
        if (high - low) // step < 2**bits:
            return Fields(bits, low, step)
    return RAW_I8


def holds_zero(fields: Fields) -> bool:
    """Whether a weight of 0 can be stored, as merged rows of taps need."""
    return fields.bits == 8 or (-fields.low % fields.step == 0 and 0 <= -fields.low // fields.step < 2**fields.bits)


def _words(is_set: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint32]:
    """Pack (outputs, taps, channels) into words of 32 channels: (outputs, taps, words)."""
    outputs, taps, channels = is_set.shape
    _bounded(outputs, taps * rounded_up(channels, WORD))
    whole = np.zeros((outputs, taps, rounded_up(channels, WORD)), np.bool_)
    whole[:, :, :channels] = is_set
    return np.packbits(whole, axis=2, bitorder="little").view("<u4").astype(np.uint32)


def w1a1_words(weight: Array) -> Bytes:
    """Pack +-1 weights (outputs, channels, high, wide): one bit each, as `conv2d_w1a1` takes them."""
    outputs, channels = weight.shape[:2]
    flat = weight.transpose(0, 2, 3, 1).reshape(outputs, -1, channels)
    return padded(_words(flat > 0), rounded_up(outputs, WORD)).reshape(-1).view(np.uint8)


def w2a2_words(weight: Array) -> Bytes:
    """Pack ternary weights (outputs, channels, high, wide): where +1, where -1, as `conv2d_w2a2` takes them."""
    outputs, channels = weight.shape[:2]
    flat = weight.transpose(0, 2, 3, 1).reshape(outputs, -1, channels)
    words = np.stack([_words(flat == 1), _words(flat == -1)], axis=-1)
    return padded(words, rounded_up(outputs, WORD)).reshape(-1).view(np.uint8)


def panel(weight: Array, per_group: int, *, merged: bool) -> Array:
    """Arrange weights (outputs, channels, high, wide) as [block][tap][group][32][per_group], zeros where padded.

    `merged`: a row of taps is one tap, its channels those of all its pixels side by side.
    """
    outputs, channels, high, wide = weight.shape
    flat = weight.transpose(0, 2, 3, 1).reshape(outputs, high * wide, channels)
    if merged:
        flat = flat.reshape(outputs, high, wide * channels)
    taps, depth = flat.shape[1:]
    groups = -(-depth // per_group)
    _bounded(outputs, taps * groups * per_group)
    whole = np.zeros((rounded_up(outputs, WORD), taps, groups * per_group), weight.dtype)
    whole[:outputs, :, :depth] = flat
    blocks = whole.reshape(-1, WORD, taps, groups, per_group)
    return np.ascontiguousarray(blocks.transpose(0, 2, 3, 1, 4))


def field_bytes(values: Array, fields: Fields) -> Bytes:
    """Store whole weights in fields; a padded 0 that cannot be stored becomes the lowest field."""
    if fields.bits >= 8:
        dtype = {8: np.int8, 16: np.int16, 32: np.float32}[fields.bits]
        return np.ascontiguousarray(values.astype(dtype)).reshape(-1).view(np.uint8)
    shifts = np.arange(fields.bits, dtype=np.uint8)
    packed = []
    for block in values:  # a block at a time, for the memory it takes
        numbers = np.clip((block.astype(np.int64).reshape(-1) - fields.low) // fields.step, 0, 2**fields.bits - 1)
        packed.append(np.packbits(numbers.astype(np.uint8)[:, None] >> shifts & 1, bitorder="little"))
    return np.concatenate(packed)
