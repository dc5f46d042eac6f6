"""The tables of a result: for Markdown and for the page, cell by cell the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bitlens.runtime.bootstrap import BootstrapMean
from bitlens.runtime.evaluation.result import Result
from bitlens.runtime.faithfulness import FAITHFULNESS
from bitlens.runtime.fidelity import METRICS

TARGET = "Every map explains the class that the full-precision twin predicts, whatever the network itself says."
UNDEFINED = "undefined on"
INTERVALS = "In brackets the 95 % bootstrap interval of the mean over the images."


@dataclass(frozen=True)
class Table:
    """A table of text, with what must be known to read it."""

    caption: str
    note: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def number(value: float, digits: int) -> str:
    """Write a number with a minus sign that is told apart from a dash, and no sign before a zero.

    >>> number(-0.25, 2), number(-0.0001, 2)
    ('\u22120.25', '0.00')
    """
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if not text.strip("-0.") else text.replace("-", "\u2212")


def cell(mean: BootstrapMean, *, percent: bool = False) -> str:
    """Write a mean with its interval; a dash where it is undefined on every image.

    >>> cell(BootstrapMean(0.5, 0.25, 0.75, 10, 2))
    '0.500 (0.250\u20130.750)'
    """
    if not mean.images:
        return "\u2013"
    scale, digits = (100, 2) if percent else (1, 3)
    value, low, high = (number(scale * part, digits) for part in (mean.mean, mean.low, mean.high))
    return value if math.isnan(mean.low) else f"{value} ({low}\u2013{high})"


def undefined(means: Sequence[BootstrapMean]) -> str:
    """Say on how many images the metrics of one row are undefined: one number, or the least and the most.

    >>> undefined([BootstrapMean(0.5, 0.25, 0.75, 10, 2), BootstrapMean(0.5, 0.25, 0.75, 12, 0)])
    '0 to 2'
    """
    counts = sorted({mean.undefined for mean in means})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _arrow(title: str, higher_is_better: bool) -> str:
    return f"{title} {'↑' if higher_is_better else '↓'}"


def _cells(means: Sequence[BootstrapMean]) -> tuple[str, ...]:
    return (*map(cell, means), undefined(means))


def tables(result: Result) -> list[Table]:
    """Lay out networks, fidelity and faithfulness."""
    plan = result.plan
    networks = Table(
        f"Networks on {plan.images} images of {plan.data}",
        INTERVALS,
        ("network", "precision", "accuracy, %", "says what the twin says, %", "engine"),
        tuple(
            (
                network.name if place else f"{network.name} (twin)",
                network.precision or "not said",
                cell(result.accuracy(place), percent=True),
                cell(result.agreement(place), percent=True),
                network.engine,
            )
            for place, network in enumerate(plan.judged)
        ),
    )
    found = [networks]
    if plan.fidelity:
        rows = [
            (plan.rows[row].title, of, *_cells([result.fidelity(row, of, metric) for metric in plan.fidelity]))
            for row in result.method_rows
            for of in result.compared
        ]
        titles = (_arrow(METRICS[name].title, METRICS[name].higher_is_better) for name in plan.fidelity)
        caption = "Fidelity: how close maps are to the twin's"
        found.append(Table(caption, f"{TARGET} {INTERVALS}", ("method", "maps of", *titles, UNDEFINED), tuple(rows)))
    if plan.faithfulness:
        rows = [
            (
                maps.title,
                network.name if judged else f"{network.name} (twin)",
                *_cells([result.faithfulness(judged, row, metric) for metric in plan.faithfulness]),
            )
            for row, maps in enumerate(plan.rows)
            for judged, network in enumerate(plan.judged)
        ]
        titles = (_arrow(FAITHFULNESS[name].title, FAITHFULNESS[name].higher_is_better) for name in plan.faithfulness)
        caption = "Faithfulness: what maps say, tried on the network that they explain"
        found.append(Table(caption, f"{TARGET} {INTERVALS}", ("maps", "tried on", *titles, UNDEFINED), tuple(rows)))
    return found


def markdown(table: Table) -> str:
    """Write a table as Markdown, its caption and note above."""

    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"

    rule = "|" + "---|" * len(table.headers)
    return (
        "\n".join([f"{table.caption}. {table.note}".strip(), "", line(table.headers), rule, *map(line, table.rows)])
        + "\n"
    )
