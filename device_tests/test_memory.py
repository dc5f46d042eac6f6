"""`bitlens predict` stays below 60 MB, Python and NumPy included."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import predict_memory
import pytest
from networks import NETWORKS, each_network, needs_networks
from predict_memory import EMULATED, LARGEST_BYTES, resident_bytes

SCRIPT = Path(predict_memory.__file__)


@needs_networks
@pytest.mark.skipif(
    bool(os.environ.get(EMULATED)), reason="no child process under emulation: .ci/boards runs the script"
)
@pytest.mark.parametrize("engine", ["native", "reference"])
@each_network
def test_memory_of_predict(path: Path, engine: str) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), str(path), engine], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout} bytes, expected at most {LARGEST_BYTES}; {done.stderr}"


@needs_networks
def test_more_than_the_limit_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict_memory, "LARGEST_BYTES", 1_000_000)
    assert predict_memory.main(str(NETWORKS[0]), "reference") == 1


def test_resident_bytes_of_own_mappings() -> None:
    maps = "1000-3000 r-xp 00000000 00:00 0 python\n5000-6000 rw-p 00000000 00:00 0\n"
    mappings = {"1000-2000 r-xp 0": 4, "2000-3000 r-xp 0": 8, "3000-5000 rw-p 0": 99, "5000-6000 rw-p 0": 1}
    smaps = "".join(f"{mapping}\nRss:  {kilobytes} kB\n" for mapping, kilobytes in mappings.items())
    assert resident_bytes(maps, smaps) == (4 + 8 + 1) * 1024
