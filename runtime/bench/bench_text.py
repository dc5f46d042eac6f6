"""A bench and a comparison as lines for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from bitlens.runtime.bench.comparison import BenchComparison
from bitlens.runtime.bench.result import Bench, BenchRow

NOTHING = "\u2013"
HEADERS = ("task", "engine", "p50 ms", "p95 ms", "rank", "cold start ms", "peak MB", "calls", "")


def bench_lines(bench: Bench) -> list[str]:
    """Say where, then the table, the fastest engine of each task first."""
    machine = bench.machine
    threads = f"{bench.threads} thread{'s' if bench.threads > 1 else ''}"
    image = "its first golden image" if bench.image == "golden" else "noise, it has no golden image"
    lines = [
        f"{bench.network.name}: {bench.bundle_bytes:,} bytes, batch 1, {image}",
        f"on {machine.processor} ({machine.architecture}), {machine.system}, Python {machine.python}, NumPy "
        f"{machine.numpy}, bitlens {bench.bitlens}",
        ", ".join(
            (
                threads,
                f"about {bench.seconds:g} s a row in rounds that take turns",
                *([f"load {bench.load_average[0]:.1f} to {bench.load_average[1]:.1f}"] if bench.load_average else []),
                *filter(None, [str(bench.board)]),
            )
        ),
        "",
        *_aligned([HEADERS, *map(_cells, _in_order(bench.rows))]),
    ]
    slowed_before = bench.board.before.slowed_since_start
    if slowed_before:
        lines += [
            "",
            f"The board had slowed down since its start already ({', '.join(slowed_before)}): the same between two "
            "looks goes unseen. Restart it, and repeat.",
        ]
    if any(row.slowed_by for row in bench.rows):
        lines += ["", "A row that the board slowed down has no rank: cool it, or mend its supply, and repeat."]
    return lines


def _in_order(rows: Sequence[BenchRow]) -> list[BenchRow]:
    tasks = list(dict.fromkeys(row.task for row in rows))
    return sorted(rows, key=lambda row: (tasks.index(row.task), row.rank is None, row.rank or 0))


def _cells(row: BenchRow) -> tuple[str, ...]:
    if row.latency_ms is None:
        times = (NOTHING, NOTHING)
    else:
        times = (milliseconds(row.latency_ms.p50), milliseconds(row.latency_ms.p95))
    said = f"SLOWED: {', '.join(row.slowed_by)}" if row.slowed_by else row.note
    starts = sorted(row.cold_start_ms)
    return (
        row.task,
        row.engine.name,
        *times,
        NOTHING if row.rank is None else str(row.rank),
        f"{starts[len(starts) // 2]:.0f}" if starts else NOTHING,
        NOTHING if row.peak_memory_bytes is None else f"{row.peak_memory_bytes / 1e6:.1f}",
        str(row.calls) if row.calls else NOTHING,
        said,
    )


def milliseconds(value: float) -> str:
    """Three significant digits, and never a power of ten."""
    return f"{value:.{max(0, 3 - len(str(int(value))))}f}" if value >= 1 else f"{value:.3f}"


def comparison_lines(comparison: BenchComparison, name: str) -> list[str]:
    """Say what differs besides, then every ratio."""
    lines = [f"Beside {name}" + ("" if comparison.same_machine else ": ANOTHER MACHINE")]
    if comparison.differing:
        lines += [f"  {line}" for line in _aligned([("", "here", "there"), *comparison.differing])] + [""]
    table: list[tuple[str, ...]] = [("task", "engine", "here ms", "there ms", "here / there")]
    for row in comparison.rows:
        times = (NOTHING if each is None else milliseconds(each) for each in (row.here_ms, row.there_ms))
        table.append((row.task, row.engine, *times, row.note if row.ratio is None else f"{row.ratio:.2f}"))
    return [*lines, *(f"  {line}" for line in _aligned(table))]


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns under one another, numbers to the right; the last one is a remark."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            text.rjust(width) if _is_right(rows, column) else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _is_right(rows: list[tuple[str, ...]], column: int) -> bool:
    """Whether a column holds numbers alone, below its title."""
    words = [row[column] for row in rows[1:]]
    return any(word[:1].isdigit() for word in words) and all(word[:1].isdigit() or word == NOTHING for word in words)
