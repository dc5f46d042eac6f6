"""`bitlens predict`: what is it, and how sure."""

from __future__ import annotations

import argparse
import json

from bitlens.runtime.top_classes import ranked_classes
from bitlens.runtime.verbs.options import (
    add_engine,
    add_image,
    add_json,
    add_optional_network,
    opened_engine,
    opened_image,
)

HELP = "classify one image"
NEEDS = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bitlens predict`."""
    add_optional_network(parser)
    add_image(parser)
    parser.add_argument("--top", type=int, default=5, help="classes to list (default: %(default)s)")
    add_engine(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the most likely classes, the first one first."""
    network, engine = opened_engine(arguments)
    logits = engine.forward(opened_image(arguments, network))[0]
    classes = ranked_classes(logits, network, max(1, arguments.top))
    if arguments.json:
        print(json.dumps({"engine": engine.info.name, "classes": [each.said for each in classes]}))
        return 0
    for each in classes:
        print(f"{each.label:16} {100 * each.softmax:6.2f} %   logit {each.logit:+.3f}")
    return 0
