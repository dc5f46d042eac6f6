"""`bitlens train`: fit a network to a data set and write the run as one folder."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bitlens.runtime.errors import BitlensError

if TYPE_CHECKING:
    from bitlens.train.fit import EpochRecord

HELP = "train a network at any precision and write the run as one folder"
GOLDEN_IMAGES = 16
NEEDS = (("torch", "train"), ("brevitas", "train"), ("sklearn", "train"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bitlens train`."""
    parser.add_argument("--output", type=Path, required=True, metavar="RUN_FOLDER", help="where the run is written")
    parser.add_argument(
        "--data",
        default="digits",
        metavar="NAME_OR_FOLDER",
        help="digits, mnist, fashion-mnist, cifar10, or a folder that holds train/<class>/*.jpg (default: %(default)s)",
    )
    parser.add_argument(
        "--size", type=int, metavar="PIXELS", help="side that the pictures of a folder are resized to (default: 64)"
    )
    parser.add_argument("--model", default="lenet", help="network (default: %(default)s)")
    parser.add_argument(
        "--precision",
        default="w4a4",
        help="fp32, one word such as w1a1 w2a2 w2a4 w4a4, or a comma-separated word per layer (default: %(default)s)",
    )
    parser.add_argument("--width", type=int, help="channels of the first layer (default: the network's own)")
    parser.add_argument("--epochs", type=int, default=20, help="passes over the training images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default: %(default)s)")
    parser.add_argument("--twin", type=Path, metavar="RUN_FOLDER", help="full-precision run to fine-tune from")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Train as the options say; progress goes to stderr, the result to stdout.

    Returns
    -------
    int
        0.

    Raises
    ------
    BitlensError
        If an option cannot be honoured; nothing is written then.
    """
    import torch

    from bitlens.export.hand_over import RUN_FILES
    from bitlens.runtime.atomic_file import check_replaceable
    from bitlens.train.datasets import open_dataset, stratified_split
    from bitlens.train.fit import FitConfig, accuracy, fit
    from bitlens.train.models import MODELS, build_model, initialise_from_twin
    from bitlens.train.precision import FULL_PRECISION
    from bitlens.train.run_folder import (
        RunConfig,
        RunMetrics,
        load_run,
        package_versions,
        save_run,
        twin_reference,
    )

    if arguments.threads < 1:
        raise BitlensError(f"--threads must be at least 1, got {arguments.threads}: give a positive number")
    check_replaceable(arguments.output, RUN_FILES)
    torch.set_num_threads(arguments.threads)
    config = FitConfig(epochs=arguments.epochs, seed=arguments.seed)
    data = open_dataset(arguments.data, size=arguments.size, report=_print_line)
    model = build_model(
        arguments.model,
        arguments.precision,
        data.input_shape,
        len(data.class_names),
        arguments.width,
        seed=arguments.seed,
    )
    twin = None
    if arguments.twin is not None:
        if arguments.twin.resolve() == arguments.output.resolve():
            raise BitlensError(f"--output {arguments.output} would replace the twin: choose another folder")
        origin = load_run(arguments.twin)
        if origin.config.precision != FULL_PRECISION:
            raise BitlensError(
                f"{arguments.twin} has precision {origin.config.precision}, expected {FULL_PRECISION}: "
                "fine-tune from a full-precision run"
            )
        initialise_from_twin(model, origin.model.state_dict())
        twin = twin_reference(arguments.output, origin)
    result = fit(model, data.train(), config, _print_progress, data.augment)
    test = data.test()  # opened only now: nothing before could have looked at it
    metrics = RunMetrics(result.epochs, accuracy(model, test.images, test.labels))
    run_config = RunConfig(
        model=arguments.model,
        precision=arguments.precision,
        width=MODELS[arguments.model].width if arguments.width is None else arguments.width,
        dataset=data.name,
        input_shape=data.input_shape,
        labels=data.class_names,
        fit=config,
        twin=twin,
        versions=package_versions(),
    )
    few, _ = stratified_split(test.labels, min(GOLDEN_IMAGES, len(test)), seed=0)  # some files are in order of class
    samples = test.subset(few)
    save_run(arguments.output, model, run_config, metrics, samples)
    if arguments.json:
        summary = {
            "run": str(arguments.output),
            "model": arguments.model,
            "precision": arguments.precision,
            "test_accuracy": metrics.test_accuracy,
            "test_images": len(test),
            "seconds": round(result.epochs[-1].seconds, 3),
        }
        print(json.dumps(summary))
    else:
        print(
            f"{arguments.output}: {arguments.model} {arguments.precision}, "
            f"{100 * metrics.test_accuracy:.2f} % of {len(test)} test images right"
        )
    return 0


def _print_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print_progress(record: EpochRecord) -> None:
    _print_line(
        f"epoch {record.epoch}/{record.epochs}  loss {record.loss:.4f}  "
        f"held out {100 * record.validation_accuracy:.1f} %  {record.seconds_left:.0f} s left"
    )
