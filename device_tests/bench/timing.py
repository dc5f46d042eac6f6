"""Thread CPU time of calls that take turns, and ratios of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from bench.job import Call, Job, Seconds

_VISIT_SECONDS = 0.006
_FEWEST_CALLS, _MOST_CALLS = 2, 20


def interleaved(calls: Sequence[Call], rounds: int, report: Callable[[int], None] = lambda done: None) -> Seconds:
    """Time calls in turn: every round visits each of them and keeps the shortest of a few runs.

    Other load on the machine then meets all of them, and a ratio within a round is a fair one. Thread CPU time is the
    time of the calling thread alone: an engine must compute there.

    Returns
    -------
    float64 (rounds, calls)
        Seconds.
    """
    counts = []
    for call in calls:
        call()  # warm up
        counts.append(int(np.clip(_VISIT_SECONDS / max(_timed(call), 1e-7), _FEWEST_CALLS, _MOST_CALLS)))
    times = np.empty((rounds, len(calls)))
    for row in range(rounds):
        for column, (call, count) in enumerate(zip(calls, counts, strict=True)):
            times[row, column] = min(_timed(call) for _ in range(count))
        report(row + 1)
    return times


def _timed(call: Call) -> float:
    start = time.thread_time_ns()
    call()
    return (time.thread_time_ns() - start) * 1e-9


def time_jobs(jobs: Sequence[Job], rounds: int, report: Callable[[int], None] = lambda done: None) -> list[Seconds]:
    """Time jobs in turn: for each the seconds of its task, (rounds,)."""
    times = interleaved([call for job in jobs for call in job.calls], rounds, report)
    ends = np.cumsum([len(job.calls) for job in jobs])
    parts = np.split(times, ends[:-1], axis=1) if jobs else []
    return [job.seconds(part) for job, part in zip(jobs, parts, strict=True)]


def median_ratio(times: Seconds, others: Seconds) -> float:
    """Median over rounds of times / others, each within its round.

    A difference of two chains can be nothing or less where the machine was busy; such a round is left out, and the
    ratio is not a number if fewer than half remain.
    """
    usable = (times > 0) & (others > 0)
    if 2 * usable.sum() < len(times):
        return float("nan")
    return float(np.median(times[usable] / others[usable]))
