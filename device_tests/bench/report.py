"""A benchmark as tables for a person and as JSON for a program."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from bench.job import Key
from bench.measurement import Row, Table
from bench.own_jobs import OWN
from bench.targets import Outcome

SCHEMA_VERSION = 1


def text_of_table(table: Table) -> str:
    """Milliseconds of every engine, and how much longer it takes than ours at each precision for the same task."""
    lines = [f"{table.kind} {table.name}", ""]
    ours = [row.key for row in table.rows if row.key.engine == OWN and _family(row.key) in ("layer", "forward")]
    speed = ["GMAC/s"] if table.macs else []
    head = ["engine", "precision", "task", "ms", *speed, *(f"/ {OWN} {key.precision}" for key in ours)]
    body = []
    for row in table.rows:
        if row.note:
            body.append([row.key.engine, row.key.precision, row.key.task, row.note])
            continue
        ratios = [table.ratio(row.key, _of_task(key, row.key)) for key in ours]
        rate = [f"{table.macs / row.milliseconds / 1e6:.0f}"] if table.macs else []
        milliseconds = f"{row.milliseconds:.4f}"
        shown = ["" if math.isnan(ratio) else f"{ratio:.2f}" for ratio in ratios]
        body.append([row.key.engine, row.key.precision, row.key.task, milliseconds, *rate, *shown])
    return "\n".join([*lines, *_aligned([head, *body]), ""])


def _family(key: Key) -> str:
    return key.task.split()[0]


def _of_task(own: Key, key: Key) -> Key:
    """Our key that a row is compared with: of the same task; a gradient elsewhere with our int8 gradient."""
    if key.engine.startswith(OWN) or key.task in ("layer", "forward"):
        return Key(own.engine, own.precision, key.task)
    return Key(own.engine, own.precision, f"{_family(key)} int8")


def text_of_outcomes(found: Sequence[Outcome]) -> str:
    """Every target with what was found."""
    body = [["target", "bound", "found", "", "worst at"]]
    for outcome in found:
        sign = ">=" if outcome.target.at_least else "<="
        ratio = "" if math.isnan(outcome.ratio) else f"{outcome.ratio:.3g}"
        body.append([outcome.target.what, f"{sign} {outcome.target.bound:g}", ratio, outcome.verdict, outcome.place])
    return "\n".join(_aligned(body)) + "\n"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns under one another; a row shorter than the first, a note, does not widen them."""
    widths = [max(len(row[i]) for row in rows if len(row) == len(rows[0])) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(widths[i]) for i, cell in enumerate(row)).rstrip() for row in rows]


def json_of(tables: Sequence[Table], found: Sequence[Outcome], facts: Mapping[str, object]) -> dict[str, object]:
    """Everything, with the seconds of every round; numbers that are none are null."""
    return {
        "bench_version": SCHEMA_VERSION,
        **facts,
        "tables": [
            {"kind": table.kind, "name": table.name, "macs": table.macs, "rows": [_row(row) for row in table.rows]}
            for table in tables
        ],
        "targets": [
            {
                "what": outcome.target.what,
                "bound": outcome.target.bound,
                "at_least": outcome.target.at_least,
                "ratio": _number(outcome.ratio),
                "verdict": outcome.verdict,
                "worst_at": outcome.place,
            }
            for outcome in found
        ],
    }


def _row(row: Row) -> dict[str, object]:
    checks = [{**asdict(check), "error": _number(check.error), "passed": check.passed} for check in row.checks]
    return {
        **asdict(row.key),
        "note": row.note,
        "milliseconds": _number(row.milliseconds),
        "rounds_milliseconds": [float(seconds) * 1e3 for seconds in row.seconds],
        "kernels": row.kernels,
        "checks": checks,
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
