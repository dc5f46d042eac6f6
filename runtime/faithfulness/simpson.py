"""Simpson's rule over equally spaced values."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


def simpson(values: Float64) -> Float64:
    """Integrate over the last axis of (..., P) with step 1.

    Where the number of intervals is odd, the last one is integrated by the parabola through the last three points
    (Cartwright 2017, as SciPy does); one interval is a trapezium, one value or none has no area.

    Returns
    -------
    float64 (...)
    """
    points = values.shape[-1]
    if points < 2:
        return np.zeros(values.shape[:-1])
    if points == 2:
        return np.asarray(values.mean(axis=-1))
    even = points if points % 2 else points - 1
    body = values[..., :even]
    total = (body[..., 0] + body[..., -1] + 4.0 * body[..., 1::2].sum(-1) + 2.0 * body[..., 2:-1:2].sum(-1)) / 3.0
    if even < points:
        total = total + (5.0 * values[..., -1] + 8.0 * values[..., -2] - values[..., -3]) / 12.0
    return np.asarray(total)
