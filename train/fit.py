"""Fitting a network to images: Adam, a cosine schedule, and PACT's alphas with a rate and a pull of their own.

The loop runs on Lightning Fabric, in one process or several, and goes on from a checkpoint as if nothing had happened.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from bitlens.runtime.errors import BitlensError
from bitlens.train.batch_norm import batch_norm_over_processes
from bitlens.train.checkpoint import (
    Checkpoints,
    random_state,
    read_checkpoint,
    restore_random_state,
    write_checkpoint,
)
from bitlens.train.datasets import Augmentation, ImageDataset, network_input, shift_and_rotate, stratified_split
from bitlens.train.evaluation_mode import evaluation_mode
from bitlens.train.losses.classification import objective
from bitlens.train.losses.interpretable_gradient import gradients_apart
from bitlens.train.losses.saliency_guided import RANKINGS, SIGNED, answers_apart, without_least_salient
from bitlens.train.processes import gathered, open_fabric
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
        Images per step, over all processes together, at least 1.
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
    label_smoothing : float
        Share of the target that is spread over all classes, 0..1 exclusive of 1.
    distil_weight : float
        Weight of the distance to the twin's answers in the loss, 0..1; the labels have the rest. See `objective`.
    distil_temperature : float
        By which both networks' logits are divided for that distance; positive.
    saliency_guided_weight : float
        Factor of `bitlens.train.losses.saliency_guided`'s loss, at least 0; 1 in 2411.05858 and 2111.14338.
    saliency_guided_share : float
        Share of the pixels that this loss replaces, between 0 and 1.
    saliency_guided_ranking : str
        Which pixels are the least salient: `signed`, those with the most negative derivative, or `absolute`.
    interpretable_gradient_weight : float
        Factor of `bitlens.train.losses.interpretable_gradient`'s loss, at least 0; 7.5e-3 in 2404.15024.
    patience : int or None
        Stop after so many epochs, at least 1, in which no more of the held-out images came out right than in the best
        one, and keep the weights of the best; None trains all epochs and keeps the last weights.
    """

    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 2e-3
    alpha_rate_factor: float = 10.0
    alpha_l2: float = 5e-4
    validation_fraction: float = 0.1
    seed: int = 0
    label_smoothing: float = 0.0
    distil_weight: float = 0.0
    distil_temperature: float = 4.0
    saliency_guided_weight: float = 0.0
    saliency_guided_share: float = 0.5
    saliency_guided_ranking: str = SIGNED
    interpretable_gradient_weight: float = 0.0
    patience: int | None = None

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
        if not 0 <= self.label_smoothing < 1:
            raise BitlensError(f"label_smoothing must lie in 0..1 without 1, got {self.label_smoothing}: try 0.1")
        if not 0 <= self.distil_weight <= 1:
            raise BitlensError(f"distil_weight must lie in 0..1, got {self.distil_weight}: try 0.5")
        if not (math.isfinite(self.distil_temperature) and self.distil_temperature > 0):
            raise BitlensError(f"distil_temperature must be positive, got {self.distil_temperature}: try 4")
        for name, papers in (("saliency_guided_weight", "1"), ("interpretable_gradient_weight", "7.5e-3")):
            weight = getattr(self, name)
            if not (math.isfinite(weight) and weight >= 0):
                raise BitlensError(f"{name} must be finite and at least 0, got {weight}: try {papers}")
        if not 0 < self.saliency_guided_share < 1:
            raise BitlensError(
                f"saliency_guided_share must lie between 0 and 1, got {self.saliency_guided_share}: try 0.5"
            )
        if self.saliency_guided_ranking not in RANKINGS:
            raise BitlensError(
                f"saliency_guided_ranking must be one of {', '.join(RANKINGS)}, got {self.saliency_guided_ranking!r}: "
                f"try {SIGNED}"
            )
        if self.patience is not None and self.patience < 1:
            raise BitlensError(f"patience must be at least 1, got {self.patience}: give a number of epochs")


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
        Mean of the objective over the training images of the epoch, in nats: the classification loss and, with their
        weights, the other losses that are on; not the pull on the alphas.
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
    *,
    fabric: Fabric | None = None,
    teacher: nn.Module | None = None,
    checkpoints: Checkpoints | None = None,
    watch: Callable[[nn.Module, Sequence[EpochRecord]], None] | None = None,
) -> FitResult:
    """Train `model` in place, from the weights it has: fresh ones, or the twin's (`initialise_from_twin`).

    The result depends only on the model, the data and the config: random numbers come from generators of its own.
    Several processes share each step's images, and give what one process gives up to the rounding of their sums; each
    of them calls this function with the same model and data.

    Parameters
    ----------
    model : nn.Module
        Maps (N, C, H, W) images to logits; left in evaluation mode.
    data : ImageDataset
        Training images. A share of them is held out, class by class, to report progress and, with `patience`, to stop.
    config : FitConfig, optional
        How to fit; the defaults suit `digits`.
    progress : callable, optional
        Called with the record of each epoch, in every process.
    augment : callable
        Changes the images of each step at random; `SplitDataset.augment` is what suits a data set.
    fabric : Fabric, optional
        The processes, launched (`open_fabric`); one CPU process if not given.
    teacher : nn.Module, optional
        The twin whose logits `distil_weight` pulls towards, left in evaluation mode.
    checkpoints : Checkpoints, optional
        Where to keep a checkpoint; one that is there already is gone on from, to the same weights bit for bit.
    watch : callable, optional
        Called in every process with the model and the records so far: before the first step, once an epoch is in the
        checkpoint, and again where a checkpoint between two epochs is gone on from. It must leave the model as it is.

    Returns
    -------
    FitResult
        One record per epoch.

    Raises
    ------
    BitlensError
        If there are too few images, the loss stops being a number, there is nothing to distil from, or the checkpoint
        is damaged or belongs to another fit.
    """
    config = FitConfig() if config is None else config
    if config.distil_weight > 0 and teacher is None:
        raise BitlensError(f"distil_weight is {config.distil_weight} without a teacher: give the twin, or leave it out")
    chosen, rest = held_out_split(data.labels, config)
    training, validation = data.subset(chosen), data.subset(rest)
    first = next(model.parameters())
    home, dtype = first.device, first.dtype
    fabric = open_fabric() if fabric is None else fabric
    teacher = teacher.to(fabric.device).eval() if teacher is not None and config.distil_weight > 0 else None
    generator = torch.Generator().manual_seed(config.seed)
    optimiser = torch.optim.Adam(_parameter_groups(model, config))
    steps = math.ceil(len(training) / config.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=config.epochs * steps)
    alphas = list(learned_alphas(model).values())
    # A third faster on CPUs for small kernels; the tensors keep their shapes, and their order is put back below.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    trained, stepping = fabric.setup(model, optimiser)
    parts = _Parts(model, optimiser, schedule, generator, fabric)
    identity = {} if checkpoints is None else _identity(config, training, teacher, fabric)
    done = _nothing_done(fabric)
    if checkpoints is not None and checkpoints.file.exists():
        done = _restored(checkpoints.file, parts, identity)
    if watch is not None and done.drawn_from is None:  # between two epochs
        watch(model, done.records)
    start = time.perf_counter() - done.seconds
    replacing = config.saliency_guided_weight > 0
    with batch_norm_over_processes(model, fabric.world_size):
        while done.epoch < config.epochs and not _stops_early(done.records, config):
            model.train()
            drawn_from = generator.get_state() if done.drawn_from is None else done.drawn_from
            now = generator.get_state()
            generator.set_state(drawn_from)
            order = torch.randperm(len(training), generator=generator)
            if done.drawn_from is not None:  # in the middle of an epoch
                generator.set_state(now)
            total = done.total.clone()
            batches = torch.split(order, config.batch_size)
            for step, indices in enumerate(batches[done.step :], start=done.step + 1):
                # Every process moves the whole batch and keeps its share: the same images however many there are.
                images = augment(training.images[indices], generator)
                mine = slice(fabric.global_rank, None, fabric.world_size)
                x = network_input(images[mine].to(fabric.device), dtype)
                noise = torch.rand(images.shape, generator=generator)[mine].to(x) if replacing else None
                labels = training.labels[indices[mine]].to(fabric.device)
                loss = _batch_loss(trained, model, x, labels, noise, teacher, config)
                total += loss.detach().double() * len(labels)
                # The gradients of all processes are averaged: each counts as often as it has images.
                loss = loss * (len(labels) * fabric.world_size / len(indices))
                for alpha in alphas:
                    loss = loss + config.alpha_l2 / 2 * alpha.square().sum()
                stepping.zero_grad()
                fabric.backward(loss)
                stepping.step()
                schedule.step()
                if checkpoints is not None and step % checkpoints.every_steps == 0 and step < len(batches):
                    seconds = time.perf_counter() - start
                    _save(
                        checkpoints.file,
                        parts,
                        identity,
                        replace(done, step=step, drawn_from=drawn_from, total=total, seconds=seconds),
                    )
            mean = float(cast(Tensor, fabric.all_reduce(total, reduce_op="sum"))) / len(training)
            if not math.isfinite(mean):
                raise BitlensError(
                    f"the loss stopped being a number in epoch {done.epoch + 1}: "
                    f"use a learning rate below {config.learning_rate}"
                )
            share = _shared_accuracy(fabric, model, validation)
            record = EpochRecord(done.epoch + 1, config.epochs, mean, share, time.perf_counter() - start)
            done = _after_epoch(done, record, model, config, fabric)
            if checkpoints is not None:
                _save(checkpoints.file, parts, identity, done)
            if watch is not None:
                watch(model, done.records)
            if progress is not None:
                progress(record)
    if done.best is not None:
        _load_in_place(model, done.best)
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    model.to(home).eval()
    return FitResult(done.records)


def held_out_split(labels: Tensor, config: FitConfig) -> tuple[Tensor, Tensor]:
    """Draw the images that `fit` learns from and those that it holds out.

    Parameters
    ----------
    labels : Tensor
        int64 of shape (N,), of all training images.
    config : FitConfig
        Its share of held-out images and its seed.

    Returns
    -------
    tuple of Tensor
        Ascending int64 indices of both parts; neither is empty.

    Raises
    ------
    BitlensError
        If there is only one image, or none.
    """
    held_out = max(1, round(len(labels) * config.validation_fraction))
    if held_out >= len(labels):
        raise BitlensError(f"cannot fit to {len(labels)} images: give at least 2")
    return stratified_split(labels, len(labels) - held_out, seed=config.seed)


@dataclass(frozen=True)
class _Parts:
    """What a fit changes in place."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    generator: torch.Generator
    fabric: Fabric


@dataclass(frozen=True)
class _Done:
    """How far a fit is.

    Parameters
    ----------
    epoch : int
        Epochs that are complete.
    step : int
        Steps of the next one that are done.
    drawn_from : Tensor or None
        State of the generator from which the next epoch's order was drawn, if it has begun.
    total : Tensor
        float64 sum of the objective over the images of these steps, of this process.
    seconds : float
        Wall time so far.
    records : tuple of EpochRecord
        One per complete epoch.
    best : dict or None
        With `patience`, the state of the model after the best epoch.
    """

    epoch: int
    step: int
    drawn_from: Tensor | None
    total: Tensor
    seconds: float
    records: tuple[EpochRecord, ...]
    best: dict[str, Tensor] | None


def _nothing_done(fabric: Fabric) -> _Done:
    return _Done(0, 0, None, torch.zeros((), dtype=torch.float64, device=fabric.device), 0.0, (), None)


def _after_epoch(done: _Done, record: EpochRecord, model: nn.Module, config: FitConfig, fabric: Fabric) -> _Done:
    best = done.best
    if config.patience is not None and all(
        record.validation_accuracy > earlier.validation_accuracy for earlier in done.records
    ):
        best = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    records = (*done.records, record)
    return replace(_nothing_done(fabric), epoch=record.epoch, seconds=record.seconds, records=records, best=best)


def _stops_early(records: Sequence[EpochRecord], config: FitConfig) -> bool:
    if config.patience is None or not records:
        return False
    shares = [record.validation_accuracy for record in records]
    return len(shares) - 1 - shares.index(max(shares)) >= config.patience


def _identity(config: FitConfig, training: ImageDataset, teacher: nn.Module | None, fabric: Fabric) -> dict[str, Any]:
    """Describe the fit that a checkpoint belongs to."""
    return {
        "configuration": asdict(config),
        "training images": _digest((training.images, training.labels)),
        "teacher": None if teacher is None else _digest(teacher.state_dict().values()),
        "number of processes": fabric.world_size,
        "arithmetic": str(fabric.strategy.precision.precision),
    }


def _digest(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _save(path: Path, parts: _Parts, identity: Mapping[str, Any], done: _Done) -> None:
    """Write a checkpoint; every process calls this, the first one writes."""
    fabric = parts.fabric
    own: dict[str, Tensor] = random_state(fabric.device) | {"total": done.total}
    processes = {name: gathered(fabric, tensor) for name, tensor in sorted(own.items())}
    if not fabric.is_global_zero:
        return
    content = {
        "identity": dict(identity),
        "model": dict(parts.model.state_dict()),
        "optimiser": parts.optimiser.state_dict(),
        "schedule": parts.schedule.state_dict(),
        "arithmetic": fabric.strategy.precision.state_dict(),
        "generator": parts.generator.get_state(),
        "processes": processes,
        "epoch": done.epoch,
        "step": done.step,
        "drawn_from": done.drawn_from,
        "seconds": done.seconds,
        "records": [asdict(record) for record in done.records],
        "best": done.best,
    }
    write_checkpoint(path, content)


def _restored(path: Path, parts: _Parts, identity: Mapping[str, Any]) -> _Done:
    """Put everything back to where a checkpoint was written."""
    content = read_checkpoint(path)
    fabric = parts.fabric
    try:
        for name, expected in identity.items():
            found = content["identity"][name]
            if found != expected:
                raise BitlensError(
                    f"{path} belongs to another fit, whose {name} is {str(found)[:200]}, not {str(expected)[:200]}: "
                    "give the same, or train anew"
                )
        _load_in_place(parts.model, content["model"])
        parts.optimiser.load_state_dict(content["optimiser"])
        parts.schedule.load_state_dict(content["schedule"])
        fabric.strategy.precision.load_state_dict(content["arithmetic"])
        parts.generator.set_state(content["generator"])
        # A copy: torch reads a generator's state from the start of the storage, whatever part of it a tensor shows.
        own = {name: tensor[fabric.global_rank].clone() for name, tensor in content["processes"].items()}
        restore_random_state(own, fabric.device)
        return _Done(
            int(content["epoch"]),
            int(content["step"]),
            content["drawn_from"],
            own["total"].to(fabric.device),
            float(content["seconds"]),
            tuple(EpochRecord(**record) for record in content["records"]),
            content["best"],
        )
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BitlensError(f"{path} does not fit this network ({reason}): train the run anew") from error


@torch.no_grad()
def _load_in_place(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy a state into a model's own tensors; `load_state_dict` of Brevitas makes new alphas, unknown to Adam."""
    own = model.state_dict(keep_vars=True)
    if own.keys() != state.keys() or any(tensor.shape != state[name].shape for name, tensor in own.items()):
        raise ValueError("other tensors")
    for name, tensor in own.items():
        tensor.copy_(state[name])


def checkpointed_epochs(path: Path) -> tuple[EpochRecord, ...]:
    """Give the records of the epochs that a checkpoint has behind it.

    Raises
    ------
    BitlensError
        If it is damaged.
    """
    try:
        return tuple(EpochRecord(**record) for record in read_checkpoint(path)["records"])
    except (KeyError, TypeError) as error:
        raise BitlensError(f"{path} is damaged ({error}): train the run anew") from error


def _batch_loss(
    trained: nn.Module,
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    noise: Tensor | None,
    teacher: nn.Module | None,
    config: FitConfig,
) -> Tensor:
    """Give what a step lowers, as a mean over this process's images; one without images takes part in every sum.

    `trained` is `model` as Fabric wraps it: its one forward pass is the one that DDP and mixed precision know of. What
    is asked of the network in evaluation mode goes to `model` itself. Saliency-guided training is on where there is
    `noise`.
    """
    images = x
    if noise is not None:
        share, ranking = config.saliency_guided_share, config.saliency_guided_ranking
        # Both halves go through the network together: batch norm, which has one set of running statistics, then is
        # the same function of an image and of what is left of it, in the step as in evaluation.
        images = torch.cat([x, without_least_salient(model, x, labels, noise, share=share, ranking=ranking)])
    answers = trained(images)
    logits = answers[: len(x)]
    loss = (
        objective(
            logits,
            labels,
            None if teacher is None else _answers(teacher, x),
            label_smoothing=config.label_smoothing,
            distil_weight=config.distil_weight,
            distil_temperature=config.distil_temperature,
        )
        if len(labels)
        else logits.sum()
    )
    if noise is not None:
        loss = loss + config.saliency_guided_weight * answers_apart(logits, answers[len(x) :])
    if config.interpretable_gradient_weight > 0:
        loss = loss + config.interpretable_gradient_weight * gradients_apart(model, x, labels)
    return loss


@torch.no_grad()
def _answers(teacher: nn.Module, x: Tensor) -> Tensor:
    logits: Tensor = teacher(x)
    return logits


def _shared_accuracy(fabric: Fabric, model: nn.Module, data: ImageDataset) -> float:
    mine = slice(fabric.global_rank, None, fabric.world_size)
    correct = torch.tensor(_correct(model, data.images[mine], data.labels[mine]), device=fabric.device)
    return int(cast(Tensor, fabric.all_reduce(correct, reduce_op="sum"))) / len(data)


def _parameter_groups(model: nn.Module, config: FitConfig) -> list[dict[str, object]]:
    alphas = learned_alphas(model)
    weights = [parameter for name, parameter in model.named_parameters() if name not in alphas]
    return [
        {"params": weights, "lr": config.learning_rate},
        {"params": list(alphas.values()), "lr": config.learning_rate * config.alpha_rate_factor},
    ]


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
    return _correct(model, images, labels) / len(labels)


@torch.no_grad()
def _correct(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    first = next(model.parameters())
    correct = 0
    with evaluation_mode(model):
        for start in range(0, len(labels), _EVALUATION_BATCH):
            some = slice(start, start + _EVALUATION_BATCH)
            answers = model(network_input(images[some].to(first.device), first.dtype)).argmax(dim=1)
            correct += int((answers == labels[some].to(first.device)).sum())
    return correct
