"""Means with their intervals on one axis, a row each: SVG without script, with a spoken text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.line_chart import ticks
from bitlens.runtime.page import Html, escaped
from bitlens.runtime.svg_figure import svg_figure

_WIDTH, _ROW, _GAP = 760, 20, 12
_LEFT, _RIGHT, _TOP, _BOTTOM = 250, 56, 10, 44
_COLOUR, _BASELINE = "#0072b2", "#6a737d"
_LONGEST = 34  # characters of a label that have room


@dataclass(frozen=True)
class IntervalRow:
    """One row.

    Parameters
    ----------
    group : str
        Rows of one group stand together under its name.
    label : str
    value, low, high : float
        NaN for a value leaves the row empty, for the ends draws no interval.
    is_baseline : bool
        Drawn hollow and grey: what a value is read against.
    """

    group: str
    label: str
    value: float
    low: float
    high: float
    is_baseline: bool = False


def interval_chart(rows: Sequence[IntervalRow], *, x_label: str, caption: str) -> Html:
    """Draw rows from top to bottom; rows of a group follow each other.

    Parameters
    ----------
    rows : sequence of IntervalRow
        At least one.
    x_label : str
        What the axis shows, with the better direction.
    caption : str
        Shown below, and the beginning of the text that stands for the chart.

    Returns
    -------
    Html
        A figure that scales to the width of the page.

    Raises
    ------
    BitlensError
        If there is no row, or a number is infinite.
    """
    numbers = [number for row in rows for number in (row.value, row.low, row.high) if not math.isnan(number)]
    if not rows or any(math.isinf(number) for number in numbers):
        raise BitlensError(f"expected rows of finite numbers or NaN in the chart {caption!r}, got {rows!r:.60}")
    places = ticks(min(numbers, default=0.0), max(numbers, default=1.0), 8)
    groups: list[str] = []
    for row in rows:
        if not groups or groups[-1] != row.group:
            groups.append(row.group)
    height = _TOP + len(rows) * _ROW + len(groups) * (_ROW + _GAP) + _BOTTOM
    bottom = height - _BOTTOM
    span = places[-1] - places[0]

    def across(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - places[0]) / span

    parts = []
    for tick in places:
        x = across(tick)
        parts.append(f'<path d="M{x:.1f} {_TOP}V{bottom}" stroke="#dde1e6"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:.6g}</text>\n')
    parts.append(f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2:.1f}" y="{height - 8}" text-anchor="middle">')
    parts.append(f"{escaped(x_label)}</text>\n")
    y, group = float(_TOP), None
    for row in rows:
        if row.group != group:
            group = row.group
            y += _GAP + _ROW
            parts.append(f'<text x="4" y="{y - 6:.0f}" font-weight="600">{escaped(_short(group))}</text>\n')
        middle = y + _ROW / 2
        parts.append(
            f'<text x="{_LEFT - 10}" y="{middle + 4:.0f}" text-anchor="end">{escaped(_short(row.label))}</text>'
        )
        parts.append(_drawn(row, across, middle))
        y += _ROW
    spoken = map(_spoken, rows)
    return svg_figure(parts, width=_WIDTH, height=height, kind="wide-chart", caption=caption, spoken=spoken)


def _drawn(row: IntervalRow, across: Callable[[float], float], middle: float) -> str:
    if math.isnan(row.value):
        return f'<text x="{_LEFT + 6}" y="{middle + 4:.0f}" fill="#57606a">undefined</text>\n'
    colour = _BASELINE if row.is_baseline else _COLOUR
    mark = f'<circle cx="{across(row.value):.1f}" cy="{middle:.0f}" r="4" stroke="{colour}" stroke-width="2" '
    mark += f'fill="{"#fff" if row.is_baseline else colour}"/>'
    mark += f'<text x="{_WIDTH - 6}" y="{middle + 4:.0f}" text-anchor="end">{_number(row.value)}</text>\n'
    if math.isnan(row.low) or math.isnan(row.high):
        return mark
    low, high = across(row.low), across(row.high)
    ends = f"M{low:.1f} {middle:.0f}H{high:.1f}M{low:.1f} {middle - 4:.0f}v8M{high:.1f} {middle - 4:.0f}v8"
    return f'<path d="{ends}" stroke="{colour}" stroke-width="2" fill="none"/>{mark}'


def _number(value: float) -> str:
    text = f"{value:.3f}"
    return text.lstrip("-") if not text.strip("-0.") else text.replace("-", "\u2212")


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _spoken(row: IntervalRow) -> str:
    if math.isnan(row.value):
        return f"{row.group}, {row.label}: undefined"
    return f"{row.group}, {row.label}: {row.value:.3g}"
