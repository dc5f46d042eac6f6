"""Tables of what can be chosen by name: plain dictionaries that decorators fill, and their two refusals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from bitlens.runtime.errors import BitlensError

Row = TypeVar("Row")


def add_row(table: dict[str, Row], kind: str, name: str, row: Row) -> Row:
    """Put a row into a table and return it.

    Parameters
    ----------
    table : dict
        Changed in place.
    kind : str
        What its rows are, for the message: `"metric"`.
    name : str
    row : anything

    Raises
    ------
    ValueError
        If the name is taken.
    """
    if name in table:
        raise ValueError(f"{kind} {name!r} is already in the table: choose another name")
    table[name] = row
    return row


def row_of(table: Mapping[str, Row], kind: str, name: str, *, also: Sequence[str] = ()) -> Row:
    """Return the row of that name.

    Parameters
    ----------
    table : mapping
    kind : str
        What its rows are, for the message.
    name : str
    also : sequence of str
        Names that the caller understands beside those of the table, for the message.

    Raises
    ------
    BitlensError
        If there is none; the message lists what there is.
    """
    if name not in table:
        raise BitlensError(f"unknown {kind} {name!r}: choose from {', '.join((*also, *table))}")
    return table[name]
