"""A method's map as a picture."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bitlens.runtime.methods.registry import Method
from bitlens.runtime.pictures import Picture, colour_map_picture, reduce_channels


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
    flat = reduce_channels(values, method.reduce)
    return colour_map_picture(flat - flat.min() if method.shown_from == "minimum" else flat, method.signed)
