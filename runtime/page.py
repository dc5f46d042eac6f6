"""One self-contained HTML page: no script, no network asset, pictures embedded, readable on a phone and aloud."""

from __future__ import annotations

import base64
import html
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NewType

from bitlens.runtime.errors import BitlensError

Html = NewType("Html", str)
"""Markup made by a function of this file. Plain text is another type, so mypy refuses it where markup is expected."""

_STYLE = """\
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 75rem; background: #fff; color: #1b1f24;
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.2; }
h2 { font-size: 1.25rem; line-height: 1.3; margin-top: 2rem; border-top: 1px solid #c8cdd3; padding-top: 1rem; }
p { max-width: 45rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
.wide:focus-visible { outline: 3px solid #0b5cad; outline-offset: 2px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 0 0 .5rem; color: #424a53; }
th, td { padding: .3rem .6rem; text-align: left; vertical-align: middle; border-bottom: 1px solid #dde1e6; }
thead th { border-bottom: 2px solid #57606a; }
td:not([class]) { min-width: 9rem; }
.number { text-align: right; white-space: nowrap; }
.grid th, .grid td { text-align: center; padding: .25rem; border: 0; font-weight: 600; }
.grid td { min-width: 0; font-weight: 400; font-size: .85rem; vertical-align: top; }
.grid tbody th { position: sticky; left: 0; background: #fff; }
img { display: block; margin: 0 auto; max-width: none; image-rendering: pixelated; border: 1px solid #c8cdd3; }
figure { margin: 1rem 0; }
figure img { margin: 0; max-width: 100%; height: auto; }
figcaption { color: #424a53; }
.chart { display: inline-block; width: 100%; max-width: 29rem; margin-right: .5rem; vertical-align: top; }
.chart svg, .wide-chart svg { display: block; width: 100%; height: auto; }
.wide-chart { max-width: 48rem; }
"""

# What a browser may fetch for this page: nothing. A second fence behind the escaping.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_PNG_HEADER = re.compile(rb"\x89PNG\r\n\x1a\n....IHDR(.{8})", re.DOTALL)

_PLAIN_NUMBER = r"[+\-\u2212]?[\d,]*\.?\d+(?:[eE][+-]?\d+)?"
# With its unit or with its interval.
_NUMBER = re.compile(rf"{_PLAIN_NUMBER}(?:\s?(?:%|[kKMG]?i?B|[mnµ]?s)| \({_PLAIN_NUMBER}\u2013{_PLAIN_NUMBER}\))?")
_NOTHING = "\u2013"

# Characters that HTML forbids even as references, and halves of surrogate pairs, which UTF-8 cannot hold.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class PictureCell:
    """One picture of a grid.

    Parameters
    ----------
    png : bytes
        A whole PNG file, as `bitlens.runtime.pictures.png_bytes` makes it.
    alt : str
        What a person who does not see it should know; not empty.
    note : str
        Shown below the picture; may be empty.
    """

    png: bytes
    alt: str
    note: str = ""


def escaped(text: str) -> str:
    """Turn plain text into markup that shows every character as it is, in an element or in a quoted attribute."""
    return html.escape(_FORBIDDEN.sub("\ufffd", text), quote=True)


def _image(png: bytes, alt: str) -> str:
    found = _PNG_HEADER.match(png)
    if found is None:
        raise BitlensError(
            "expected a picture as the bytes of a PNG file, got something else: encode it with png_bytes"
        )
    if not alt.strip():
        raise BitlensError("expected a text that stands for the picture, got none: say what it shows")
    width, height = struct.unpack(">II", found[1])
    data = base64.b64encode(png).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" width="{width}" height="{height}" alt="{escaped(alt)}">'


def _scrollable(caption: str, content: str) -> Html:
    """Let a wide table scroll by itself: on a phone the page stays put, and the keyboard reaches it by the tab key."""
    return Html(f'<div class="wide" role="region" tabindex="0" aria-label="{escaped(caption)}">\n{content}</div>\n')


def _require_rectangle(rows: Sequence[Sequence[object]], width: int, what: str) -> None:
    for index, row in enumerate(rows):
        if len(row) != width:
            raise BitlensError(
                f"expected {width} cells in each row of {what}, got {len(row)} in row {index}: fill it up"
            )


def paragraph(text: str) -> Html:
    """Write a paragraph of plain text; every character of `text` is shown as it is."""
    return Html(f"<p>{escaped(text)}</p>\n")


def picture(png: bytes, alt: str, caption: str) -> Html:
    """Write one picture with a caption below it.

    Parameters
    ----------
    png : bytes
        A whole PNG file.
    alt : str
        What a person who does not see it should know; not empty.
    caption : str
        Shown below.

    Raises
    ------
    BitlensError
        If `png` is not a PNG file or `alt` is empty.
    """
    return Html(f"<figure>{_image(png, alt)}<figcaption>{escaped(caption)}</figcaption></figure>\n")


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> Html:
    """Write a table; the first cell of a row is its header, and columns of numbers are set to the right.

    Parameters
    ----------
    headers : sequence of str
        One per column, at least one.
    rows : sequence of sequences of str
        As many cells each as there are headers, numbers already formatted; a dash stands for one that is missing.
    caption : str
        Shown above, and the name a screen reader gives the table.

    Raises
    ------
    BitlensError
        If there is no header or a row has another number of cells.
    """
    if not headers:
        raise BitlensError("expected at least one column header, got none: name the columns")
    _require_rectangle(rows, len(headers), f"the table {caption!r}")
    columns = [[row[column] for row in rows if row[column] != _NOTHING] for column in range(len(headers))]
    numeric = [bool(column) and all(map(_NUMBER.fullmatch, column)) for column in columns]
    kinds = [' class="number"' if number else "" for number in numeric]
    lines = [f"<table>\n<caption>{escaped(caption)}</caption>\n<thead><tr>"]
    lines += [f'<th scope="col"{kind}>{escaped(header)}</th>' for header, kind in zip(headers, kinds, strict=True)]
    lines.append("</tr></thead>\n<tbody>\n")
    for row in rows:
        lines.append(f'<tr><th scope="row"{kinds[0]}>{escaped(row[0])}</th>')
        lines += [f"<td{kind}>{escaped(cell)}</td>" for cell, kind in zip(row[1:], kinds[1:], strict=True)]
        lines.append("</tr>\n")
    lines.append("</tbody>\n</table>\n")
    return _scrollable(caption, "".join(lines))


def picture_grid(
    row_headers: Sequence[str],
    column_headers: Sequence[str],
    cells: Sequence[Sequence[PictureCell | None]],
    caption: str,
) -> Html:
    """Write a table of pictures with a header to each row and column.

    Parameters
    ----------
    row_headers, column_headers : sequences of str
        R and K headers.
    cells : sequence of sequences of PictureCell or None
        R rows of K cells; None leaves a dash.
    caption : str
        Shown above, and the name a screen reader gives the grid.

    Raises
    ------
    BitlensError
        If the numbers of rows or cells and headers differ, a picture is not a PNG file, or its `alt` is empty.
    """
    if len(cells) != len(row_headers):
        raise BitlensError(
            f"expected {len(row_headers)} rows in the grid {caption!r}, got {len(cells)}: give each row a header"
        )
    _require_rectangle(cells, len(column_headers), f"the grid {caption!r}")
    lines = [f'<table class="grid">\n<caption>{escaped(caption)}</caption>\n<thead><tr><td></td>']
    lines += [f'<th scope="col">{escaped(header)}</th>' for header in column_headers]
    lines.append("</tr></thead>\n<tbody>\n")
    for header, row in zip(row_headers, cells, strict=True):
        lines.append(f'<tr><th scope="row">{escaped(header)}</th>')
        for cell in row:
            shown = _NOTHING if cell is None else _image(cell.png, cell.alt) + escaped(cell.note)
            lines.append(f"<td>{shown}</td>")
        lines.append("</tr>\n")
    lines.append("</tbody>\n</table>\n")
    return _scrollable(caption, "".join(lines))


def section(heading: str, parts: Sequence[Html]) -> Html:
    """Put a heading above parts made by the other functions of this file."""
    return Html(f"<section>\n<h2>{escaped(heading)}</h2>\n{''.join(parts)}</section>\n")


def page(title: str, sections: Sequence[Html], *, refresh_seconds: int | None = None) -> str:
    """Compose the whole page.

    Parameters
    ----------
    title : str
        Title and first heading, plain text.
    sections : sequence of Html
        Made by the other functions of this file.
    refresh_seconds : int, optional
        The browser opens the page anew so often, at least 1: for a page that is still being written. Never if not
        given.

    Returns
    -------
    str
        The file's text, to be written as UTF-8; it refers to nothing outside itself.

    Raises
    ------
    BitlensError
        If `refresh_seconds` is below 1.
    """
    if refresh_seconds is not None and refresh_seconds < 1:
        raise BitlensError(f"expected at least 1 second between refreshes, got {refresh_seconds}: try 5")
    refresh = "" if refresh_seconds is None else f'<meta http-equiv="refresh" content="{refresh_seconds}">\n'
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"{refresh}<title>{escaped(title)}</title>\n<style>\n{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{escaped(title)}</h1>\n{''.join(sections)}</main>\n</body>\n</html>\n"
    )
