"""The bundle of version 1 that is kept for ever opens and gives the answers it was made with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_programs import LABELS

from bitlens.runtime.engines import ENGINES, open_engine
from bitlens.runtime.golden import golden_of
from bitlens.runtime.network import Network, open_network
from bitlens.runtime.parity import GRADIENT_TOLERANCE, compare_engine, relative_errors
from bitlens.runtime.program_file import program_from_bytes

KEPT = Path(__file__).parent.parent / "golden" / "bundle_1.bitlens"
KEPT_MEMBERS = {"network.program", "twin.program", "forward.onnx", "gradient.onnx", "golden.npz"}
KEPT_SHA256 = "88ba09223120e461a8c297bc1e0cf481427863a8b9bf2f60a8975050a1dc7d8e"


@pytest.fixture(scope="module")
def network() -> Network:
    return open_network(KEPT, trust=True)


def test_is_the_file_that_was_kept(network: Network) -> None:
    assert network.sha256 == KEPT_SHA256


def test_says_what_it_said(network: Network) -> None:
    assert network.labels == LABELS
    assert network.manifest["bundle_version"] == 1
    assert network.picture_rule == "centre-area-1"
    assert set(network.members) == KEPT_MEMBERS
    for name, record in network.members.items():
        assert len(network.read(name)) == record["bytes"]


@pytest.mark.parametrize("engine", [name for name, entry in ENGINES.items() if KEPT_MEMBERS.issuperset(entry.files)])
def test_answers_as_it_did(network: Network, engine: str) -> None:
    golden = golden_of(network)
    result = compare_engine(open_engine(network, engine), open_engine(network, "reference"), golden)
    assert result.holds, result.summary()


def test_the_twin_answers_as_it_did(network: Network) -> None:
    golden, twin = golden_of(network), network.twin()
    assert twin is not None
    answer = open_engine(twin, "reference").gradient(golden.images, golden.seed)
    assert relative_errors(answer.input_gradient, golden.twin_input_gradient).max() <= GRADIENT_TOLERANCE
    assert np.allclose(answer.logits, golden.twin_logits, rtol=1e-5, atol=1e-6)  # tens of float32 roundings


def test_holds_the_program_that_was_kept_before(network: Network) -> None:
    older = program_from_bytes((KEPT.parent / "format_1.program").read_bytes())
    assert [node.name for node in older.nodes] == [node.name for node in network.program.nodes]
    for ours, theirs in zip(network.program.nodes, older.nodes, strict=True):
        assert all(np.array_equal(array, theirs.arrays[name]) for name, array in ours.arrays.items())
