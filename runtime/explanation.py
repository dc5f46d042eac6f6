"""One method's map of one image, and the picture that shows both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitlens.runtime.image import CODES_PER_UNIT
from bitlens.runtime.methods import Method, Passes, Value
from bitlens.runtime.methods.heat_picture import heat_picture
from bitlens.runtime.pictures import WHITE, Picture, colour_bar, enlarge, image_picture, overlay, tile
from bitlens.runtime.program import Array

SMALLEST_SIDE = 224  # pixels of one panel, at least
OPACITY = 0.6
GAP = 8  # pixels


@dataclass(frozen=True)
class Explanation:
    """One method's map of the image.

    Parameters
    ----------
    method : Method
    settings : mapping
        Options that were given.
    passes : Passes
        What it cost.
    values : float32 (C or 1, H, W)
    gap : float or None
        Completeness gap in logits, where the method has one.
    """

    method: Method
    settings: Mapping[str, Value]
    passes: Passes
    values: npt.NDArray[np.float32]
    gap: float | None


def shown_image(image: Array) -> Picture:
    """Show an image (C, H, W) of codes, or of x."""
    codes = image if np.issubdtype(image.dtype, np.integer) else np.rint(image * CODES_PER_UNIT)
    return image_picture(np.clip(codes, 0, 255).astype(np.uint8))


def panel_factor(picture: Picture) -> int:
    """How often each pixel is repeated so that a panel is large enough to look at."""
    return max(1, -(-SMALLEST_SIDE // int(min(picture.shape[:2]))))


def explanation_picture(image: Array, explanation: Explanation) -> Picture:
    """Image, heat map, overlay and colour bar side by side.

    Parameters
    ----------
    image : (C, H, W)
        Codes, or x.
    explanation : Explanation
    """
    signed = explanation.method.signed
    shown = shown_image(image)
    heat = heat_picture(explanation.method, explanation.values)
    factor = panel_factor(shown)
    panels = tile([[enlarge(panel, factor) for panel in (shown, heat, overlay(shown, heat, OPACITY))]], GAP)
    gap = np.full((panels.shape[0], GAP, 3), WHITE, np.uint8)
    return np.concatenate([panels, gap, colour_bar(panels.shape[0], 2 * GAP, signed)], axis=1)
