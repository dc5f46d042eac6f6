"""What is timed: one task of one engine, with the check of its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Seconds = npt.NDArray[np.float64]
Call = Callable[[], object]

CHAIN = 9
"""Layers of the longer chain; the shorter one has 1."""


@dataclass(frozen=True)
class Check:
    """How far a result lies from what it should be.

    Parameters
    ----------
    error, bound : float
        Right if error <= bound.
    against : str
        What was compared with what.
    """

    error: float
    bound: float
    against: str

    @property
    def passed(self) -> bool:
        """Whether the result is right; an error that is not a number is wrong."""
        return bool(self.error <= self.bound)


@dataclass(frozen=True)
class Key:
    """Which engine does what: `native avx2`, `w1a1`, `forward`."""

    engine: str
    precision: str
    task: str

    def __str__(self) -> str:
        return f"{self.engine} {self.precision} {self.task}"


@dataclass(frozen=True)
class Job:
    """A task of an engine, ready to run.

    Parameters
    ----------
    key : Key
    calls : tuple of callable
        One, or for a layer two: a chain of `CHAIN` layers and a chain of 1.
    checks : tuple of Check
    kernels : str
        What our engine chose; empty for others.
    """

    key: Key
    calls: tuple[Call, ...]
    checks: tuple[Check, ...]
    kernels: str = ""

    @property
    def is_right(self) -> bool:
        """Whether every check passed; a job without a check is not known to be right."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    def seconds(self, times: Seconds) -> Seconds:
        """Time of the task from the times of its calls, (rounds, calls) -> (rounds,)."""
        return times[:, 0] if len(self.calls) == 1 else (times[:, 0] - times[:, 1]) / (CHAIN - 1)


@dataclass(frozen=True)
class Absence:
    """A task that could not be timed, with the reason."""

    key: Key
    reason: str


@dataclass(frozen=True)
class Group:
    """What is timed in turn: one layer or one network, on every engine.

    Parameters
    ----------
    kind, name : str
        `layer` or `network`, and the name in its file.
    macs : int
        Multiplications of a layer; 0 for a network.
    jobs, absences : tuple
        What can be timed, and what cannot.
    """

    kind: str
    name: str
    macs: int
    jobs: tuple[Job, ...]
    absences: tuple[Absence, ...]
