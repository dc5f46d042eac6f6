"""What the papers' objectives are meant to improve, measured on held-out images in evaluation mode.

Random numbers come from generators with seeds of their own, so the same model and images give the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from bitlens.runtime.errors import BitlensError
from bitlens.train.datasets import network_input
from bitlens.train.evaluation_mode import evaluation_mode
from bitlens.train.losses.interpretable_gradient import agreement
from bitlens.train.losses.saliency_guided import RANKINGS, SIGNED, without_least_salient

_BATCH = 256


@dataclass(frozen=True)
class ReplacedScores:
    """Answers to images and to the same images without their least salient pixels, one entry per image.

    Parameters
    ----------
    score : array
        float64 (N,): softmax probability of the class that the network predicts for the image.
    score_replaced : array
        float64 (N,): the same class's probability once the pixels are replaced.
    right : array
        bool (N,): whether the image is classified correctly.
    right_replaced : array
        bool (N,): whether it still is, once the pixels are replaced.
    """

    score: NDArray[np.float64]
    score_replaced: NDArray[np.float64]
    right: NDArray[np.bool_]
    right_replaced: NDArray[np.bool_]

    @property
    def kept(self) -> NDArray[np.float64]:
        """Share of the score that is left, float64 (N,): 1 where nothing is lost, above 1 where it grows."""
        return self.score_replaced / self.score


def replaced_scores(
    model: nn.Module, images: Tensor, labels: Tensor, *, share: float = 0.5, ranking: str = SIGNED, seed: int = 0
) -> ReplacedScores:
    """Replace the least salient pixels by noise, as saliency-guided training does, and compare the answers.

    Salient and scored is the class that the network predicts, whose probability is at least 1 / classes: a ratio to
    that of a true class which the network rules out would say nothing. Cost: 3 forward passes and 1 backward pass.

    Parameters
    ----------
    model : nn.Module
        Maps (N, C, H, W) images to logits; its mode is put back afterwards.
    images : Tensor
        uint8 codes (N, C, H, W), at least one.
    labels : Tensor
        int64 (N,).
    share : float
        Share of the pixels that is replaced, between 0 and 1.
    ranking : str
        `signed` (the most negative derivative is the least salient) or `absolute`.
    seed : int
        Of the noise.

    Returns
    -------
    ReplacedScores
        In the order of the images.

    Raises
    ------
    BitlensError
        If there is no image, images and labels differ in number, or share or ranking is impossible.
    """
    if not 0 < share < 1:
        raise BitlensError(f"share must lie between 0 and 1, got {share}: try 0.5")
    if ranking not in RANKINGS:
        raise BitlensError(f"unknown ranking {ranking!r}: choose one of {', '.join(RANKINGS)}")
    generator = torch.Generator().manual_seed(seed)
    rows: list[tuple[Tensor, ...]] = []
    with evaluation_mode(model):
        for x, y in _batches(model, images, labels):
            # float32 numbers for every model: the same noise at every precision.
            noise = torch.rand(x.shape, generator=generator).to(x)
            before = _probabilities(model, x)
            predicted = before.argmax(dim=1)
            after = _probabilities(
                model, without_least_salient(model, x, predicted, noise, share=share, ranking=ranking)
            )
            of_it = predicted[:, None]
            rows.append(
                (
                    before.gather(1, of_it)[:, 0],
                    after.gather(1, of_it)[:, 0],
                    predicted == y,
                    after.argmax(dim=1) == y,
                )
            )
    columns = [torch.cat(column).cpu().numpy() for column in zip(*rows, strict=True)]
    return ReplacedScores(*columns)


def guided_agreement(model: nn.Module, images: Tensor, labels: Tensor) -> NDArray[np.float64]:
    """Give the cosine between the plain and the guided input gradient of the cross entropy of each image.

    An image of which one of the two vanishes counts 0, see `bitlens.train.losses.interpretable_gradient.cosines`.
    Cost: 1 forward pass and 2 backward passes.

    Parameters
    ----------
    model : nn.Module
        Maps (N, C, H, W) images to logits; its mode is put back afterwards.
    images : Tensor
        uint8 codes (N, C, H, W), at least one.
    labels : Tensor
        int64 (N,): the true classes.

    Returns
    -------
    array
        float64 (N,), in -1..1.

    Raises
    ------
    BitlensError
        If there is no image, or images and labels differ in number.
    """
    found = [agreement(model, x, y, differentiable=False) for x, y in _batches(model, images, labels)]
    return torch.cat(found).double().cpu().numpy()


def wilson_interval(right: int, images: int) -> tuple[float, float]:
    """Give Wilson's 95 % interval of a share (1927).

    Parameters
    ----------
    right : int
        How many images are classified correctly, 0..images.
    images : int
        How many there are, at least 1.

    Returns
    -------
    low, high : float
        0..1.

    Raises
    ------
    BitlensError
        If the numbers contradict each other.
    """
    if not 0 <= right <= images or images < 1:
        raise BitlensError(f"{right} of {images} images cannot be right: give 0..images, of at least 1 image")
    z = 1.959963984540054  # the normal distribution's 97.5 % quantile
    share = right / images
    centre = share + z**2 / (2 * images)
    reach = z * math.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    return max(0.0, (centre - reach) / (1 + z**2 / images)), min(1.0, (centre + reach) / (1 + z**2 / images))


def _batches(model: nn.Module, images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Give what the network is fed with the labels, some hundred images at a time."""
    if len(images) != len(labels) or not len(labels):
        raise BitlensError(f"got {len(images)} images and {len(labels)} labels: give one label per image, at least one")
    first = next(model.parameters())
    for some in torch.split(torch.arange(len(labels)), _BATCH):
        yield network_input(images[some].to(first.device), first.dtype), labels[some].to(first.device)


@torch.no_grad()
def _probabilities(model: nn.Module, x: Tensor) -> Tensor:
    return functional.softmax(model(x).double(), dim=1)
