"""The most likely classes of one image."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bitlens.runtime.network import Network
from bitlens.runtime.subject import softmax

TOP = 5


def top_classes(logits: npt.NDArray[np.float32], network: Network) -> list[dict[str, object]]:
    """List the `TOP` classes (all, if there are fewer), the most likely first: class, label, logit and softmax."""
    shares = softmax(logits.astype(np.float64)[None])[0]
    order = np.argsort(-logits, kind="stable")[:TOP]
    return [
        {
            "class": int(index),
            "label": network.label(int(index)),
            "logit": float(logits[index]),
            "softmax": float(shares[index]),
        }
        for index in order
    ]
