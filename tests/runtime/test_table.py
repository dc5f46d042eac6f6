from __future__ import annotations

import pytest

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.table import add_row, row_of


def test_a_row_is_added_once_and_found() -> None:
    table: dict[str, int] = {}
    assert add_row(table, "prime", "two", 2) == 2
    assert add_row(table, "prime", "three", 3) == 3
    assert table == {"two": 2, "three": 3}
    assert row_of(table, "prime", "three") == 3


def test_a_taken_name_is_refused_and_the_table_stays() -> None:
    table = {"two": 2}
    with pytest.raises(ValueError, match=r"^prime 'two' is already in the table: choose another name$"):
        add_row(table, "prime", "two", 5)
    assert table == {"two": 2}


def test_an_unknown_name_is_refused_with_what_there_is() -> None:
    with pytest.raises(BitlensError, match=r"^unknown prime 'nine': choose from two, three$"):
        row_of({"two": 2, "three": 3}, "prime", "nine")
    with pytest.raises(BitlensError, match=r"^unknown prime 'nine': choose from any, two$"):
        row_of({"two": 2}, "prime", "nine", also=("any",))
