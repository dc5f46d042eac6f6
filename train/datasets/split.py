"""Splitting samples in two so that every class keeps its share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.stratified import stratified_order


def stratified_split(labels: Tensor, first: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Draw `first` of the samples so that every class keeps its share, up to one sample.

    Parameters
    ----------
    labels : Tensor
        int64 of shape (N,).
    first : int
        Size of the first part, 0..N.
    seed : int
        Seed of NumPy's PCG64; the split depends on nothing else.

    Returns
    -------
    tuple of Tensor
        Ascending int64 indices of the two parts, shapes (first,) and (N - first,).

    Raises
    ------
    BitlensError
        If `first` does not lie in 0..N.
    """
    total = len(labels)
    if not 0 <= first <= total:
        raise BitlensError(f"cannot draw {first} of {total} samples: ask for 0..{total}")
    chosen = stratified_order(labels.numpy(), seed=seed)
    return torch.from_numpy(np.sort(chosen[:first])), torch.from_numpy(np.sort(chosen[first:]))
