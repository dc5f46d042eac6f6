from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from bitlens.runtime.errors import BitlensError
from bitlens.train.digits import (
    DATASETS,
    SplitDataset,
    load_dataset,
    network_input,
    register_dataset,
    shift_and_rotate,
    stratified_split,
)


def hashes(images: Tensor) -> list[str]:
    return [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images]


def test_shapes_and_types(digits: SplitDataset) -> None:
    for part, count in ((digits.train, 1400), (digits.test, 397)):
        assert part.images.shape == (count, 1, 28, 28)
        assert part.images.dtype == torch.uint8
        assert part.labels.dtype == torch.int64
        assert len(part) == count
        assert part.input_shape == (1, 28, 28)
        assert part.class_names == tuple("0123456789")


def test_classes_keep_their_share(digits: SplitDataset) -> None:
    train, test = digits.train.labels.bincount(), digits.test.labels.bincount()
    share = (train + test) * 1400 / 1797
    assert ((train - share).abs() <= 1).all()


def test_no_test_image_is_in_the_training_part(digits: SplitDataset) -> None:
    assert not set(hashes(digits.train.images)) & set(hashes(digits.test.images))


def test_loading_again_gives_the_same(digits: SplitDataset) -> None:
    again = load_dataset("digits")
    assert torch.equal(again.train.images, digits.train.images)
    assert torch.equal(again.test.labels, digits.test.labels)


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
    for part, indices in ((digits.train, train), (digits.test, test)):
        difference = np.abs(part.images[:, 0].numpy() - expected[indices])
        assert difference.max() <= 1  # the last bit of the float64 sum decides where a value ends in .5
        assert (difference > 0).mean() < 1e-3
        np.testing.assert_array_equal(part.labels.numpy(), source.target[indices])


def test_brightness_uses_the_whole_range(digits: SplitDataset) -> None:
    assert digits.train.images.min() == 0
    assert digits.train.images.max() == 255


def test_network_input_is_code_over_255() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(network_input(codes), torch.arange(256, dtype=torch.float32) / 255)
    assert network_input(codes, torch.float64).dtype == torch.float64


@pytest.mark.parametrize("first", [0, 1, 7, 20])
def test_split_is_a_partition(first: int) -> None:
    labels = torch.tensor([0] * 10 + [1] * 6 + [2] * 4)
    one, two = stratified_split(labels, first, seed=3)
    assert len(one) == first
    assert sorted([*one.tolist(), *two.tolist()]) == list(range(20))


def test_split_depends_on_its_seed_only() -> None:
    labels = torch.arange(40) % 4
    assert torch.equal(stratified_split(labels, 20, seed=1)[0], stratified_split(labels, 20, seed=1)[0])
    assert not torch.equal(stratified_split(labels, 20, seed=1)[0], stratified_split(labels, 20, seed=2)[0])


def test_split_larger_than_the_data_is_refused() -> None:
    with pytest.raises(BitlensError, match=r"cannot draw 5 of 4 samples: ask for 0\.\.4"):
        stratified_split(torch.zeros(4, dtype=torch.int64), 5, seed=0)


def test_augmentation_is_decided_by_the_generator(digits: SplitDataset) -> None:
    images = digits.train.images[:16]
    one, again, other = (shift_and_rotate(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert one.dtype == torch.uint8
    assert one.shape == images.shape
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_augmentation_of_no_size_changes_nothing(digits: SplitDataset) -> None:
    images = digits.train.images[:16]
    still = shift_and_rotate(images, torch.Generator().manual_seed(0), pixels=0, degrees=0)
    assert (still.int() - images.int()).abs().max() <= 1  # float32 interpolation at the pixel itself


def test_augmentation_moves_by_whole_pixels_where_asked() -> None:
    # One bright pixel, no rotation: its centre of mass moves by at most `pixels` along each axis, and moves at all.
    images = torch.zeros((200, 1, 21, 33), dtype=torch.uint8)
    images[:, 0, 10, 16] = 255
    moved = shift_and_rotate(images, torch.Generator().manual_seed(0), pixels=3, degrees=0).double()[:, 0]
    mass = moved.sum((1, 2))
    y = (moved.sum(2) * torch.arange(21)).sum(1) / mass - 10
    x = (moved.sum(1) * torch.arange(33)).sum(1) / mass - 16
    for shift in (x, y):
        assert 2.5 < shift.abs().max() < 3.05


def test_rotation_keeps_distances_on_a_wide_image() -> None:
    # A dot 8 pixels from the centre stays 8 pixels away whatever the image's shape.
    images = torch.zeros((100, 1, 21, 41), dtype=torch.uint8)
    images[:, 0, 2, 20] = 255
    moved = shift_and_rotate(images, torch.Generator().manual_seed(0), pixels=0, degrees=45).double()[:, 0]
    mass = moved.sum((1, 2))
    y = (moved.sum(2) * torch.arange(21)).sum(1) / mass - 10
    x = (moved.sum(1) * torch.arange(41)).sum(1) / mass - 20
    torch.testing.assert_close((x**2 + y**2).sqrt(), torch.full((100,), 8.0, dtype=torch.float64), rtol=0, atol=0.2)
    assert x.abs().max() > 5


def test_unknown_data_set_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BitlensError, match=r"unknown data set 'mnist': choose one of digits"):
        load_dataset("mnist")


def test_taken_name_is_refused() -> None:
    with pytest.raises(BitlensError, match="'digits' is registered already"):
        register_dataset("digits")(DATASETS["digits"])
