"""Bilinear resize against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitlens.runtime.bilinear import resized_bilinear

EPSILON = float(np.finfo(np.float32).eps)


@pytest.mark.parametrize(
    ("source", "target"), [((4, 4), (8, 8)), ((3, 5), (7, 11)), ((1, 1), (6, 4)), ((8, 8), (8, 8)), ((9, 7), (4, 3))]
)
def test_resize_is_that_of_torch(source: tuple[int, int], target: tuple[int, int]) -> None:
    maps = np.random.default_rng(2).standard_normal((2, 3, *source)).astype(np.float32)
    exact = torch.tensor(maps, dtype=torch.float64)
    expected = torch.nn.functional.interpolate(exact, target, mode="bilinear", align_corners=False).numpy()
    got = resized_bilinear(maps, *target)
    assert got.dtype == np.float32
    # Per axis: a rounded share, two products and a sum.
    assert np.abs(got - expected).max() <= 8 * EPSILON * np.abs(maps).max()


def test_resize_holds_its_edges_and_its_range() -> None:
    maps = np.array([[[[0.0, 1.0]]]], np.float32)
    assert resized_bilinear(maps, 1, 4).ravel().tolist() == [0.0, 0.25, 0.75, 1.0]
    assert resized_bilinear(maps, 1, 2).ravel().tolist() == [0.0, 1.0]
