"""What the fuzz target once kept is replayed; a few new cases; and the target can fail."""

from __future__ import annotations

import json
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from program_fuzzing import CORPUS, WrongResultError, changed, first_inputs, next_case, outcome
from small_programs import small_network

from bitlens.runtime.engines import native
from bitlens.runtime.program import Array
from bitlens.runtime.program_file import program_bytes

pytest.importorskip("bitlens.runtime._kernels", reason="bitlens was installed without its compiled part")

KEPT = sorted(CORPUS.glob("*.program"))


@pytest.fixture(autouse=True)
def quiet() -> None:
    warnings.simplefilter("ignore")  # of floats that overflow, as odd numbers make them


@pytest.mark.parametrize("first", range(0, len(KEPT), 20))
def test_corpus(first: int) -> None:
    for path in KEPT[first : first + 20]:
        try:
            outcome(path.read_bytes())
        except Exception as error:
            raise AssertionError(f"{path.name}: {error}") from error


def test_corpus_is_small() -> None:
    assert len(KEPT) >= 20
    assert sum(path.stat().st_size for path in KEPT) < 200_000


@pytest.mark.parametrize("seed", range(30))
def test_new_cases(seed: int) -> None:
    draw = np.random.default_rng(seed)
    outcome(next_case(draw, []))
    for data in first_inputs():
        outcome(changed(draw, data))


def test_a_change_reaches_beyond_the_checksum() -> None:
    draw, data = np.random.default_rng(3), program_bytes(small_network())
    reached = set[str]().union(*(outcome(changed(draw, data)) for _ in range(40)))
    assert any("node" in refusal for refusal in reached)
    assert any(not refusal.startswith("loader") for refusal in reached)
    length = struct.unpack_from("<I", data, 12)[0]
    assert json.loads(data[48 : 48 + length])["outputs"] == ["logits", "sums"]


def test_a_wrong_engine_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    right = native.LaidOutProgram.run

    def wrong(self: native.LaidOutProgram, *given: object) -> dict[str, Array]:
        return {name: values + 1 for name, values in right(self, *given).items()}  # type: ignore[arg-type]

    monkeypatch.setattr(native.LaidOutProgram, "run", wrong)
    with pytest.raises(WrongResultError, match="logits"):
        outcome(program_bytes(small_network()))
