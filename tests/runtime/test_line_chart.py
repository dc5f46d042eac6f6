from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from page_reader import Reader, references

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.line_chart import MOST_LINES, Line, line_chart, ticks
from bitlens.runtime.page import page, section

POISON = """<script>alert('x')</script>" ' &amp; </svg>"""


def chart(x: list[float], *lines: Line) -> str:
    return line_chart(x, lines, x_label="epoch", y_label="share", caption="How it went")


def coordinates(svg: str) -> list[float]:
    """Every number of the places that are drawn."""
    root = ElementTree.fromstring(re.findall("<svg.*</svg>", svg, re.DOTALL)[0])
    found = []
    for element in root.iter():
        if element.tag == "polygon" or (element.tag == "path" and element.get("stroke-width") == "2"):
            text = element.get("points") or element.get("d") or ""
            found += [float(number) for number in re.findall(r"-?\d+\.?\d*|nan|inf", text)]
    return found


def test_a_chart_is_balanced_readable_aloud_and_self_contained() -> None:
    text = page("Chart", [section("A", [chart([0, 1, 2], Line("accuracy", [0.1, 0.5, 0.75]), Line("rho", [0, 1, 0]))])])
    reader = Reader(text)
    assert reader.wrong == []
    assert references(text) == []
    (svg,) = reader.all("svg")
    assert svg["role"] == "img"
    assert svg["aria-label"] == (
        "How it went: accuracy from 0.1 at epoch 0 to 0.75 at 2; rho from 0 at epoch 0 to 0 at 2"
    )
    assert reader.words["figcaption"] == ["How it went"]
    assert {"accuracy", "rho", "epoch", "share"} <= set(reader.words["text"])


def test_points_lie_where_they_belong() -> None:
    text = chart([0, 5, 10], Line("a", [0.0, 0.5, 1.0]))
    path = re.findall(r'<path d="M([\d. L]+)" fill="none" stroke="#0072b2"', text)[0]
    (x0, y0), (x1, y1), (x2, y2) = [tuple(map(float, point.split())) for point in path.split("L")]
    assert (x1, y1) == (pytest.approx((x0 + x2) / 2, abs=0.1), pytest.approx((y0 + y2) / 2, abs=0.1))
    assert x0 < x2
    assert y0 > y2  # up is more
    assert y0 - y2 > 150


def test_places_that_are_counted_have_whole_ticks() -> None:
    def places(text: str) -> list[str]:
        return re.findall(r'text-anchor="middle">(-?[\d.]+)<', text)

    assert places(chart([0, 1, 2, 3], Line("a", [0.0] * 4))) == ["0", "1", "2", "3"]
    assert places(chart([0.0, 0.5, 1.0], Line("a", [0.0] * 3))) == ["0", "0.2", "0.4", "0.6", "0.8", "1"]


def test_gaps_bands_and_single_points() -> None:
    nan = math.nan
    gap = Line("a", [0.1, nan, 0.3, 0.4], [0.0, nan, 0.2, nan], [0.2, nan, 0.4, nan])
    text = chart([0, 1, 2, 3], gap)
    assert len(re.findall('stroke="#0072b2" stroke-width="2"/>', text)) == 2 + 1  # two runs and the legend
    assert text.count("<polygon") == 2
    assert all(math.isfinite(number) for number in coordinates(text))
    assert "no values yet" in chart([0], Line("a", [nan]))
    assert "a 0.5 at epoch 0" in chart([0], Line("a", [0.5]))


def test_many_epochs_stay_inside_the_picture() -> None:
    values = [math.sin(place) * 1e-3 for place in range(500)]
    found = coordinates(chart([float(place) for place in range(500)], Line("a", values)))
    assert min(found) >= 0
    assert max(found) <= 520


def test_no_text_can_become_markup() -> None:
    text = page("x", [line_chart([0], [Line(POISON, [1.0])], x_label=POISON, y_label=POISON, caption=POISON)])
    assert Reader(text).wrong == []
    assert "<script" not in text


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (0, 1, 7, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 20, 8, [0, 5, 10, 15, 20]),
        (-0.13, 0.87, 7, [-0.2, 0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (91.2, 93.9, 7, [91, 91.5, 92, 92.5, 93, 93.5, 94]),
        (0, 0, 7, [0, 0.02, 0.04, 0.06, 0.08, 0.1]),
        (1 - 1e-16, 1, 7, [1, 1.02, 1.04, 1.06, 1.08, 1.1]),
    ],
)
def test_ticks_by_hand(low: float, high: float, most: int, expected: list[float]) -> None:
    assert ticks(low, high, most) == pytest.approx(expected)


def test_ticks_reach_around_everything() -> None:
    for exponent in range(-9, 10):
        for low, width in ((0.0, 1.0), (-3.7, 2.9), (123.4, 0.7), (-1.0, 6.1)):
            scale = 10.0**exponent
            found = ticks(low * scale, (low + width) * scale, 7)
            assert 2 <= len(found) <= 7
            assert found[0] <= low * scale + 1e-6 * scale
            assert found[-1] >= (low + width) * scale - 1e-6 * scale


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(BitlensError, match=f"1 to {MOST_LINES} lines in a chart, got 0"):
        chart([0])
    with pytest.raises(BitlensError, match=f"got {MOST_LINES + 1}: draw several"):
        chart([0], *[Line("a", [0])] * (MOST_LINES + 1))
    with pytest.raises(BitlensError, match="expected 2 values in the line 'a', got 1"):
        chart([0, 1], Line("a", [0]))
    with pytest.raises(BitlensError, match="expected 2 values in the line 'a', got 3"):
        chart([0, 1], Line("a", [0, 1], [0, 0, 0], [1, 1]))
    for x in ([], [1, 0], [0, 0], [math.nan], [math.inf]):
        with pytest.raises(BitlensError, match="ascending finite places"):
            chart(x, Line("a", [0.0] * len(x)))
    with pytest.raises(BitlensError, match="change the unit"):
        chart([0], Line("a", [math.inf]))
