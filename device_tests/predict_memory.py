"""How much memory `bitlens predict` takes, Python and NumPy included: `python predict_memory.py NETWORK ENGINE`.

Prints the bytes; 1 if they are more than `LARGEST_BYTES`. A process of its own, or what ran before would count too.
On a machine the figure is the most it ever held (VmHWM). Under QEMU's user-mode emulation (BITLENS_EMULATED) the
emulator's own memory lies beside the program's: there it is what the program's own mappings hold after the prediction.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
from pathlib import Path

import numpy as np

from bitlens.runtime import cli
from bitlens.runtime.bench.first_answer import peak_memory_bytes
from bitlens.runtime.golden import golden_of
from bitlens.runtime.network import open_network

LARGEST_BYTES = 60_000_000
EMULATED = "BITLENS_EMULATED"

_START = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ")


def resident_bytes(maps: str, smaps: str) -> int:
    """Sum what is resident of the mappings in `maps`, which QEMU keeps to the program's own; `smaps` has all."""
    own = [(int(found[1], 16), int(found[2], 16)) for found in map(_START.match, maps.splitlines()) if found]
    total, is_own = 0, False
    for line in smaps.splitlines():
        start = _START.match(line)
        if start:
            is_own = any(first <= int(start[1], 16) < last for first, last in own)
        elif is_own and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def measured_bytes() -> int:
    """Memory of this process, as the machine or its emulation can say it."""
    if os.environ.get(EMULATED):
        return resident_bytes(Path("/proc/self/maps").read_text(), Path("/proc/self/smaps").read_text())
    peak = peak_memory_bytes()
    assert peak is not None, "/proc/self/status has no VmHWM"
    return peak


def main(network: str, engine: str) -> int:
    """Predict the first golden image through the command line, then measure."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.npy"
        np.save(image, golden_of(open_network(Path(network))).images[0])
        with contextlib.redirect_stdout(io.StringIO()):
            code = cli.main(["predict", network, str(image), "--engine", engine, "--top", "1"])
    found = measured_bytes()
    print(found, flush=True)
    return code or int(found > LARGEST_BYTES)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
