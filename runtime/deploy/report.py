"""What became of each board: data for scripts, lines for a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitlens.runtime.deploy.step import StepResult

DEPLOYED, ALREADY_THERE, ROLLED_BACK, WOULD_DEPLOY, WOULD_ROLL_BACK, FAILED = (
    "deployed",
    "already there",
    "rolled back",
    "would deploy",
    "would roll back",
    "failed",
)


@dataclass(frozen=True)
class HostReport:
    """One board.

    Parameters
    ----------
    host : str
        As it was given.
    outcome : str
        deployed, already there, rolled back, would deploy, would roll back, failed.
    board : str
        What kind it is; empty where it failed.
    notes : tuple of str
        The wheel that fits it, its temperature, and what slows it down.
    version, previous : str
        Ids of the version now in use and of the one before it; empty where there is none or it is not known.
    command, network : str
        Where the command line and the bundle in use are; empty if they are not there.
    steps : tuple of StepResult
        Those that were taken.
    plan : tuple of str
        Those that would be.
    service : tuple of str
        How the service is used, if one was asked for.
    problem : str
        One sentence; empty unless it failed.
    words : tuple of str
        The board's own, where it failed.
    seconds : float
    """

    host: str
    outcome: str
    board: str = ""
    notes: tuple[str, ...] = ()
    version: str = ""
    previous: str = ""
    command: str = ""
    network: str = ""
    steps: tuple[StepResult, ...] = ()
    plan: tuple[str, ...] = ()
    service: tuple[str, ...] = ()
    problem: str = ""
    words: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether what was asked for came about."""
        return self.outcome != FAILED


def report_lines(reports: Sequence[HostReport]) -> list[str]:
    """Say it for a person."""
    lines = []
    for report in reports:
        is_plan = report.outcome in (WOULD_DEPLOY, WOULD_ROLL_BACK)
        version = f"{', in use is' if is_plan else ''} {report.version}" if report.version and report.holds else ""
        lines.append(f"{report.host}: {report.outcome}{version} ({report.seconds:.0f} s)")
        if report.board:
            lines.append(f"  {'; '.join((report.board, *report.notes))}")
        verdict = [step.words[-1] for step in report.steps if step.name == "verify" and step.words]
        lines += [f"  {each}" for each in (*verdict[:1], *report.plan, *report.service)]
        if report.command and report.holds:
            lines.append(f"  the command there: {report.command}")
            lines.append(f"  the network there: {report.network}")
        if report.previous and report.holds and not is_plan:
            lines.append(f"  back to {report.previous}: bitlens deploy --rollback {report.host}")
        if report.problem:
            lines.append(f"  {report.problem}")
        lines += [f"  | {line}" for line in report.words]
    failed = [report.host for report in reports if not report.holds]
    if len(reports) > 1:
        lines.append(f"{len(reports) - len(failed)} of {len(reports)} boards hold what was asked for")
    return lines
