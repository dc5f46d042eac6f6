"""The oracle: the Brevitas model itself, evaluated by PyTorch in float64, with its intermediate codes and masks.

Nothing is done to it: gradients are torch.autograd's through the model's own modules. Its pools are
`bitlens.train.pooling.MaxPool2d`, which take the first of equal sums where PyTorch's own would take the one with the
larger rounding error.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from bitlens.train.pooling import MaxPool2d

INPUT_SCALE = 1.0 / 255.0


@dataclass
class OracleRun:
    """What the Brevitas model computed for a batch."""

    logits: NDArray[np.float64]
    input_gradient: NDArray[np.float64]
    values: dict[str, NDArray[np.float64]]  # activation outputs, real
    gradients: dict[str, NDArray[np.float64]]  # d score / d activation output
    codes: dict[str, NDArray[np.int64]]
    masks: dict[str, NDArray[np.bool_]]
    pool_indices: dict[str, NDArray[np.int64]]
    inputs: dict[str, Tensor]  # what each layer was fed


def is_quantizer(module: nn.Module) -> bool:
    return isinstance(getattr(module, "surrogate", None), str)


def activation_scale(module: nn.Module) -> float:
    """Real value of one code step."""
    return float(module.act_quant.scale().detach().reshape(()))


def surrogate_mask(module: nn.Module, before: Tensor) -> NDArray[np.bool_]:
    """Where the straight-through gradient passes, from the papers' formulas."""
    y = before.detach().numpy()
    if module.surrogate == "hardtanh":
        return np.abs(y) <= 1.0
    return (y > 0.0) & (y < float(module.alpha()))


def codes_of(module: nn.Module, output: Tensor, scale: float) -> NDArray[np.int64]:
    codes = output.detach().numpy() / scale
    whole = np.rint(codes)
    assert np.abs(codes - whole).max() < 1e-6, "the activation is not on its grid"
    return whole.astype(np.int64)


def run_brevitas(
    model: nn.Sequential,
    x: NDArray[np.generic],
    seed: NDArray[np.generic],
    *,
    dtype: torch.dtype = torch.float64,
) -> OracleRun:
    """Forward and backward of a flat `nn.Sequential` model; x is real (code / 255), seed weighs the logits."""
    model = copy.deepcopy(model).eval().to(dtype)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    image = torch.tensor(x, dtype=dtype, requires_grad=True)
    current, scale = image, INPUT_SCALE
    outputs: dict[str, Tensor] = {}
    run = OracleRun(np.empty(0), np.empty(0), {}, {}, {}, {}, {}, {})
    for name, module in model.named_children():
        run.inputs[name] = current.detach()
        before = current
        if isinstance(module, MaxPool2d):
            run.pool_indices[name] = module.winners(current.detach()).numpy()
        elif isinstance(module, nn.MaxPool2d):
            indices = functional.max_pool2d_with_indices(
                current.detach(), module.kernel_size, module.stride, module.padding
            )[1]
            run.pool_indices[name] = indices.numpy()
        current = module(current)
        if isinstance(module, nn.AvgPool2d):
            scale /= int(module.kernel_size) ** 2  # the grid of a mean; square kernels only
        if is_quantizer(module):
            scale = activation_scale(module)
            run.codes[name] = codes_of(module, current, scale)
            run.masks[name] = surrogate_mask(module, before)
        if is_quantizer(module) or isinstance(module, nn.ReLU):
            current.retain_grad()
            outputs[name] = current
    backward(run, current, seed, image, outputs)
    return run


def backward(
    run: OracleRun, logits: Tensor, seed: NDArray[np.generic], image: Tensor, outputs: dict[str, Tensor]
) -> None:
    """Differentiate sum(seed * logits); note logits, input gradient and each activation with its gradient."""
    (logits * torch.tensor(seed, dtype=logits.dtype)).sum().backward()
    run.logits = logits.detach().numpy()
    assert image.grad is not None
    run.input_gradient = image.grad.numpy()
    for name, output in outputs.items():
        assert output.grad is not None
        run.values[name] = output.detach().numpy()
        run.gradients[name] = output.grad.numpy()
