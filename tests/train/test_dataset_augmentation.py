from __future__ import annotations

import numpy as np
import pytest
import torch

from bitlens.runtime.errors import BitlensError
from bitlens.train.datasets import (
    DATASETS,
    Augmentation,
    SplitDataset,
    network_input,
    shift_and_flip,
    shift_and_rotate,
)


def test_network_input_is_code_over_255() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(network_input(codes), torch.arange(256, dtype=torch.float32) / 255)
    assert network_input(codes, torch.float64).dtype == torch.float64


def test_augmentation_is_decided_by_the_generator(digits: SplitDataset) -> None:
    images = digits.train().images[:16]
    one, again, other = (shift_and_rotate(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert one.dtype == torch.uint8
    assert one.shape == images.shape
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_augmentation_of_no_size_changes_nothing(digits: SplitDataset) -> None:
    images = digits.train().images[:16]
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


def random_images(count: int, *shape: int) -> torch.Tensor:
    return torch.randint(1, 256, (count, *shape), generator=torch.Generator().manual_seed(5)).to(torch.uint8)


@pytest.mark.parametrize(("shape", "pixels"), [((3, 6, 9), 2), ((1, 5, 5), 0), ((2, 4, 3), 5)])
def test_every_shifted_image_is_a_crop_of_the_bordered_one_mirrored_or_not(
    shape: tuple[int, int, int], pixels: int
) -> None:
    # Oracle: all crops of each image, cut one by one with NumPy; each result must be one of them, and all must occur.
    images = random_images(600, *shape)
    moved = shift_and_flip(images, torch.Generator().manual_seed(0), pixels=pixels)
    assert moved.dtype == torch.uint8
    assert moved.shape == images.shape
    _, height, width = shape
    seen = set()
    for image, result in zip(images.numpy(), moved.numpy(), strict=True):
        bordered = np.pad(image, ((0, 0), (pixels, pixels), (pixels, pixels)))
        found = [
            (top, left, mirrored)
            for top in range(2 * pixels + 1)
            for left in range(2 * pixels + 1)
            for mirrored in (False, True)
            if np.array_equal(
                bordered[:, top : top + height, left : left + width][:, :, :: -1 if mirrored else 1], result
            )
        ]
        assert found
        if len(found) == 1:
            seen.add(found[0])
    if pixels == 2:
        assert len(seen) == 50  # 25 places, mirrored or not


def test_half_of_the_images_are_mirrored() -> None:
    images = random_images(4000, 1, 2, 2)
    moved = shift_and_flip(images, torch.Generator().manual_seed(0), pixels=0)
    mirrored = (moved == images.flip(3)).all(dim=(1, 2, 3)).double().mean().item()
    assert abs(mirrored - 0.5) < 4 * 0.5 / 4000**0.5  # four deviations of a fair coin, seed fixed


def test_a_negative_shift_is_refused() -> None:
    with pytest.raises(BitlensError, match="pixels must be at least 0, got -1"):
        shift_and_flip(random_images(1, 1, 4, 4), torch.Generator(), pixels=-1)


@pytest.mark.parametrize("augment", [shift_and_rotate, lambda x, g: shift_and_flip(x, g, pixels=2)])
def test_augmentation_leaves_the_batch_it_was_given(augment: Augmentation) -> None:
    images = random_images(20, 1, 8, 8)
    before = images.clone()
    generator = torch.Generator().manual_seed(0)
    moved = augment(images, generator)
    assert not torch.equal(moved, images)
    assert torch.equal(images, before)
    assert not torch.equal(moved, augment(images, generator))  # the next draw is another one
    again = augment(images, torch.Generator().manual_seed(0))
    assert torch.equal(moved, again)


def test_shift_and_flip_draws_from_its_generator_only() -> None:
    images = random_images(20, 1, 8, 8)
    results = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        results.append(shift_and_flip(images, torch.Generator().manual_seed(3), pixels=2))
    assert torch.equal(*results)


def test_every_registered_data_set_is_tested_here() -> None:
    assert set(DATASETS) == {"digits", "mnist", "fashion-mnist", "cifar10"}
