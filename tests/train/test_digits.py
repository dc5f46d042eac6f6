from __future__ import annotations

import hashlib

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from bitlens.train.datasets import SplitDataset, open_dataset, stratified_split


def hashes(images: Tensor) -> list[str]:
    return [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images]


def test_shapes_and_types(digits: SplitDataset) -> None:
    for part, count in ((digits.train(), 1400), (digits.test(), 397)):
        assert part.images.shape == (count, 1, 28, 28)
        assert part.images.dtype == torch.uint8
        assert part.labels.dtype == torch.int64
        assert len(part) == count
        assert part.input_shape == (1, 28, 28)
        assert part.class_names == digits.class_names == tuple("0123456789")
    assert digits.input_shape == (1, 28, 28)


def test_classes_keep_their_share(digits: SplitDataset) -> None:
    train, test = digits.train().labels.bincount(), digits.test().labels.bincount()
    share = (train + test) * 1400 / 1797
    assert ((train - share).abs() <= 1).all()


def test_no_test_image_is_in_the_training_part(digits: SplitDataset) -> None:
    assert not set(hashes(digits.train().images)) & set(hashes(digits.test().images))


def test_loading_again_gives_the_same(digits: SplitDataset) -> None:
    again = open_dataset("digits")
    assert torch.equal(again.train().images, digits.train().images)
    assert torch.equal(again.test().labels, digits.test().labels)


def bicubic_matrix(source: int, target: int) -> np.ndarray:
    """Keys' cubic with a = -0.75, pixel centres aligned, the border repeated."""
    matrix = np.zeros((target, source))
    for row in range(target):
        centre = (row + 0.5) * source / target - 0.5
        first = int(np.floor(centre)) - 1
        for column in range(first, first + 4):
            t = abs(centre - column)
            near = 1.25 * t**3 - 2.25 * t**2 + 1
            far = -0.75 * (t**3 - 5 * t**2 + 8 * t - 4)
            matrix[row, min(max(column, 0), source - 1)] += near if t <= 1 else far
    return matrix


def test_images_are_the_source_enlarged_with_their_labels(digits: SplitDataset) -> None:
    source = load_digits()
    matrix = bicubic_matrix(8, 28)
    expected = np.clip(np.rint(matrix @ (source.images * 255 / 16) @ matrix.T), 0, 255)
    train, test = stratified_split(torch.from_numpy(source.target), 1400, seed=0)
    for part, indices in ((digits.train(), train), (digits.test(), test)):
        difference = np.abs(part.images[:, 0].numpy() - expected[indices])
        assert difference.max() <= 1  # the last bit of the float64 sum decides where a value ends in .5
        assert (difference > 0).mean() < 1e-3
        np.testing.assert_array_equal(part.labels.numpy(), source.target[indices])


def test_brightness_uses_the_whole_range(digits: SplitDataset) -> None:
    assert digits.train().images.min() == 0
    assert digits.train().images.max() == 255
