"""Two CPU processes under torch's launcher against one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fit_in_processes import CASES, curves, second_derivatives

from bitlens.runtime.errors import BitlensError
from bitlens.train.datasets import SplitDataset
from bitlens.train.processes import Processes, open_fabric

# Sums over the images are taken in another order. Without rounding of values to codes nothing amplifies that.
FLOAT64_TOLERANCE = 1e-12
FLOAT32_TOLERANCE = 1e-5
# A max-pool over equal sums of codes takes the one whose rounding error is larger, so that gradients part company.
TIES_TOLERANCE = 0.05


def test_two_processes_give_the_loss_curve_of_one_and_resume(digits: SplitDataset, tmp_path: Path) -> None:
    script = Path(__file__).parent.parent / "fit_in_processes.py"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, str(script), str(tmp_path / "curves.json")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "curves.json").read_text())
    assert found["resumed"] is True
    alone = second_derivatives(Processes())
    assert found["second derivatives"] == pytest.approx(alone, rel=0, abs=1e-12 * max(map(abs, alone)))
    two = found["curves"]
    one = curves(Processes(), digits.train())
    assert two.keys() == one.keys() == CASES.keys()
    for name, curve in one.items():
        losses, others = [loss for loss, _ in curve], [loss for loss, _ in two[name]]
        tolerance = TIES_TOLERANCE if "w2a2" in name else FLOAT32_TOLERANCE if "float32" in name else FLOAT64_TOLERANCE
        assert others == pytest.approx(losses, rel=tolerance, abs=0), name
        if "float64" in name:
            assert [share for _, share in curve] == [share for _, share in two[name]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accelerator": "tpu"}, "unknown accelerator 'tpu'"),
        ({"devices": 0}, "devices must be at least 1"),
        ({"nodes": 0}, "nodes must be at least 1"),
        ({"accelerator": "cuda", "mixed_precision": "8"}, "unknown mixed precision '8'"),
        ({"mixed_precision": "16"}, "mixed precision 16 needs a GPU"),
        ({"mixed_precision": "bf16"}, "mixed precision bf16 needs a GPU"),
    ],
)
def test_impossible_processes_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(BitlensError, match=message):
        Processes(**options)  # type: ignore[arg-type]


def test_missing_gpus_are_refused() -> None:
    with pytest.raises(BitlensError, match=r"asked for 99 GPUs and \d+ are here: lower --devices"):
        open_fabric(Processes("cuda", devices=99))
