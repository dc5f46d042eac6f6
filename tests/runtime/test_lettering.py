"""Letters in pictures."""

from __future__ import annotations

import numpy as np
import pytest

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.lettering import lettering
from bitlens.runtime.methods import METHODS


def drawn(text: str) -> list[str]:
    """A label at scale 1, as rows of signs."""
    picture = lettering(text, 6 * len(text), 1, scale=1)
    assert set(np.unique(picture).tolist()) <= {0, 255}
    return ["".join("#" if pixel == 0 else "." for pixel in row) for row in picture[..., 0]]


def test_a_letter_by_hand() -> None:
    assert drawn("A1") == [
        "............",
        ".###....#...",
        "#...#..##...",
        "#...#...#...",
        "#####...#...",
        "#...#...#...",
        "#...#...#...",
        "#...#..###..",
        "............",
    ]


def test_every_sign_is_its_own_and_small_letters_are_capitals() -> None:
    signs = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-+.,:% "
    assert len({tuple(drawn(sign)) for sign in signs}) == len(signs)
    assert drawn("smooth") == drawn("SMOOTH")
    assert drawn("~")[1] == "#####."  # a box


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_every_title_fits_two_lines_of_a_panel(method: object) -> None:
    title: str = method.title  # type: ignore[attr-defined]
    two, three = lettering(title, 224, 2), lettering(title, 224, 3)
    assert two.shape == (36, 224, 3)
    assert (three[36:] == 255).all()
    assert all(drawn(letter) != drawn("~") for letter in title)


def test_words_wrap_at_spaces() -> None:
    wrapped = lettering("AB CD", 24, 2, scale=1)
    assert np.array_equal(wrapped[:9, :12], lettering("AB", 12, 1, scale=1))
    assert np.array_equal(wrapped[9:, :12], lettering("CD", 12, 1, scale=1))
    long = lettering("ABCDE", 24, 2, scale=1)
    assert np.array_equal(long[9:, :6], lettering("E", 6, 1, scale=1))


@pytest.mark.parametrize(("width", "lines", "scale"), [(5, 1, 1), (100, 0, 1), (100, 1, 0), (11, 1, 2)])
def test_no_room_is_refused(width: int, lines: int, scale: int) -> None:
    with pytest.raises(BitlensError, match="expected room for a letter"):
        lettering("A", width, lines, scale)
