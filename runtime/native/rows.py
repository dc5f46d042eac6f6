"""Rows of a sweep before they are a step: where they come from, and what is done to each before it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from bitlens.runtime.native.packing import WORD, padded, rounded_up
from bitlens.runtime.ops.window import Window
from bitlens.runtime.program import Array

NARROW, WIDE = 1, 2
"""Variants of the steps that read the image: codes 0..255 as bytes, or any int16."""


class Stage(IntEnum):
    """How far rows have come. A kernel's row functions run in this order, so an op can only follow an earlier stage."""

    SUMS = 0
    POOLED = 1
    AFFINE = 2
    STRAIGHT_THROUGH = 3
    ADDED = 4


@dataclass(frozen=True)
class Source:
    """What makes rows in one step: a convolution, or the pixels of a buffer.

    Parameters
    ----------
    convolution : mapping or None
        Its record for the plan; None where a buffer's pixels are read.
    buffer : int
        Whose pixels, and `first` the row and column of the first of them, counted from the border's corner.
    variant : int
        0, or the images for which this step runs: `NARROW` or `WIDE`.
    origin : (int, int, int, int)
        Where the first pixel goes in the map that is stored, and the steps to the next row and column.
    size : (int, int)
        Rows and columns, before a pool.
    """

    convolution: Mapping[str, Any] | None
    buffer: int = -1
    first: tuple[int, int] = (0, 0)
    variant: int = 0
    origin: tuple[int, int, int, int] = (0, 0, 1, 1)
    size: tuple[int, int] = (0, 0)


@dataclass
class Rows:
    """Rows that no step computes yet; several sources where the image comes in two forms, or a gradient in phases."""

    sources: list[Source]
    stage: Stage = Stage.SUMS
    epilogue: dict[str, Any] = field(default_factory=dict)

    def advance(self, stage: Stage, name: str, record: Any) -> Rows:
        """Put one more row function behind these rows, and return them."""
        self.epilogue[name] = record
        self.stage = stage
        return self

    @property
    def are_swept(self) -> bool:
        """Whether these are a convolution's sums, so that a pool can follow in the same sweep."""
        return self.stage == Stage.SUMS and all(source.convolution is not None for source in self.sources)


def window_record(window: Window) -> list[int]:
    """Give a window as the plan takes it; what its padding adds behind the map follows from the output's size."""
    return [*window.kernel, *window.stride, *window.padding[:2]]


def channel_record(values: Array) -> npt.NDArray[np.float32]:
    """Give one float32 per channel, for whole blocks of channels."""
    return padded(values.astype(np.float32), rounded_up(values.shape[0], WORD))


def affine_record(slope: Array, offset: Array, scale_slot: int = -1) -> dict[str, Any]:
    """Describe slope * sum + offset per channel, times the scale in a slot of the plan where one is given."""
    return {"slope": channel_record(slope), "offset": channel_record(offset), "scale_slot": scale_slot}


def bias_record(bias: Array) -> dict[str, Any]:
    """Describe sum + bias."""
    return affine_record(np.ones_like(bias), bias)


def scale_record(channels: int, scale_slot: int) -> dict[str, Any]:
    """Describe sum * the scale in a slot of the plan."""
    return affine_record(np.ones(channels), np.zeros(channels), scale_slot)
