"""Every exported network on every engine of this machine: the golden answers, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from networks import each_network, needs_networks

from bitlens.runtime.engines import ENGINES, is_installed, open_engine, present_engines
from bitlens.runtime.golden import golden_of
from bitlens.runtime.network import open_network
from bitlens.runtime.parity import GRADIENT_TOLERANCE, TWIN_EXCEPTIONS, compare_engine, relative_errors

pytestmark = needs_networks


@pytest.mark.parametrize("engine", ENGINES)
@each_network
def test_golden_answers(path: Path, engine: str) -> None:
    network = open_network(path, trust=True)  # whoever names the folder vouches for what is in it
    if not is_installed(engine):
        pytest.skip(f"engine {engine!r} is not installed here")
    if engine not in present_engines(network):
        pytest.skip(f"{path.name} holds no files for engine {engine!r}")
    golden = golden_of(network)
    result = compare_engine(open_engine(network, engine), open_engine(network, "reference"), golden)
    assert result.holds, result.summary()


@each_network
def test_the_twin_answers_as_on_the_desktop(path: Path) -> None:
    """Both questions of parity need the twin, here as there: its class, and its gradient but for a rare tie."""
    network = open_network(path)
    twin = network.twin()
    golden = golden_of(network)
    if twin is None or not len(golden.twin_logits):
        pytest.skip("exported without a twin")
    answer = open_engine(twin, "reference").gradient(golden.images, golden.seed)
    assert np.array_equal(answer.logits.argmax(axis=1), golden.twin_logits.argmax(axis=1))
    errors = relative_errors(answer.input_gradient, golden.twin_input_gradient)
    assert (errors > GRADIENT_TOLERANCE).sum() <= max(1, TWIN_EXCEPTIONS * len(golden.images))
