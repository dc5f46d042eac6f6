"""What a benchmark found: milliseconds and ratios, for right results only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.job import Absence, Check, Group, Key, Seconds
from bench.timing import median_ratio


@dataclass(frozen=True)
class Row:
    """One task of one engine.

    Parameters
    ----------
    key : Key
    note : str
        Why there is no figure; empty if there is one.
    checks : tuple of Check
    kernels : str
        What our engine chose.
    seconds : float64 (rounds,)
        Empty where there is no figure.
    """

    key: Key
    note: str
    checks: tuple[Check, ...]
    kernels: str
    seconds: Seconds

    @property
    def milliseconds(self) -> float:
        """Median over rounds; not a number where there is no figure."""
        return float(np.median(self.seconds)) * 1e3 if len(self.seconds) else float("nan")


@dataclass(frozen=True)
class Table:
    """A layer or network on every engine."""

    kind: str
    name: str
    macs: int
    rows: tuple[Row, ...]

    def row(self, key: Key) -> Row | None:
        """Give the row of a key; None if there is none."""
        return next((row for row in self.rows if row.key == key), None)

    def ratio(self, key: Key, other: Key) -> float:
        """Time of `key` over time of `other`, median of the rounds' ratios; not a number where one has no figure."""
        first, second = self.row(key), self.row(other)
        if first is None or second is None or not len(first.seconds) or not len(second.seconds):
            return float("nan")
        return median_ratio(first.seconds, second.seconds)


def measured(group: Group, seconds: Sequence[Seconds]) -> Table:
    """Bring a group's jobs and their times together; a wrong result has no time."""
    rows = []
    for job, times in zip(group.jobs, seconds, strict=True):
        failed = [check for check in job.checks if not check.passed]
        note = "" if job.is_right else "WRONG: not checked"
        if failed:
            note = f"WRONG: {failed[0].error:.3g} {failed[0].against}, expected at most {failed[0].bound:g}"
        rows.append(Row(job.key, note, job.checks, job.kernels, times if job.is_right else np.empty(0)))
    rows += [_absent(absence) for absence in group.absences]
    return Table(group.kind, group.name, group.macs, tuple(rows))


def _absent(absence: Absence) -> Row:
    return Row(absence.key, absence.reason, (), "", np.empty(0))
