"""`make bench`: time layers and networks, print tables, write out/bench/bench.json."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from bench import own_jobs, peer_jobs
from bench.cold_start import BOUND_MS, ColdStart, cold_starts, text_of_cold_starts
from bench.job import Absence, Group, Job
from bench.measurement import Table, measured
from bench.network_program import network_program
from bench.report import json_of, text_of_outcomes, text_of_table
from bench.shapes import LayerShape, NetworkShape, read_layers, read_networks
from bench.targets import outcomes
from bench.timing import time_jobs
from bitlens.runtime.atomic_file import write_bytes_atomically
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.machine import this_machine

_FOLDER = Path(__file__).parent
COLD_START = "cold_start"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _layer_jobs(shape: LayerShape) -> Iterator[Job | Absence]:
    yield from peer_jobs.layer_jobs(shape)
    yield from own_jobs.layer_jobs(shape)


def _network_jobs(shape: NetworkShape) -> Iterator[Job | Absence]:
    yield from peer_jobs.network_jobs(shape)
    yield from own_jobs.network_jobs(shape)


def _groups(only: Sequence[str]) -> Iterator[Group]:
    """Every layer and network that is asked for, made ready one at a time."""
    for layer in read_layers(_FOLDER / "layers.txt"):
        if not only or layer.name in only or "layers" in only:
            yield _group("layer", layer.name, layer.macs, _layer_jobs(layer))
    for network in read_networks(_FOLDER / "networks.txt"):
        if not only or network.name in only or "networks" in only:
            yield _group("network", network.name, 0, _network_jobs(network))


def _group(kind: str, name: str, macs: int, found: Iterator[Job | Absence]) -> Group:
    _say(f"{kind} {name}: models and checks")
    made = tuple(found)
    jobs = tuple(each for each in made if isinstance(each, Job))
    return Group(kind, name, macs, jobs, tuple(each for each in made if isinstance(each, Absence)))


def _table(group: Group, rounds: int) -> Table:
    name = f"{group.kind} {group.name}"
    return measured(group, time_jobs(group.jobs, rounds, lambda done: _say(f"{name}: round {done} of {rounds}")))


def _cold_starts(only: Sequence[str], rounds: int) -> tuple[str, tuple[ColdStart, ...]]:
    """Of the first network, the smallest; nothing if something else was asked for."""
    if only and COLD_START not in only:
        return "", ()
    shape = read_networks(_FOLDER / "networks.txt")[0]
    precision = shape.precisions[0]
    _say(f"cold start: {shape.name} {precision}")
    return f"{shape.name} {precision}", cold_starts(shape, network_program(shape, precision), rounds)


def main() -> int:
    """Run the benchmark; 1 if a result was wrong."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="visits of every engine (default: %(default)s)")
    parser.add_argument(
        "--only", default="", help="names from layers.txt and networks.txt, `layers`, `networks`, `cold_start`"
    )
    parser.add_argument("--output", type=Path, default=Path("out/bench"), help="folder (default: %(default)s)")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds is below 1")
    only = tuple(filter(None, options.only.split(",")))
    load_before = os.getloadavg()
    try:
        tables = [_table(group, options.rounds) for group in _groups(only)]
    except BitlensError as error:
        _say(str(error))
        return 2
    started, starts = _cold_starts(only, options.rounds)
    if not tables and not starts:
        parser.error(f"nothing is called {options.only}")
    found = outcomes(tables, own_jobs.cpu_features())
    facts: dict[str, object] = {
        "machine": asdict(this_machine()),
        "cpu_class": own_jobs.cpu_class(),
        "threads": 1,
        "rounds": options.rounds,
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "versions": peer_jobs.peer_versions(),
        COLD_START: {"network": started, "bound_ms": BOUND_MS, "engines": [asdict(each) for each in starts]},
    }
    print(f"{this_machine().processor}, {own_jobs.cpu_class()}; one thread, batch 1, {options.rounds} rounds\n")
    print("\n".join(text_of_table(table) for table in tables))
    print(text_of_outcomes(found))
    if starts:
        print(text_of_cold_starts(started, starts))
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "bench.json"
    write_bytes_atomically(path, json.dumps(json_of(tables, found, facts), indent=1, allow_nan=False).encode())
    _say(f"wrote {path}")
    return int(any(row.note.startswith("WRONG") for table in tables for row in table.rows))


if __name__ == "__main__":
    sys.exit(main())
