"""Options that mean the same in every verb."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bitlens.runtime.bundle_file import SUFFIX
from bitlens.runtime.engines import AUTO, ENGINES, Engine, capable_engines, open_engine, present_engines
from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.image import program_input, read_image
from bitlens.runtime.network import Network, open_network
from bitlens.runtime.program import Array
from bitlens.runtime.shipped import FOR_PHOTOGRAPHS, SHIPPED, network_path, shipped_bundle

_NETWORK = ".bitlens file that `bitlens export` wrote, a .program file, or a network that comes with bitlens: {}"


def add_network(parser: argparse.ArgumentParser) -> None:
    """Declare the network to work on."""
    parser.add_argument("network", type=network_path, help=_NETWORK.format(", ".join(SHIPPED)))


def add_optional_network(parser: argparse.ArgumentParser) -> None:
    """Declare the network to work on, one that comes with bitlens where none is named."""
    parser.add_argument(
        "network",
        type=network_path,
        nargs="?",
        default=shipped_bundle(FOR_PHOTOGRAPHS),
        help=f"{_NETWORK.format(', '.join(SHIPPED))} (default: {FOR_PHOTOGRAPHS})",
    )


def add_image(parser: argparse.ArgumentParser) -> None:
    """Declare the image to work on."""
    parser.add_argument(
        "image",
        type=Path,
        help="picture of any size, or .npy of codes 0..255 or floats 0..1, of the network's size",
    )


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Declare which engine runs it, and whether the twin does."""
    parser.add_argument("--engine", default=AUTO, help=f"{', '.join((AUTO, *ENGINES))} (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument(
        "--twin", action="store_true", help="use the full-precision twin exported beside it (reference engine)"
    )
    add_trust(parser)


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Declare that the network is trusted this once."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="let engines parse its files although it is not on your trust list",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declare output for scripts."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def note(line: str) -> None:
    """Say something on the side: the result alone goes to standard output."""
    print(f"bitlens: {line}", file=sys.stderr)


def note_untrusted(*networks: Network, however_slow: bool = False) -> None:
    """Say it, once, if an engine is passed over because networks are not trusted: a faster one, or any one at all."""
    passed_over = {}
    for network in networks:
        present = present_engines(network)
        able = capable_engines(network)
        faster = able if however_slow else able[: able.index(present[0])]
        passed_over[str(network.source)] = set(faster) - set(present)
    strangers = [source for source, engines in passed_over.items() if engines]
    if strangers:
        engines = sorted(set().union(*passed_over.values()))
        fallback = next(present_engines(each)[0] for each in networks if passed_over[str(each.source)])
        note(
            f"{', '.join(strangers)} {'is' if len(strangers) == 1 else 'are'} not on your list of trusted networks, so "
            f"{' and '.join(engines)} {'does' if len(engines) == 1 else 'do'} not parse "
            f"{'its' if len(strangers) == 1 else 'their'} files; running on {fallback} "
            f"(`bitlens trust {' '.join(strangers)}` or --trust changes that)"
        )


def opened_engine(arguments: argparse.Namespace) -> tuple[Network, Engine]:
    """Open what `add_network` and `add_engine` name; a network that is not trusted runs on an engine it cannot harm.

    Raises
    ------
    BitlensError
        If it cannot be opened, or has no twin where one is asked for.
    """
    network = open_network(arguments.network, trust=arguments.trust)
    if arguments.twin:
        twin = network.twin()
        if twin is None:
            raise BitlensError(
                f"{network.source} was exported without a twin: train it with --twin, or leave --twin out"
            )
        network = twin
        if arguments.engine not in (AUTO, "reference"):
            raise BitlensError(
                f"engine {arguments.engine!r} does not read the twin, a bare program: leave --engine out"
            )
    engine = open_engine(network, arguments.engine, threads=arguments.threads)
    if arguments.engine == AUTO:
        note_untrusted(network)
    return network, engine


def opened_image(arguments: argparse.Namespace, network: Network) -> Array:
    """Read the image (1, C, H, W) that `add_image` names and make it fit; what was done to a picture is said aside.

    Raises
    ------
    BitlensError
        If it cannot be read or does not fit the network.
    """
    if arguments.image.suffix in (SUFFIX, ".program"):
        raise BitlensError(f"{arguments.image} is a network, expected an image: give the image after it")
    image = read_image(arguments.image, network.program.image_type.shape, rule=network.picture_rule, report=note)
    with context(str(arguments.image)):
        program_input(network.program, image)
        if len(image) != 1:
            raise BitlensError(f"it holds {len(image)} images, expected one")
    return image


def chosen_target(text: str, network: Network, predicted: int, classes: int) -> int:
    """Turn --target into a class: `predicted`, a number, or a label.

    Raises
    ------
    BitlensError
        If it is none of them.
    """
    if text == "predicted":
        return predicted
    if text in network.labels:
        return network.labels.index(text)
    if text.isdecimal() and int(text) < classes:
        return int(text)
    known = ", ".join(network.labels) or f"0 to {classes - 1}"
    raise BitlensError(f"target {text!r} is no class: choose 'predicted' or one of {known}")
