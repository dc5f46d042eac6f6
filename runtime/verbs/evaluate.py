"""`bitlens evaluate`: how far to trust the maps of networks, over many images."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bitlens.runtime.atomic_file import write_files_atomically
from bitlens.runtime.engines import AUTO, ENGINES
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.evaluation.candidate import Cast, open_cast
from bitlens.runtime.evaluation.evaluation_page import evaluation_page
from bitlens.runtime.evaluation.labelled_images import LabelledImages, announced_names, open_labelled_images
from bitlens.runtime.evaluation.merge import merged
from bitlens.runtime.evaluation.plan import Plan
from bitlens.runtime.evaluation.result import collected, evaluation_facts
from bitlens.runtime.evaluation.tables import markdown, tables
from bitlens.runtime.evaluation.work import Shard, do_missing, parsed_rows, planned
from bitlens.runtime.faithfulness import FAITHFULNESS
from bitlens.runtime.fidelity import METRICS
from bitlens.runtime.methods import METHODS
from bitlens.runtime.table import row_of
from bitlens.runtime.verbs.options import add_json, add_trust, note_untrusted

HELP = "measure on many images how far maps can be trusted: against the twin's, and on the network itself"
NEEDS = ()

EVALUATION = "evaluation.json"
INDEX = "index.html"
METHODS_BY_DEFAULT = "gradient,gradient_x_input,grad_cam"
DEAR = 100  # forward passes: a metric from there on is measured only where it is asked for
METRICS_BY_DEFAULT = ",".join((*METRICS, *(name for name, row in FAITHFULNESS.items() if row.forward_passes < DEAR)))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bitlens evaluate`."""
    parser.add_argument(
        "networks",
        type=Path,
        nargs="*",
        help=".bitlens files, several of one twin; give the twin's own too, which is faster",
    )
    add_cast_and_images(parser)
    parser.add_argument(
        "--methods",
        default=METHODS_BY_DEFAULT,
        help=f"'all', or some of {', '.join(METHODS)}, with options as in grad_cam:layer=act2 (default: %(default)s)",
    )
    parser.add_argument(
        "--metrics",
        default=METRICS_BY_DEFAULT,
        help=f"'all', or some of {', '.join((*METRICS, *FAITHFULNESS))} (default: those below {DEAR} passes)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("evaluation"), metavar="FOLDER", help="results (default: %(default)s)"
    )
    parser.add_argument("--shard", default="1/1", metavar="I/N", help="do the I-th part of N, then --merge them")
    parser.add_argument(
        "--merge", type=Path, nargs="+", metavar="FOLDER", help="put shards together into --output, nothing else"
    )
    add_json(parser)


def add_cast_and_images(parser: argparse.ArgumentParser, *, images: int | None = None) -> None:
    """Declare what `open_cast_and_images` reads, with the number of images where it is not all."""
    parser.add_argument(
        "--data",
        metavar="WHAT",
        help="an .npz with images (uint8 N, C, H, W) and labels, a folder <class>/*.png|jpg, or the test part of a "
        "data set by name",
    )
    parser.add_argument(
        "--images",
        type=int,
        metavar="N",
        default=images,
        help=f"how many, every class in proportion (default: {images or 'all'})",
    )
    parser.add_argument(
        "--other-seed", type=Path, metavar="NETWORK", help="trained with another seed: the baseline of two twins"
    )
    parser.add_argument("--engine", default=AUTO, help=f"{', '.join((AUTO, *ENGINES))} (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the choice of images, random maps and weights (default: %(default)s)"
    )
    add_trust(parser)


def open_cast_and_images(arguments: argparse.Namespace, networks: Sequence[Path]) -> tuple[Cast, LabelledImages]:
    """Open the networks and the images they are judged on, as `add_cast_and_images` declares them.

    Raises
    ------
    BitlensError
        If an option is missing or wrong, or something cannot be opened.
    """
    if arguments.data is None:
        known = ", ".join(announced_names())
        raise BitlensError(f"--data is missing: give an .npz, a folder of pictures, or a data set ({known or 'none'})")
    if arguments.seed < 0:
        raise BitlensError(f"--seed is {arguments.seed}, expected a whole number from 0 on")
    cast = open_cast(
        networks,
        other_seed=arguments.other_seed,
        engine=arguments.engine,
        threads=arguments.threads,
        seed=arguments.seed,
        trust=arguments.trust,
    )
    shape = cast.twin.program.image_type.shape
    images = open_labelled_images(arguments.data, shape, cast.labels, rule=cast.picture_rule)
    return cast, images.chosen(arguments.images, arguments.seed)


def say(line: str) -> None:
    """Tell the person who waits."""
    print(line, file=sys.stderr, flush=True)


def run(arguments: argparse.Namespace) -> int:
    """Do what is missing, then write and print the result if all is there."""
    if arguments.merge is not None:
        if arguments.networks or arguments.data:
            raise BitlensError("--merge puts finished shards together: leave the networks and --data out")
        plan = merged(arguments.merge, arguments.output)
    else:
        plan = _measured(arguments)
    result = collected(plan, [arguments.output])
    if result is None:
        say("this shard is done: put all of them together with `bitlens evaluate --merge FOLDER... --output FOLDER`")
        return 0
    facts = evaluation_facts(result)
    write_files_atomically(
        {
            arguments.output / EVALUATION: (json.dumps(facts, indent=1) + "\n").encode(),
            arguments.output / INDEX: evaluation_page(result).encode(),
        }
    )
    say(f"written: {arguments.output / EVALUATION}, {arguments.output / INDEX}")
    print(json.dumps(facts) if arguments.json else "\n".join(markdown(table) for table in tables(result)).rstrip())
    return 0


def _measured(arguments: argparse.Namespace) -> Plan:
    if not arguments.networks:
        raise BitlensError(
            "there is no network: give a .bitlens file that `bitlens export` wrote, or --merge FOLDER..."
        )
    shard = Shard.parsed(arguments.shard)
    rows = parsed_rows(arguments.methods)
    fidelity, faithfulness = parsed_metrics(arguments.metrics)
    cast, images = open_cast_and_images(arguments, arguments.networks)
    plan = planned(cast, images, rows, fidelity=fidelity, faithfulness=faithfulness, seed=arguments.seed)
    if arguments.engine == AUTO:
        note_untrusted(*cast.opened)
    do_missing(plan, cast, images, arguments.output, shard, say)
    return plan


def parsed_metrics(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read --metrics: fidelity and faithfulness metrics by name, each kind in the order of its table.

    Raises
    ------
    BitlensError
        If one is unknown or given twice.
    """
    names = [*METRICS, *FAITHFULNESS] if text == "all" else [part.strip() for part in text.split(",")]
    for name in names:
        row_of({**METRICS, **FAITHFULNESS}, "metric", name)
        if names.count(name) > 1:
            raise BitlensError(f"metric {name!r} is given twice: give it once")
    return tuple(name for name in METRICS if name in names), tuple(name for name in FAITHFULNESS if name in names)
