"""What a board says, made fit for a terminal: it may be damaged, endless or hostile."""

from __future__ import annotations

LINES, COLUMNS = 30, 200


def plain_line(text: str, columns: int = COLUMNS) -> str:
    r"""Show one line of at most `columns` characters; what a terminal would obey or hide is written as an escape.

    >>> plain_line("\x1b[31mred\x1b[0m\u202e")
    '\\x1b[31mred\\x1b[0m\\u202e'
    """
    shown = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text[: columns + 1])
    return shown if len(shown) <= columns else shown[: columns - 3] + "..."


def last_lines(text: str, lines: int = LINES) -> tuple[str, ...]:
    """Show the last lines that are not empty, each by `plain_line`; a carriage return begins a line of its own."""
    told = [line.rstrip() for line in text.replace("\r", "\n").split("\n")]
    return tuple(plain_line(line) for line in [line for line in told if line][-lines:])
