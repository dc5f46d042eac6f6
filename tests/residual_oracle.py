"""The Brevitas model as oracle for networks with shortcuts: forward hooks look at every module, wherever it stands.

Two runs. `run_with_hooks` is `brevitas_oracle.run_brevitas` for any network: end to end in float64.
`run_fed` compares layer by layer: every quantizer and every residual sum hands on what the program gave, in float64,
so that each module computes from exactly the numbers that the program's own layer was fed. Given a seed, autograd goes
back through the same modules at the same numbers, so that no image has to be left out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import brevitas.nn as qnn
import numpy as np
import torch
from brevitas_oracle import OracleRun, activation_scale, backward, codes_of, is_quantizer, surrogate_mask
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from bitlens.train.models.residual import ResidualSum
from bitlens.train.pooling import MaxPool2d

FLOAT32_UNIT = 2.0**-24  # largest relative error of one rounding

Hook = Callable[[str, nn.Module, tuple[Tensor, ...], Tensor], Tensor]


@dataclass
class FedRun:
    """What Brevitas' modules made of the program's numbers, and how far its sums lie from the program's."""

    codes: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    masks: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    sum_errors: dict[str, float] = field(default_factory=dict)  # in multiples of the bound, 1 is the worst allowed
    logits: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    input_gradient: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))


class _Fed(torch.autograd.Function):
    """Another value, the gradient unchanged."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, other: Tensor) -> Tensor:
        return other.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def frozen(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model).eval().double()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def leaves(model: nn.Module) -> dict[str, nn.Module]:
    """Modules to look at: what Brevitas keeps inside its own layers is left out."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if any(name.startswith(f"{outer}.") for outer in found):
            continue
        if is_quantizer(module) or isinstance(module, qnn.QuantConv2d | qnn.QuantLinear) or not list(module.children()):
            found[name] = module
    return found


def run_hooked(model: nn.Module, image: Tensor, hook: Hook) -> Tensor:
    """Forward pass in which `hook` sees, and may replace, what each module gives."""

    def bound(name: str) -> Any:
        return lambda module, inputs, output: hook(name, module, inputs, output)

    handles = [module.register_forward_hook(bound(name)) for name, module in leaves(model).items()]
    try:
        logits: Tensor = model(image)
    finally:
        for handle in handles:
            handle.remove()
    return logits


def noted(output: Tensor, **notes: object) -> Tensor:
    for name, value in notes.items():
        setattr(output, name, value)
    return output


def winners(pool: nn.MaxPool2d, given: Tensor) -> NDArray[np.int64]:
    if isinstance(pool, MaxPool2d):
        return np.asarray(pool.winners(given.detach()).numpy())
    indices = functional.max_pool2d_with_indices(given.detach(), pool.kernel_size, pool.stride, pool.padding)[1]
    return np.asarray(indices.numpy())


def run_with_hooks(model: nn.Module, x: NDArray[np.generic], seed: NDArray[np.generic]) -> OracleRun:
    """Forward and backward of any network in float64; x is real (code / 255), seed weighs the logits."""
    image = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    run = OracleRun(np.empty(0), np.empty(0), {}, {}, {}, {}, {}, {})
    outputs: dict[str, Tensor] = {}

    def hook(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        given = inputs[0]
        run.inputs[name] = given.detach()
        if isinstance(module, nn.MaxPool2d):
            run.pool_indices[name] = winners(module, given)
        if is_quantizer(module):
            scale = activation_scale(module)
            run.codes[name] = codes_of(module, output, scale)
            run.masks[name] = surrogate_mask(module, given)
        if is_quantizer(module) or isinstance(module, nn.ReLU):
            output.retain_grad()
            outputs[name] = output
        return output

    logits = run_hooked(frozen(model), image, hook)
    backward(run, logits, seed, image, outputs)
    return run


def _bound(real: Tensor) -> Tensor:
    """Largest distance of a program's float32 slope * sum + offset from the real value `real`.

    Slope, product, offset and sum are rounded once each, and |slope * sum| <= |real| + |offset|.
    """
    offset = getattr(real, "offset", torch.zeros(1, dtype=real.dtype))
    return 3.001 * FLOAT32_UNIT * (real.detach().abs() + offset)


def run_fed(
    model: nn.Module,
    x: NDArray[np.generic],
    trace: Mapping[str, NDArray[Any]],
    seed: NDArray[np.generic] | None = None,
) -> FedRun:
    """Brevitas' modules in float64, each fed the codes and float32 sums that `trace` has of the program.

    With a seed the input gradient is computed too.
    """
    run = FedRun()
    image = torch.tensor(x, dtype=torch.float64, requires_grad=seed is not None)

    def fed(output: Tensor, value: NDArray[Any]) -> Tensor:
        result: Tensor = _Fed.apply(output, torch.tensor(value, dtype=torch.float64))  # type: ignore[no-untyped-call]
        return result

    def hook(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if is_quantizer(module):
            scale = activation_scale(module)
            run.codes[name] = codes_of(module, output, scale)
            run.masks[name] = surrogate_mask(module, inputs[0])
            return fed(output, trace[name] * scale)
        if isinstance(module, ResidualSum):
            own = torch.tensor(trace[name], dtype=torch.float64)
            bound = _bound(inputs[0]) + _bound(inputs[1]) + FLOAT32_UNIT * own.abs()
            run.sum_errors[name] = float(((own - output.detach()).abs() / bound).max())
            return fed(output, trace[name])
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            factor = module.weight / torch.sqrt(module.running_var + module.eps)
            offset = (module.bias - module.running_mean * factor).abs().reshape(1, -1, 1, 1)
            return noted(output, offset=offset)
        if isinstance(module, nn.MaxPool2d) and hasattr(inputs[0], "offset"):
            return noted(output, offset=inputs[0].offset)
        return output

    logits = run_hooked(frozen(model), image, hook)
    run.logits = logits.detach().numpy()
    if seed is not None:
        (logits * torch.tensor(seed, dtype=torch.float64)).sum().backward()  # type: ignore[no-untyped-call]
        assert image.grad is not None
        run.input_gradient = image.grad.numpy()
    return run
