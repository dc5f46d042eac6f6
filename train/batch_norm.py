"""Batch norm over the images of all processes, so that several of them train as one does.

torch's `SyncBatchNorm` is for GPUs alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; what it feeds on each of them sends its gradient to all of them."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _sum_over_processes(gradients[0])  # itself, so that it can be differentiated again


def _sum_over_processes(tensor: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(tensor)  # type: ignore[no-untyped-call]
    return total


def _forward(norm: _BatchNorm, x: Tensor) -> Tensor:
    if not norm.training:
        return functional.batch_norm(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=norm.eps
        )
    wide = x if x.dtype == torch.float64 else x.float()
    others = [0, *range(2, x.ndim)]
    shape = (1, -1) + (1,) * (x.ndim - 2)
    count = _sum_over_processes(wide.new_tensor(float(x.numel() // x.shape[1])))
    mean = _sum_over_processes(wide.sum(others)) / count
    # Around the mean: a difference of two large sums would lose digits.
    centred = wide - mean.view(shape)
    variance = _sum_over_processes(centred.square().sum(others)) / count
    if norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None:
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            rate = 1 / norm.num_batches_tracked.item() if norm.momentum is None else norm.momentum
            norm.running_mean.lerp_(mean.detach().to(norm.running_mean.dtype), rate)
            unbiased = variance.detach() * (count / (count - 1).clamp(min=1))
            norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), rate)
    normalised = centred * torch.rsqrt(variance + norm.eps).view(shape)
    if norm.affine:
        normalised = normalised * norm.weight.view(shape) + norm.bias.view(shape)
    return normalised.to(x.dtype)


@contextmanager
def batch_norm_over_processes(model: nn.Module, processes: int) -> Iterator[None]:
    """Let every batch norm of `model` see the images of all processes while the block runs.

    Parameters
    ----------
    model : nn.Module
        Its modules and their state keep their names; in evaluation mode nothing changes.
    processes : int
        Number of processes of the default group of `torch.distributed`; with 1 torch's batch norm stays.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)] if processes > 1 else []
    for norm in norms:
        norm.forward = partial(_forward, norm)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward
