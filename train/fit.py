"""Fitting a network to images: Adam, a cosine schedule, and PACT's alphas with a rate and a pull of their own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitlens.runtime.errors import BitlensError
from bitlens.train.datasets import Augmentation, ImageDataset, network_input, shift_and_rotate, stratified_split
from bitlens.train.quantizers import learned_alphas

_EVALUATION_BATCH = 256


@dataclass(frozen=True)
class FitConfig:
    """How a network is fitted.

    Parameters
    ----------
    epochs : int
        Passes over the training images, at least 1.
    batch_size : int
        Images per step, at least 1.
    learning_rate : float
        Adam's first rate; it falls to 0 along half a cosine.
    alpha_rate_factor : float
        PACT's alphas learn this many times faster: one gradient moves one number, not a kernel of them.
    alpha_l2 : float
        Factor of alpha^2 / 2 in the loss, which pulls the alphas down (1805.06085 uses the weight decay of its nets).
    validation_fraction : float
        Share of the given images that is held out to report progress, in 0..1 exclusive.
    seed : int
        Seed of the held-out choice, the order of the images and their augmentation.
    """

    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 2e-3
    alpha_rate_factor: float = 10.0
    alpha_l2: float = 5e-4
    validation_fraction: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise BitlensError(f"{name} must be at least 1, got {getattr(self, name)}: give a positive number")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise BitlensError(f"learning_rate must be positive, got {self.learning_rate}: try 2e-3")
        if not 0 <= self.seed < 2**63:
            raise BitlensError(f"seed must lie in 0..2^63-1, got {self.seed}: try 0")
        if not 0 < self.validation_fraction < 1:
            raise BitlensError(f"validation_fraction must lie between 0 and 1, got {self.validation_fraction}: try 0.1")


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch gave.

    Parameters
    ----------
    epoch : int
        Number of the epoch, from 1.
    epochs : int
        Epochs in all.
    loss : float
        Mean cross entropy over the training images of the epoch, in nats.
    validation_accuracy : float
        Share of the held-out images that is classified correctly, 0..1.
    seconds : float
        Wall time since the start of the fit.
    """

    epoch: int
    epochs: int
    loss: float
    validation_accuracy: float
    seconds: float

    @property
    def seconds_left(self) -> float:
        """Estimated wall time until the end of the fit."""
        return self.seconds / self.epoch * (self.epochs - self.epoch)


@dataclass(frozen=True)
class FitResult:
    """What a fit gave; the weights are in the model.

    Parameters
    ----------
    epochs : tuple of EpochRecord
        One record per epoch, first epoch first.
    """

    epochs: tuple[EpochRecord, ...]


def fit(
    model: nn.Module,
    data: ImageDataset,
    config: FitConfig | None = None,
    progress: Callable[[EpochRecord], None] | None = None,
    augment: Augmentation = shift_and_rotate,
) -> FitResult:
    """Train `model` in place, from the weights it has: fresh ones, or the twin's (`initialise_from_twin`).

    The result depends only on the model, the data and the config: random numbers come from generators of its own.

    Parameters
    ----------
    model : nn.Module
        Maps (N, C, H, W) images to logits; left in evaluation mode.
    data : ImageDataset
        Training images. A share of them is held out, class by class, to report progress; nothing is chosen by it.
    config : FitConfig, optional
        How to fit; the defaults suit `digits`.
    progress : callable, optional
        Called with the record of each epoch.
    augment : callable
        Changes the images of each step at random; `SplitDataset.augment` is what suits a data set.

    Returns
    -------
    FitResult
        One record per epoch.

    Raises
    ------
    BitlensError
        If there are too few images, or the loss stops being a number.
    """
    config = FitConfig() if config is None else config
    held_out = max(1, round(len(data) * config.validation_fraction))
    if held_out >= len(data):
        raise BitlensError(f"cannot fit to {len(data)} images: give at least 2")
    chosen, rest = stratified_split(data.labels, len(data) - held_out, seed=config.seed)
    training, validation = data.subset(chosen), data.subset(rest)
    generator = torch.Generator().manual_seed(config.seed)
    optimiser = torch.optim.Adam(_parameter_groups(model, config))
    steps = config.epochs * math.ceil(len(training) / config.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=steps)
    alphas = learned_alphas(model)
    dtype = next(model.parameters()).dtype
    records = []
    start = time.perf_counter()
    for epoch in range(1, config.epochs + 1):
        model.train()
        total = 0.0
        order = torch.randperm(len(training), generator=generator)
        for indices in torch.split(order, config.batch_size):
            images = augment(training.images[indices], generator)
            loss = functional.cross_entropy(model(network_input(images, dtype)), training.labels[indices])
            total += loss.item() * len(indices)
            for alpha in alphas.values():
                loss = loss + config.alpha_l2 / 2 * alpha.square().sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        if not math.isfinite(total):
            raise BitlensError(
                f"the loss stopped being a number in epoch {epoch}: use a learning rate below {config.learning_rate}"
            )
        record = EpochRecord(
            epoch,
            config.epochs,
            total / len(training),
            accuracy(model, validation.images, validation.labels),
            time.perf_counter() - start,
        )
        records.append(record)
        if progress is not None:
            progress(record)
    model.eval()
    return FitResult(tuple(records))


def _parameter_groups(model: nn.Module, config: FitConfig) -> list[dict[str, object]]:
    alphas = learned_alphas(model)
    weights = [parameter for name, parameter in model.named_parameters() if name not in alphas]
    return [
        {"params": weights, "lr": config.learning_rate},
        {"params": list(alphas.values()), "lr": config.learning_rate * config.alpha_rate_factor},
    ]


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Measure the share of images that the model, in evaluation mode, classifies correctly.

    Parameters
    ----------
    model : nn.Module
        Maps (N, C, H, W) images to logits; its mode is put back afterwards.
    images : Tensor
        uint8 codes of shape (N, C, H, W).
    labels : Tensor
        int64 of shape (N,).

    Returns
    -------
    float
        0..1; among equal logits the first counts.

    Raises
    ------
    BitlensError
        If there is no image, or images and labels differ in number.
    """
    if len(images) != len(labels) or not len(labels):
        raise BitlensError(f"got {len(images)} images and {len(labels)} labels: give one label per image, at least one")
    was_training = model.training
    dtype = next(model.parameters()).dtype
    model.eval()
    correct = 0
    batches = torch.split(images, _EVALUATION_BATCH)
    for batch, expected in zip(batches, torch.split(labels, _EVALUATION_BATCH), strict=True):
        correct += int((model(network_input(batch, dtype)).argmax(dim=1) == expected).sum())
    model.train(was_training)
    return correct / len(labels)
