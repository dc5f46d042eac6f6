"""Interpretable gradients: the input gradient shall look like the guided one.

Torres Figueroa et al., 2404.15024: with the classification loss L_C of the step,

    loss = mean over the images of 1 - cos(dL_C/dx, guided dL_C/dx),

the guided gradient being a constant, weighted with 7.5e-3. The guided gradient drops what is negative wherever it
passes an activation backwards. Here an activation may be a ReLU, PACT or the sign, and the rule is the one that a
board follows (`guided_floor`, see `bitlens.runtime.autodiff`): with g the gradient that arrives at the activation's
output, mask * max(g, 0) leaves, the mask being the one of its (straight-through) derivative.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# A power of two, which no cosine sees; in half precision it keeps the gradient of a confident answer off 0.
_SCALE = 2.0**8


@dataclass
class GuidedRule:
    """Whether the gradients taken at this moment are guided.

    Parameters
    ----------
    active : bool
        True only while `input_gradients` takes the guided one.
    """

    active: bool = False


@contextmanager
def guided_rule(model: nn.Module) -> Iterator[GuidedRule]:
    """Let the forward passes inside the block be differentiated by either rule, also after it.

    Parameters
    ----------
    model : nn.Module
        Its activations are the modules with an attribute `surrogate` and the `nn.ReLU`.

    Yields
    ------
    GuidedRule
        What `input_gradients` needs; as long as it is not active nothing is changed.
    """
    rule = GuidedRule()

    def floor(gradient: Tensor) -> Tensor | None:
        return gradient.clamp(min=0.0) if rule.active else None

    def watch(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(floor)

    handles = [activation.register_forward_hook(watch) for activation in _activations(model)]
    try:
        yield rule
    finally:
        for handle in handles:
            handle.remove()


def input_gradients(loss: Tensor, x: Tensor, rule: GuidedRule, *, differentiable: bool = True) -> tuple[Tensor, Tensor]:
    """Give d loss / dx and the guided d loss / dx; cost: 2 backward passes.

    Parameters
    ----------
    loss : Tensor
        A scalar that a forward pass inside `guided_rule` gave.
    x : Tensor
        The images of that pass, which require a gradient.
    rule : GuidedRule
        What `guided_rule` gave.
    differentiable : bool
        Whether the first of the two can be differentiated again; the guided one is a constant.

    Returns
    -------
    plain, guided : Tensor
        Shape and dtype of `x`.
    """
    (plain,) = torch.autograd.grad(loss, x, create_graph=differentiable, retain_graph=True)
    rule.active = True
    try:
        (guided,) = torch.autograd.grad(loss, x, retain_graph=differentiable)
    finally:
        rule.active = False
    return plain, guided


def cosines(plain: Tensor, guided: Tensor) -> Tensor:
    """Give the cosine between two gradients of each image, 0 where one of them is none.

    A gradient counts as none where no entry exceeds the square root of the smallest normal number of the dtype (1e-19
    in float32), below which a square is no number any more, and where half precision has made it infinite. Such an
    image has no direction to agree with. It counts as no agreement, so that a network is not rewarded for gradients
    that vanish, and it has the derivative 0.

    Parameters
    ----------
    plain, guided : Tensor
        Float, of shape (N, ...).

    Returns
    -------
    Tensor
        (N,), in -1..1, float32 at least; always finite, and with a finite derivative.
    """
    one, two = (gradient.flatten(1).to(_at_least_float32(gradient.dtype)) for gradient in (plain, guided))
    both = _is_some(one.detach()) & _is_some(two.detach())
    # Replaced before the root is taken: the derivative of a root at 0 is infinite, and 0 times that no number.
    one, two = (torch.where(both[:, None], gradient, 1.0) for gradient in (one, two))
    cosine = (one / one.norm(dim=1, keepdim=True) * two / two.norm(dim=1, keepdim=True)).sum(dim=1)
    return torch.where(both, cosine, 0.0)


def gradients_apart(classification: Tensor, x: Tensor, rule: GuidedRule) -> Tensor:
    """Give the mean over the images of 1 - cos(plain, guided input gradient).

    Cost: 2 backward passes, and differentiating it about 2 more.

    Parameters
    ----------
    classification : Tensor
        L_C, a scalar that a forward pass inside `guided_rule` gave: the mean over the images `x`. In several processes
        each gives that of its own images.
    x : Tensor
        Float images (N, C, H, W), which require a gradient; in several processes a process may have none.
    rule : GuidedRule
        What `guided_rule` gave.

    Returns
    -------
    Tensor
        A scalar in 0..2, float32 at least; 0 for no image. An image without a gradient counts 1, see `cosines`.
    """
    # The sum, not the mean: batch norm ties the images of all processes together, and they have one weight.
    plain, guided = input_gradients(classification * (len(x) * _SCALE), x, rule)
    return (1 - cosines(plain, guided)).sum() / max(len(x), 1)


def _activations(model: nn.Module) -> list[nn.Module]:
    found = [module for module in model.modules() if isinstance(getattr(module, "surrogate", None), str)]
    inside = {part for module in found for part in module.modules()}  # Brevitas' PACT holds a ReLU of its own
    return found + [module for module in model.modules() if isinstance(module, nn.ReLU) and module not in inside]


def _is_some(gradient: Tensor) -> Tensor:
    least = torch.finfo(gradient.dtype).tiny ** 0.5
    return (gradient.abs() > least).any(dim=1) & gradient.isfinite().all(dim=1)


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
