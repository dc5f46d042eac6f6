"""The golden answers on the TFLite interpreter of this machine, and what is particular to that engine."""

from __future__ import annotations

import os

import numpy as np
import pytest
from networks import NETWORKS, needs_networks

from bitlens.runtime.engines import is_installed, open_engine, present_engines
from bitlens.runtime.engines.tflite_interpreter import PACKAGE_VARIABLE, open_tflite
from bitlens.runtime.golden import golden_of
from bitlens.runtime.network import FORWARD_TFLITE, GRADIENT_TFLITE, Network, open_network
from bitlens.runtime.parity import compare_engine

EXPECTED = os.environ.get(PACKAGE_VARIABLE, "")

pytestmark = needs_networks


@pytest.fixture(params=NETWORKS, ids=lambda path: path.stem)
def network(request: pytest.FixtureRequest) -> Network:
    found = open_network(request.param, trust=True)  # whoever names the folder vouches for what is in it
    if not EXPECTED and not is_installed("tflite"):
        pytest.skip("no TFLite interpreter is installed here")
    if not EXPECTED and "tflite" not in present_engines(found):
        pytest.skip(f"{request.param.name} holds no TFLite files")
    return found


def test_golden_answers(network: Network) -> None:
    golden = golden_of(network)
    engine = open_engine(network, "tflite")
    assert engine.info.version.startswith(EXPECTED)
    result = compare_engine(engine, open_engine(network, "reference"), golden)
    print(result.summary())
    assert result.holds, result.summary()
    if not network.program.is_full_precision:
        assert (result.differing_codes, result.differing_masks, result.differing_accumulators) == (0, 0, 0)
        assert result.codes > 0
        assert result.masks > 0


@pytest.mark.parametrize("file", [FORWARD_TFLITE, GRADIENT_TFLITE])
def test_the_fast_kernels_take_the_whole_graph(network: Network, file: str) -> None:
    assert open_tflite(network.read(file)).delegation.is_whole


def test_numbers_are_what_they_were(network: Network) -> None:
    """A library built with -ffast-math makes the process that loads it take subnormal numbers for 0."""
    engine = open_engine(network, "tflite")
    golden = golden_of(network)
    engine.gradient(golden.images[:1], golden.seed[:1])
    for smallest in (np.array([5e-324]), np.array([1e-45], np.float32)):
        assert (smallest * smallest.dtype.type(1)).item() > 0
