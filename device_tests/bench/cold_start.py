"""How long `bitlens predict` takes from nothing: a new process, its imports, the network, one image."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.shapes import NetworkShape
from bitlens.runtime.bench.first_answer import first_line
from bitlens.runtime.program import Program
from bitlens.runtime.program_file import write_program

ENGINES = ("native", "reference")
BOUND_MS = 1000.0
"""On x86-64."""


@dataclass(frozen=True)
class ColdStart:
    """One engine.

    Parameters
    ----------
    engine : str
    milliseconds : tuple of float
        Of each round: from the start of the process until its first line, by the clock on the wall.
    cpu_milliseconds : tuple of float
        Processor time of the whole process, one thread of it: what the clock says where nothing else runs.
    """

    engine: str
    milliseconds: tuple[float, ...]
    cpu_milliseconds: tuple[float, ...]

    @property
    def verdict(self) -> str:
        """Whether the median is within the bound: of processor time, which is all there is to wait for when idle."""
        return "met" if np.median(self.cpu_milliseconds) <= BOUND_MS else "missed"


def cold_starts(shape: NetworkShape, program: Program, rounds: int) -> tuple[ColdStart, ...]:
    """Start `bitlens predict` in turns on each engine, after one start of each that brings the files into memory."""
    times: dict[str, list[tuple[float, float]]] = {engine: [] for engine in ENGINES}
    with tempfile.TemporaryDirectory() as folder:
        network, image = Path(folder) / "network.program", Path(folder) / "image.npy"
        write_program(program, network)
        np.save(image, np.random.default_rng(7).integers(0, 256, shape.image).astype(np.uint8))
        for _ in range(rounds + 1):
            for engine, found in times.items():
                before = os.times()
                milliseconds, _ = first_line(
                    ["-m", "bitlens.runtime.cli", "predict", str(network), str(image), "--engine", engine]
                )
                after = os.times()
                used = sum(after[2:4]) - sum(before[2:4])  # of children that have ended
                found.append((milliseconds, 1e3 * used))
    return tuple(ColdStart(engine, *zip(*found[1:], strict=True)) for engine, found in times.items())


def text_of_cold_starts(name: str, found: Sequence[ColdStart]) -> str:
    """Medians over the rounds."""
    lines = [f"cold start of `bitlens predict`, {name}", ""]
    for each in found:
        wall, used = np.median(each.milliseconds), np.median(each.cpu_milliseconds)
        lines.append(
            f"{each.engine:10} {used:6.0f} ms of the processor ({wall:.0f} ms on the wall); <= {BOUND_MS:g} ms: "
            f"{each.verdict}"
        )
    return "\n".join([*lines, ""])
