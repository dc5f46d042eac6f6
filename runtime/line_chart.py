"""A line chart for a page: SVG without script, lines told apart by colour, dashes and markers, with a spoken text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.page import Html, escaped
from bitlens.runtime.svg_figure import svg_figure

# Of Okabe and Ito's colours, for colour-blind eyes, those with a contrast of 3 to 1 against white; green is darkened.
_STYLES = (("#0072b2", "", "circle"), ("#d55e00", "7 3", "square"), ("#00795a", "2 3", "triangle"))
MOST_LINES = len(_STYLES)

_WIDTH, _HEIGHT = 520, 320
_LEFT, _RIGHT, _BOTTOM = 56, 12, 46
_LEGEND_ROW = 20
_LARGEST = 1e12  # beyond, a tick's label has no room


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Parameters
    ----------
    label : str
        What it is, for the legend.
    values : sequence of float
        One per place on the x axis; NaN leaves a gap.
    low, high : sequences of float, optional
        Ends of an interval around each value, drawn as a pale band; NaN leaves a gap.
    """

    label: str
    values: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def ticks(low: float, high: float, most: int) -> list[float]:
    """Choose at most `most` (2 or more) round numbers, equally spaced, that reach from below `low` to above `high`.

    The step is 1, 2 or 5 times a power of ten. What differs by a rounding error counts as equal, and has ticks above.
    """
    size = max(abs(low), abs(high))
    if high - low <= 1e-9 * size:
        high = low + 0.1 * (size or 1.0)
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    factors = iter((1.0, 2.0, 5.0) * 3)
    for power in (1, 1, 1, 10, 10, 10, 100, 100, 100):
        width = step * power * next(factors)
        first, last = math.floor(low / width + 1e-9), math.ceil(high / width - 1e-9)
        if last - first + 1 <= most:
            return [place * width for place in range(first, max(last, first + 1) + 1)]
    raise AssertionError("a step of a hundredfold leaves two numbers")


def line_chart(x: Sequence[float], lines: Sequence[Line], *, x_label: str, y_label: str, caption: str) -> Html:
    """Draw values over x.

    Parameters
    ----------
    x : sequence of float
        Places, ascending, at least one.
    lines : sequence of Line
        1 to `MOST_LINES`.
    x_label, y_label : str
        What the axes show, with the unit.
    caption : str
        Shown below, and the beginning of the text that stands for the chart.

    Returns
    -------
    Html
        A figure that scales to the width of the page.

    Raises
    ------
    BitlensError
        If there are too few or too many lines, numbers of values and places differ, or one is not drawable.
    """
    _require_drawable(x, lines)
    drawn = [value for line in lines for each in (line.values, line.low, line.high) for value in each or ()]
    finite = [value for value in drawn if not math.isnan(value)] or [0.0]
    y_ticks = ticks(min(finite), max(finite), 7)
    counted = all(place == round(place) for place in x)  # epochs: half of one is none
    x_ticks = [tick for tick in ticks(x[0], x[-1], 8) if x[0] <= tick <= x[-1] and not (counted and tick % 1)] or [x[0]]
    top = _LEGEND_ROW * len(lines) + 12
    plot_width, plot_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - top - _BOTTOM
    spread = (x[-1] - x[0]) or 1.0

    def across(place: float) -> float:
        return _LEFT + (plot_width * (place - x[0]) / spread if len(x) > 1 else plot_width / 2)

    def down(value: float) -> float:
        return top + plot_height * (y_ticks[-1] - value) / (y_ticks[-1] - y_ticks[0])

    parts = []
    for tick in y_ticks:
        y = down(tick)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#dde1e6"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.6g}</text>\n')
    for tick in x_ticks:
        place = across(tick)
        parts.append(f'<path d="M{place:.1f} {top + plot_height}v5" stroke="#57606a"/>')
        parts.append(f'<text x="{place:.1f}" y="{top + plot_height + 19}" text-anchor="middle">{tick:.6g}</text>\n')
    parts.append(f'<path d="M{_LEFT} {top}V{top + plot_height}H{_WIDTH - _RIGHT}" fill="none" stroke="#57606a"/>\n')
    parts.append(f'<text x="{_LEFT + plot_width / 2:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">')
    parts.append(f"{escaped(x_label)}</text>\n")
    middle = top + plot_height / 2
    parts.append(f'<text transform="translate(14 {middle:.1f}) rotate(-90)" text-anchor="middle">')
    parts.append(f"{escaped(y_label)}</text>\n")
    for place, (line, (colour, dashes, marker)) in enumerate(zip(lines, _STYLES, strict=False)):
        row = _LEGEND_ROW * place + 14
        if line.low is not None and line.high is not None:
            for run in _runs(x, line.low, line.high):
                edge = [(across(a), down(high)) for a, _, high in run]
                edge += [(across(a), down(low)) for a, low, _ in reversed(run)]
                points = " ".join(f"{a:.1f},{b:.1f}" for a, b in edge)
                parts.append(f'<polygon points="{points}" fill="{colour}" fill-opacity="0.15"/>\n')
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        for run in _runs(x, line.values, line.values):
            path = "L".join(f"{across(a):.1f} {down(value):.1f}" for a, value, _ in run)
            parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"{dashed}/>\n')
            # Markers tell the lines apart without colour; more than 25 would hide the line.
            for a, value, _ in run[:: max(1, len(run) // 25)]:
                parts.append(_marker(marker, across(a), down(value), colour))
        parts.append(f'<path d="M{_LEFT} {row}h36" stroke="{colour}" stroke-width="2"{dashed}/>')
        parts.append(_marker(marker, _LEFT + 18, row, colour))
        parts.append(f'<text x="{_LEFT + 44}" y="{row + 4}">{escaped(line.label)}</text>\n')
    spoken = (_spoken(x, line, x_label) for line in lines)
    return svg_figure(parts, width=_WIDTH, height=_HEIGHT, kind="chart", caption=caption, spoken=spoken)


def _require_drawable(x: Sequence[float], lines: Sequence[Line]) -> None:
    if not 1 <= len(lines) <= MOST_LINES:
        raise BitlensError(f"expected 1 to {MOST_LINES} lines in a chart, got {len(lines)}: draw several charts")
    if not x or any(not abs(place) <= _LARGEST for place in x) or any(a >= b for a, b in pairwise(x)):
        raise BitlensError(f"expected ascending finite places on the x axis, got {list(x)[:5]}: sort them")
    for line in lines:
        for values in (line.values, line.low, line.high):
            if values is not None and len(values) != len(x):
                raise BitlensError(
                    f"expected {len(x)} values in the line {line.label!r}, got {len(values)}: fill gaps with NaN"
                )
            if any(abs(value) > _LARGEST for value in values or ()):
                raise BitlensError(f"expected values up to {_LARGEST:g} in the line {line.label!r}: change the unit")


def _runs(x: Sequence[float], low: Sequence[float], high: Sequence[float]) -> list[list[tuple[float, float, float]]]:
    """Cut (x, low, high) where one of them is NaN."""
    runs: list[list[tuple[float, float, float]]] = [[]]
    for place, lower, upper in zip(x, low, high, strict=True):
        if math.isnan(lower) or math.isnan(upper):
            runs.append([])
        else:
            runs[-1].append((place, lower, upper))
    return [run for run in runs if run]


def _marker(kind: str, x: float, y: float, colour: str) -> str:
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>'
    if kind == "square":
        return f'<rect x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6" fill="{colour}"/>'
    return f'<path d="M{x:.1f} {y - 4.5:.1f}l4 7h-8z" fill="{colour}"/>'


def _spoken(x: Sequence[float], line: Line, x_label: str) -> str:
    known = [(place, value) for place, value in zip(x, line.values, strict=True) if not math.isnan(value)]
    if not known:
        return f"{line.label} has no values yet"
    (first, begins), (last, ends) = known[0], known[-1]
    if first == last:
        return f"{line.label} {begins:.4g} at {x_label} {first:g}"
    return f"{line.label} from {begins:.4g} at {x_label} {first:g} to {ends:.4g} at {last:g}"
