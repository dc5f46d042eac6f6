"""A model card: what a trained network is, how it was made, how good it is and what it must not be used for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bitlens.train.fit import EpochRecord, FitConfig

if TYPE_CHECKING:
    from bitlens.train.run_folder import RunConfig, RunMetrics

CARD_FILE = "MODEL_CARD.md"

# How `bitlens train` calls what differs from its default.
_OPTIONS = {
    "learning_rate": "--learning-rate",
    "seed": "--seed",
    "label_smoothing": "--label-smoothing",
    "distil_weight": "--distil",
    "distil_temperature": "--distil-temperature",
    "saliency_guided_weight": "--saliency-guided",
    "saliency_guided_share": "--replaced-share",
    "saliency_guided_ranking": "--ranking",
    "interpretable_gradient_weight": "--interpretable-gradient",
    "patience": "--patience",
}


def training_command(config: RunConfig, output: str = "RUN_FOLDER", twin: str = "TWIN_FOLDER") -> str:
    """Give the command that trains such a network again; a folder of pictures is called by its last name alone."""
    data = Path(config.dataset).name
    words = ["bitlens train", f"--data {data}", f"--model {config.model}", f"--precision {config.precision}"]
    words += [f"--width {config.width}", f"--epochs {config.fit.epochs}", f"--batch-size {config.fit.batch_size}"]
    defaults = {item.name: item.default for item in dataclasses.fields(FitConfig)}
    for name, option in _OPTIONS.items():
        value = getattr(config.fit, name)
        if value != defaults[name]:
            words.append(f"{option} {value:g}" if isinstance(value, float) else f"{option} {value}")
    if config.twin is not None:
        words.append(f"--twin {twin}")
    if config.start is not None:
        words.append("--start START_FOLDER")
    return " ".join([*words, f"--output {output}"])


def model_card(config: RunConfig, metrics: RunMetrics, test_images: int | None = None) -> str:
    """Write the card of a run, in Markdown.

    Parameters
    ----------
    config : RunConfig
    metrics : RunMetrics
    test_images : int, optional
        Size of the test set, where it is known.
    """
    channels, height, width = config.input_shape
    colour = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
    data = Path(config.dataset).name
    versions = ", ".join(f"{name} {version}" for name, version in config.versions.items())
    of = "the test images" if test_images is None else f"{test_images} test images"
    origin = "a full-precision network, its twin" if config.twin is not None else "random weights"
    if config.start is not None:
        origin = "a network trained on other pictures"
    facts = (
        ("network", f"`{config.model}`, {config.width} channels in its first layer"),
        ("precision", f"`{config.precision}` (w: bits of a weight, a: bits of an activation; first and last layer 8)"),
        ("input", f"{height}x{width} pixels, {colour}, codes 0..255"),
        ("classes", ", ".join(config.labels)),
        ("data", data),
        ("right", f"{100 * metrics.test_accuracy:.2f} % of {of}, looked at once, after training"),
        *(_training_facts(metrics.epochs, origin) if metrics.epochs else ()),
        ("made with", versions),
    )
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts)
    return f"""# {config.model} {config.precision}, {data}

| | |
|---|---|
{rows}

Made by:

    {training_command(config)}

## What it is for

To show low-bit inference and saliency on a board, and to compare with. It names one of its {len(config.labels)} classes
for every picture, also for one that shows none of them, and its probabilities were not calibrated. It was tested on
{data} alone: pictures from a camera differ from those, and how many it gets right there nobody measured. Do not let it
decide anything about people, or anything that can do harm.
"""


def _training_facts(epochs: Sequence[EpochRecord], origin: str) -> tuple[tuple[str, str], ...]:
    last = epochs[-1]
    return (
        ("right while training", f"{100 * last.validation_accuracy:.2f} % of a held-out part of the training images"),
        ("trained", f"{len(epochs)} epochs, {last.seconds / 60:.0f} minutes, begun from {origin}"),
    )
