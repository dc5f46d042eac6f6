"""An order of samples in which every beginning holds each class in proportion."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]


def stratified_order(labels: Int64, *, seed: int) -> Int64:
    """Order samples so that among the first k, for every k, each class has its share up to one sample.

    Parameters
    ----------
    labels : int64 array, shape (N,)
        Class of each sample.
    seed : int
        Of NumPy's PCG64; the order depends on nothing else.

    Returns
    -------
    int64 array, shape (N,)
        Each index once.
    """
    order: Int64 = np.random.Generator(np.random.PCG64(seed)).permutation(len(labels))
    shuffled = labels[order]
    # Each sample's place within its class, as a fraction of the class: the lowest fractions over all classes are
    # every class in proportion.
    place = np.empty(len(labels))
    for label in np.unique(shuffled):
        members = np.flatnonzero(shuffled == label)
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return order[np.argsort(place, kind="stable")]
