"""What did the training objective change? A Markdown table of runs, measured on the test images of their data set.

`BITLENS_DATA=... python examples/objectives.py runs/plain runs/guided --images 2000`

Score kept: probability of the predicted class once the less salient half of the pixels is noise, divided by that of the
whole image (signed ranking; 2111.14338). Agreement: cosine between the plain and the guided input gradient of the cross
entropy (2404.15024). Means over the images with 95 % percentile bootstrap intervals, 2,000 resamples; Wilson's interval
for the test accuracy, which the run measured on all test images. All seeds are 0.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bitlens.runtime.bootstrap import bootstrap_mean
from bitlens.runtime.errors import BitlensError
from bitlens.train.datasets import SplitDataset, open_dataset, stratified_split
from bitlens.train.fit import FitConfig
from bitlens.train.objective_measures import guided_agreement, replaced_scores, wilson_interval
from bitlens.train.run_folder import TrainedRun, load_run

COLUMNS = ("run", "precision", "objective", "test accuracy %", "accuracy on the rest %", "score kept", "agreement")


def objective_name(fit: FitConfig) -> str:
    """Say in a few words what a run lowered beside the cross entropy."""
    parts = ["cross entropy"]
    if fit.distil_weight > 0:
        parts.append(f"distillation {fit.distil_weight:g}")
    if fit.saliency_guided_weight > 0:
        ranking, share = fit.saliency_guided_ranking, fit.saliency_guided_share
        parts.append(f"saliency-guided {fit.saliency_guided_weight:g} ({ranking}, {share:g})")
    if fit.interpretable_gradient_weight > 0:
        parts.append(f"interpretable gradient {fit.interpretable_gradient_weight:g}")
    return " + ".join(parts)


def with_interval(mean: float, low: float, high: float, digits: int) -> str:
    """Write `mean [low, high]`."""
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def mean_of(values: NDArray[np.generic], digits: int = 3, factor: float = 1.0) -> str:
    """Write a mean over images with its bootstrap interval."""
    found = bootstrap_mean(values.astype(np.float64))
    return with_interval(factor * found.mean, factor * found.low, factor * found.high, digits)


def row(run: TrainedRun, data: SplitDataset, images: int) -> tuple[str, ...]:
    """Measure a run."""
    test = data.test()
    accuracy = run.metrics.test_accuracy
    low, high = wilson_interval(round(accuracy * len(test)), len(test))
    if images < len(test):  # a file may be in order of class
        chosen, _ = stratified_split(test.labels, images, seed=0)
        test = test.subset(chosen)
    scores = replaced_scores(run.model, test.images, test.labels)
    return (
        run.folder.name,
        run.config.precision,
        objective_name(run.config.fit),
        with_interval(100 * accuracy, 100 * low, 100 * high, 2),
        mean_of(scores.right_replaced, 1, 100.0),
        mean_of(scores.kept),
        mean_of(guided_agreement(run.model, test.images, test.labels)),
    )


def rows(folders: list[Path], images: int) -> Iterator[tuple[str, ...]]:
    """Measure one run after another; a data set is read once."""
    opened: dict[tuple[str, int], SplitDataset] = {}
    for folder in folders:
        run = load_run(folder)
        config = run.config
        key = (config.dataset, config.input_shape[1])
        if key not in opened:
            opened[key] = open_dataset(
                config.dataset, size=config.input_shape[1], report=lambda line: print(line, file=sys.stderr)
            )
        data = opened[key]
        if (data.input_shape, data.class_names) != (config.input_shape, config.labels):
            raise BitlensError(
                f"{config.dataset} has images of shape {data.input_shape} in {len(data.class_names)} classes, not those"
                f" that {folder} was trained on: give the data set of the run"
            )
        yield row(run, data, images)


def main() -> int:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders of `bitlens train`")
    parser.add_argument(
        "--images", type=int, default=2000, help="test images, each class with its share (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        for name in ("images", "threads"):
            if getattr(arguments, name) < 1:
                raise BitlensError(
                    f"--{name} must be at least 1, got {getattr(arguments, name)}: give a positive number"
                )
        torch.set_num_threads(arguments.threads)
        found = rows(arguments.runs, arguments.images)
        first = next(found)  # a bad folder is refused before the head of a table stands there
        print(f"| {' | '.join(COLUMNS)} |")
        print(f"|{'---|' * len(COLUMNS)}")
        for cells in (first, *found):
            print(f"| {' | '.join(cells)} |", flush=True)
    except BitlensError as error:
        print(f"objectives: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
