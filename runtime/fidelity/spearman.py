"""Spearman's rank correlation of two maps."""

from __future__ import annotations

import numpy as np

from bitlens.runtime.fidelity.pearson import correlation
from bitlens.runtime.fidelity.registry import Float64, register_metric


def average_ranks(values: Float64) -> Float64:
    """Rank a vector (P,) from 1, equal values sharing the mean of their ranks; whole or half numbers (P,)."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    ends = np.append(begins[1:], len(values))
    ranks = np.empty(len(values))
    ranks[order] = np.repeat((begins + 1 + ends) / 2, ends - begins)
    return ranks


@register_metric(
    "spearman",
    title="Spearman",
    lowest=-1.0,
    highest=1.0,
    meaning="How nearly both maps put the pixels into the same order, from most against the class to most for it: "
    "1 the same order, 0 no relation, -1 the reverse.",
    undefined="one of the maps is constant",
)
def spearman(one: Float64, other: Float64) -> Float64:
    """Correlate the ranks of the values, sign included; equal values share their mean rank.

    Notes
    -----
    Cost: a sort of each map.
    """
    ranks = [np.array([average_ranks(each.ravel()) for each in maps]).reshape(maps.shape) for maps in (one, other)]
    return correlation(ranks[0], ranks[1])
