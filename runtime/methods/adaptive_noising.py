"""Adaptive noising: SmoothTaylor with the noise that suits the image."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitlens.runtime.bounds import expect_above, expect_at_least
from bitlens.runtime.engines import Engine
from bitlens.runtime.faithfulness.perturbation_curve import FILLS, PERTURBATIONS, aupc, perturbation_curve
from bitlens.runtime.faithfulness.total_variation import autvc
from bitlens.runtime.methods.option import Value
from bitlens.runtime.methods.registry import Passes, register_method
from bitlens.runtime.methods.smooth_taylor import SIGNED_MEANING, smooth_taylor_map
from bitlens.runtime.program import Array, Program
from bitlens.runtime.subject import Subject, subjects
from bitlens.runtime.table import row_of
from bitlens.runtime.thresholds import Interval

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

# (engine, subject, its map summed over the channels (H, W), seed) -> area, lower is better; NaN where there is none
Objective = Callable[[Engine, Subject, Float64, int], float]


def _autvc(engine: Engine, subject: Subject, values: Float64, seed: int) -> float:
    return float(autvc(values[None])[0])


def _aupc(engine: Engine, subject: Subject, values: Float64, seed: int) -> float:
    curve = perturbation_curve(engine, subject.x[None], [subject.target], values[None], seed=seed)
    return float(aupc(curve.logits)[0])


OBJECTIVES: dict[str, tuple[Objective, Passes]] = {
    "autvc": (_autvc, Passes(0, 0)),
    "aupc": (_aupc, Passes(1 + PERTURBATIONS * FILLS, 0)),
}
"""What may be lowered, and what looking at it once costs."""


def objective_of(name: str) -> tuple[Objective, Passes]:
    """Return the objective of that name, and its cost.

    Raises
    ------
    BitlensError
        If there is none.
    """
    return row_of(OBJECTIVES, "objective", name)


@dataclass(frozen=True)
class AdaptedNoise:
    """What the search found for one image.

    Parameters
    ----------
    sigma : float
        In units of x.
    area : float
        The objective there; NaN if it was undefined everywhere.
    first_sigma, first_area : float
        Where the search began.
    map : float64 (C, H, W)
        The SmoothTaylor map at `sigma`.
    maps_made : int
        How many maps the search took.
    """

    sigma: float
    area: float
    first_sigma: float
    first_area: float
    map: Float64
    maps_made: int


def search_noise(
    attempt: Callable[[float], tuple[Float64, float]],
    first_sigma: float,
    *,
    learning_rate: float,
    learning_decay: float,
    max_stop_count: int,
    max_iteration: int,
) -> AdaptedNoise:
    """Look for the sigma of the lowest area (Goh et al., 2004.10484, algorithm 1).

    From where it stands, the search tries |sigma + a|. If that is worse it goes to |sigma - a| instead, whatever comes
    of it. A step that made it worse is counted and shortens a; more than `max_stop_count` in a row end the search.

    Parameters
    ----------
    attempt : callable
        sigma -> (map, area). NaN counts as worse than any number.
    first_sigma : float
    learning_rate, learning_decay : float
        a at the beginning, in units of x, and the factor by which it shrinks.
    max_stop_count, max_iteration : int

    Returns
    -------
    AdaptedNoise
        The best attempt of all that the search stood at.
    """

    def tried(sigma: float) -> tuple[Float64, float]:
        values, area = attempt(sigma)
        return values, math.inf if math.isnan(area) else area

    current = sigma = first_sigma
    values, area = tried(sigma)
    best = (sigma, area, values)
    first_area, made, stops, step = area, 1, 0, learning_rate
    for _ in range(max_iteration):
        current = abs(sigma + step)
        values, found = tried(current)
        made += 1
        if found > area:
            current = abs(sigma - step)
            values, found = tried(current)
            made += 1
        sigma = current
        if found > area:
            if stops == max_stop_count:
                break
            step *= learning_decay
            stops += 1
        else:
            stops = 0
            if found < best[1]:
                best = (sigma, found, values)
        area = found
    finite = [math.nan if math.isinf(number) else number for number in (best[1], first_area)]
    return AdaptedNoise(best[0], finite[0], first_sigma, finite[1], best[2], made)


def adapted_noise(
    engine: Engine,
    subject: Subject,
    objective: str,
    *,
    roots: int,
    learning_rate: float,
    learning_decay: float,
    max_stop_count: int,
    max_iteration: int,
    seed: int,
    windows: Mapping[str, Interval] | None = None,
) -> AdaptedNoise:
    """Find the noise for one image, beginning at mean|x|: see `adaptive_smooth_taylor`.

    Raises
    ------
    BitlensError
        If there is no objective of that name.
    """
    area_of, _ = objective_of(objective)

    def attempt(sigma: float) -> tuple[Float64, float]:
        values = smooth_taylor_map(engine, subject, sigma, roots, seed, windows)
        return values, area_of(engine, subject, values.sum(axis=0), seed)

    return search_noise(
        attempt,
        float(np.abs(subject.x).mean()),
        learning_rate=learning_rate,
        learning_decay=learning_decay,
        max_stop_count=max_stop_count,
        max_iteration=max_iteration,
    )


def _cost(program: Program, *, objective: str, roots: int, max_iteration: int, **options: Value) -> Passes:
    maps = 1 + 2 * max_iteration
    _, looking = objective_of(objective)
    return Passes(maps * (roots + looking.forward), maps * roots, at_most=True)


@register_method(
    "adaptive_smooth_taylor",
    title="SmoothTaylor, adaptive noise",
    paper="Goh et al., 2004.10484, algorithm 1",
    cost=_cost,
    signed=True,
    meaning=f"{SIGNED_MEANING} The noise was chosen for this image, so that the map looks calm or hits what counts.",
    options={
        "objective": "what the search lowers: autvc (how noisy the map looks) or aupc (how well it hits; slow)",
        "roots": "noisy copies per map",
        "learning_rate": "first step of the search, in units of x",
        "learning_decay": "factor by which a step shrinks after a bad one",
        "max_stop_count": "bad steps in a row before the search ends",
        "max_iteration": "steps at most",
        "seed": "of the noise",
    },
    choices={"objective": tuple(OBJECTIVES)},
)
def adaptive_smooth_taylor(
    engine: Engine,
    images: Array,
    targets: Sequence[int],
    *,
    objective: str = "autvc",
    roots: int = 150,
    learning_rate: float = 0.0226,
    learning_decay: float = 0.9,
    max_stop_count: int = 3,
    max_iteration: int = 20,
    seed: int = 0,
    windows: Mapping[str, Interval] | None = None,
) -> Float32:
    """Compute `smooth_taylor` at the sigma for which the objective is lowest (Goh et al., 2004.10484, algorithm 1).

    Each image has its own sigma; the search begins at mean|x|, and all its maps use the same noise, only larger or
    smaller. A map chosen by a metric must not be praised by that metric: report another one beside it.

    Parameters
    ----------
    engine : Engine
    images : array (N, C, H, W)
        Codes or x, see `Engine.forward`.
    targets : sequence of int
        One class per image.
    objective : {"autvc", "aupc"}
        Area under the total-variation or the perturbation curve.
    roots : int
        R, at least 1.
    learning_rate : float
        In units of x, above 0; the paper's 0.1 is in normalised units, 0.226 of x (see `smooth_taylor`).
    learning_decay : float
        Above 0.
    max_stop_count, max_iteration : int
        Not negative.
    seed : int
        Of the noise, and of the fillings of the perturbation curve.
    windows : mapping, optional
        Straight-through windows in place of the trained ones, see `Engine.gradient`.

    Returns
    -------
    float32 (N, C, H, W)
        In logits.

    Raises
    ------
    BitlensError
        If an image, a target, a window or an option does not fit.

    Notes
    -----
    Cost: at most 1 + 2 * max_iteration maps of R forward and backward passes; with objective "aupc" 1501 forward
    passes more for each map.
    """
    expect_at_least("roots", roots, 1)
    expect_above("learning_rate", learning_rate, 0.0)
    expect_above("learning_decay", learning_decay, 0.0)
    expect_at_least("max_stop_count", max_stop_count, 0)
    expect_at_least("max_iteration", max_iteration, 0)
    maps = [
        adapted_noise(
            engine,
            subject,
            objective,
            roots=roots,
            learning_rate=learning_rate,
            learning_decay=learning_decay,
            max_stop_count=max_stop_count,
            max_iteration=max_iteration,
            seed=seed,
            windows=windows,
        ).map
        for subject in subjects(engine, images, targets)
    ]
    return np.stack(maps).astype(np.float32)
