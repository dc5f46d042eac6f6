"""Calls that take turns: every round visits each of them, so that other load on the machine meets them all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bitlens.runtime.board_state import BoardLooks, BoardState
from bitlens.runtime.errors import BitlensError

ROUNDS = 5
MOST_CALLS = 2000
"""In one visit: more would say no more."""

WARM_UP_SHARE = 0.2
MOST_WARM_UP_CALLS = 100

Call = Callable[[], object]


@dataclass
class Visits:
    """What was measured of one call.

    Parameters
    ----------
    warm_up_calls : int
        Before anything was kept.
    rounds_ms : list of list of float
        Every call of every visit.
    looks : list of BoardLooks
        At the board, before and after each visit.
    problem : str
        Why there are none; empty if there are.
    """

    warm_up_calls: int
    rounds_ms: list[list[float]] = field(default_factory=list)
    looks: list[BoardLooks] = field(default_factory=list)
    problem: str = ""

    @property
    def slowed_by(self) -> tuple[str, ...]:
        """What slowed the board down during a visit."""
        return tuple(dict.fromkeys(name for look in self.looks for name in look.slowed_by))


def timed_ms(call: Call) -> float:
    """Milliseconds of one call, by the clock on the wall: what a user waits for."""
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e6


def warmed_up(call: Call, seconds: float) -> int:
    """Call it until a share of its time is spent, at least once; give how often."""
    budget_ms = 1e3 * seconds * WARM_UP_SHARE
    calls, spent_ms = 1, timed_ms(call)  # the first call lays out plans and loads graphs
    while spent_ms < budget_ms and calls < MOST_WARM_UP_CALLS:
        spent_ms += timed_ms(call)
        calls += 1
    return calls


def _warmed_up(call: Call, seconds: float) -> Visits:
    try:
        return Visits(warmed_up(call, seconds))
    except BitlensError as error:  # a method that asks for a feature map where there is none, say
        return Visits(0, problem=str(error))


def measured_in_rounds(
    calls: Sequence[Call],
    seconds: float,
    look: Callable[[], BoardState],
    report: Callable[[int], None] = lambda done: None,
) -> list[Visits]:
    """Warm every call up, then time them in turn.

    Parameters
    ----------
    calls : sequence of callable
        One that raises `BitlensError` has no visits, and its problem.
    seconds : float
        To measure each of them for, in `ROUNDS` visits; one that takes longer is called once.
    look : callable
        Looks at the board.
    report : callable
        Told after each round how many are done.
    """
    visits = [_warmed_up(call, seconds) for call in calls]
    before = look()
    for number in range(ROUNDS):
        for call, visit in zip(calls, visits, strict=True):
            spent_ms = sum(map(sum, visit.rounds_ms))
            if visit.problem or (visit.rounds_ms and spent_ms >= 1e3 * seconds):
                continue
            times: list[float] = []
            while not times or (sum(times) < 1e3 * seconds / ROUNDS and len(times) < MOST_CALLS):
                times.append(timed_ms(call))
            after = look()
            visit.rounds_ms.append(times)
            visit.looks.append(BoardLooks(before, after))
            before = after
        report(number + 1)
    return visits
