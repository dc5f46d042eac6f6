"""FlatBuffers, walked without their library: every offset, table and length is checked before it is followed.

A table is a signed offset back to its vtable, which says where in the table each field lies; texts, vectors and other
tables are reached by unsigned offsets forwards. Offsets may lead to one place any number of times, so what is read is
counted, and a small file cannot ask for long work.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitlens.runtime.program import Array

MAX_STEPS = 300_000
"""Tables read, and 64-byte pieces of vectors and texts, in one walk: seconds of work, a hundred megabytes at most."""

_PIECE = 64
_TEXT_BYTES = 1000  # of a longer text, what is shown
_MOST_FIELDS = 32  # of a table, in the schemas that are read here


class Walk:
    """The bytes of one FlatBuffer, and how much more of them may be read."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self._left = MAX_STEPS

    def spend(self, steps: int) -> None:
        """Count work.

        Raises
        ------
        ValueError
            If it is more than `MAX_STEPS` in all.
        """
        self._left -= steps
        if self._left < 0:
            raise ValueError(f"it has more than {MAX_STEPS} parts")

    def number(self, form: str, at: int) -> int | float:
        """Read a number at an offset; `form` is that of `struct`, without the byte order."""
        if not 0 <= at <= len(self.data) - struct.calcsize(form):
            raise ValueError("an offset leads out of it")
        value: int | float = struct.unpack_from("<" + form, self.data, at)[0]
        return value

    def offset(self, form: str, at: int) -> int:
        """Read a whole number at an offset."""
        return int(self.number(form, at))


@dataclass(frozen=True)
class Table:
    """A table whose vtable was checked.

    Parameters
    ----------
    walk : Walk
    start : int
        Where it lies.
    size : int
        Its own bytes.
    fields : tuple of int
        Offset of each field from `start`, 0 where the field is left out.
    """

    walk: Walk
    start: int
    size: int
    fields: tuple[int, ...]

    def _place(self, field: int, size: int) -> int | None:
        """Where a field lies; None if it is left out."""
        offset = self.fields[field] if field < len(self.fields) else 0
        if not offset:
            return None
        if not 4 <= offset <= self.size - size:
            raise ValueError("a field lies outside its table")
        return self.start + offset

    def number(self, field: int, form: str, default: int = 0) -> int:
        """Whole number of a field; `form` is that of `struct`."""
        place = self._place(field, struct.calcsize(form))
        return default if place is None else self.walk.offset(form, place)

    def _target(self, field: int) -> int | None:
        place = self._place(field, 4)
        return None if place is None else place + self.walk.offset("I", place)

    def _span(self, field: int, item_bytes: int) -> tuple[int, int]:
        """Start and count of a vector's items; it lies whole inside the file."""
        target = self._target(field)
        if target is None:
            return 0, 0
        count = self.walk.offset("I", target)
        if count * item_bytes > len(self.walk.data) - target - 4:
            raise ValueError("a vector reaches beyond the end")
        return target + 4, count

    def text(self, field: int) -> str:
        """Text of a field, its first 1000 bytes; empty if it is left out."""
        start, count = self._span(field, 1)
        length = min(count, _TEXT_BYTES)
        self.walk.spend(length // _PIECE)
        return bytes(self.walk.data[start : start + length]).decode("utf-8", "replace")

    def span(self, field: int) -> memoryview:
        """Bytes of a vector of bytes."""
        start, count = self._span(field, 1)
        return self.walk.data[start : start + count]

    def vector(self, field: int, dtype: npt.DTypeLike) -> Array:
        """Vector of numbers; empty if it is left out."""
        kind = np.dtype(dtype).newbyteorder("<")
        start, count = self._span(field, kind.itemsize)
        self.walk.spend(count * kind.itemsize // _PIECE)
        return np.frombuffer(self.walk.data, kind, count, start)

    def table(self, field: int) -> Table | None:
        """Table of a field; None if it is left out."""
        target = self._target(field)
        return None if target is None else table_at(self.walk, target)

    def tables(self, field: int) -> Iterator[Table]:
        """Tables of a vector."""
        start, count = self._span(field, 4)
        for place in range(start, start + 4 * count, 4):
            yield table_at(self.walk, place + self.walk.offset("I", place))


def table_at(walk: Walk, start: int) -> Table:
    """Check the table at an offset.

    Raises
    ------
    ValueError
        If it, or its vtable, does not lie whole inside the file, or too much was read already.
    """
    walk.spend(1)
    vtable = start - walk.offset("i", start)
    length, size = walk.offset("H", vtable), walk.offset("H", vtable + 2)
    if length < 4 or length % 2 or vtable + length > len(walk.data) or size < 4 or start + size > len(walk.data):
        raise ValueError("a table reaches beyond the end")
    count = min(length // 2 - 2, _MOST_FIELDS)
    return Table(walk, start, size, struct.unpack_from(f"<{count}H", walk.data, vtable + 4))


def root_table(data: memoryview, identifier: bytes) -> Table:
    """Open a FlatBuffer.

    Raises
    ------
    ValueError
        If it does not carry the identifier, or its first table is not whole.
    """
    if bytes(data[4:8]) != identifier:
        raise ValueError(f"it does not begin with {identifier.decode()}")
    walk = Walk(data)
    return table_at(walk, walk.offset("I", 0))
