"""What a bench found: plain data, written as JSON and read back field by field."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bitlens.runtime.board_state import BoardLooks
from bitlens.runtime.bounded_file import read_at_most
from bitlens.runtime.certificate.certificate import CertifiedNetwork
from bitlens.runtime.engines import EngineInfo
from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.json_form import from_json, to_json, versioned_values
from bitlens.runtime.machine import Machine

BENCH_VERSION = 1
MAX_BENCH_BYTES = 2**24


@dataclass(frozen=True)
class Latency:
    """How long one call takes, in milliseconds on the wall.

    Parameters
    ----------
    p50, p95 : float
        Over all calls.
    smallest : float
    rounds : tuple of float
        Median of each round: how far they lie apart says how quiet the machine was.
    """

    p50: float
    p95: float
    smallest: float
    rounds: tuple[float, ...]


def latency_of(rounds_ms: Sequence[Sequence[float]]) -> Latency:
    """Sum up the calls of every round."""
    every = np.concatenate([np.asarray(times, np.float64) for times in rounds_ms])
    p50, p95 = np.percentile(every, [50, 95])
    return Latency(float(p50), float(p95), float(every.min()), tuple(float(np.median(times)) for times in rounds_ms))


@dataclass(frozen=True)
class BenchRow:
    """One task on one engine.

    Parameters
    ----------
    task : str
        `forward`, or a method with its options.
    engine : EngineInfo
    forward_passes, backward_passes : int
        What the task costs an image, at most.
    latency_ms : Latency or None
        None where there is no figure.
    calls, warm_up_calls : int
        Timed, and made before.
    cold_start_ms : tuple of float
        Of each new process: from its start to its first answer.
    peak_memory_bytes : int or None
        Of such a process, Python and NumPy included; None where the system does not say.
    board : BoardLooks or None
        Before the first call and after the last one.
    slowed_by : tuple of str
        What slowed the board down while it was timed.
    rank : int or None
        Place among the engines for this task, 1 the fastest; None for a slowed row and one without a figure.
    note : str
        Why there is no figure; empty if there is one.
    """

    task: str
    engine: EngineInfo
    forward_passes: int
    backward_passes: int
    latency_ms: Latency | None
    calls: int
    warm_up_calls: int
    cold_start_ms: tuple[float, ...]
    peak_memory_bytes: int | None
    board: BoardLooks | None
    slowed_by: tuple[str, ...]
    rank: int | None
    note: str


@dataclass(frozen=True)
class Bench:
    """What one machine needs for one network.

    Parameters
    ----------
    bitlens : str
        Version.
    network : CertifiedNetwork
    bundle_bytes : int
        Size of its file.
    image : str
        `golden`, the first of the bundle's own images, or `drawn`, noise.
    machine : Machine
    threads : int
    seconds : float
        That each row was measured for.
    load_average : tuple of float
        Of the last minute, before and after; empty where the system does not say.
    board : BoardLooks
        Before and after everything.
    rows : tuple of BenchRow
    """

    bitlens: str
    network: CertifiedNetwork
    bundle_bytes: int
    image: str
    machine: Machine
    threads: int
    seconds: float
    load_average: tuple[float, ...]
    board: BoardLooks
    rows: tuple[BenchRow, ...]


def ranked(rows: Sequence[BenchRow]) -> tuple[BenchRow, ...]:
    """Give each row its place among the engines of its task; slowed rows have none."""
    places: dict[tuple[str, str], int] = {}
    for task in {row.task for row in rows}:
        fit = [
            (row.latency_ms.p50, row.engine.name)
            for row in rows
            if row.task == task and row.latency_ms is not None and not row.slowed_by
        ]
        places |= {(task, name): place for place, (_, name) in enumerate(sorted(fit), 1)}
    return tuple(replace(row, rank=places.get((row.task, row.engine.name))) for row in rows)


def bench_bytes(bench: Bench) -> bytes:
    """Write it as JSON."""
    return (json.dumps({"bench_version": BENCH_VERSION} | to_json(bench), indent=1) + "\n").encode()


def bench_from_bytes(content: bytes) -> Bench:
    """Read one.

    Raises
    ------
    BitlensError
        If it is damaged, or made by a newer version.
    """
    facts = versioned_values(content, "bench", BENCH_VERSION, "bitlens bench --output NAME.json")
    bench = from_json(Bench, facts, "bench")
    names = [(row.task, row.engine.name) for row in bench.rows]
    if len(set(names)) != len(names):
        raise BitlensError("it is damaged: expected each task once on each engine")
    for row in bench.rows:
        times = [] if row.latency_ms is None else [row.latency_ms.p50, row.latency_ms.p95]
        if not all(math.isfinite(each) and each > 0 for each in times):
            raise BitlensError(f"it is damaged: {row.task} on {row.engine.name} takes no time")
    return bench


def read_bench(path: Path) -> Bench:
    """`bench_from_bytes` of a file.

    Raises
    ------
    BitlensError
        Also if there is no such file; the message names it.
    """
    content = read_at_most(path, MAX_BENCH_BYTES, "expected what `bitlens bench` wrote", what="the bench")
    with context(str(path)):
        return bench_from_bytes(content)
