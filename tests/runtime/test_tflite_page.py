"""The lines of docs/file-formats.md that run the TFLite files without bitlens do that."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from network_in_memory import network_in_memory
from small_programs import images_for, small_network

from bitlens.runtime.engines import one_hot, open_engine
from bitlens.runtime.network import FORWARD_TFLITE, GRADIENT_TFLITE

PAGE = Path(__file__).parents[2] / "docs" / "file-formats.md"
ENDING = """
import sys
assert not any(name.partition(".")[0] == "bitlens" for name in sys.modules), "it needs bitlens"
np.savez("answers.npz", logits=logits, heat=heat)
"""


def documented_lines() -> str:
    found = re.search(r"### The TFLite files without bitlens\n.*?```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found
    return found[1]


def test_the_documented_lines_give_what_the_reference_gives(tmp_path: Path) -> None:
    network = network_in_memory(small_network())
    for name in (FORWARD_TFLITE, GRADIENT_TFLITE):
        (tmp_path / name).write_bytes(network.read(name))
    image = images_for(network.program, 1)
    np.save(tmp_path / "digit.npy", image[0])
    lines = documented_lines()
    assert len([line for line in lines.splitlines() if line and not line.startswith("#")]) <= 10
    # The test's network has 8x8 pixels and 3 classes.
    lines = lines.replace("reshape(1, 28, 28, 1)", "reshape(1, 8, 8, 1)").replace("np.eye(10", "np.eye(3")
    done = subprocess.run(
        [sys.executable, "-c", lines + ENDING], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "answers.npz") as answers:
        logits, heat = answers["logits"], answers["heat"]
    reference = open_engine(network, "reference")
    assert np.array_equal(logits, reference.forward(image))
    expected = reference.gradient(image, one_hot(logits.argmax(axis=1), 3)).input_gradient
    size = np.abs(expected).max()
    assert size > 0
    assert np.abs(heat - np.abs(expected[0]).sum(axis=0)).max() <= 16 * np.finfo(np.float32).eps * size


def test_the_check_for_bitlens_can_fail(tmp_path: Path) -> None:
    lines = "import numpy as np, bitlens\nlogits = heat = np.zeros(1)\n"
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run(
            [sys.executable, "-c", lines + ENDING], cwd=tmp_path, capture_output=True, timeout=60, check=True
        )
