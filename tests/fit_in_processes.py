"""Fit small networks in as many processes as the launcher started; the first one writes the loss curves as JSON."""

from __future__ import annotations

import json
import os
import sys
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from bitlens.train.batch_norm import batch_norm_over_processes
from bitlens.train.checkpoint import Checkpoints
from bitlens.train.datasets import ImageDataset, open_dataset
from bitlens.train.fit import EpochRecord, FitConfig, fit
from bitlens.train.models import build_model
from bitlens.train.processes import Processes, open_fabric

BOTH = {"saliency_guided_weight": 1.0, "interpretable_gradient_weight": 0.1}
CASES: dict[str, tuple[str, str, torch.dtype, int, int, dict[str, float]]] = {
    # name: (model, precision, dtype, images, batch, objectives)
    "fp32 in float64": ("lenet", "fp32", torch.float64, 200, 60, {}),
    # 91 training images leave one in the last step: the second process has none.
    "one image left": ("lenet", "fp32", torch.float64, 101, 18, {}),
    "alphas in float64": ("resnet20", "w2a2", torch.float64, 60, 27, {}),
    "fp32 in float32": ("lenet", "fp32", torch.float32, 200, 60, {}),
    "w2a2 in float32": ("lenet", "w2a2", torch.float32, 200, 60, {}),
    # 55 training images: one image left again.
    "both losses in float64": ("lenet", "fp32", torch.float64, 61, 18, BOTH),
    "both losses with alphas in float64": ("resnet20", "w2a2", torch.float64, 30, 14, BOTH),
}


def curves(processes: Processes, data: ImageDataset) -> dict[str, list[tuple[float, float]]]:
    found = {}
    for name, (model_name, precision, dtype, images, batch, objectives) in CASES.items():
        fabric = open_fabric(processes)
        fabric.launch()
        model = build_model(model_name, precision, width=3, seed=2).to(dtype)
        config = replace(FitConfig(epochs=3, batch_size=batch, seed=3), **objectives)  # type: ignore[arg-type]
        result = fit(model, data.subset(torch.arange(images)), config, fabric=fabric)
        found[name] = [(record.loss, record.validation_accuracy) for record in result.epochs]
    return found


def second_derivatives(processes: Processes) -> list[float]:
    """Of a batch norm over the images of all processes: d/dx of the square of d/dx, all images in order."""
    fabric = open_fabric(processes)
    fabric.launch()
    norm = nn.BatchNorm1d(3).double()
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    mine = x[fabric.global_rank :: fabric.world_size].requires_grad_()
    with batch_norm_over_processes(norm, fabric.world_size):
        (first,) = torch.autograd.grad(norm(mine).pow(3).sum(), mine, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), mine)
    whole = torch.zeros_like(x)
    whole[fabric.global_rank :: fabric.world_size] = second
    return cast(Tensor, fabric.all_reduce(whole, reduce_op="sum")).flatten().tolist()


class _Interrupted(Exception):  # noqa: N818  (no error: what a kill is to the test)
    pass


def _interrupt(record: EpochRecord) -> None:
    raise _Interrupted


def resumed_as_unbroken(processes: Processes, data: ImageDataset, folder: Path) -> bool:
    """Whether a fit that is interrupted after its first epoch ends with the weights of an unbroken one."""
    fabric = open_fabric(processes)
    fabric.launch()
    config = FitConfig(epochs=2, batch_size=60, seed=3, saliency_guided_weight=1.0, interpretable_gradient_weight=0.1)
    some = data.subset(torch.arange(120))
    unbroken, broken, resumed = (build_model("lenet", "w2a2", width=3, seed=2) for _ in range(3))
    fit(unbroken, some, config, fabric=fabric)
    checkpoints = Checkpoints(folder / "state", 2)
    with suppress(_Interrupted):
        fit(broken, some, config, _interrupt, fabric=fabric, checkpoints=checkpoints)
    fabric.barrier()
    fit(resumed, some, config, fabric=fabric, checkpoints=checkpoints)
    other = unbroken.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in resumed.state_dict().items())


if __name__ == "__main__":
    warnings.simplefilter("error", DeprecationWarning)
    torch.set_num_threads(1)
    here = Processes(devices=int(os.environ["LOCAL_WORLD_SIZE"]))
    digits, place = open_dataset("digits").train(), Path(sys.argv[1])
    found = {
        "curves": curves(here, digits),
        "second derivatives": second_derivatives(here),
        "resumed": resumed_as_unbroken(here, digits, place.parent),
    }
    if os.environ["RANK"] == "0":
        place.write_text(json.dumps(found))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()  # a process that exits with its threads still running may be aborted
