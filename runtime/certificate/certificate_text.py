"""A certificate and a comparison as lines for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from bitlens.runtime.certificate.certificate import Certificate
from bitlens.runtime.certificate.comparison import Comparison
from bitlens.runtime.certificate.golden_fidelity import NETWORK, GoldenFidelity
from bitlens.runtime.evaluation.plan import RANDOM_MAP, RANDOM_WEIGHTS
from bitlens.runtime.evaluation.tables import UNDEFINED, cell, undefined
from bitlens.runtime.fidelity import METRICS

COMPARED = (NETWORK, RANDOM_WEIGHTS, RANDOM_MAP)
NO_TWIN = "no full-precision twin in the bundle: fidelity cannot be asked"


def few_images(fidelity: GoldenFidelity) -> str:
    """Say how little these numbers say."""
    return (
        f"only {fidelity.images} images, so the intervals are wide and somewhat too narrow even so: `bitlens evaluate` "
        "is the measurement"
    )


def fidelity_table(fidelity: GoldenFidelity) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Lay out the means: headers, and a row for each method and metric."""
    rows = []
    for method in fidelity.methods:
        for name, metric in METRICS.items():
            means = [fidelity.mean(method, of, name) for of in COMPARED]
            rows.append(
                (
                    method,
                    metric.title,
                    *(cell(mean) if mean is not None else "\u2013" for mean in means),
                    undefined([mean for mean in means if mean is not None]),
                )
            )
    return ("method", "metric", "this network", *COMPARED[1:], UNDEFINED), rows


def certificate_lines(certificate: Certificate, *, why_no_fidelity: str = NO_TWIN) -> list[str]:
    """Say both answers; the verdict on the first comes last, because the exit code is about it."""
    images = certificate.engines[0].images
    lines = [
        f"{certificate.network.name}: {images} golden images, SHA-256 {certificate.network.bundle_sha256}",
        f"on {certificate.machine.processor}, {certificate.machine.architecture}, {certificate.machine.system}, "
        f"Python {certificate.machine.python}, NumPy {certificate.machine.numpy}, bitlens {certificate.bitlens}",
        *([f"the board: {certificate.board}"] if certificate.board is not None and str(certificate.board) else []),
        "",
        "Fidelity: are its maps those of the full-precision twin?",
    ]
    if certificate.fidelity is None:
        lines.append(f"  {why_no_fidelity}")
    else:
        lines.append(f"  {few_images(certificate.fidelity)}")
        headers, rows = fidelity_table(certificate.fidelity)
        lines += [f"  {line}" for line in columns([headers, *rows])]
    lines += ["", "Numerical parity: does this engine, on this machine, compute the network?"]
    for engine in certificate.engines:
        threads = f"{engine.engine.threads} thread{'s' if engine.engine.threads > 1 else ''}"
        lines.append(f"  {engine.summary()} ({engine.engine.kernels}, {threads})")
        lines += [f"    {line}" for line in engine.differences()]
    return [*lines, f"numerical parity {'holds' if certificate.holds else 'DOES NOT HOLD'}"]


def comparison_lines(comparison: Comparison) -> list[str]:
    """Say which rows differ, then whether that matters."""
    differing = [row for row in comparison.rows if not row.equal]
    lines = [
        f"Beside the certificate of {comparison.there.machine.name or comparison.there.machine.processor}: "
        f"{len(comparison.rows) - len(differing)} rows equal, {len(differing)} not"
    ]
    if differing:
        table = [("", "here", "there", ""), *((row.what, row.here, row.there, row.verdict) for row in differing)]
        lines += [f"  {line}" for line in columns(table)]
    lines += [f"  {line}" for line in comparison.differences]
    return [*lines, f"the two machines {'agree' if comparison.agree else 'DO NOT AGREE'}"]


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Align the cells of each column to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
