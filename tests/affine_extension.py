"""A smooth function whose ordinary derivatives are the straight-through ones of a network, for finite differences.

At a base point each activation quantizer has an input x0, an output q0, a mask m0 and, with PACT, an alpha0 and the set
of saturated entries s0. Replaced by q0 + m0 (x - x0) + s0 (alpha - alpha0) it has the value of the quantizer there, and
as ordinary derivative what PACT (1805.06085, eq. 3) and the sign (1602.02830, eq. 4) pass on.
"""

from __future__ import annotations

import copy

import brevitas.nn as qnn
import torch
from torch import Tensor, nn

from bitlens.train.quantizers import learned_alphas


class AffineExtension(nn.Module):
    """Stands for a quantizer; its first input in training and its first in evaluation mode are the base points."""

    surrogate = "affine"

    def __init__(self, quantizer: nn.Module) -> None:
        super().__init__()
        self.quantizer = [quantizer]  # not a submodule: neither its parameters nor its ReLU belong to the extension
        own = list(learned_alphas(quantizer).values())
        self.alpha = nn.Parameter(own[0].detach().clone()) if own else None
        self.bases: dict[bool, tuple[Tensor, ...]] = {}

    def forward(self, x: Tensor) -> Tensor:
        if self.training not in self.bases:
            with torch.no_grad():
                output = self.quantizer[0](x)
                if self.alpha is None:
                    mask, saturated = x.abs() <= 1, torch.zeros_like(x, dtype=torch.bool)
                else:
                    mask, saturated = (x > 0) & (x < self.alpha), x >= self.alpha
                alpha = torch.zeros(()) if self.alpha is None else self.alpha.clone()
                self.bases[self.training] = (x.clone(), output, mask.to(x), saturated.to(x), alpha)
        x0, q0, mask, saturated, alpha0 = self.bases[self.training]
        extended = q0 + mask * (x - x0)
        return extended if self.alpha is None else extended + saturated * (self.alpha - alpha0)


def with_float_weights(model: nn.Sequential) -> nn.Sequential:
    """The same network with its quantized weights as ordinary parameters."""
    model = copy.deepcopy(model)
    for name, module in model.named_children():
        if isinstance(module, qnn.QuantConv2d):
            plain: nn.Module = nn.Conv2d(
                module.in_channels,
                module.out_channels,
                module.kernel_size,
                module.stride,
                module.padding,
                bias=False,
            )
        elif isinstance(module, qnn.QuantLinear):
            plain = nn.Linear(module.in_features, module.out_features)
            plain.bias = nn.Parameter(module.bias.detach().clone())
        else:
            continue
        plain.weight = nn.Parameter(module.quant_weight().value.detach().clone())
        setattr(model, name, plain)
    return model


def extended(model: nn.Sequential) -> nn.Sequential:
    """The same network with the affine extension of every activation quantizer; its next inputs are the base points."""
    model = copy.deepcopy(model)
    for name, module in model.named_children():
        if isinstance(getattr(module, "surrogate", None), str):
            setattr(model, name, AffineExtension(module))
    return model
