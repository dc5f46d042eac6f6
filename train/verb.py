"""`bitlens train`: fit a network to a data set and write the run as one folder."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from bitlens.runtime.errors import BitlensError

if TYPE_CHECKING:
    from torch import nn

    from bitlens.train.fit import EpochRecord
    from bitlens.train.run_folder import TrainedRun

HELP = "train a network at any precision and write the run as one folder"
GOLDEN_IMAGES = 16
NEEDS = (("torch", "train"), ("brevitas", "train"), ("lightning_fabric", "train"), ("sklearn", "train"))
_ORIGINS = ("twin", "start")
"""Options that name a run whose weights come first."""
_NOT_RECORDED = frozenset({"verb", "output", "resume", "json", "recipes", "given"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bitlens train`."""
    parser.register("action", None, _Given)
    parser.set_defaults(given=frozenset())
    parser.add_argument("--recipes", action=_ListRecipes, help="list the recipes and exit")
    parser.add_argument(
        "--recipe",
        metavar="NAME_OR_FILE",
        help="take the options from a recipe, see --recipes; options given beside it come first",
    )
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--output", type=Path, metavar="RUN_FOLDER", help="where the run is written")
    place.add_argument(
        "--resume",
        type=Path,
        metavar="RUN_FOLDER",
        help="go on with a run that was interrupted, with the options it was begun with",
    )
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
    parser.add_argument(
        "--batch-size",
        type=int,
        default=64,
        metavar="IMAGES",
        help="images per step, over all processes together (default: %(default)s)",
    )
    parser.add_argument(
        "--learning-rate", type=float, default=2e-3, metavar="RATE", help="Adam's first rate (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default: %(default)s)")
    parser.add_argument("--twin", type=Path, metavar="RUN_FOLDER", help="full-precision run to fine-tune from")
    parser.add_argument(
        "--start",
        type=Path,
        metavar="RUN_FOLDER",
        help="run of the same network and precision on other pictures, to start from all its layers but the last",
    )
    parser.add_argument(
        "--distil",
        type=float,
        default=0.0,
        metavar="WEIGHT",
        help="share of the loss, 0..1, that pulls towards the answers of --twin (default: %(default)s)",
    )
    parser.add_argument(
        "--distil-temperature",
        type=float,
        default=4.0,
        metavar="T",
        help="softens both networks' answers for --distil (default: %(default)s)",
    )
    parser.add_argument(
        "--label-smoothing",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of each target that is spread over all classes (default: %(default)s)",
    )
    parser.add_argument(
        "--saliency-guided",
        type=float,
        default=0.0,
        metavar="WEIGHT",
        help="ask for the same answer without the least salient pixels (arXiv 2111.14338; 2411.05858 for low-bit "
        "networks): factor of this loss, 1 in the papers; a step takes about three times as long then "
        "(default: %(default)s, off)",
    )
    parser.add_argument(
        "--replaced-share",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="share of the pixels that --saliency-guided replaces by noise; the paper's example is 0.5 "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--ranking",
        choices=("signed", "absolute"),
        default="signed",
        help="which pixels --saliency-guided takes for the least salient: those with the most negative derivative, as "
        "the paper's code does, or with the smallest in size (default: %(default)s)",
    )
    parser.add_argument(
        "--interpretable-gradient",
        type=float,
        default=0.0,
        metavar="WEIGHT",
        help="draw the input gradient towards the guided one (arXiv 2404.15024): factor of this loss, 7.5e-3 in the "
        "paper; a step takes about four times as long then (default: %(default)s, off)",
    )
    parser.add_argument(
        "--patience",
        type=int,
        metavar="EPOCHS",
        help="stop after so many epochs without a better result on the held-out part of the training images, and keep "
        "the best epoch's weights (default: never stop)",
    )
    parser.add_argument(
        "--accelerator", choices=("cpu", "cuda"), default="cpu", help="what computes (default: %(default)s)"
    )
    parser.add_argument("--devices", type=int, default=1, help="processes per machine (default: %(default)s)")
    parser.add_argument("--nodes", type=int, default=1, help="machines (default: %(default)s)")
    parser.add_argument("--mixed-precision", choices=("16", "bf16"), help="arithmetic on a GPU (default: float32)")
    parser.add_argument(
        "--checkpoint-every",
        type=int,
        default=500,
        metavar="STEPS",
        help="steps between checkpoints within an epoch; one follows every epoch (default: %(default)s)",
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="after every epoch show, on a page in RUN_FOLDER, what the network looks at in a few held-out images, and "
        "how alike that is to what its --twin looks at",
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.epilog = "Where tensorboard is installed (bitlens[tensorboard]), its event files are written to RUN_FOLDER."


class _Given(argparse.Action):
    """Stores a value, as argparse does by itself, and notes that it was given: a recipe does not overrule it."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option: str | None = None
    ) -> None:
        setattr(namespace, self.dest, values)
        namespace.given |= {self.dest}


class _ListRecipes(argparse.Action):
    """Prints what `--recipe` takes."""

    def __init__(self, option_strings: list[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help, default=argparse.SUPPRESS)

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option: str | None = None
    ) -> None:
        from bitlens.train.recipe import read_recipe, recipe_names

        names = recipe_names()
        width = max(map(len, names))
        for name in names:
            print(f"{name:{width}}  {read_recipe(name).title}")
        parser.exit()


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

    from bitlens.export.hand_over import CONFIG_FILE
    from bitlens.runtime.atomic_file import check_replaceable
    from bitlens.train.checkpoint import Checkpoints
    from bitlens.train.datasets import open_dataset, stratified_split
    from bitlens.train.fit import FitConfig, accuracy, checkpointed_epochs, fit, held_out_split
    from bitlens.train.models import MODELS, build_model
    from bitlens.train.precision import FULL_PRECISION
    from bitlens.train.processes import Processes, open_fabric, say
    from bitlens.train.run_folder import (
        RUN_ENTRIES,
        RunConfig,
        RunMetrics,
        package_versions,
        run_reference,
        save_run,
    )
    from bitlens.train.unfinished_run import UnfinishedRun, begin, epoch_log, recorded_options
    from bitlens.train.watch import WATCH_FOLDER, Subject, Watcher

    resuming = arguments.resume is not None
    if resuming:
        unfinished = UnfinishedRun(arguments.resume)
        if not unfinished.folder.exists() and (arguments.resume / CONFIG_FILE).exists():
            _print_line(f"{arguments.resume} is finished: nothing to resume")
            return 0
        arguments = _resumed(arguments, recorded_options(unfinished))
    elif arguments.recipe is not None:
        arguments = _from_recipe(arguments)
    unfinished = UnfinishedRun(arguments.output)
    if arguments.threads < 1:
        raise BitlensError(f"--threads must be at least 1, got {arguments.threads}: give a positive number")
    check_replaceable(arguments.output, RUN_ENTRIES)
    if not resuming and unfinished.command.exists():
        raise BitlensError(
            f"{arguments.output} holds an unfinished run: go on with --resume {arguments.output}, "
            f"or remove {unfinished.folder}"
        )
    torch.set_num_threads(arguments.threads)
    config = FitConfig(
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
        label_smoothing=arguments.label_smoothing,
        distil_weight=arguments.distil,
        distil_temperature=arguments.distil_temperature,
        saliency_guided_weight=arguments.saliency_guided,
        saliency_guided_share=arguments.replaced_share,
        saliency_guided_ranking=arguments.ranking,
        interpretable_gradient_weight=arguments.interpretable_gradient,
        patience=arguments.patience,
    )
    checkpoints = Checkpoints(unfinished.state, arguments.checkpoint_every)
    processes = Processes(arguments.accelerator, arguments.devices, arguments.nodes, arguments.mixed_precision)
    if config.distil_weight > 0 and arguments.twin is None:
        raise BitlensError("--distil needs the twin's answers: add --twin RUN_FOLDER")
    fabric = open_fabric(processes)
    fabric.launch()  # from here on every process does the same; the first one writes
    with fabric.rank_zero_first(local=True):  # one process of a machine downloads
        data = open_dataset(arguments.data, size=arguments.size, report=lambda line: say(fabric, line))
    model = build_model(
        arguments.model,
        arguments.precision,
        data.input_shape,
        len(data.class_names),
        arguments.width,
        seed=arguments.seed,
    )
    origins = _first_weights(arguments, model)
    teacher = origins["twin"].model if "twin" in origins else None
    references = {name: run_reference(arguments.output, origin) for name, origin in origins.items()}
    hashes = {f"{name}_sha256": references[name].sha256 if name in references else None for name in _ORIGINS}
    for name, reference in references.items():
        if resuming and vars(arguments)[f"{name}_sha256"] != reference.sha256:
            raise BitlensError(
                f"the {name} {vars(arguments)[name]} was trained again after {arguments.output} was begun: remove "
                f"{unfinished.folder} and train anew"
            )
    training = data.train()
    behind = checkpointed_epochs(unfinished.state) if resuming and unfinished.state.exists() else ()
    watcher = None
    with ExitStack() as stack:
        log = None
        if fabric.is_global_zero:
            if not resuming:
                begin(unfinished, _options(arguments) | hashes)
            log = stack.enter_context(epoch_log(unfinished, behind))
            if arguments.watch:
                watcher = Watcher(
                    unfinished.watch,
                    model,
                    training.subset(held_out_split(training.labels, config)[1]),
                    Subject(arguments.model, arguments.precision, data.name, arguments.precision == FULL_PRECISION),
                    seed=config.seed,
                    epochs=config.epochs,
                    twin=teacher,
                    behind=len(behind),
                )
                _print_line(f"watch: open {watcher.page}")

        def progress(record: EpochRecord) -> None:
            if log is not None:
                log.write(record)
                _print_progress(record)

        result = fit(
            model,
            training,
            config,
            progress,
            data.augment,
            fabric=fabric,
            teacher=teacher,
            checkpoints=checkpoints,
            watch=None if watcher is None else watcher.look,
        )
    if not fabric.is_global_zero:
        return 0
    if watcher is not None:
        best = max(result.epochs, key=lambda record: record.validation_accuracy)
        watcher.finish(best.epoch if config.patience is not None else len(result.epochs))
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
        twin=references.get("twin"),
        start=references.get("start"),
        versions=package_versions(),
        processes=processes,
    )
    few, _ = stratified_split(test.labels, min(GOLDEN_IMAGES, len(test)), seed=0)  # some files are in order of class
    samples = test.subset(few)
    save_run(
        arguments.output,
        model,
        run_config,
        metrics,
        samples,
        test_images=len(test),
        events=unfinished.events,
        watch=None if watcher is None else unfinished.watch,
    )
    if watcher is not None:
        _print_line(f"watch: {arguments.output / WATCH_FOLDER / watcher.page.name}")
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


def _from_recipe(arguments: argparse.Namespace) -> argparse.Namespace:
    """Fill in what the command line leaves to the recipe."""
    from bitlens.export.hand_over import CONFIG_FILE
    from bitlens.train.recipe import options_of, read_recipe

    recipe = read_recipe(arguments.recipe)
    options = vars(options_of(recipe, add_arguments))
    kept = {name: getattr(arguments, name) for name in _given(arguments)}
    merged = argparse.Namespace(**vars(arguments) | options | kept)
    merged.output = arguments.output
    if recipe.twin is not None and merged.twin is None:
        merged.twin = arguments.output.parent / recipe.twin
        if not (merged.twin / CONFIG_FILE).exists():
            raise BitlensError(
                f"recipe {recipe.name} fine-tunes the network of recipe {recipe.twin}, looked for at {merged.twin}: "
                f"first run `bitlens train --recipe {recipe.twin} --output {merged.twin}`, or give another --twin"
            )
    return merged


def _given(arguments: argparse.Namespace) -> frozenset[str]:
    """Name the options that stood on the command line; a flag that is set was given, for its default is not to be."""
    flags = {name for name, value in vars(arguments).items() if value is True}
    given: frozenset[str] = arguments.given | flags
    return given


def _first_weights(arguments: argparse.Namespace, model: nn.Module) -> dict[str, TrainedRun]:
    """Load into `model` the weights of the runs in `_ORIGINS` that are given, and return those runs."""
    from bitlens.train.models import initialise_from_pretrained, initialise_from_twin
    from bitlens.train.precision import FULL_PRECISION
    from bitlens.train.run_folder import load_run

    paths = {name: vars(arguments)[name] for name in _ORIGINS if vars(arguments)[name] is not None}
    if len(paths) > 1:
        raise BitlensError("--twin and --start both give the first weights: leave one out")
    for path in paths.values():
        if path.resolve() == arguments.output.resolve():
            raise BitlensError(f"--output {arguments.output} would replace {path}: choose another folder")
    origins = {name: load_run(path) for name, path in paths.items()}
    if "twin" in origins:
        precision = origins["twin"].config.precision
        if precision != FULL_PRECISION:
            raise BitlensError(
                f"{arguments.twin} has precision {precision}, expected {FULL_PRECISION}: "
                "fine-tune from a full-precision run"
            )
        initialise_from_twin(model, origins["twin"].model.state_dict())
    if "start" in origins:
        initialise_from_pretrained(model, origins["start"].model.state_dict())
    return origins


def _options(arguments: argparse.Namespace) -> dict[str, object]:
    """Give what `--resume` needs to know, with paths that hold from every folder."""
    from bitlens.train.datasets import DATASETS

    given = {name: value for name, value in vars(arguments).items() if name not in _NOT_RECORDED}
    for name in _ORIGINS:
        if given[name] is not None:
            given[name] = str(given[name].resolve())
    if given["data"] not in DATASETS:
        given["data"] = str(Path(given["data"]).resolve())
    return given


def _resumed(arguments: argparse.Namespace, recorded: dict[str, object]) -> argparse.Namespace:
    """Give the options that a run was begun with, in the place of those of `--resume`."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    defaults = vars(parser.parse_args(["--resume", str(arguments.resume)]))
    options = _options(arguments)
    for name in sorted(_given(arguments) & options.keys()):
        if options[name] != recorded.get(name):
            raise BitlensError(
                f"--{name.replace('_', '-')} {options[name]} contradicts the run in {arguments.resume}, which was "
                f"begun with {recorded.get(name)}: leave it out"
            )
    missing = sorted({*defaults, *(f"{name}_sha256" for name in _ORIGINS)} - _NOT_RECORDED - recorded.keys())
    if missing:
        raise BitlensError(f"the run in {arguments.resume} does not say its {missing[0]}: train it anew")
    merged = argparse.Namespace(**defaults | recorded)
    merged.output, merged.resume, merged.json = arguments.resume, None, arguments.json
    for name in _ORIGINS:
        if vars(merged)[name] is not None:
            setattr(merged, name, Path(vars(merged)[name]))
    return merged


def _print_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print_progress(record: EpochRecord) -> None:
    _print_line(
        f"epoch {record.epoch}/{record.epochs}  loss {record.loss:.4f}  "
        f"held out {100 * record.validation_accuracy:.1f} %  {record.seconds_left:.0f} s left"
    )
