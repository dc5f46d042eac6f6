"""A scene that needs no camera: a ship on the sea and an aeroplane above it, drawn with NumPy, the same on each run."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import count

import numpy as np
import numpy.typing as npt

from bitlens.runtime.live.frame_source import FrameSource, register_source
from bitlens.runtime.resize import Codes

HEIGHT, WIDTH = 240, 320
FRAMES_PER_SECOND = 15
SEED = 0

Float32 = npt.NDArray[np.float32]
# Distances inside the edges of a convex shape, from pixels across and down of its own middle.
Edges = Callable[[Float32, Float32], tuple[Float32, ...]]

_HORIZON = 150
_GRAIN = 3.0  # standard deviation, codes

_SHIP: tuple[tuple[tuple[int, int, int], Edges], ...] = (
    ((238, 238, 232), lambda x, y: (y + 20, -y, x + 30, 26 - x)),  # cabin
    ((224, 226, 224), lambda x, y: (y + 36, -20 - y, x + 8, 22 - x)),  # bridge
    ((196, 62, 44), lambda x, y: (y + 40, -20 - y, x + 24, -12 - x)),  # funnel
    ((52, 58, 70), lambda x, y: (y, 24 - y, x + 62 - 0.9 * y, 62 - x - 1.1 * y)),  # hull
)
_AEROPLANE: tuple[tuple[tuple[int, int, int], Edges], ...] = (
    ((206, 212, 220), lambda x, y: (y + 26, -y, x + 50, 0.6 * y - 33 - x)),  # tail
    ((236, 240, 244), lambda x, y: (9 - np.hypot(0.17 * x, y),)),  # body
    ((150, 158, 170), lambda x, y: (y, 26 - y, x + 14 - 0.2 * y, 8 - x - 0.9 * y)),  # wing
)
_SUN: tuple[tuple[tuple[int, int, int], Edges], ...] = (((255, 244, 200), lambda x, y: (17 - np.hypot(x, y),)),)
_REACH = 70  # pixels from its middle within which a thing is drawn


def _draw(scene: Float32, parts: tuple[tuple[tuple[int, int, int], Edges], ...], x: float, y: float) -> None:
    """Paint a thing with its middle at (x, y) over the scene (H, W, 3), in place, its edges softened."""
    left, top = max(0, int(x) - _REACH), max(0, int(y) - _REACH)
    part = scene[top : int(y) + _REACH, left : int(x) + _REACH]
    down, across = np.mgrid[top : top + part.shape[0], left : left + part.shape[1]].astype(np.float32)
    for colour, edges in parts:
        inside = np.minimum.reduce(edges(across - np.float32(x), down - np.float32(y)))
        part += np.clip(inside + 0.5, 0, 1)[..., None] * (np.array(colour, np.float32) - part)


@cache
def _backdrop(seed: int) -> tuple[Float32, Float32, npt.NDArray[np.float64]]:
    """Sky and sea at rest, grain, and where everything that moves begins."""
    draw = np.random.default_rng(seed)
    rows = np.arange(HEIGHT, dtype=np.float32)[:, None, None]
    sky = np.array((112, 164, 224), np.float32) + rows / _HORIZON * np.array((96, 56, 14), np.float32)
    depth = (rows - _HORIZON) / (HEIGHT - _HORIZON)
    sea = np.array((46, 104, 150), np.float32) - depth * np.array((26, 40, 44), np.float32)
    still = np.broadcast_to(np.where(rows > _HORIZON, sea, sky), (HEIGHT, WIDTH, 3)).copy()
    _draw(still, _SUN, 60, 46)
    grain = _GRAIN * draw.standard_normal((HEIGHT, WIDTH, 1), np.float32)
    return still, grain, draw.uniform(0, 2 * np.pi, 4)


def synthetic_frame(number: int, seed: int = SEED) -> Codes:
    """Draw frame `number` of the scene, uint8 (240, 320, 3): the same pixels for the same number and seed."""
    still, grain, phases = _backdrop(seed)
    time = number / FRAMES_PER_SECOND
    scene = still + grain
    down, across = np.mgrid[_HORIZON + 1 : HEIGHT, :WIDTH].astype(np.float32)
    waves = np.sin(0.09 * across + 0.45 * down + 2.2 * time) + np.sin(0.8 * down - 0.05 * across + 1.3 * time)
    scene[_HORIZON + 1 :] += (5 * waves)[..., None]
    _draw(scene, _AEROPLANE, 160 + 105 * np.sin(0.23 * time + phases[0]), 62 + 10 * np.sin(0.9 * time + phases[1]))
    _draw(scene, _SHIP, 160 + 90 * np.sin(0.31 * time + phases[2]), 156 + 3 * np.sin(1.1 * time + phases[3]))
    codes: Codes = np.clip(np.rint(scene), 0, 255).astype(np.uint8)
    return codes


@register_source("synthetic", form="synthetic", fits=lambda text: text == "synthetic")
def open_synthetic(text: str) -> FrameSource:
    """Open the scene; it does not end."""
    numbers = count()

    def read() -> tuple[Codes, str]:
        number = next(numbers)
        return synthetic_frame(number), f"frame {number}"

    return FrameSource("a synthetic scene", read, lambda: None, 1 / FRAMES_PER_SECOND)
