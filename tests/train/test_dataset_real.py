"""The real data sets, where `BITLENS_DATA` names their folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from bitlens.runtime.picture_file import decode_picture
from bitlens.runtime.resize import fitted
from bitlens.train.datasets import ImageDataset, SplitDataset, open_dataset

FOLDER = Path(os.environ.get("BITLENS_DATA", "nowhere"))


def opened(name: str, *forms: str) -> SplitDataset:
    if not any((FOLDER / form).exists() for form in forms):
        pytest.skip(f"BITLENS_DATA names no folder that holds {' or '.join(forms)}")
    return open_dataset(name)


def mean(part: ImageDataset) -> list[float]:
    return (part.images.double().mean(dim=(0, 2, 3)) / 255).tolist()


def test_mnist() -> None:
    data = opened("mnist", "mnist")
    train, test = data.train(), data.test()
    assert train.images.shape == (60000, 1, 28, 28)
    assert test.images.shape == (10000, 1, 28, 28)
    # The first labels in the order of LeCun, Cortes and Burges; the number of each digit and the mean that everyone
    # normalises by.
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert mean(train) == pytest.approx([0.1307], abs=5e-5)  # published with four digits


def test_fashion_mnist() -> None:
    data = opened("fashion-mnist", "fashion-mnist")
    train, test = data.train(), data.test()
    assert train.labels.bincount().tolist() == [6000] * 10
    assert test.labels.bincount().tolist() == [1000] * 10
    assert mean(train) == pytest.approx([0.2860], abs=5e-5)
    # Of trousers the middle column is dark below the belt; of a bag it is not: labels and names fit.
    dark = {
        name: train.images[train.labels == data.class_names.index(name), 0, 20, 13:15].double().mean().item()
        for name in ("Trouser", "Bag")
    }
    assert dark["Trouser"] < 0.5 * dark["Bag"]


@pytest.mark.long
def test_cifar10() -> None:
    data = opened("cifar10", "cifar10.zip", "cifar10", "cifar-10-binary.tar.gz", "cifar-10-batches-bin")
    train, test = data.train(), data.test()
    assert train.images.shape == (50000, 3, 32, 32)
    assert train.labels.bincount().tolist() == [5000] * 10
    assert test.labels.bincount().tolist() == [1000] * 10
    # The mean that everyone normalises by; JPEG moves it a little.
    assert mean(train) == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-3)


def test_photographs() -> None:
    photographs = sorted((FOLDER / "photos").glob("*.jpg"))[:10]
    if not photographs:
        pytest.skip("BITLENS_DATA names no folder that holds photos/*.jpg")
    for path in photographs:
        small = fitted(np.asarray(decode_picture(path.read_bytes())), 64, 64)
        assert small.shape == (64, 64, 3)
        assert small.std() > 10
