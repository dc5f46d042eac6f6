"""Every exported network on every engine of this machine: the golden answers, bit for bit."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from bitlens.runtime.bundle_file import SUFFIX
from bitlens.runtime.engines import ENGINES, open_engine, present_engines
from bitlens.runtime.golden import golden_from_bytes
from bitlens.runtime.network import GOLDEN, open_network
from bitlens.runtime.parity import GRADIENT_TOLERANCE, TWIN_EXCEPTIONS, compare_engine, relative_errors

FOLDER = os.environ.get("BITLENS_NETWORKS")
NETWORKS = sorted(Path(FOLDER).glob(f"*{SUFFIX}")) if FOLDER else []

pytestmark = pytest.mark.skipif(not NETWORKS, reason="BITLENS_NETWORKS names no folder of bundles")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)
def test_golden_answers(path: Path, engine: str) -> None:
    network = open_network(path, trust=True)  # whoever names the folder vouches for what is in it
    if engine not in present_engines(network):
        pytest.skip(f"engine {engine!r} is not installed here")
    golden = golden_from_bytes(network.read(GOLDEN))
    result = compare_engine(open_engine(network, engine), open_engine(network, "reference"), golden)
    assert result.holds, result.summary()


@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)
def test_the_twin_answers_as_on_the_desktop(path: Path) -> None:
    """Both questions of parity need the twin, here as there: its class, and its gradient but for a rare tie."""
    network = open_network(path)
    twin = network.twin()
    golden = golden_from_bytes(network.read(GOLDEN))
    if twin is None or not len(golden.twin_logits):
        pytest.skip("exported without a twin")
    answer = open_engine(twin, "reference").gradient(golden.images, golden.seed)
    assert np.array_equal(answer.logits.argmax(axis=1), golden.twin_logits.argmax(axis=1))
    errors = relative_errors(answer.input_gradient, golden.twin_input_gradient)
    assert (errors > GRADIENT_TOLERANCE).sum() <= max(1, TWIN_EXCEPTIONS * len(golden.images))
