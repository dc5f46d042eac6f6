"""`bitlens predict`: what is it, and how sure."""

from __future__ import annotations

import argparse
import json

import numpy as np

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
    logits = engine.forward(opened_image(arguments, network))[0].astype(np.float64)
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    order = np.argsort(-logits, kind="stable")[: max(1, arguments.top)]
    if arguments.json:
        classes = [
            {"class": int(index), "label": network.label(index), "logit": logits[index], "softmax": shares[index]}
            for index in order
        ]
        print(json.dumps({"engine": engine.info.name, "classes": classes}))
        return 0
    for index in order:
        print(f"{network.label(index):16} {100 * shares[index]:6.2f} %   logit {logits[index]:+.3f}")
    return 0
