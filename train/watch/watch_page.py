"""The page of a run that is watched: maps per epoch, how alike they are, and what all of it means."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitlens.runtime.bootstrap import BootstrapMean
from bitlens.runtime.fidelity import METRICS
from bitlens.runtime.line_chart import Line, line_chart
from bitlens.runtime.methods import METHODS, SURROGATE
from bitlens.runtime.page import Html, PictureCell, page, paragraph, picture_grid, section, table
from bitlens.runtime.pictures import Picture, colour_map_picture, enlarge, image_picture, overlay, png_bytes
from bitlens.train.watch.look import Look
from bitlens.train.watch.model_maps import Float32
from bitlens.train.watch.watched_images import WatchedImages

COMPARED_BY = ("spearman", "top_k_iou", "ssim")
"""Names in `METRICS`."""
MOST_EPOCHS_SHOWN = 10
REFRESH_SECONDS = 5
_SIDE = 84  # pixels of a panel, at least
_OPACITY = 0.6


@dataclass(frozen=True)
class PageContent:
    """What the page shows.

    Parameters
    ----------
    subject : tuple of str
        Model, precision and data set.
    full_precision : bool
        Whether the network's gradient is a derivative.
    images : WatchedImages
    layer : str or None
        What GradCAM looks at.
    epochs : int
        Epochs in all.
    looks : tuple of Look
        First epoch first, at least one.
    maps_of : callable
        Gives the maps (shown, H, W) after an epoch, by method.
    twin : mapping or None
        Maps of the twin, by method.
    finished : bool
        Whether the last look is among them; the page no longer renews itself then.
    kept_epoch : int or None
        After which the kept weights were reached.
    """

    subject: tuple[str, str, str]
    full_precision: bool
    images: WatchedImages
    layer: str | None
    epochs: int
    looks: tuple[Look, ...]
    maps_of: Callable[[int], Mapping[str, Float32]]
    twin: Mapping[str, Float32] | None
    finished: bool
    kept_epoch: int | None


def shown_epochs(epochs: Sequence[int], most: int = MOST_EPOCHS_SHOWN) -> list[int]:
    """Thin out to `most` (at least 2): the first, the last, and evenly between.

    >>> shown_epochs(range(101), 5)
    [0, 25, 50, 75, 100]
    """
    if len(epochs) <= most:
        return list(epochs)
    return [epochs[int(place)] for place in np.rint(np.linspace(0, len(epochs) - 1, most))]


def watch_page(content: PageContent) -> str:
    """Compose the page; it renews itself until the run is finished."""
    model, precision, dataset = content.subject
    columns = shown_epochs([look.epoch for look in content.looks])[::-1]
    maps = {epoch: content.maps_of(epoch) for epoch in columns}
    methods = list(maps[columns[0]])
    parts = [section("Where it is", [paragraph(_status(content)), *_charts(content)])]
    for method in methods:
        heading = f"{method} at {content.layer}" if method == "grad_cam" else method
        parts.append(section(heading, _maps_section(content, method, columns, maps)))
    parts.append(section("All numbers", _tables(content, methods)))
    parts.append(section("What this shows", [paragraph(text) for text in _meanings(content)]))
    title = f"{model} {precision} on {dataset}: what it looks at while it learns"
    return page(title, parts, refresh_seconds=None if content.finished else REFRESH_SECONDS)


def _status(content: PageContent) -> str:
    last = content.looks[-1]
    reached = f"{100 * last.accuracy:.2f} % of the held-out images are right after epoch {last.epoch}"
    if content.finished:
        kept = ""
        if content.kept_epoch is not None and content.kept_epoch != last.epoch:
            kept = f" The weights that were kept are those after epoch {content.kept_epoch}."
        return f"Training is finished: {reached}.{kept}"
    return (
        f"Epoch {last.epoch} of {content.epochs} is done: {reached}. This page renews itself every {REFRESH_SECONDS} "
        "seconds; there is something new after each epoch."
    )


def _charts(content: PageContent) -> list[Html]:
    epochs = [look.epoch for look in content.looks]
    if len(epochs) < 2:
        return []
    charts = [
        line_chart(
            epochs,
            [Line("held-out accuracy", [100 * look.accuracy for look in content.looks])],
            x_label="epoch",
            y_label="per cent",
            caption="Held-out accuracy",
        )
    ]
    for method in content.looks[-1].similarity:
        lines = []
        for name in COMPARED_BY:
            means = [look.similarity.get(method, {}).get(name) for look in content.looks]
            values, low, high = (
                [math.nan if mean is None else float(getattr(mean, part)) for mean in means]
                for part in ("mean", "low", "high")
            )
            lines.append(Line(METRICS[name].title, values, low, high))
        charts.append(
            line_chart(
                epochs,
                lines,
                x_label="epoch",
                y_label="similarity, 1 is best",
                caption=f"How alike the {method} maps are to those of {_comparison(content)}, mean over "
                f"{len(content.images.data)} held-out images with its 95 % interval",
            )
        )
    return charts


def _comparison(content: PageContent) -> str:
    return "the full-precision twin" if content.twin is not None else "the look before"


def _maps_section(
    content: PageContent, method: str, columns: Sequence[int], maps: Mapping[int, Mapping[str, Float32]]
) -> list[Html]:
    data, names = content.images.data, content.images.data.class_names
    by_epoch = {look.epoch: look for look in content.looks}
    rows: list[list[PictureCell | None]] = []
    headers = []
    for place in range(content.images.shown):
        label = names[int(data.labels[place])]
        headers.append(label)
        image = data.images[place].numpy()
        row: list[PictureCell | None] = [PictureCell(_png(image_picture(image)), f"image of class {label}")]
        if content.twin is not None:
            row.append(_cell(image, content.twin[method][place], method, f"twin's {method} map for {label}", ""))
        for epoch in columns:
            look = by_epoch[epoch]
            notes = []
            if method in look.shown_similarity:
                value = look.shown_similarity[method][place]
                notes.append("\N{EN DASH}" if math.isnan(value) else _signed(value, 2))
            if look.predicted[place] != int(data.labels[place]):
                notes.append(f"({names[look.predicted[place]]})")
            alt = f"{method} map for {label} after epoch {epoch}"
            row.append(_cell(image, maps[epoch][method][place], method, alt, " ".join(notes)))
        rows.append(row)
    twin = [] if content.twin is None else ["twin"]
    titles = ["image", *twin, *(f"epoch {epoch}" if epoch else "start" for epoch in columns)]
    other = "the twin's map" if content.twin is not None else "the map of the look before"
    below = (
        f"Each map has its own scale. Below it: Spearman's correlation with {other}, and in brackets the class that "
        "the network took the image for, where it is wrong."
    )
    grid = picture_grid(headers, titles, rows, "Newest epoch first")
    return [paragraph(METHODS[method].meaning), paragraph(below), grid]


def _cell(image: npt.NDArray[np.uint8], values: Float32, method: str, alt: str, note: str) -> PictureCell | None:
    if not np.isfinite(values).all():
        return None
    signed = METHODS[method].signed
    heat = colour_map_picture(values, signed)
    shown = heat if signed else overlay(image_picture(image), heat, _OPACITY)
    return PictureCell(_png(shown), alt, note)


def _png(shown: Picture) -> bytes:
    return png_bytes(enlarge(shown, max(1, -(-_SIDE // min(shown.shape[:2])))))


def _tables(content: PageContent, methods: Sequence[str]) -> list[Html]:
    newest_first = content.looks[::-1]
    training = table(
        ("epoch", "training loss", "held-out accuracy", f"loss on the {len(content.images.data)} watched images"),
        [
            (str(look.epoch), _number(look.training_loss), f"{100 * look.accuracy:.2f} %", _number(look.loss))
            for look in newest_first
        ],
        "Newest epoch first; losses in nats",
    )
    parts = [training]
    for method in methods:
        rows = []
        for look in newest_first:
            if method in look.similarity:
                means = [look.similarity[method][name] for name in COMPARED_BY]
                undefined = ", ".join(str(mean.undefined) for mean in means)
                rows.append((str(look.epoch), *map(_interval, means), undefined))
        if rows:
            parts.append(
                table(
                    ("epoch", *(METRICS[name].title for name in COMPARED_BY), "undefined"),
                    rows,
                    f"{method}: similarity to the maps of {_comparison(content)}, mean (95 % interval) over "
                    f"{len(content.images.data)} images. Undefined: images left out of each mean, because a map is "
                    "constant or zero.",
                )
            )
    return parts


def _number(value: float) -> str:
    return "\N{EN DASH}" if math.isnan(value) else f"{value:.4f}"


def _signed(value: float, digits: int) -> str:
    # Adding 0 makes -0 a 0.
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _interval(mean: BootstrapMean) -> str:
    if math.isnan(mean.mean):
        return "\N{EN DASH}"
    if math.isnan(mean.low):
        return _signed(mean.mean, 3)
    return f"{_signed(mean.mean, 3)} ({_signed(mean.low, 3)}\N{EN DASH}{_signed(mean.high, 3)})"


def _meanings(content: PageContent) -> list[str]:
    texts = [
        "The images are from the held-out part of the training set: the network never learns from them, and the test "
        "set stays closed. Each is explained for the class it belongs to, in every column, so that the maps can be "
        "compared."
    ]
    if not content.full_precision:
        texts.append(SURROGATE)
    if content.twin is not None:
        texts.append(
            "The twin is the full-precision network that this one was started from; its maps do not change. What it "
            "looks at is a standard to compare with, not the truth."
        )
    else:
        texts.append(
            "There is no twin to compare with (--twin gives one): the similarity is that to the epoch before, and says "
            "how much the explanation still moves."
        )
    texts += [f"{METRICS[name].title}. {METRICS[name].meaning}" for name in COMPARED_BY]
    return texts
