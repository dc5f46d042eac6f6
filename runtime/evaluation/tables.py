"""The tables of a result: for Markdown and for the page, cell by cell the same."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bitlens.runtime.bootstrap import BootstrapMean
from bitlens.runtime.evaluation.result import Result
from bitlens.runtime.faithfulness import FAITHFULNESS
from bitlens.runtime.fidelity import METRICS

TARGET = "Every map explains the class that the full-precision twin predicts, whatever the network itself says."
INTERVALS = "In brackets the 95 % bootstrap interval of the mean over the images."


@dataclass(frozen=True)
class Table:
    """A table of text."""

    caption: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def cell(mean: BootstrapMean, *, percent: bool = False) -> str:
    """Write a mean with its interval, and on how many images it is undefined.

    >>> cell(BootstrapMean(0.5, 0.25, 0.75, 10, 2))
    '0.500 (0.250 to 0.750), undefined on 2'
    """
    if not mean.images:
        return f"undefined on all {mean.undefined}"
    scale, digits, unit = (100, 2, " %") if percent else (1, 3, "")
    values = [scale * value for value in (mean.mean, mean.low, mean.high)]
    text = f"{values[0]:.{digits}f}{unit}"
    if not math.isnan(mean.low):
        text += f" ({values[1]:.{digits}f} to {values[2]:.{digits}f})"
    return text + (f", undefined on {mean.undefined}" if mean.undefined else "")


def _arrow(title: str, higher_is_better: bool) -> str:
    return f"{title} {'↑' if higher_is_better else '↓'}"


def tables(result: Result) -> list[Table]:
    """Lay out networks, fidelity and faithfulness."""
    plan = result.plan
    networks = Table(
        f"Networks on {plan.images} images of {plan.data}. {INTERVALS}",
        ("network", "precision", "accuracy", "says what the twin says", "engine"),
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
            (plan.rows[row].title, of, *(cell(result.fidelity(row, of, metric)) for metric in plan.fidelity))
            for row in result.method_rows
            for of in result.compared
        ]
        titles = (_arrow(METRICS[name].title, METRICS[name].higher_is_better) for name in plan.fidelity)
        caption = f"Fidelity: how close maps are to the twin's. {TARGET} {INTERVALS}"
        found.append(Table(caption, ("method", "maps of", *titles), tuple(rows)))
    if plan.faithfulness:
        rows = [
            (
                maps.title,
                network.name if judged else f"{network.name} (twin)",
                *(cell(result.faithfulness(judged, row, metric)) for metric in plan.faithfulness),
            )
            for row, maps in enumerate(plan.rows)
            for judged, network in enumerate(plan.judged)
        ]
        titles = (_arrow(FAITHFULNESS[name].title, FAITHFULNESS[name].higher_is_better) for name in plan.faithfulness)
        caption = f"Faithfulness: what maps say, tried on the network that they explain. {TARGET} {INTERVALS}"
        found.append(Table(caption, ("maps", "tried on", *titles), tuple(rows)))
    return found


def markdown(table: Table) -> str:
    """Write a table as Markdown, its caption above."""

    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"

    rule = "|" + "---|" * len(table.headers)
    return "\n".join([table.caption, "", line(table.headers), rule, *map(line, table.rows)]) + "\n"
