"""Finite differences: how the class score moves when a patch becomes brighter and darker."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bitlens.runtime.bounds import expect_above, expect_at_least
from bitlens.runtime.engines import Engine
from bitlens.runtime.methods.option import Value
from bitlens.runtime.methods.patch import default_side
from bitlens.runtime.methods.registry import Passes, register_method
from bitlens.runtime.program import Array, Program
from bitlens.runtime.subject import IMAGES_AT_ONCE, Subject, logits_near, seen, subjects

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

LEAST_STEP = 1.0 / 8.0


def adaptive_step(program: Program) -> float:
    """Choose the step for a network: 1 / sqrt(levels) of its coarsest activation, at least 1/8; in units of x.

    A quantized network is a step function. A small step measures which rounding it happens to sit beside, not what
    matters: at 4 bits and 8/255 nearly every difference is nonzero and hardly any is related to importance. The step
    has to grow with the steps of the network: 1/4 at 4 bits, 1/2 at 2 bits, 0.71 for signs, 1/8 for a twin.
    """
    levels = [node.arrays["thresholds"].shape[1] + 1 for node in program.nodes if node.op == "threshold"]
    return max([LEAST_STEP, *(1.0 / math.sqrt(count) for count in levels)])


def _side(program: Program, patch: int | None) -> int:
    side = default_side(program) if patch is None else patch
    expect_at_least("patch", side, 1)
    return side


def _patches(program: Program, side: int) -> list[tuple[slice, slice]]:
    height, width = program.image_type.shape[1:]
    return [
        (slice(top, top + side), slice(left, left + side))
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]


def _cost(program: Program, *, patch: int | None, **options: Value) -> Passes:
    return Passes(2 * len(_patches(program, _side(program, patch))), 0)


def _difference_map(engine: Engine, subject: Subject, patches: list[tuple[slice, slice]], step: float) -> Float64:
    result = np.empty(subject.x.shape[1:])
    at_once = IMAGES_AT_ONCE // 2
    for start in range(0, len(patches), at_once):
        part = patches[start : start + at_once]
        images = np.repeat(subject.x[None], 2 * len(part), axis=0)
        for place, (rows, columns) in enumerate(part):
            images[2 * place, :, rows, columns] += step
            images[2 * place + 1, :, rows, columns] -= step
        images = seen(engine, images)
        scores = logits_near(engine, subject.x, images)[:, subject.target]
        for place, (rows, columns) in enumerate(part):
            brighter, darker = images[2 * place, :, rows, columns], images[2 * place + 1, :, rows, columns]
            way = float((brighter - darker).sum())
            result[rows, columns] = (scores[2 * place] - scores[2 * place + 1]) / way if way else 0.0
    return result[None]


@register_method(
    "finite_differences",
    title="Finite differences",
    paper="central differences; Ancona et al., 1711.06104, compares them with gradients",
    cost=_cost,
    needs_gradient=False,
    signed=True,
    meaning=(
        "How the class score moves when the patch becomes brighter (red up, blue down), measured on the network "
        "itself with a step as large as its rounding asks for. It resembles SmoothGrad seen through coarse pixels."
    ),
    options={
        "patch": "side of a patch in pixels (default: a seventh of the shorter side)",
        "step": "how much brighter and darker, in units of x (default: by the network's bits, 1/8 to 0.71)",
    },
)
def finite_differences(
    engine: Engine,
    images: Array,
    targets: Sequence[int],
    *,
    patch: int | None = None,
    step: float | None = None,
) -> Float32:
    """Compute (logit(x + d 1_P) - logit(x - d 1_P)) / (2 d |P|) for each patch P: the mean slope of its pixels.

    A fallback for engines without a gradient, and a check of the gradient that is one; it needs forward passes only.

    Parameters
    ----------
    engine : Engine
    images : array (N, C, H, W)
        Codes or x, see `Engine.forward`.
    targets : sequence of int
        One class per image.
    patch : int, optional
        Side in pixels, at least 1; a seventh of the shorter side if not given. Patches do not overlap; the last of a
        row or column ends at the edge.
    step : float, optional
        d, in units of x, above 0; see `adaptive_step` if not given.

    Returns
    -------
    float32 (N, 1, H, W)
        Logit per unit of x of one pixel (all its channels together).

    Raises
    ------
    BitlensError
        If an image, a target or an option does not fit.

    Notes
    -----
    Cost: 2 forward passes per patch: 98 for 28x28 pixels, 128 for 32x32. 2 d is taken from what the network saw: whole
    codes.
    """
    side = _side(engine.program, patch)
    size = adaptive_step(engine.program) if step is None else step
    expect_above("step", size, 0.0)
    patches = _patches(engine.program, side)
    maps = [_difference_map(engine, subject, patches, size) for subject in subjects(engine, images, targets)]
    return np.stack(maps).astype(np.float32)
