"""Interpretable gradients: the input gradient shall look like the guided one.

Torres Figueroa et al., 2404.15024: with the cross entropy L_C of an image x,

    loss(x) = 1 - cos(dL_C/dx, guided dL_C/dx),

the guided gradient being a constant, weighted with 7.5e-3. The guided gradient drops what is negative wherever it
passes an activation backwards. Here an activation may be a ReLU, PACT or the sign, and the rule is the one that a
board follows (`guided_floor`, see `bitlens.runtime.autodiff`): with g the gradient that arrives at the activation's
output, mask * max(g, 0) leaves, the mask being the one of its (straight-through) derivative.

Both gradients are those of the network in evaluation mode, whose maps will be shown. In training mode batch norm ties
the images of a batch together and dL_C/dx has terms through their mean and variance: a network learns to align that
gradient and leaves the one it is explained by as it was (`docs/training.md` has the numbers).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitlens.train.evaluation_mode import evaluation_mode
from bitlens.train.quantizers import activations


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
        See `bitlens.train.quantizers.activations`.

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
            output.register_hook(floor)  # type: ignore[no-untyped-call]

    handles = [activation.register_forward_hook(watch) for activation in activations(model).values()]
    try:
        yield rule
    finally:
        for handle in handles:
            handle.remove()


def input_gradients(score: Tensor, x: Tensor, rule: GuidedRule, *, differentiable: bool) -> tuple[Tensor, Tensor]:
    """Give d score / dx and the guided d score / dx; cost: 2 backward passes.

    Parameters
    ----------
    score : Tensor
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
    (plain,) = torch.autograd.grad(score, x, create_graph=differentiable, retain_graph=True)
    rule.active = True
    try:
        (guided,) = torch.autograd.grad(score, x, retain_graph=differentiable)
    finally:
        rule.active = False
    return plain, guided


def cosines(plain: Tensor, guided: Tensor) -> Tensor:
    """Give the cosine between two gradients of each image, 0 where one of them is none.

    A gradient counts as none where no entry exceeds the square root of the smallest normal number of the dtype (1e-19
    in float32), below which a square is no number any more. Such an image has no direction to agree with. It counts as
    no agreement, so that a network is not rewarded for gradients that vanish, and it has the derivative 0.

    Parameters
    ----------
    plain, guided : Tensor
        Finite, float32 or float64, of shape (N, ...).

    Returns
    -------
    Tensor
        (N,), in -1..1; finite, and with a finite derivative.
    """
    one, two = plain.flatten(1), guided.flatten(1)
    least = torch.finfo(one.dtype).tiny ** 0.5
    both = (one.detach().abs() > least).any(dim=1) & (two.detach().abs() > least).any(dim=1)
    # Replaced before the root is taken: the derivative of a root at 0 is infinite, and 0 times that no number.
    one, two = (torch.where(both[:, None], gradient, 1.0) for gradient in (one, two))
    cosine = (one / one.norm(dim=1, keepdim=True) * two / two.norm(dim=1, keepdim=True)).sum(dim=1)
    return torch.where(both, cosine, 0.0)


def agreement(model: nn.Module, x: Tensor, labels: Tensor, *, differentiable: bool) -> Tensor:
    """Give each image's cosine between the plain and the guided input gradient of its cross entropy.

    In evaluation mode. Cost: 1 forward pass and 2 backward passes.

    Parameters
    ----------
    model : nn.Module
        Maps (N, C, H, W) images to logits; every module's mode is put back afterwards.
    x : Tensor
        Float images (N, C, H, W); in several processes a process may have none of them.
    labels : Tensor
        int64 (N,): the true classes.
    differentiable : bool
        Whether the cosines can be differentiated by the model's parameters.

    Returns
    -------
    Tensor
        (N,), in -1..1; 0 where one of the gradients vanishes, see `cosines`.
    """
    with evaluation_mode(model), torch.enable_grad(), guided_rule(model) as rule:
        image = x.detach().requires_grad_()
        logits = model(image)
        # With m = log sum of exp(the others' logits) - the label's logit the cross entropy is log(1 + exp(m)): its
        # gradient, by either rule, is sigmoid(m) times that of m. No cosine sees this factor, and a confident answer
        # rounds it to 0.
        others = logits.masked_fill(functional.one_hot(labels, logits.shape[1]).bool(), -math.inf)
        margins = others.logsumexp(dim=1) - logits.gather(1, labels[:, None])[:, 0]
        return cosines(*input_gradients(margins.sum(), image, rule, differentiable=differentiable))


def gradients_apart(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """Give the mean over the images of 1 - cos(plain, guided input gradient).

    Cost: 1 forward pass and 2 backward passes; differentiating it about 2 more.

    Parameters
    ----------
    model : nn.Module
        See `agreement`.
    x : Tensor
        Float images (N, C, H, W); in several processes a process may have none of them.
    labels : Tensor
        int64 (N,): the true classes.

    Returns
    -------
    Tensor
        A scalar in 0..2; 0 for no image. An image without a gradient counts 1, and has the derivative 0.
    """
    return (1 - agreement(model, x, labels, differentiable=True)).sum() / max(len(x), 1)
