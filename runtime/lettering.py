"""Letters in pictures: a small font of our own, capitals and digits, five pixels by seven."""

from __future__ import annotations

import numpy as np

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.pictures import WHITE, Picture

LETTER_WIDTH, LETTER_HEIGHT = 5, 7
LETTER_ADVANCE, LINE_ADVANCE = LETTER_WIDTH + 1, LETTER_HEIGHT + 2

# Seven rows each, from the top; the leftmost pixel is the highest of five bits.
_ROWS = {
    " ": "00 00 00 00 00 00 00",
    "A": "0e 11 11 1f 11 11 11",
    "B": "1e 11 11 1e 11 11 1e",
    "C": "0e 11 10 10 10 11 0e",
    "D": "1e 11 11 11 11 11 1e",
    "E": "1f 10 10 1e 10 10 1f",
    "F": "1f 10 10 1e 10 10 10",
    "G": "0e 11 10 17 11 11 0f",
    "H": "11 11 11 1f 11 11 11",
    "I": "0e 04 04 04 04 04 0e",
    "J": "07 02 02 02 02 12 0c",
    "K": "11 12 14 18 14 12 11",
    "L": "10 10 10 10 10 10 1f",
    "M": "11 1b 15 15 11 11 11",
    "N": "11 19 19 15 13 13 11",
    "O": "0e 11 11 11 11 11 0e",
    "P": "1e 11 11 1e 10 10 10",
    "Q": "0e 11 11 11 15 12 0d",
    "R": "1e 11 11 1e 14 12 11",
    "S": "0f 10 10 0e 01 01 1e",
    "T": "1f 04 04 04 04 04 04",
    "U": "11 11 11 11 11 11 0e",
    "V": "11 11 11 11 11 0a 04",
    "W": "11 11 11 15 15 15 0a",
    "X": "11 11 0a 04 0a 11 11",
    "Y": "11 11 0a 04 04 04 04",
    "Z": "1f 01 02 04 08 10 1f",
    "0": "0e 11 13 15 19 11 0e",
    "1": "04 0c 04 04 04 04 0e",
    "2": "0e 11 01 06 08 10 1f",
    "3": "0e 11 01 06 01 11 0e",
    "4": "02 06 0a 12 1f 02 02",
    "5": "1f 10 1e 01 01 11 0e",
    "6": "06 08 10 1e 11 11 0e",
    "7": "1f 01 02 02 04 04 04",
    "8": "0e 11 11 0e 11 11 0e",
    "9": "0e 11 11 0f 01 02 0c",
    "-": "00 00 00 0e 00 00 00",
    "+": "00 04 04 1f 04 04 00",
    ".": "00 00 00 00 00 0c 0c",
    ",": "00 00 00 00 0c 04 08",
    ":": "00 0c 0c 00 0c 0c 00",
    "%": "18 19 02 04 08 13 03",
}
_UNKNOWN = "1f 11 11 11 11 11 1f"


def _glyph(letter: str) -> Picture:
    rows = [int(row, 16) for row in _ROWS.get(letter.upper(), _UNKNOWN).split()]
    bits = np.array([[row >> place & 1 for place in reversed(range(LETTER_WIDTH))] for row in rows], np.uint8)
    return np.repeat((WHITE * (1 - bits))[:, :, None], 3, axis=2)


def _wrapped(text: str, letters: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > letters:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return [line[start : start + letters] for line in lines for start in range(0, max(1, len(line)), letters)]


def lettering(text: str, width: int, lines: int, scale: int = 2) -> Picture:
    """Write a label in capitals, black on white, wrapped at spaces.

    Parameters
    ----------
    text : str
        Letters, digits and ``- + . , : %``; anything else shows as a box.
    width : int
        Of the picture in pixels; at least one letter.
    lines : int
        Its height; what does not fit is cut off.
    scale : int
        Size of a letter's pixel, at least 1.

    Returns
    -------
    uint8 array, shape (lines * 9 * scale, width, 3)

    Raises
    ------
    BitlensError
        If there is no room for a letter.

    Examples
    --------
    >>> lettering("GradCAM", 224, 1).shape
    (18, 224, 3)
    """
    if lines < 1 or scale < 1 or width < LETTER_ADVANCE * scale:
        raise BitlensError(
            f"expected room for a letter, got {width} pixels and {lines} lines at scale {scale}: make it larger"
        )
    letters = width // (LETTER_ADVANCE * scale)
    small = np.full((lines * LINE_ADVANCE, letters * LETTER_ADVANCE, 3), WHITE, np.uint8)
    for line, words in enumerate(_wrapped(text, letters)[:lines]):
        for place, letter in enumerate(words):
            top, left = line * LINE_ADVANCE + 1, place * LETTER_ADVANCE
            small[top : top + LETTER_HEIGHT, left : left + LETTER_WIDTH] = _glyph(letter)
    whole = np.full((lines * LINE_ADVANCE * scale, width, 3), WHITE, np.uint8)
    large = small.repeat(scale, axis=0).repeat(scale, axis=1)
    whole[:, : large.shape[1]] = large
    return whole
