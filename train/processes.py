"""The processes that train one network together, as Lightning Fabric runs them: on one machine or several."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor

from bitlens.runtime.errors import BitlensError

ACCELERATORS = ("cpu", "cuda")
MIXED_PRECISIONS = ("16", "bf16")
# Fabric's `32-true` converts nothing, so that a float64 model stays one.
_ARITHMETIC = {None: "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}


@dataclass(frozen=True)
class Processes:
    """Who trains, and with which arithmetic.

    Parameters
    ----------
    accelerator : str
        `cpu` or `cuda`.
    devices : int
        Processes on each machine, at least 1; on `cuda` each has a GPU of its own.
    nodes : int
        Machines, at least 1.
    mixed_precision : str or None
        `16` or `bf16` for the products of the forward and the backward pass; None is float32 throughout. The weights,
        the losses and every evaluation are float32 in any case.
    """

    accelerator: str = "cpu"
    devices: int = 1
    nodes: int = 1
    mixed_precision: str | None = None

    def __post_init__(self) -> None:
        if self.accelerator not in ACCELERATORS:
            raise BitlensError(f"unknown accelerator {self.accelerator!r}: choose one of {', '.join(ACCELERATORS)}")
        for name in ("devices", "nodes"):
            if getattr(self, name) < 1:
                raise BitlensError(f"{name} must be at least 1, got {getattr(self, name)}: give a positive number")
        if self.mixed_precision not in _ARITHMETIC:
            raise BitlensError(
                f"unknown mixed precision {self.mixed_precision!r}: choose one of {', '.join(MIXED_PRECISIONS)}"
            )
        if self.accelerator == "cpu" and self.mixed_precision is not None:
            raise BitlensError(
                f"mixed precision {self.mixed_precision} needs a GPU: add --accelerator cuda, or leave it out"
            )


def open_fabric(processes: Processes | None = None) -> Fabric:
    """Make the Fabric that `fit` trains with; call its `launch` before anything else that takes long.

    Parameters
    ----------
    processes : Processes, optional
        One CPU process if not given.

    Returns
    -------
    Fabric
        Not launched yet.

    Raises
    ------
    BitlensError
        If there is no such accelerator here, or the launcher started another number of processes.
    """
    processes = Processes() if processes is None else processes
    if processes.accelerator == "cuda":
        present = torch.cuda.device_count()
        if present < processes.devices:
            raise BitlensError(
                f"asked for {processes.devices} GPUs and {present} are here: lower --devices, or train with "
                "--accelerator cpu"
            )
    several = processes.devices * processes.nodes > 1
    try:
        return Fabric(
            accelerator=processes.accelerator,
            strategy="ddp" if several else "auto",
            devices=processes.devices,
            num_nodes=processes.nodes,
            precision=cast('Literal["32-true"]', _ARITHMETIC[processes.mixed_precision]),
        )
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BitlensError(
            f"cannot train with {processes.devices} processes on each of {processes.nodes} machines ({reason}): give "
            "--devices and --nodes the numbers that the launcher was given"
        ) from error


def gathered(fabric: Fabric, tensor: Tensor) -> Tensor:
    """Collect a tensor of every process, stacked along a new first dimension; on the CPU."""
    if fabric.world_size == 1:
        return tensor[None].cpu()
    own = tensor.to(fabric.device)
    all_of_them = [torch.empty_like(own) for _ in range(fabric.world_size)]
    torch.distributed.all_gather(all_of_them, own)
    return torch.stack(all_of_them).cpu()


def say(fabric: Fabric, line: str) -> None:
    """Print a line for a person who waits, once for all processes."""
    if fabric.is_global_zero:
        print(line, file=sys.stderr, flush=True)
