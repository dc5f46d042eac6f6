"""Vectors of a FlatBuffer under construction: of tables, numbers and strings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import flatbuffers
import numpy as np
import numpy.typing as npt

Item = TypeVar("Item")


def offsets_vector(builder: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    """Write a vector of what was already written; return its offset."""
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def tables_vector(
    builder: flatbuffers.Builder, items: Sequence[Item], write: Callable[[flatbuffers.Builder, Item], int]
) -> int:
    """Write each item as a table, and a vector of them; return its offset."""
    return offsets_vector(builder, [write(builder, item) for item in items])


def numbers_vector(builder: flatbuffers.Builder, values: npt.ArrayLike, dtype: npt.DTypeLike) -> int:
    """Write a vector of numbers of one dtype; return its offset."""
    return int(builder.CreateNumpyVector(np.array(values, dtype)))


def table(builder: flatbuffers.Builder, offsets: Mapping[int, int], *, numbers: Mapping[int, int] | None = None) -> int:
    """Write a table; return its offset.

    Parameters
    ----------
    builder : flatbuffers.Builder
    offsets : mapping
        Slot -> offset of a string, vector or table that was already written; an offset of 0 leaves the slot out.
    numbers : mapping, optional
        Slot -> value of a field of one byte; 0 leaves it out.
    """
    builder.StartObject(1 + max([*offsets, *(numbers or {})]))
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, value in (numbers or {}).items():
        builder.PrependUint8Slot(slot, value, 0)
    return int(builder.EndObject())
