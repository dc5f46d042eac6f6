"""A training run as one folder: `config.json`, `weights.pt` (a state dict, nothing else) and `metrics.json`.

Beside them lies what export takes over (`bitlens.export.hand_over`): the network as QONNX and a few held-out images.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from bitlens.export.hand_over import (
    CONFIG_FILE,
    METRICS_FILE,
    RUN_FILES,
    WEIGHTS_FILE,
    read_run_bytes,
    read_run_json,
    write_hand_over,
)
from bitlens.export.qonnx import qonnx_from_brevitas
from bitlens.runtime.atomic_file import check_replaceable, folder_written_atomically
from bitlens.runtime.errors import BitlensError
from bitlens.train.datasets import ImageDataset, network_input
from bitlens.train.fit import EpochRecord, FitConfig
from bitlens.train.model_card import CARD_FILE, model_card
from bitlens.train.models import build_model
from bitlens.train.processes import Processes
from bitlens.train.watch import WATCH_FILES, WATCH_FOLDER

CHECKPOINT_FOLDER = "checkpoint"
"""In a run folder while the run is being made, see `unfinished_run`."""
EVENTS_FOLDER = "events"
"""In a run folder where tensorboard is installed."""
RUN_ENTRIES = RUN_FILES | {CARD_FILE, CHECKPOINT_FOLDER, EVENTS_FOLDER, WATCH_FOLDER}
"""Everything that can lie in a run folder."""
_FORMAT = 1
_LARGEST_WEIGHTS = 4 * 2**30
_RECORDED_PACKAGES = ("bitlens", "torch", "brevitas", "numpy")


@dataclass(frozen=True)
class RunReference:
    """The run that gave a run its first weights.

    Parameters
    ----------
    path : str
        Its run folder, relative to the folder of the run that names it, with forward slashes.
    sha256 : str
        SHA-256 of its `weights.pt`, 64 lower-case hexadecimal digits.
    """

    path: str
    sha256: str


@dataclass(frozen=True)
class RunConfig:
    """Everything that a run was made from.

    Parameters
    ----------
    model : str
        Name of the network in `MODELS`.
    precision : str
        Precision word or list.
    width : int
        Channels of the first convolution.
    dataset : str
        What opens the data set again: a name in `DATASETS`, or the absolute path of a folder.
    input_shape : tuple of int
        (channels, height, width) of one image.
    labels : tuple of str
        Class names; their number is the number of logits.
    fit : FitConfig
        Epochs, rates and the seed, which is also the seed of the first weights.
    twin : RunReference or None
        The full-precision run that it was fine-tuned from, if any.
    versions : mapping of str to str
        Versions of bitlens, torch, brevitas and numpy that trained it.
    processes : Processes
        Devices and arithmetic that trained it; a run older than this entry was made by one CPU process.
    start : RunReference or None
        The run on other images that it was started from, if any.
    """

    model: str
    precision: str
    width: int
    dataset: str
    input_shape: tuple[int, int, int]
    labels: tuple[str, ...]
    fit: FitConfig
    twin: RunReference | None
    versions: Mapping[str, str]
    processes: Processes = field(default_factory=Processes)
    start: RunReference | None = None


@dataclass(frozen=True)
class RunMetrics:
    """What a run reached.

    Parameters
    ----------
    epochs : tuple of EpochRecord
        One record per epoch, first epoch first.
    test_accuracy : float
        Share of the test images that is classified correctly, 0..1, measured once after the last epoch.
    """

    epochs: tuple[EpochRecord, ...]
    test_accuracy: float


@dataclass(frozen=True)
class TrainedRun:
    """A run read back.

    Parameters
    ----------
    folder : Path
        Where it lies.
    model : nn.Module
        The trained network in evaluation mode.
    config : RunConfig
        What it was made from.
    metrics : RunMetrics
        What it reached.
    weights_sha256 : str
        SHA-256 of its `weights.pt`.
    """

    folder: Path
    model: nn.Module
    config: RunConfig
    metrics: RunMetrics
    weights_sha256: str


def package_versions() -> dict[str, str]:
    """Give the installed versions of the packages that a run's numbers depend on."""
    return {name: version(name) for name in _RECORDED_PACKAGES}


def save_run(
    folder: Path,
    model: nn.Module,
    config: RunConfig,
    metrics: RunMetrics,
    samples: ImageDataset,
    *,
    test_images: int | None = None,
    events: Path | None = None,
    watch: Path | None = None,
) -> None:
    """Write a run, wholly or not at all; an earlier run at the same place is replaced.

    Parameters
    ----------
    folder : Path
        Where to; parents are made.
    model : nn.Module
        The trained network; its tensors are stored as they are.
    config : RunConfig
        What it was made from; `build_model` must make the same network from it.
    metrics : RunMetrics
        What it reached.
    samples : ImageDataset
        A few held-out images that export replays as golden inputs.
    test_images : int, optional
        Number of images that the test accuracy is a share of, for the model card.
    events : Path, optional
        Folder of TensorBoard's event files, copied into the run if it exists.
    watch : Path, optional
        Folder that a `Watcher` has finished, whose `WATCH_FILES` are copied into the run.

    Raises
    ------
    BitlensError
        If the place is taken by something else or not writable, or the disk is full.
    """
    check_replaceable(folder, RUN_ENTRIES)
    exact = copy.deepcopy(model).eval().double()
    with torch.no_grad():
        logits = exact(network_input(samples.images, torch.float64))
    qonnx = qonnx_from_brevitas(model, config.input_shape)
    buffer = io.BytesIO()
    torch.save(dict(model.state_dict()), buffer)
    weights = buffer.getvalue()
    header = {"format": _FORMAT, "weights_sha256": hashlib.sha256(weights).hexdigest()}
    with folder_written_atomically(folder) as temporary:
        (temporary / WEIGHTS_FILE).write_bytes(weights)
        (temporary / CONFIG_FILE).write_text(_to_json(header | asdict(config)), encoding="utf-8")
        (temporary / METRICS_FILE).write_text(_to_json(asdict(metrics)), encoding="utf-8")
        (temporary / CARD_FILE).write_text(model_card(config, metrics, test_images), encoding="utf-8")
        write_hand_over(temporary, qonnx, samples.images.numpy(), samples.labels.numpy(), logits.numpy())
        if events is not None and events.is_dir():
            shutil.copytree(events, temporary / EVENTS_FOLDER)
        if watch is not None:
            (temporary / WATCH_FOLDER).mkdir()
            for name in WATCH_FILES:
                shutil.copyfile(watch / name, temporary / WATCH_FOLDER / name)


def load_run(folder: Path) -> TrainedRun:
    """Read a run back.

    Parameters
    ----------
    folder : Path
        A folder that `save_run` wrote.

    Returns
    -------
    TrainedRun
        The trained network in evaluation mode, its configuration and its metrics.

    Raises
    ------
    BitlensError
        If a file is missing, damaged, of a later format, or does not fit the others.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BitlensError(f"{folder} is not a run folder: give the --output of `bitlens train`")
    header = read_run_json(folder / CONFIG_FILE)
    if header.get("format") != _FORMAT:
        raise BitlensError(
            f"{folder / CONFIG_FILE} has format {header.get('format')!r}, expected {_FORMAT}: "
            "use the bitlens that wrote it, or train again"
        )
    try:
        config = _config_from(header)
        metrics = _metrics_from(read_run_json(folder / METRICS_FILE))
        expected = str(header["weights_sha256"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BitlensError(
            f"{folder} has an entry that is missing or of the wrong kind ({error}): train the run again"
        ) from error
    weights = read_run_bytes(folder / WEIGHTS_FILE, _LARGEST_WEIGHTS)
    found = hashlib.sha256(weights).hexdigest()
    if found != expected:
        raise BitlensError(
            f"{folder / WEIGHTS_FILE} is damaged (sha256 {found[:12]}..., expected {expected[:12]}...): "
            "copy the run again or train it again"
        )
    model = build_model(config.model, config.precision, config.input_shape, len(config.labels), config.width)
    try:
        model.load_state_dict(torch.load(io.BytesIO(weights), weights_only=True))
    except Exception as error:  # torch raises anything from EOFError to RuntimeError for a bad file
        reason = " ".join(str(error).split())[:200]
        raise BitlensError(
            f"{folder / WEIGHTS_FILE} does not fit the run's configuration ({reason}): train again"
        ) from error
    model.eval()
    return TrainedRun(folder, model, config, metrics, found)


def run_reference(folder: Path, origin: TrainedRun) -> RunReference:
    """Describe `origin` as the origin of the run that will be written to `folder`."""
    relative = os.path.relpath(origin.folder.resolve(), Path(folder).resolve())
    return RunReference(Path(relative).as_posix(), origin.weights_sha256)


def load_twin(run: TrainedRun) -> TrainedRun | None:
    """Read the full-precision run that `run` was fine-tuned from, or None if there is none.

    Raises
    ------
    BitlensError
        If it is not where it was, damaged, or was trained anew since.
    """
    reference = run.config.twin
    if reference is None:
        return None
    twin = load_run((run.folder.resolve() / reference.path).resolve())
    if twin.weights_sha256 != reference.sha256:
        raise BitlensError(
            f"the twin {twin.folder} was trained again after {run.folder} was fine-tuned from it: fine-tune anew"
        )
    return twin


def _to_json(content: Mapping[str, object]) -> str:
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _config_from(entries: dict[str, object]) -> RunConfig:
    channels, height, width = (_integer(size) for size in _list(entries["input_shape"]))
    labels = tuple(_text(label) for label in _list(entries["labels"]))
    twin, start = entries["twin"], entries.get("start")
    return RunConfig(
        model=_text(entries["model"]),
        precision=_text(entries["precision"]),
        width=_integer(entries["width"]),
        dataset=_text(entries["dataset"]),
        input_shape=(channels, height, width),
        labels=labels,
        fit=_fit_from(_object(entries["fit"])),
        twin=None if twin is None else _reference_from(_object(twin)),
        versions={name: _text(number) for name, number in _object(entries["versions"]).items()},
        processes=_processes_from(_object(entries["processes"])) if "processes" in entries else Processes(),
        start=None if start is None else _reference_from(_object(start)),
    )


def _processes_from(entries: dict[str, object]) -> Processes:
    mixed_precision = entries["mixed_precision"]
    return Processes(
        accelerator=_text(entries["accelerator"]),
        devices=_integer(entries["devices"]),
        nodes=_integer(entries["nodes"]),
        mixed_precision=None if mixed_precision is None else _text(mixed_precision),
    )


def _fit_from(entries: dict[str, object]) -> FitConfig:
    # Runs of earlier versions lack the later entries; the defaults are what those runs were made with.
    patience = entries.get("patience", FitConfig.patience)
    return FitConfig(
        epochs=_integer(entries["epochs"]),
        batch_size=_integer(entries["batch_size"]),
        learning_rate=_number(entries["learning_rate"]),
        alpha_rate_factor=_number(entries["alpha_rate_factor"]),
        alpha_l2=_number(entries["alpha_l2"]),
        validation_fraction=_number(entries["validation_fraction"]),
        seed=_integer(entries["seed"]),
        label_smoothing=_number(entries.get("label_smoothing", FitConfig.label_smoothing)),
        distil_weight=_number(entries.get("distil_weight", FitConfig.distil_weight)),
        distil_temperature=_number(entries.get("distil_temperature", FitConfig.distil_temperature)),
        saliency_guided_weight=_number(entries.get("saliency_guided_weight", FitConfig.saliency_guided_weight)),
        saliency_guided_share=_number(entries.get("saliency_guided_share", FitConfig.saliency_guided_share)),
        saliency_guided_ranking=_text(entries.get("saliency_guided_ranking", FitConfig.saliency_guided_ranking)),
        interpretable_gradient_weight=_number(
            entries.get("interpretable_gradient_weight", FitConfig.interpretable_gradient_weight)
        ),
        patience=None if patience is None else _integer(patience),
    )


def _reference_from(entries: dict[str, object]) -> RunReference:
    sha256 = _text(entries["sha256"])
    if re.fullmatch("[0-9a-f]{64}", sha256) is None:
        raise ValueError(f"sha256 {sha256[:70]!r}")
    return RunReference(_text(entries["path"]), sha256)


def _metrics_from(entries: dict[str, object]) -> RunMetrics:
    epochs = tuple(
        EpochRecord(
            epoch=_integer(record["epoch"]),
            epochs=_integer(record["epochs"]),
            loss=_number(record["loss"]),
            validation_accuracy=_number(record["validation_accuracy"]),
            seconds=_number(record["seconds"]),
        )
        for record in map(_object, _list(entries["epochs"]))
    )
    return RunMetrics(epochs, _number(entries["test_accuracy"]))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not a number")
    return float(value)


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    return value


def _object(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is not an object")
    return value
