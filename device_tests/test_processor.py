"""What the kernels' dispatch believes about this processor, and that an emulated one is not more than its board."""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import platform
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest

kernels = pytest.importorskip("bitlens.runtime._kernels", reason="a pure-Python build")

# Our feature, and the operating system's words for what it needs.
FLAGS = {
    "x86_64": {
        "avx2": {"avx2", "fma", "bmi1", "bmi2"},
        "avxvnni": {"avx_vnni", "avx2"},
        "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
        "avx512vnni": {"avx512f", "avx512_vnni"},
        "avx512vpopcntdq": {"avx512f", "avx512_vpopcntdq"},
    },
    "aarch64": {"neon": {"asimd"}, "neondot": {"asimddp"}},
}
SDOT = bytes.fromhex("0094804e" + "c0035fd6")  # sdot v0.4s, v0.16b, v0.16b; ret


def flags() -> set[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, text = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(text.split())
    pytest.skip("/proc/cpuinfo lists no features")


@pytest.mark.skipif(platform.machine() not in FLAGS, reason=f"no kernels of {platform.machine()}'s own")
def test_features_are_those_the_operating_system_reports() -> None:
    offered = flags()
    expected = {name: needed <= offered for name, needed in FLAGS[platform.machine()].items()}
    assert {name: held for name, held in kernels.cpu_features().items() if name in expected} == expected


@pytest.mark.skipif(platform.machine() != "aarch64", reason="an aarch64 instruction")
def test_an_instruction_the_processor_lacks_traps() -> None:
    """Or else passing here would say nothing about the board."""
    with tempfile.TemporaryFile() as file:
        file.write(SDOT)
        file.flush()
        code = mmap.mmap(file.fileno(), len(SDOT), flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC)
        call = ctypes.CFUNCTYPE(None)(np.frombuffer(code, np.uint8).ctypes.data)
        child = os.fork()
        if not child:
            faulthandler.disable()  # the trap is expected
            call()
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == (0 if "asimddp" in flags() else -signal.SIGILL)
