"""Guided backprop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from bitlens.runtime.engines import Engine
from bitlens.runtime.methods.gradient import input_gradients
from bitlens.runtime.methods.registry import one_gradient, register_method
from bitlens.runtime.program import Array
from bitlens.runtime.thresholds import Interval

Float32 = npt.NDArray[np.float32]


@register_method(
    "guided_backprop",
    title="Guided backprop",
    paper="Springenberg et al., 1412.6806",
    cost=one_gradient,
    signed=True,
    meaning=(
        "The gradient with every negative part stopped on its way back: a sharp picture of the pattern that excites "
        "the network. It changes little with the class, so trust it for where, not for why."
    ),
)
def guided_backprop(
    engine: Engine, images: Array, targets: Sequence[int], *, windows: Mapping[str, Interval] | None = None
) -> Float32:
    """Compute the gradient, keeping at each activation what is positive (Springenberg et al., 1412.6806).

    At a ReLU: 1[activation > 0] * max(g, 0). At a quantizer, where the paper has no rule: mask * max(g, 0), the mask
    being its straight-through window.

    Parameters, returns, errors and cost as for `gradient`.
    """
    return input_gradients(engine, images, targets, windows, guided=True)
