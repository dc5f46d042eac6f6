"""`bitlens bench`: how long this network takes on this machine, and how much memory."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from bitlens.runtime.atomic_file import check_file, write_bytes_atomically
from bitlens.runtime.bench.bench_text import bench_lines, comparison_lines
from bitlens.runtime.bench.comparison import compared_benches, require_same_network
from bitlens.runtime.bench.first_answer import FirstAnswer, first_answer
from bitlens.runtime.bench.result import Bench, BenchRow, bench_bytes, latency_of, ranked, read_bench
from bitlens.runtime.bench.rounds import ROUNDS, Visits, measured_in_rounds, timed_ms
from bitlens.runtime.bench.task import FORWARD, Task, image_for, parsed_tasks
from bitlens.runtime.board_state import BoardLooks, board_state
from bitlens.runtime.certificate.certificate import certified_network
from bitlens.runtime.engines import ENGINES, Engine, open_engine, present_engines
from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.json_form import to_json
from bitlens.runtime.machine import this_machine
from bitlens.runtime.methods import METHODS
from bitlens.runtime.network import Network, open_network
from bitlens.runtime.program import Array
from bitlens.runtime.verbs.options import add_json, add_network, add_trust, note_untrusted

HELP = "time the forward pass and every method on every engine of this machine, with memory and temperature"
NEEDS = ()

ALL = "all"
STARTS = 3
"""New processes for a forward pass; a map gets one."""

LONGEST_MAP_SECONDS = 20.0
"""A map that is expected to take longer is left out, unless it is asked for by name."""

BACKWARD_COST = 2.0
"""A backward pass in forward passes, for that expectation alone."""


@dataclass(frozen=True)
class Place:
    """A row to be: a task on an engine, and what does it; `note` says why nothing can."""

    task: Task
    engine: Engine
    call: Callable[[], object] | None
    note: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bitlens bench`."""
    add_network(parser)
    parser.add_argument(
        "--methods",
        default=ALL,
        help=f"'all', 'none' (the forward pass alone), or some of {', '.join(METHODS)}, with options as in "
        f"grad_cam:layer=act2 (default: all that take less than {LONGEST_MAP_SECONDS:g} s a map)",
    )
    parser.add_argument("--engines", default=ALL, help=f"some of {', '.join(ENGINES)} (default: every one present)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="to measure each row for, after its warm-up (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, metavar="NAME.json", help="write the result")
    parser.add_argument(
        "--compare", type=Path, metavar="OTHER.json", help="another bench of this network, to show the ratios"
    )
    parser.add_argument(
        "--machine", default="", metavar="NAME", help="what to call this machine; the host's name is never written"
    )
    add_trust(parser)
    add_json(parser)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def chosen_engines(text: str, network: Network) -> tuple[str, ...]:
    """Read --engines.

    Raises
    ------
    BitlensError
        If one is given twice; whether it can be opened shows when it is.
    """
    if text == ALL:
        return present_engines(network)
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if names.count(name) > 1:
            raise BitlensError(f"engine {name!r} is given twice: give it once")
    return names


def places(engine: Engine, tasks: Sequence[Task], image: Array, *, whatever_it_takes: bool) -> list[Place]:
    """Make the tasks ready on one engine: what cannot run there, or would take too long, says why."""
    engine.forward(image)
    forward_ms = timed_ms(lambda: engine.forward(image))
    found = []
    for task in tasks:
        try:
            passes = task.passes(engine.program)
            call = task.call(engine, image)
        except BitlensError as error:
            found.append(Place(task, engine, None, str(error)))
            continue
        expected_s = forward_ms / 1e3 * (passes.forward + BACKWARD_COST * passes.backward)
        if task.title != FORWARD and expected_s > LONGEST_MAP_SECONDS and not whatever_it_takes:
            found.append(Place(task, engine, None, f"left out, about {expected_s:.0f} s a map: --methods {task.title}"))
            continue
        found.append(Place(task, engine, call))
    return found


def _starts(place: Place, path: Path, *, threads: int, trust: bool) -> tuple[tuple[FirstAnswer, ...], str]:
    """Start processes for a row; why there are none where that fails."""
    count = STARTS if place.task.title == FORWARD else 1
    name, title = place.engine.info.name, place.task.title
    try:
        return tuple(first_answer(path, name, title, threads=threads, trust=trust) for _ in range(count)), ""
    except BitlensError as error:
        return (), str(error)


def _row(place: Place, visits: Visits, starts: tuple[FirstAnswer, ...], note: str) -> BenchRow:
    passes = place.task.passes(place.engine.program)
    memory = [start.peak_memory_bytes for start in starts if start.peak_memory_bytes is not None]
    return BenchRow(
        task=place.task.title,
        engine=place.engine.info,
        forward_passes=passes.forward,
        backward_passes=passes.backward,
        latency_ms=latency_of(visits.rounds_ms) if visits.rounds_ms else None,
        calls=sum(map(len, visits.rounds_ms)),
        warm_up_calls=visits.warm_up_calls,
        cold_start_ms=tuple(start.cold_start_ms for start in starts),
        peak_memory_bytes=max(memory, default=None),
        board=BoardLooks(visits.looks[0].before, visits.looks[-1].after) if visits.looks else None,
        slowed_by=visits.slowed_by,
        rank=None,
        note=note,
    )


def benched(network: Network, engines: Sequence[Engine], tasks: Sequence[Task], arguments: argparse.Namespace) -> Bench:
    """Measure: new processes first, then calls that take turns."""
    load_before, before = _load(), board_state()
    image, which = image_for(network)
    by_name = arguments.methods != ALL
    every = [each for engine in engines for each in places(engine, tasks, image, whatever_it_takes=by_name)]
    ready = [place for place in every if place.call is not None]
    _say(f"{len(ready)} rows of about {arguments.seconds:g} s each; first a new process for each")
    starts: dict[int, tuple[tuple[FirstAnswer, ...], str]] = {}
    for place in ready:
        starts[id(place)] = _starts(place, arguments.network, threads=arguments.threads, trust=network.trusted)
    _say("warm-up")
    visits = measured_in_rounds(
        [place.call for place in ready if place.call is not None],
        arguments.seconds,
        board_state,
        lambda done: _say(f"round {done} of {ROUNDS}"),
    )
    measured = dict(zip(map(id, ready), visits, strict=True))
    rows = []
    for place in every:
        answers, why = starts.get(id(place), ((), ""))
        visited = measured.get(id(place), Visits(0, problem=place.note))
        rows.append(_row(place, visited, answers, visited.problem or why))
    return Bench(
        bitlens=version("bitlens"),
        network=certified_network(network),
        bundle_bytes=network.source.stat().st_size,
        image=which,
        machine=this_machine(arguments.machine),
        threads=arguments.threads,
        seconds=arguments.seconds,
        load_average=(*load_before, *_load()),
        board=BoardLooks(before, board_state()),
        rows=ranked(rows),
    )


def _load() -> tuple[float, ...]:
    try:
        return (os.getloadavg()[0],)
    except OSError:
        return ()


def run(arguments: argparse.Namespace) -> int:
    """Measure, write, print; 0 only if every row that was asked for by name has a figure."""
    if not arguments.machine.isprintable():
        raise BitlensError(f"--machine is {arguments.machine!a}, expected printable text")
    if not 0 < arguments.seconds <= 3600:
        raise BitlensError(f"--seconds is {arguments.seconds:g}, expected more than 0 and at most 3600")
    network = open_network(arguments.network, trust=arguments.trust)
    tasks = parsed_tasks(arguments.methods)
    names = chosen_engines(arguments.engines, network)
    other = None
    if arguments.compare is not None:  # before the work
        other = read_bench(arguments.compare)
        with context(str(arguments.compare)):
            require_same_network(other, certified_network(network).program_sha256)
    if arguments.output is not None:
        check_file(arguments.output)
    engines = [open_engine(network, name, threads=arguments.threads) for name in names]
    bench = benched(network, engines, tasks, arguments)
    if arguments.output is not None:
        write_bytes_atomically(arguments.output, bench_bytes(bench))
    if arguments.engines == ALL:
        note_untrusted(network, however_slow=True)
    comparison = None if other is None else compared_benches(bench, other)
    if arguments.json:
        facts = json.loads(bench_bytes(bench))
        if comparison is not None:
            facts["compared"] = to_json(comparison)
        print(json.dumps(facts))
    else:
        lines = bench_lines(bench)
        if comparison is not None:
            lines += ["", *comparison_lines(comparison, str(arguments.compare))]
        print("\n".join(lines))
    asked = arguments.methods != ALL
    return int(any(row.latency_ms is None and (asked or row.task == FORWARD) for row in bench.rows))
