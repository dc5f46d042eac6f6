"""A process that starts, answers once and says how much memory that took: cold start and peak memory.

python -m bitlens.runtime.bench.first_answer NETWORK ENGINE TASK THREADS TRUST
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bitlens.runtime.errors import BitlensError

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class FirstAnswer:
    """What a new process needed for its first answer.

    Parameters
    ----------
    cold_start_ms : float
        From its start, Python's and NumPy's import included, until the answer was there.
    peak_memory_bytes : int or None
        The most physical memory that it held, with Python, NumPy and shared libraries; None where the system does not
        say.
    """

    cold_start_ms: float
    peak_memory_bytes: int | None


def peak_memory_bytes(status: Path = _STATUS) -> int | None:
    """Read the most physical memory this process has held.

    Not from `getrusage`, whose figure a process inherits from the one that started it.
    """
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) * 1024
    return None


def first_line(arguments: Sequence[str]) -> tuple[float, str]:
    """Start Python with these arguments and wait for its first line; give the milliseconds until then, and the line.

    Raises
    ------
    BitlensError
        If no process can be started here, or it fails or says nothing.
    """
    # What lies in the folder we happen to be in is not to be imported.
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    with tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter_ns()
        try:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )
        except OSError as error:
            raise BitlensError(f"no process can be started here ({error.strerror}): run it where one can") from error
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            elapsed_ms = (time.perf_counter_ns() - start) / 1e6
            process.stdout.read()
        except BaseException:
            process.kill()
            raise
        finally:
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        if process.returncode or not line.endswith("\n"):
            errors.seek(0)
            said = errors.read().strip().splitlines()
            ended = f"a process ended with {process.returncode} and gave no answer: run the same with `bitlens explain`"
            raise BitlensError(said[-1].removeprefix("bitlens: ") if said else ended)
    return elapsed_ms, line.rstrip("\n")


def first_answer(network: Path, engine: str, task: str, *, threads: int, trust: bool) -> FirstAnswer:
    """Start a process that opens a network on an engine and does one task.

    Raises
    ------
    BitlensError
        If no process can be started, or what it does fails.
    """
    arguments = [str(network), engine, task, str(threads), "trust" if trust else "list"]
    milliseconds, line = first_line(["-m", "bitlens.runtime.bench.first_answer", *arguments])
    return FirstAnswer(milliseconds, json.loads(line)["peak_memory_bytes"])


def main(arguments: Sequence[str]) -> int:
    """Answer once, in this process; the line it prints is read by `first_answer`."""
    from bitlens.runtime.bench.task import image_for, parsed_task
    from bitlens.runtime.engines import open_engine
    from bitlens.runtime.network import open_network

    path, name, title, threads, trust = arguments
    try:
        network = open_network(Path(path), trust=trust == "trust")
        engine = open_engine(network, name, threads=int(threads))
        parsed_task(title).call(engine, image_for(network)[0])()
    except BitlensError as error:
        print(f"bitlens: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(json.dumps({"peak_memory_bytes": peak_memory_bytes()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
