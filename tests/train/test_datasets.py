"""Opening data sets by name or folder, and that training never opens the test part."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitlens.runtime.errors import BitlensError
from bitlens.train import verb
from bitlens.train.datasets import (
    DATASETS,
    ImageDataset,
    SplitDataset,
    open_dataset,
    register_dataset,
    shift_and_flip,
)
from bitlens.train.datasets.split_dataset import Report
from bitlens.train.fit import EpochRecord, FitConfig, fit
from bitlens.train.models import build_model
from bitlens.train.run_folder import load_run

SHAPE = (1, 12, 12)
NAMES = ("zero", "one")


def some_images(count: int, seed: int) -> ImageDataset:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, *SHAPE), generator=generator).to(torch.uint8)
    return ImageDataset(images, torch.arange(count) % 2, NAMES)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens to a data set `watched`, in order; it exists while the test runs."""
    happened: list[str] = []

    def read(part: str) -> ImageDataset:
        happened.append(part)
        return some_images(*{"train": (40, 0), "test": (30, 1)}[part])

    def opener(report: Report) -> SplitDataset:
        happened.append("open")
        return SplitDataset(
            "watched",
            SHAPE,
            NAMES,
            train=lambda: read("train"),
            test=lambda: read("test"),
            augment=lambda images, generator: shift_and_flip(images, generator, pixels=1),
        )

    monkeypatch.setitem(DATASETS, "watched", opener)
    return happened


def call(*options: str | Path) -> int:
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    return verb.run(parser.parse_args([str(option) for option in options]))


def test_opening_reads_no_part(events: list[str]) -> None:
    open_dataset("watched")
    assert events == ["open"]


def test_a_part_is_read_once(events: list[str]) -> None:
    data = open_dataset("watched")
    assert data.train() is data.train()
    assert events == ["open", "train"]
    assert data.test() is data.test()
    assert events == ["open", "train", "test"]


def test_fit_never_opens_the_test_part(events: list[str]) -> None:
    opened = open_dataset("watched")

    def forbidden() -> ImageDataset:
        raise AssertionError("the test part was opened")

    data = replace(opened, test=forbidden)
    model = build_model("lenet", "w2a2", data.input_shape, len(data.class_names), 3)
    fit(model, data.train(), FitConfig(epochs=2), augment=data.augment)
    assert events == ["open", "train"]
    with pytest.raises(AssertionError, match="the test part was opened"):
        data.test()  # the check can fail


def test_the_verb_opens_the_test_part_once_after_the_last_epoch(
    events: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def epoch(record: EpochRecord) -> None:
        events.append(f"epoch {record.epoch}")

    monkeypatch.setattr(verb, "_print_progress", epoch)
    call("--output", tmp_path / "run", "--data", "watched", "--epochs", "2", "--width", "3", "--json")
    assert events == ["open", "train", "epoch 1", "epoch 2", "test"]
    assert json.loads(capsys.readouterr().out)["test_images"] == 30
    run = load_run(tmp_path / "run")
    assert (run.config.dataset, run.config.input_shape, run.config.labels) == ("watched", SHAPE, NAMES)


def test_fit_uses_the_augmentation_it_is_given() -> None:
    seen = []

    def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seen.append(len(images))
        return images

    fit(
        build_model("lenet", "fp32", SHAPE, 2, 2), some_images(50, 0), FitConfig(epochs=1, batch_size=20), None, augment
    )
    assert seen == [20, 20, 5]  # 45 of 50; the rest is held out


def test_a_folder_is_trained_on_and_found_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part, count in (("train", 12), ("test", 3)):
        for label, name in enumerate(("dark", "light")):
            (tmp_path / "set" / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.full((10 + index, 14, 3), 40 + 150 * label + index, dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "set" / part / name / f"{index}.png")
    run = tmp_path / "run"
    call("--output", run, "--data", tmp_path / "set", "--size", "16", "--epochs", "1", "--width", "2")
    assert "of 6 test images right" in capsys.readouterr().out
    config = load_run(run).config
    assert config.input_shape == (3, 16, 16)
    assert config.labels == ("dark", "light")
    again = open_dataset(config.dataset, size=config.input_shape[1])
    assert again.class_names == config.labels
    assert again.input_shape == config.input_shape


def test_a_run_opens_its_registered_data_set_again() -> None:
    assert open_dataset("digits", size=28).name == "digits"
    with pytest.raises(BitlensError, match=r"digits has images of 28x28 pixels, so its size cannot be 32"):
        open_dataset("digits", size=32)


def test_unknown_data_set_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        BitlensError, match=r"unknown data set 'emnist': choose one of cifar10, digits, fashion-mnist, mnist, or give a"
    ):
        open_dataset("emnist")


def test_a_path_that_is_not_there_is_refused_as_a_folder(tmp_path: Path) -> None:
    with pytest.raises(BitlensError, match="nowhere has no folder train: expected pictures as train/<class>"):
        open_dataset(str(tmp_path / "nowhere"))


def test_taken_name_is_refused() -> None:
    with pytest.raises(ValueError, match="data set 'digits' is already in the table: choose another name"):
        register_dataset("digits")(DATASETS["digits"])
