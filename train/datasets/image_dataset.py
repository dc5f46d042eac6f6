"""Images with their labels, and what a network is fed of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageDataset:
    """Images with their labels.

    Parameters
    ----------
    images : Tensor
        uint8 codes of shape (N, C, H, W), 0..255; the network sees code / 255.
    labels : Tensor
        int64 of shape (N,), indices into `class_names`.
    class_names : tuple of str
        What each class is called.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def subset(self, indices: Tensor) -> ImageDataset:
        """Give the images at `indices` (int64, shape (M,)), in that order."""
        return ImageDataset(self.images[indices], self.labels[indices], self.class_names)


def network_input(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn uint8 codes into what every network is trained on: code / 255, in 0..1, shape unchanged."""
    return images.to(dtype) / 255
