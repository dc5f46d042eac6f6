"""`bitlens train` again and again, each time in a process of its own that is killed with -9 at a given step.

Arguments: a folder, and the steps. Everything is imported once; each training is a fork of that.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from bitlens.runtime.cli import main
from bitlens.train.datasets import digits, shift_and_rotate

OPTIONS = ["--precision=w2a2", "--width=2", "--epochs=2", "--checkpoint-every=3", "--patience=2", "--watch"]


def dying_augmentation(images: Tensor, generator: torch.Generator, *, step: int, calls: list[int]) -> Tensor:
    calls.append(1)
    if len(calls) == step:
        os.kill(os.getpid(), signal.SIGKILL)
    return shift_and_rotate(images, generator)


def in_a_fork(*command: str, dies_at: int = 0) -> int:
    child = os.fork()
    if not child:
        digits.shift_and_rotate = partial(dying_augmentation, step=dies_at, calls=[])  # type: ignore[attr-defined]
        os._exit(main(["train", *command]))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    for slow in ("sklearn.datasets", "bitlens.train.fit", "bitlens.train.run_folder", "torch.utils.tensorboard"):
        with suppress(ImportError):  # tensorboard need not be there
            import_module(slow)
    folder = Path(sys.argv[1])
    assert in_a_fork("--output", str(folder / "unbroken"), *OPTIONS) == 0
    for step in map(int, sys.argv[2:]):
        run = str(folder / f"killed at {step}")
        assert in_a_fork("--output", run, *OPTIONS, dies_at=step) == -signal.SIGKILL
        assert in_a_fork("--output", run, *OPTIONS) == 1  # an unfinished run is not begun anew by mistake
        assert in_a_fork("--resume", run, *OPTIONS) == 0
