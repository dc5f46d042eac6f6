"""A quantizer as the kernels compare it: thresholds and mask boxes turned so that every comparison is `>=`.

A channel with direction -1 counts the thresholds that its sum does not exceed. The kernel negates that channel's sums
("turns" them) and compares them with thresholds that are negated here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bitlens.runtime.native.packing import WORD, padded, rounded_up
from bitlens.runtime.program import Array, Node

Int32 = npt.NDArray[np.int32]
_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True)
class MaskBox:
    """Where the box of a straight-through mask goes at run time, and which of its channels are turned."""

    buffer: int
    direction: npt.NDArray[np.int8]


def turn_record(direction: Array) -> Int32:
    """Give what a kernel xors and subtracts to turn a channel's sums: -1 where it turns them, else 0."""
    turn = np.where(direction < 0, -1, 0).astype(np.int32)
    return padded(turn, rounded_up(turn.shape[0], WORD))


def threshold_record(node: Node, code_step: int, codes: int, mask: int) -> dict[str, Any]:
    """Describe a `threshold` for the plan.

    Parameters
    ----------
    node : Node
    code_step : int
        Distance of neighbouring codes as they are stored.
    codes, mask : int
        The buffers it writes; -1 if nobody wants the mask.
    """
    direction = node.arrays["direction"]
    thresholds = _turned(node.arrays["thresholds"], direction)
    if thresholds.shape[0] % WORD == 0 and (thresholds == thresholds[0]).all():
        thresholds = thresholds[:WORD]  # the same for all channels: one block serves them all
    blocks = _bits(thresholds, nothing=_INT32.max).reshape(-1, WORD, thresholds.shape[1]).transpose(0, 2, 1)
    low, high = turned_box(node.arrays["mask_low"], node.arrays["mask_high"], direction)
    return {
        "levels": thresholds.shape[1],
        "code_step": code_step,
        "turn": turn_record(direction),
        "thresholds": np.ascontiguousarray(blocks).reshape(-1),
        "mask_low": low,
        "mask_high": high,
        "codes": codes,
        "mask": mask,
    }


def turned_box(low: Array, high: Array, direction: Array) -> tuple[Int32, Int32]:
    """Give the box of a mask as the kernels compare it: turned, as bits; empty where there is no channel."""
    is_turned = direction < 0
    turned_low, turned_high = _turned(low, direction), _turned(high, direction)
    bottom, top = np.where(is_turned, turned_high, turned_low), np.where(is_turned, turned_low, turned_high)
    return _bits(bottom, nothing=_INT32.max), _bits(top, nothing=_INT32.min)


def _turned(values: Array, direction: Array) -> Array:
    """Negate integers where the comparison turns round, kept within int32; floats just negated."""
    sign = direction.astype(np.int64).reshape(-1, *([1] * (values.ndim - 1)))
    if values.dtype == np.float32:
        return np.asarray(values * sign.astype(np.float32))
    return np.asarray(np.clip(values.astype(np.int64) * sign, _INT32.min, _INT32.max), np.int32)


def _bits(values: Array, nothing: int) -> Int32:
    """Give values for whole blocks of channels as the 32 bits that a kernel loads.

    `nothing` is what no sum passes, for channels that do not exist.
    """
    channels = rounded_up(values.shape[0], WORD)
    if values.dtype == np.float32:  # a comparison with NaN is never true
        return np.ascontiguousarray(padded(values, channels, np.nan)).view(np.int32)
    return padded(values.astype(np.int32), channels, nothing)


def never_winning(pool: Node) -> tuple[int, ...]:
    """Accumulators for the border of a max-pool's map, per channel: none of them is ever the largest, or smallest.

    Beyond every accumulator (below 2^24), and within what the thresholds of channels that do not exist let pass: a map
    of 16 channels is read 32 wide, its neighbours' border with it.
    """
    return tuple(int(value) for value in np.where(pool.arrays["direction"] < 0, 2**30, -(2**30)))
