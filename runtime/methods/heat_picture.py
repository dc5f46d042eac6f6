"""A method's map as a picture."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bitlens.runtime.methods.registry import Method
from bitlens.runtime.pictures import Picture, colour_map_picture, map_positions, reduce_channels


def heat_picture(method: Method, values: npt.NDArray[np.floating]) -> Picture:
    """Colour one map (C or 1, H, W) of a method, channels reduced and the scale begun as its row says.

    Returns
    -------
    uint8 array, shape (H, W, 3)
        See `colour_map_picture`.

    Raises
    ------
    BitlensError
        If it is no such map, or holds NaN or infinity.
    """
    return colour_map_picture(_flat(method, values), method.signed)


def heat_positions(method: Method, values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Place one map on the scale of `heat_picture` instead, float64 (H, W); see `map_positions`."""
    return map_positions(_flat(method, values), method.signed)


def _flat(method: Method, values: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    flat = reduce_channels(values, method.reduce)
    return flat - flat.min() if method.shown_from == "minimum" else flat
