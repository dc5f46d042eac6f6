"""`bitlens verify`: whether every engine here computes the network, and how close its maps are to the twin's."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bitlens.runtime.atomic_file import check_file, check_place, write_files_atomically
from bitlens.runtime.autodiff import spatial_activations
from bitlens.runtime.board_state import BoardLooks, board_state
from bitlens.runtime.certificate import (
    Certificate,
    certificate_bytes,
    certified,
    compared_certificates,
    read_certificate,
)
from bitlens.runtime.certificate.certificate_page import certificate_page
from bitlens.runtime.certificate.certificate_text import NO_TWIN, certificate_lines, comparison_lines
from bitlens.runtime.certificate.comparison import require_same_bundle
from bitlens.runtime.certificate.golden_fidelity import GoldenFidelity, MapsOfMethod, golden_fidelity
from bitlens.runtime.engines import AUTO, ENGINES, open_engine, present_engines
from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.evaluation.plan import Row
from bitlens.runtime.evaluation.work import parsed_rows
from bitlens.runtime.golden import golden_of
from bitlens.runtime.machine import this_machine
from bitlens.runtime.network import TWIN_PROGRAM, Network, open_network
from bitlens.runtime.parity import compare_engine
from bitlens.runtime.verbs.options import add_json, add_network, add_trust, note_untrusted

HELP = "replay the golden inputs on every engine and certify what comes out"
NEEDS = ()

CERTIFICATE = "certificate.json"
INDEX = "index.html"
METHODS_BY_DEFAULT = ("gradient", "grad_cam")
NO_METHODS = "none"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bitlens verify`."""
    add_network(parser)
    parser.add_argument("--engine", default=AUTO, help=f"one of {', '.join(ENGINES)} (default: every one present)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument(
        "--methods",
        help="whose maps are compared with the twin's, as in `bitlens evaluate`, or 'none' (default: "
        f"{','.join(METHODS_BY_DEFAULT)})",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PLACE",
        help=f"write the certificate: NAME.json, a page NAME.html, or both into a folder ({CERTIFICATE}, {INDEX})",
    )
    parser.add_argument(
        "--against", type=Path, metavar="OTHER.json", help="another machine's certificate of this bundle, to compare"
    )
    parser.add_argument(
        "--machine", default="", metavar="NAME", help="what to call this machine; the host's name is never written"
    )
    add_trust(parser)
    add_json(parser)


def chosen_rows(text: str | None, network: Network) -> tuple[Row, ...]:
    """Read --methods; those by default leave GradCAM out where there is no feature map to look at.

    Raises
    ------
    BitlensError
        If a method or an option is unknown.
    """
    if text == NO_METHODS:
        return ()
    if text is not None:
        return parsed_rows(text)
    has_maps = bool(spatial_activations(network.program))
    return parsed_rows(",".join(METHODS_BY_DEFAULT if has_maps else METHODS_BY_DEFAULT[:1]))


FILES = (".json", ".html", ".htm")
"""Ends of names that ask for one file; any other name is a folder's."""


def check_output(output: Path) -> None:
    """Refuse what could not be written, before the work.

    Raises
    ------
    BitlensError
        If no such file or folder can be made.
    """
    if output.suffix.lower() in FILES:
        check_file(output)
    else:
        for name in (CERTIFICATE, INDEX):
            check_place(output / name)


def written(place: Path, certificate: Certificate, page: str) -> None:
    """Write what the name of the place asks for.

    Raises
    ------
    BitlensError
        If it cannot be written.
    """
    content = certificate_bytes(certificate)
    if place.suffix.lower() in FILES:
        return write_files_atomically({place: content if place.suffix.lower() == ".json" else page.encode()})
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BitlensError(
            f"cannot make the folder {place} ({error.strerror}): give NAME.json, NAME.html or a folder"
        ) from error
    return write_files_atomically({place / CERTIFICATE: content, place / INDEX: page.encode()})


def verified_engines(network: Network, asked: str) -> tuple[str, ...]:
    """Name the engines to verify: the one that is asked for, or all that are present and exact.

    Raises
    ------
    BitlensError
        If the engine that is asked for is near by design.
    """
    if asked == AUTO:
        return tuple(name for name in present_engines(network) if ENGINES[name].is_exact)
    if asked in ENGINES and not ENGINES[asked].is_exact:
        raise BitlensError(
            f"engine {asked!r} is near the network, not equal to it; the manifest says how near: verify the exact "
            "engines, with --engine auto"
        )
    return (asked,)


def run(arguments: argparse.Namespace) -> int:
    """Certify, compare, write and print; 0 only if parity holds and, with --against, both machines agree."""
    network = open_network(arguments.network, trust=arguments.trust)
    engines = verified_engines(network, arguments.engine)
    rows = chosen_rows(arguments.methods, network)
    if not arguments.machine.isprintable():
        raise BitlensError(f"--machine is {arguments.machine!a}, expected printable text")
    golden = golden_of(network)
    other = None
    if arguments.against is not None:  # before the work
        other = read_certificate(arguments.against)
        with context(str(arguments.against)):
            require_same_bundle(other, network.sha256)
    if arguments.output is not None:
        check_output(arguments.output)
    before = board_state()
    opened = [open_engine(network, name, threads=arguments.threads) for name in engines]
    reference = open_engine(network, "reference")
    parities = [compare_engine(engine, reference, golden) for engine in opened]
    fidelity: GoldenFidelity | None = None
    maps: tuple[MapsOfMethod, ...] = ()
    why_none = NO_TWIN
    if not rows:
        why_none = "not asked for (--methods none)"
    elif network.program.is_full_precision:
        why_none = "this network is full precision: there is nothing to compare it with"
    elif network.has(TWIN_PROGRAM):
        fidelity, maps = golden_fidelity(network, opened[0], golden, rows)
    board = BoardLooks(before, board_state())
    certificate = certified(network, this_machine(arguments.machine), parities, fidelity, board)
    comparison = None if other is None else compared_certificates(certificate, other)
    if arguments.output is not None:
        page = certificate_page(certificate, golden, network.labels, maps, comparison, why_no_fidelity=why_none)
        written(arguments.output, certificate, page)
    if arguments.engine == AUTO:
        note_untrusted(network, however_slow=True)
    if arguments.json:
        facts = json.loads(certificate_bytes(certificate))
        if comparison is not None:
            facts["against"] = {
                "agree": comparison.agree,
                "differences": list(comparison.differences),
                "rows": [
                    {"what": row.what, "here": row.here, "there": row.there, "verdict": row.verdict}
                    for row in comparison.rows
                ],
            }
        print(json.dumps(facts))
    else:
        lines = certificate_lines(certificate, why_no_fidelity=why_none)
        if comparison is not None:
            lines += ["", *comparison_lines(comparison)]
        print("\n".join(lines))
    return 0 if certificate.holds and (comparison is None or comparison.agree) else 1
