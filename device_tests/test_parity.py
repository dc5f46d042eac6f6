"""Every exported network on every engine of this machine: the golden answers, bit for bit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bitlens.runtime.engines import ENGINES, open_engine, present_engines
from bitlens.runtime.golden import golden_from_bytes
from bitlens.runtime.network import GOLDEN, MANIFEST, open_network
from bitlens.runtime.parity import compare_engine

FOLDER = os.environ.get("BITLENS_NETWORKS")
NETWORKS = sorted(path.parent for path in Path(FOLDER).glob(f"*/{MANIFEST}")) if FOLDER else []

pytestmark = pytest.mark.skipif(not NETWORKS, reason="BITLENS_NETWORKS names no folder of exported networks")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("folder", NETWORKS, ids=lambda path: path.name)
def test_golden_answers(folder: Path, engine: str) -> None:
    network = open_network(folder)
    if engine not in present_engines(network):
        pytest.skip(f"engine {engine!r} is not installed here")
    golden = golden_from_bytes(network.read(GOLDEN))
    result = compare_engine(open_engine(network, engine), open_engine(network, "reference"), golden)
    assert result.holds, result.summary()
