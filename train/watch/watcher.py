"""Looks at the network before the first epoch and after every one; writes numbers, maps and page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from bitlens.runtime.bootstrap import BootstrapMean, bootstrap_mean
from bitlens.runtime.fidelity import METRICS
from bitlens.train.datasets import ImageDataset
from bitlens.train.fit import EpochRecord, accuracy
from bitlens.train.watch.history import MAPS_FILE, PAGE_FILE, History, Maps, npz_bytes
from bitlens.train.watch.look import PREVIOUS, TWIN, Look
from bitlens.train.watch.model_maps import ModelMaps, cam_layer, model_maps
from bitlens.train.watch.watch_page import COMPARED_BY, PageContent, watch_page
from bitlens.train.watch.watched_images import watched_images

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Subject:
    """What is watched, in words for the page.

    Parameters
    ----------
    model, precision, dataset : str
        As the run's configuration names them.
    full_precision : bool
        Whether the gradient is a derivative.
    """

    model: str
    precision: str
    dataset: str
    full_precision: bool


class Watcher:
    """Keeps the history of a run in a folder; `fit` calls `look`, the verb calls `finish`.

    Parameters
    ----------
    folder : Path
        Where to; the folder of an interrupted run is gone on with.
    model : nn.Module
        The network as it will be trained, on any device.
    held_out : ImageDataset
        The held-out part of the training images.
    subject : Subject
        What the page calls it.
    seed : int
        Of the choice of images: the run's.
    epochs : int
        Epochs in all.
    twin : nn.Module, optional
        The full-precision twin, whose maps the network's are compared with; without it they are compared with those of
        the look before.
    behind : int
        Epochs that the run's checkpoint has behind it; later looks are done again.

    Raises
    ------
    BitlensError
        If the images cannot be shown, or what is in the folder is damaged.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        held_out: ImageDataset,
        subject: Subject,
        *,
        seed: int,
        epochs: int,
        twin: nn.Module | None = None,
        behind: int = 0,
    ) -> None:
        self._held_out = held_out
        self._subject = subject
        self._seed = seed
        self._epochs = epochs
        self._images = watched_images(held_out, seed)
        self._layer = cam_layer(model, self._images.data.images[:1])
        self._twin = None if twin is None else model_maps(twin, self._images.data, self._layer).maps
        self._history = History(folder, self._images.shown)
        self._history.restore(behind, ("gradient",) if self._layer is None else ("gradient", "grad_cam"))

    @property
    def page(self) -> Path:
        """The page, there after the first look."""
        return self._history.folder / PAGE_FILE

    def look(self, model: nn.Module, records: Sequence[EpochRecord]) -> None:
        """Look at the model after the epochs of `records`, unless that was done before the run was interrupted.

        Parameters
        ----------
        model : nn.Module
            As it is now; left as it is.
        records : sequence of EpochRecord
            One per epoch trained so far.

        Raises
        ------
        BitlensError
            If the files cannot be written. The epoch is in the checkpoint; the look is taken when the run is resumed.

        Notes
        -----
        Cost: 1 forward and 1 backward pass of each watched image; before the first epoch also the held-out accuracy.
        """
        history = self._history
        if history.looks and history.looks[-1].epoch >= len(records):
            history.write({self.page: self._page(finished=False).encode()})
            return
        found = model_maps(model, self._images.data, self._layer)
        look = self._look(model, records, found)
        files = history.files_with(look, found.maps)
        history.add(look, found.maps)
        history.write(files | {self.page: self._page(finished=False).encode()})

    def finish(self, kept_epoch: int) -> None:
        """Write the maps of all epochs as one file, and the page for the last time.

        Parameters
        ----------
        kept_epoch : int
            After which the kept weights were reached.

        Raises
        ------
        BitlensError
            If the files cannot be written.
        """
        history = self._history
        every = [history.maps_of(look.epoch) for look in history.looks]
        shown = slice(self._images.shown)
        arrays: dict[str, npt.NDArray[np.generic]] = {
            "epochs": np.array([look.epoch for look in history.looks], np.int64),
            "images": self._images.data.images[shown].numpy(),
            "labels": self._images.data.labels[shown].numpy(),
        }
        for method in every[0] if every else ():
            arrays[method] = np.stack([maps[method] for maps in every])
            if self._twin is not None:
                arrays[f"twin_{method}"] = self._twin[method][shown]
        page = self._page(finished=True, kept_epoch=kept_epoch)
        history.write({history.folder / MAPS_FILE: npz_bytes(arrays), self.page: page.encode()})

    def _look(self, model: nn.Module, records: Sequence[EpochRecord], found: ModelMaps) -> Look:
        data, shown = self._images.data, self._images.shown
        reference = self._history.newest if self._twin is None else self._twin
        if reference is not None and len(reference["gradient"]) < len(data):
            reference = None  # an older checkpoint was put back: of its epoch only the shown maps are left
        values = {} if reference is None else compare(found.maps, reference)
        if records:
            share, training_loss = records[-1].validation_accuracy, records[-1].loss
        else:
            share, training_loss = accuracy(model, self._held_out.images, self._held_out.labels), np.nan
        return Look(
            epoch=len(records),
            training_loss=training_loss,
            accuracy=share,
            loss=float(functional.cross_entropy(torch.from_numpy(found.logits), data.labels)),
            predicted=tuple(found.logits[:shown].argmax(axis=1).tolist()),
            compared_with=None if reference is None else PREVIOUS if self._twin is None else TWIN,
            similarity={
                method: {metric: self._mean(each) for metric, each in metrics.items()}
                for method, metrics in values.items()
            },
            shown_similarity={
                method: tuple(metrics["spearman"][:shown].tolist()) for method, metrics in values.items()
            },
        )

    def _mean(self, values: Float64) -> BootstrapMean:
        return bootstrap_mean(values, seed=self._seed)

    def _page(self, *, finished: bool, kept_epoch: int | None = None) -> str:
        return watch_page(
            PageContent(
                subject=(self._subject.model, self._subject.precision, self._subject.dataset),
                full_precision=self._subject.full_precision,
                images=self._images,
                layer=self._layer,
                epochs=self._epochs,
                looks=tuple(self._history.looks),
                maps_of=self._history.maps_of,
                twin=self._twin,
                finished=finished,
                kept_epoch=kept_epoch,
            )
        )


def compare(maps: Maps, reference: Maps) -> Mapping[str, Mapping[str, Float64]]:
    """Compare maps image by image.

    Parameters
    ----------
    maps, reference : mappings of str to float32 array (N, H, W)
        By method; both have the same.

    Returns
    -------
    mapping
        Method -> metric -> float64 (N,), NaN where the metric is undefined or a map is not finite.
    """
    found: dict[str, dict[str, Float64]] = {}
    for method, one in maps.items():
        other = reference[method]
        finite = np.isfinite(one).all(axis=(1, 2)) & np.isfinite(other).all(axis=(1, 2))
        found[method] = {}
        for name in COMPARED_BY:
            values = np.full(len(one), np.nan)
            values[finite] = METRICS[name].batch(one[finite], other[finite])
            found[method][name] = values
    return found
