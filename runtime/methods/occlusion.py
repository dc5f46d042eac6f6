"""Occlusion: what the class score loses when a window of the image is covered."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bitlens.runtime.bounds import expect_at_least
from bitlens.runtime.engines import Engine
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.methods.option import Value
from bitlens.runtime.methods.patch import default_side
from bitlens.runtime.methods.registry import Passes, register_method
from bitlens.runtime.program import Array, Program
from bitlens.runtime.subject import Subject, batches, logits_at, logits_near, subjects

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


def _starts(size: int, window: int, stride: int) -> range:
    """Where windows begin along one side; the last one may reach over the edge, where it ends."""
    return range(0, stride * (math.ceil(max(0, size - window) / stride) + 1), stride)


def _sizes(program: Program, window: int | None, stride: int | None) -> tuple[int, int]:
    side = default_side(program) if window is None else window
    step = max(1, side // 2) if stride is None else stride
    expect_at_least("window", side, 1)
    expect_at_least("stride", step, 1)
    if step > side:
        raise BitlensError(
            f"stride is {step}, window {side}: expected a stride up to the window, or pixels are left out"
        )
    return side, step


def _places(program: Program, window: int, stride: int) -> list[tuple[int, int]]:
    height, width = program.image_type.shape[1:]
    return [(top, left) for top in _starts(height, window, stride) for left in _starts(width, window, stride)]


def _cost(program: Program, *, window: int | None, stride: int | None, **options: Value) -> Passes:
    return Passes(1 + len(_places(program, *_sizes(program, window, stride))), 0)


def _occlusion_map(
    engine: Engine, subject: Subject, places: list[tuple[int, int]], window: int, baseline: float
) -> Float64:
    score = logits_at(engine, subject.x[None])[0, subject.target]
    total = np.zeros(subject.x.shape[1:])
    covered = np.zeros_like(total)
    for part in batches(len(places)):
        windows = [
            (slice(top, top + window), slice(left, left + window)) for top, left in places[part.start : part.stop]
        ]
        images = np.repeat(subject.x[None], len(windows), axis=0)
        for image, (rows, columns) in zip(images, windows, strict=True):
            image[:, rows, columns] = baseline
        scores = logits_near(engine, subject.x, images)[:, subject.target]
        for other, (rows, columns) in zip(scores, windows, strict=True):
            total[rows, columns] += score - other
            covered[rows, columns] += 1.0
    return (total / covered)[None]


@register_method(
    "occlusion",
    title="Occlusion",
    paper="Zeiler & Fergus, 1311.2901",
    cost=_cost,
    needs_gradient=False,
    signed=True,
    meaning=(
        "What the class score loses (red) or gains (blue) when the place is covered, averaged over the windows that "
        "cover it. It measures the network itself, no surrogate; a covered image is one the network was not trained on."
    ),
    options={
        "window": "side of the square that is covered, in pixels (default: a seventh of the shorter side)",
        "stride": "pixels from one window to the next (default: half a window)",
        "baseline": "what covers, in units of x",
    },
)
def occlusion(
    engine: Engine,
    images: Array,
    targets: Sequence[int],
    *,
    window: int | None = None,
    stride: int | None = None,
    baseline: float = 0.0,
) -> Float32:
    """Slide a window over the image; a pixel gets the mean of logit(x) - logit(x covered) over its windows.

    Zeiler & Fergus, 1311.2901, in Captum's definition: all channels are covered together, and a window that reaches
    over the edge ends there.

    Parameters
    ----------
    engine : Engine
    images : array (N, C, H, W)
        Codes or x, see `Engine.forward`.
    targets : sequence of int
        One class per image.
    window : int, optional
        Side of the square in pixels, at least 1; a seventh of the shorter side if not given: 4 of 28, 32 of 224.
    stride : int, optional
        In pixels, 1 to `window`; half a window if not given.
    baseline : float
        What covers, in units of x; black if not given.

    Returns
    -------
    float32 (N, 1, H, W)
        In logits.

    Raises
    ------
    BitlensError
        If an image, a target or an option does not fit.

    Notes
    -----
    Cost: 1 forward pass, and 1 for each window: 170 for 28x28 pixels, 197 for 32x32.
    """
    side, step = _sizes(engine.program, window, stride)
    places = _places(engine.program, side, step)
    maps = [_occlusion_map(engine, subject, places, side, baseline) for subject in subjects(engine, images, targets)]
    return np.stack(maps).astype(np.float32)
