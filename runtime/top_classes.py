"""The most likely classes of one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitlens.runtime.network import Network
from bitlens.runtime.subject import softmax

TOP = 5


@dataclass(frozen=True)
class RankedClass:
    """A class with its label, its logit and its softmax."""

    index: int
    label: str
    logit: float
    softmax: float

    @property
    def said(self) -> dict[str, object]:
        """As JSON says it."""
        return {"class": self.index, "label": self.label, "logit": self.logit, "softmax": self.softmax}


def ranked_classes(logits: npt.NDArray[np.float32], network: Network, top: int = TOP) -> list[RankedClass]:
    """List the `top` classes (all, if there are fewer), the most likely first."""
    shares = softmax(logits.astype(np.float64)[None])[0]
    order = np.argsort(-logits, kind="stable")[:top]
    return [
        RankedClass(int(index), network.label(int(index)), float(logits[index]), float(shares[index]))
        for index in order
    ]


def top_classes(logits: npt.NDArray[np.float32], network: Network) -> list[dict[str, object]]:
    """List the `TOP` classes as JSON says them: class, label, logit and softmax."""
    return [each.said for each in ranked_classes(logits, network)]
