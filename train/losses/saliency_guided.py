"""Saliency-guided training: the answer must not hang on the pixels that the network's own gradient calls least salient.

Ismail, Corrada Bravo and Feizi, 2111.14338, section 3; Mousa Rezabeyk et al., 2411.05858, apply it to networks with
PACT. For an image X with label y and the network's answer p,

    loss(X) = KL(p(X) || p(X~)),    X~ = X with the k least salient pixels replaced by noise,

and the gradient goes through both answers. X~ is made anew for every batch, from the weights of that moment, and is a
constant to the gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitlens.train.evaluation_mode import evaluation_mode

SIGNED = "signed"
"""Least salient is the most negative derivative, as in the authors' code."""
ABSOLUTE = "absolute"
"""Least salient is the derivative that is smallest in size."""
RANKINGS = (SIGNED, ABSOLUTE)


def class_saliency(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """Give d log p_y / dx of each image's class y in evaluation mode, averaged over the channels.

    Cost: 1 forward and 1 backward pass.

    Parameters
    ----------
    model : nn.Module
        Maps (N, C, H, W) images to logits; every module's mode is put back afterwards, no gradient is left behind.
    x : Tensor
        Float images (N, C, H, W); in several processes a process may have none of them.
    labels : Tensor
        int64 (N,): the class y of each image.

    Returns
    -------
    Tensor
        (N, H, W), dtype of `x`, signed, per unit of `x`; a constant.
    """
    with evaluation_mode(model), torch.enable_grad():
        image = x.detach().requires_grad_()
        score = functional.log_softmax(model(image), dim=1).gather(1, labels[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, image)
    return gradient.mean(dim=1)


def least_salient(saliency: Tensor, share: float, ranking: str = SIGNED) -> Tensor:
    """Mark the int(share * H * W) least salient pixels of each image; among equal ones the first in row-major order.

    Parameters
    ----------
    saliency : Tensor
        Signed, (N, H, W).
    share : float
        0..1.
    ranking : str
        `SIGNED` or `ABSOLUTE`.

    Returns
    -------
    Tensor
        bool (N, H, W).
    """
    values = (saliency.abs() if ranking == ABSOLUTE else saliency).flatten(1)
    chosen = values.argsort(dim=1, stable=True)[:, : int(share * values.shape[1])]
    return torch.zeros_like(values, dtype=torch.bool).scatter_(1, chosen, True).reshape(saliency.shape)


def replaced(x: Tensor, where: Tensor, noise: Tensor) -> Tensor:
    """Replace pixels by values that are uniform between the least and the largest value of their own image.

    Parameters
    ----------
    x : Tensor
        Float images (N, C, H, W).
    where : Tensor
        bool (N, H, W): the pixels to replace, in every channel.
    noise : Tensor
        Independent uniform numbers of 0..1, shape and dtype of `x`.

    Returns
    -------
    Tensor
        Shape and dtype of `x`.
    """
    low, high = x.amin(dim=(1, 2, 3), keepdim=True), x.amax(dim=(1, 2, 3), keepdim=True)
    # The rounding of the sum may not leave the image's range.
    return torch.where(where[:, None], torch.minimum(low + noise * (high - low), high), x)


def without_least_salient(
    model: nn.Module, x: Tensor, labels: Tensor, noise: Tensor, *, share: float, ranking: str
) -> Tensor:
    """Make X~: each image with its least salient pixels replaced; cost: 1 forward and 1 backward pass.

    Parameters
    ----------
    model : nn.Module
        Maps images to logits; see `class_saliency`.
    x : Tensor
        Float images (N, C, H, W).
    labels : Tensor
        int64 (N,): the class whose saliency counts.
    noise : Tensor
        Uniform numbers of 0..1, shape and dtype of `x`.
    share : float
        Share of the pixels that is replaced, 0..1.
    ranking : str
        `SIGNED` or `ABSOLUTE`.

    Returns
    -------
    Tensor
        Shape and dtype of `x`; a constant.
    """
    return replaced(x.detach(), least_salient(class_saliency(model, x, labels), share, ranking), noise)


def answers_apart(logits: Tensor, logits_replaced: Tensor) -> Tensor:
    """Give the mean over the images of KL(p(X) || p(X~)), in nats; both answers have a gradient.

    Parameters
    ----------
    logits, logits_replaced : Tensor
        Float (N, classes), of the images X and of X~.

    Returns
    -------
    Tensor
        A scalar, at least 0; 0 for no image.
    """
    divergence = functional.kl_div(
        functional.log_softmax(logits_replaced, dim=1),
        functional.log_softmax(logits, dim=1),
        reduction="sum",
        log_target=True,
    )
    return divergence / max(len(logits), 1)
