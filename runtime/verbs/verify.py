"""`bitlens verify`: whether every engine on this machine computes the network."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
from dataclasses import asdict
from pathlib import Path

from bitlens.runtime.atomic_file import write_text_atomically
from bitlens.runtime.engines import AUTO, ENGINES, open_engine, present_engines
from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.golden import golden_from_bytes
from bitlens.runtime.network import GOLDEN, Network, open_network
from bitlens.runtime.parity import GRADIENT_TOLERANCE, EngineParity, compare_engine
from bitlens.runtime.program_file import program_bytes
from bitlens.runtime.verbs.options import add_json, add_network, add_trust, note_untrusted

HELP = "replay the golden inputs on every engine and compare"
NEEDS = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bitlens verify`."""
    add_network(parser)
    parser.add_argument("--engine", default=AUTO, help=f"one of {', '.join(ENGINES)} (default: every one present)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="also write the result there")
    add_trust(parser)
    add_json(parser)


def compared(network: Network, engines: tuple[str, ...], threads: int) -> list[EngineParity]:
    """Replay the golden inputs on each engine.

    Raises
    ------
    BitlensError
        If the network was exported without golden inputs, or they are damaged.
    """
    if not network.has(GOLDEN):
        raise BitlensError(
            f"{network.source} has no golden inputs to replay: export a run folder, or a QONNX file with --images"
        )
    content = network.read(GOLDEN)
    with context(str(network.source / GOLDEN)):
        golden = golden_from_bytes(content)
    reference = open_engine(network, "reference")
    return [compare_engine(open_engine(network, name, threads=threads), reference, golden) for name in engines]


def certificate(network: Network, results: list[EngineParity]) -> dict[str, object]:
    """Say what was asked, where, and what came out, as JSON values."""
    return {
        "certificate_version": 1,
        "network": str(network.source),
        "bundle_sha256": network.sha256 or None,
        "program_sha256": hashlib.sha256(program_bytes(network.program)).hexdigest(),
        "machine": {"architecture": platform.machine(), "python": platform.python_version()},
        "gradient_tolerance": GRADIENT_TOLERANCE,
        "engines": [
            asdict(result)
            # JSON has no word for a number that is not finite.
            | {"gradient_error": result.gradient_error if math.isfinite(result.gradient_error) else None}
            | {"holds": result.holds}
            for result in results
        ],
        "holds": all(result.holds for result in results),
    }


def run(arguments: argparse.Namespace) -> int:
    """Print the comparison; 0 only if it holds on every engine."""
    network = open_network(arguments.network, trust=arguments.trust)
    engines = present_engines(network) if arguments.engine == AUTO else (arguments.engine,)
    if arguments.engine == AUTO:
        note_untrusted(network)
    results = compared(network, engines, arguments.threads)
    facts = certificate(network, results)
    if arguments.output is not None:
        write_text_atomically(arguments.output, json.dumps(facts, indent=2) + "\n")
    if arguments.json:
        print(json.dumps(facts))
    else:
        print(f"{network.source}: {results[0].images} golden images")
        for result in results:
            print(f"  {result.summary()}")
        print("numerical parity holds" if facts["holds"] else "numerical parity DOES NOT HOLD")
    return 0 if facts["holds"] else 1
