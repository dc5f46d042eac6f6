"""`examples/claims_2106_12569.py`: its verdicts are what the intervals say."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from evaluation_place import write_evaluation_place

from bitlens.runtime.bootstrap import BootstrapMean


@pytest.fixture(scope="module")
def claims() -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / "claims_2106_12569.py"
    spec = importlib.util.spec_from_file_location("claims_2106_12569", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("other_seed", [True, False])
def test_three_tables_with_verdicts(
    claims: ModuleType, other_seed: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_evaluation_place(tmp_path)
    given = [
        "--twin",
        tmp_path / "full.bitlens",
        "--networks",
        tmp_path / "one.bitlens",
        "--data",
        tmp_path / "images.npz",
    ]
    given += ["--images", 12, "--layers", "act1", "act2", "--engine", "reference", "--output", tmp_path / "out"]
    given += ["--other-seed", tmp_path / "other.bitlens"] if other_seed else []
    claims.main([str(each) for each in given])
    out = capsys.readouterr().out
    tables = re.findall(r"(?:^\|.*\n)+", out, re.MULTILINE)
    assert [table.count("\n") - 2 for table in tables] == [2, 4, 6]
    for table, line in zip(tables, re.findall(r"^Verdict: .*$", out, re.MULTILINE), strict=True):
        outcomes = [row.rstrip(" |").rpartition(": ")[2] for row in table.splitlines()[2:]]
        counts = [outcomes.count(word) for word in ("holds", "fails", "open")]
        assert line == (
            f"Verdict: on one it holds in {counts[0]}, fails in {counts[1]}, open in {counts[2]} of "
            f"{len(outcomes)} comparisons."
        )
    assert ("do not settle" in out) is not other_seed


def test_a_reading_follows_the_interval(claims: ModuleType) -> None:
    reading = claims.Reading(("more", "holds"), ("less", "fails"))

    def read(low: float, high: float, images: int = 50) -> object:
        return reading.of(BootstrapMean((low + high) / 2, low, high, images, 0))

    assert read(0.1, 0.2) == ("more", "holds")
    assert read(-0.2, -0.1) == ("less", "fails")
    assert read(-0.1, 0.1) == ("no difference seen", "open")
    assert read(0.1, 0.2, images=9) == ("too few images to say", "open")
    noise = np.random.default_rng(0).standard_normal(200)
    assert claims.found("n", "m", noise + 1, noise, reading).outcome == "holds"
    assert claims.found("n", "m", noise, noise + 1, reading).outcome == "fails"
