"""The page of an evaluation: what was found, in charts, tables and a few maps, and what each of them means."""

from __future__ import annotations

import math

from bitlens.runtime.evaluation.plan import RANDOM_MAP, UNIFORM_MAP
from bitlens.runtime.evaluation.result import Result
from bitlens.runtime.evaluation.tables import TARGET, Table, tables
from bitlens.runtime.faithfulness import FAITHFULNESS, FaithfulnessMetric
from bitlens.runtime.fidelity import METRICS, Metric
from bitlens.runtime.interval_chart import IntervalRow, interval_chart
from bitlens.runtime.methods import METHODS, SURROGATE
from bitlens.runtime.page import Html, PictureCell, page, paragraph, picture_grid, section, table
from bitlens.runtime.pictures import Picture, colour_map_picture, enlarge, image_picture, png_bytes
from bitlens.runtime.program import Array

_SIDE = 112  # pixels of a picture, at least

BASELINES = (
    "A number says something only beside its baselines. Another seed: a full-precision network of the same form, "
    "trained with another seed; two full-precision networks are no closer than that. Random weights: the twin with "
    "the weights of each layer in a random order; a map that is as close as this one shows the image, not what was "
    "learned. Random map: noise. Uniform map: the same value everywhere, which ranks no pixel."
)


def evaluation_page(result: Result) -> str:
    """Compose the page: one file that refers to nothing outside itself."""
    plan = result.plan
    laid_out = tables(result)
    sections = [section("The networks", [_table(laid_out[0])])]
    sections.append(section("What this shows", [paragraph(text) for text in _meanings(result)]))
    kinds = [kind for kind, chosen in (("fidelity", plan.fidelity), ("faithfulness", plan.faithfulness)) if chosen]
    for kind, full in zip(kinds, laid_out[1:], strict=True):
        charts = _fidelity_charts(result) if kind == "fidelity" else _faithfulness_charts(result)
        heading = "Fidelity: close to the twin?" if kind == "fidelity" else "Faithfulness: does the network agree?"
        sections.append(section(heading, [*charts, _table(full)]))
    for row in result.method_rows:
        sections.append(section(f"Examples: {plan.rows[row].title}", [_examples(result, row)]))
    sections.append(section("Metrics", [_metric_table(result)]))
    names = ", ".join(judged.name for judged in plan.judged)
    return page(f"How far to trust the maps of {names}", sections)


def _table(laid_out: Table) -> Html:
    return Html(paragraph(laid_out.note) + table(laid_out.headers, laid_out.rows, laid_out.caption))


def _better(higher: bool) -> str:
    return "higher is better" if higher else "lower is better"


def _fidelity_charts(result: Result) -> list[Html]:
    plan, charts = result.plan, []
    for name in plan.fidelity:
        rows = []
        for row in result.method_rows:
            for of in result.compared:
                mean = result.fidelity(row, of, name)
                title = plan.rows[row].title
                rows.append(IntervalRow(title, of, mean.mean, mean.low, mean.high, of in plan.baselines))
        entry = METRICS[name]
        charts.append(
            interval_chart(
                rows,
                x_label=f"{entry.title}, {_better(entry.higher_is_better)}",
                caption=f"{entry.title} of maps and the twin's maps, mean over {plan.images} images with its 95 % "
                "interval; hollow: baselines",
            )
        )
    return charts


def _faithfulness_charts(result: Result) -> list[Html]:
    plan, charts = result.plan, []
    for name in plan.faithfulness:
        rows = []
        for judged, network in enumerate(plan.judged):
            group = network.name if judged else f"{network.name} (twin)"
            for row, maps in enumerate(plan.rows):
                mean = result.faithfulness(judged, row, name)
                rows.append(IntervalRow(group, maps.title, mean.mean, mean.low, mean.high, maps.is_control))
        entry = FAITHFULNESS[name]
        charts.append(
            interval_chart(
                rows,
                x_label=f"{entry.title}, {_better(entry.higher_is_better)}",
                caption=f"{entry.title} of each network's own maps, mean over {plan.images} images with its 95 % "
                "interval; hollow: maps that look at no network",
            )
        )
    return charts


def _enlarged(picture: Picture) -> bytes:
    return png_bytes(enlarge(picture, max(1, -(-_SIDE // min(picture.shape[:2])))))


def _examples(result: Result, row: int) -> Html:
    plan = result.plan
    maps = plan.rows[row]
    signed = METHODS[maps.method].signed
    images = result.chunks[0, row, 0]["example_images"]
    shown_metric = next((name for name in ("spearman", *plan.fidelity) if name in plan.fidelity), "")
    headers, cells = [], []
    for place, image in enumerate(images):
        label = int(result.per_image(0, 0, "labels")[place])
        headers.append(f"{_label(result, label)}, image {place + 1}")
        line = [PictureCell(_enlarged(image_picture(_displayable(image))), f"the image, a {_label(result, label)}")]
        for judged, network in enumerate(plan.judged):
            said = _label(result, int(result.per_image(judged, 0, "predicted")[place]))
            note = f"says {said}"
            if judged and shown_metric:
                value = float(result.per_image(judged, row, f"fidelity.{shown_metric}")[place])
                note += f"; {METRICS[shown_metric].title} " + ("undefined" if math.isnan(value) else f"{value:.2f}")
            one = result.chunks[judged, row, 0]["example_maps"][place]
            line.append(
                PictureCell(
                    _enlarged(colour_map_picture(one, signed)),
                    f"{maps.title} map of {network.name}, which {note}",
                    note,
                )
            )
        cells.append(line)
    columns = ["image", *(one.name if place else f"{one.name} (twin)" for place, one in enumerate(plan.judged))]
    explained = f"{METHODS[maps.method].meaning} {'Red: for, blue: against, white: nothing.' if signed else ''}"
    return picture_grid(headers, columns, cells, explained.strip())


def _displayable(image: Array) -> Picture:
    """Colours as they are; of any other number of channels the first one."""
    return image if image.shape[0] in (1, 3) else image[:1]


def _label(result: Result, index: int) -> str:
    labels = result.plan.labels
    return labels[index] if index < len(labels) else str(index)


def _meanings(result: Result) -> list[str]:
    plan = result.plan
    texts = [
        "A map says which pixels a decision was based on, as far as its method can tell. Fidelity asks whether a "
        "quantized network's map is its full-precision twin's; it does not ask whether either is right. Faithfulness "
        "changes the image where the map points and watches the network's own answer.",
        TARGET,
        BASELINES,
    ]
    if any(METHODS[plan.rows[row].method].needs_gradient for row in result.method_rows) and len(plan.judged) > 1:
        texts.append(f"On the quantized networks: {SURROGATE[0].lower()}{SURROGATE[1:]}")
    if plan.faithfulness:
        texts.append(
            f"Faithfulness stands beside that of a {RANDOM_MAP} and a {UNIFORM_MAP}, and beside the twin's own: a map "
            "that is no better than they are says nothing about this network."
        )
    return texts


def _metric_table(result: Result) -> Html:
    entries: list[Metric | FaithfulnessMetric] = [
        *(METRICS[name] for name in result.plan.fidelity),
        *(FAITHFULNESS[name] for name in result.plan.faithfulness),
    ]
    rows = [
        (
            entry.title,
            f"{entry.lowest:g} to {entry.highest:g}" if math.isfinite(entry.highest) else f"from {entry.lowest:g}",
            _better(entry.higher_is_better),
            entry.meaning,
            entry.undefined,
        )
        for entry in entries
    ]
    return table(("metric", "range", "direction", "meaning", "undefined where"), rows, "What each number means")
