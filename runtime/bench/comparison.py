"""Two benches of one network side by side."""

from __future__ import annotations

from dataclasses import dataclass

from bitlens.runtime.bench.result import Bench, BenchRow
from bitlens.runtime.errors import BitlensError


@dataclass(frozen=True)
class ComparedTask:
    """One task on one engine, here and there.

    Parameters
    ----------
    task, engine : str
    here_ms, there_ms : float or None
        p50; None where there is no figure.
    ratio : float or None
        Time here over time there; None where one is missing or was taken on a board that slowed itself down.
    note : str
        Why there is no ratio; empty if there is one.
    """

    task: str
    engine: str
    here_ms: float | None
    there_ms: float | None
    ratio: float | None
    note: str


@dataclass(frozen=True)
class BenchComparison:
    """Two benches.

    Parameters
    ----------
    rows : tuple of ComparedTask
        Every row of either.
    differing : tuple of tuple of str
        What else is not the same, with its value here and there: a ratio is one of these too.
    """

    rows: tuple[ComparedTask, ...]
    differing: tuple[tuple[str, str, str], ...]

    @property
    def same_machine(self) -> bool:
        """Whether both are of one kind of machine."""
        return not any(what.startswith("machine: ") for what, _, _ in self.differing)


def require_same_network(there: Bench, program_sha256: str) -> None:
    """Refuse a bench of any other program; how it is packed may differ.

    Raises
    ------
    BitlensError
        If it is of another one.
    """
    theirs = there.network.program_sha256
    if theirs != program_sha256:
        raise BitlensError(
            f"it is of another network, {there.network.name} with program {theirs[:16]}..., and not of "
            f"{program_sha256[:16]}...: compare benches of one network"
        )


def compared_benches(here: Bench, there: Bench) -> BenchComparison:
    """Compare.

    Raises
    ------
    BitlensError
        If they are of two networks.
    """
    require_same_network(there, here.network.program_sha256)
    one, other = ({(row.task, row.engine.name): row for row in bench.rows} for bench in (here, there))
    rows = tuple(_compared(*key, one.get(key), other.get(key)) for key in dict.fromkeys((*one, *other)))
    return BenchComparison(rows, _differing(here, there))


def _compared(task: str, engine: str, here: BenchRow | None, there: BenchRow | None) -> ComparedTask:
    times = [None if row is None or row.latency_ms is None else row.latency_ms.p50 for row in (here, there)]
    note, ratio = "", None
    if times[0] is None or times[1] is None:
        note = "no figure" if times == [None, None] else f"only {'there' if times[0] is None else 'here'}"
    else:
        slowed = [where for where, row in (("here", here), ("there", there)) if row is not None and row.slowed_by]
        if slowed:
            note = f"the board slowed itself down {' and '.join(slowed)}"
        else:
            ratio = times[0] / times[1]
    return ComparedTask(task, engine, times[0], times[1], ratio, note)


def _differing(here: Bench, there: Bench) -> tuple[tuple[str, str, str], ...]:
    names = (here.machine.name, there.machine.name)
    pairs = [("machine: name" if all(names) else "name", *names)]  # who gives none says nothing of the machine
    pairs += [
        (f"machine: {name}", getattr(here.machine, name), getattr(there.machine, name))
        for name in ("board", "processor", "architecture")
    ]
    pairs += [
        (name, getattr(here.machine, name), getattr(there.machine, name)) for name in ("system", "python", "numpy")
    ]
    pairs.append(("bitlens", here.bitlens, there.bitlens))
    pairs.append(("bundle", here.network.bundle_sha256[:16], there.network.bundle_sha256[:16]))
    pairs += [(name, str(getattr(here, name)), str(getattr(there, name))) for name in ("image", "threads")]
    pairs.append(("governor", here.board.after.governor, there.board.after.governor))
    ours, theirs = ({row.engine.name: row.engine for row in bench.rows} for bench in (here, there))
    for name in [name for name in ours if name in theirs]:
        for what in ("version", "kernels"):
            pairs.append((f"{name}: {what}", getattr(ours[name], what), getattr(theirs[name], what)))
    return tuple(pair for pair in dict.fromkeys(pairs) if pair[1] != pair[2])
