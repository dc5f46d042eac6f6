"""Make `format_1.program` and what it answered.

Both were written once, by the release that introduced format 1, and stay as they are: every later release opens the
file and gives the same answers. Run this by hand for a new format only, with a new name:

    PYTHONPATH=tests .venv/bin/python tests/golden/make_golden.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from small_programs import images_for, small_network

from bitlens.runtime.autodiff import gradient_program
from bitlens.runtime.interpreter import interpret
from bitlens.runtime.program import Program
from bitlens.runtime.program_file import write_program

GOLDEN_PROGRAM = Path(__file__).parent / "format_1.program"
GOLDEN_ANSWERS = Path(__file__).parent / "format_1.npz"


def golden_program() -> Program:
    return small_network(1)


def main() -> None:
    if GOLDEN_PROGRAM.exists():
        raise SystemExit(f"{GOLDEN_PROGRAM} exists and is kept for ever: give a new format a new name")
    program = golden_program()
    image = images_for(program, 6).astype(np.int16)
    image[4], image[5] = image[4] - 512, image[5] + 512  # what a method that perturbs the image may give
    seed = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]]
    got = interpret(gradient_program(program), {"image": image, "seed": seed}, ["logits", "sums", "input_gradient"])
    write_program(program, GOLDEN_PROGRAM)
    np.savez_compressed(GOLDEN_ANSWERS, image=image, seed=seed, **got)


if __name__ == "__main__":
    main()
