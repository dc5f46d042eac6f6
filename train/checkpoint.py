"""A checkpoint: all that a fit needs to go on, in one file that is either whole or not there.

A line `bitlens checkpoint 1 SHA256`, then what `torch.save` wrote: tensors, numbers and text, read with
`weights_only=True`.
"""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitlens.runtime.atomic_file import write_bytes_atomically
from bitlens.runtime.bounded_file import read_at_most
from bitlens.runtime.errors import BitlensError

_KIND = b"bitlens checkpoint 1 "
_LARGEST = 16 * 2**30


@dataclass(frozen=True)
class Checkpoints:
    """Where a fit keeps its checkpoint, and how often it writes one.

    Parameters
    ----------
    file : Path
        Replaced atomically after every epoch; its folder exists. If the file exists, the fit goes on from it.
    every_steps : int
        Within an epoch one is written after so many steps too, at least 1.
    """

    file: Path
    every_steps: int = 500

    def __post_init__(self) -> None:
        if self.every_steps < 1:
            raise BitlensError(f"every_steps must be at least 1, got {self.every_steps}: give a positive number")


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the checkpoint at `path`, or leave it as it was.

    Raises
    ------
    BitlensError
        If the folder is missing or not writable, or the disk is full.
    """
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    payload = buffer.getvalue()
    write_bytes_atomically(path, _KIND + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; nothing in it can run code.

    Raises
    ------
    BitlensError
        If it cannot be read, is no checkpoint, or is damaged.
    """
    given = read_at_most(path, _LARGEST, "train the run anew")
    header, _, payload = given.partition(b"\n")
    if not header.startswith(_KIND):
        raise BitlensError(f"{path} is no checkpoint that this bitlens reads: remove its folder and train the run anew")
    if hashlib.sha256(payload).hexdigest().encode() != header.removeprefix(_KIND):
        raise BitlensError(f"{path} is damaged (its SHA-256 differs): remove its folder and train the run anew")
    try:
        content = torch.load(io.BytesIO(payload), weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises anything from EOFError to UnpicklingError
        reason = " ".join(str(error).split())[:200]
        raise BitlensError(f"{path} holds what no checkpoint holds ({reason}): train the run anew") from error
    if not isinstance(content, dict):
        raise BitlensError(f"{path} holds no table: remove its folder and train the run anew")
    return content


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Give the state of every global random generator of this process, as tensors."""
    python = random.getstate()
    numpy = np.random.get_state()
    assert isinstance(numpy, tuple)
    state = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(python[1]),
        "python_gauss": torch.tensor([float("nan") if python[2] is None else python[2]], dtype=torch.float64),
        "numpy": torch.from_numpy(np.append(numpy[1].astype(np.int64), [numpy[2], numpy[3]])),
        "numpy_gauss": torch.tensor([numpy[4]], dtype=torch.float64),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Put back what `random_state` gave."""
    torch.set_rng_state(state["torch"])
    gauss = float(state["python_gauss"])
    random.setstate((3, tuple(state["python"].tolist()), None if gauss != gauss else gauss))
    numpy = state["numpy"].numpy()
    np.random.set_state(
        ("MT19937", numpy[:-2].astype(np.uint32), int(numpy[-2]), int(numpy[-1]), float(state["numpy_gauss"]))
    )
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
