"""Which fidelity metrics there are.

A metric compares two saliency maps of the same image. Where the definition gives no number (a constant map has no
ranking), it gives NaN: `bitlens.runtime.bootstrap.bootstrap_mean` leaves those images out of a mean and counts them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.table import add_row, row_of

Float64 = npt.NDArray[np.float64]
Maps = npt.NDArray[np.floating]

# (one, other: finite float64 (N, H, W), keyword-only options) -> float64 (N,), NaN where undefined
MetricFunction = Callable[..., Float64]


@dataclass(frozen=True)
class Metric:
    """A row of the table of metrics; called with two maps it compares them.

    Parameters
    ----------
    name : str
        By which `METRICS` has it.
    title : str
        How a page calls it.
    function : callable
        Compares two batches that were checked.
    lowest, highest : float
        Range. Of equal maps, where it is defined, it gives `highest`; higher is better for every metric here.
    meaning : str
        One sentence for the person who reads the number.
    undefined : str
        When it gives NaN, in words.
    higher_is_better : bool
        Which direction is better.
    """

    name: str
    title: str
    function: MetricFunction
    lowest: float
    highest: float
    meaning: str
    undefined: str
    higher_is_better: bool = True

    def __call__(self, one: Maps, other: Maps, **options: float) -> float:
        """Compare two maps.

        Parameters
        ----------
        one, other : float arrays, shape (H, W)
            Finite, channels already reduced (`bitlens.runtime.pictures.reduce_channels`).
        **options : float
            What the metric's own function takes, by name.

        Returns
        -------
        float
            From `lowest` to `highest`, or NaN where it is undefined.

        Raises
        ------
        BitlensError
            If the maps are not such arrays, differ in shape, or hold NaN or infinity.
        """
        _require_maps(one, other, 2, "(H, W)")
        return float(self.batch(one[np.newaxis], other[np.newaxis], **options)[0])

    def batch(self, one: Maps, other: Maps, **options: float) -> Float64:
        """Compare maps pair by pair.

        Parameters
        ----------
        one, other : float arrays, shape (N, H, W)
            As for one pair; N may be 0.
        **options : float
            As for one pair.

        Returns
        -------
        float64 array, shape (N,)
            What each pair gives by itself.

        Raises
        ------
        BitlensError
            As for one pair.
        """
        _require_maps(one, other, 3, "(N, H, W)")
        return self.function(one.astype(np.float64), other.astype(np.float64), **options)


METRICS: dict[str, Metric] = {}


def register_metric(
    name: str, *, title: str, lowest: float, highest: float, meaning: str, undefined: str
) -> Callable[[MetricFunction], Metric]:
    """Put the decorated function into `METRICS`; the name then stands for its `Metric`.

    Raises
    ------
    ValueError
        If the name is taken.
    """

    def register(function: MetricFunction) -> Metric:
        metric = Metric(name, title, function, lowest, highest, meaning, undefined)
        return add_row(METRICS, "metric", name, metric)

    return register


def metric(name: str) -> Metric:
    """Return the metric of that name.

    Raises
    ------
    BitlensError
        If there is none; the message lists what there is.
    """
    return row_of(METRICS, "metric", name)


def is_constant(maps: Float64) -> npt.NDArray[np.bool_]:
    """Say of each map (N, H, W) whether all its pixels are equal; bool (N,)."""
    constant: npt.NDArray[np.bool_] = maps.max(axis=(1, 2)) == maps.min(axis=(1, 2))
    return constant


def is_zero(maps: Float64) -> npt.NDArray[np.bool_]:
    """Say of each map (N, H, W) whether all its pixels are 0; bool (N,)."""
    zero: npt.NDArray[np.bool_] = (maps == 0).all(axis=(1, 2))
    return zero


def on_own_scale(maps: Float64) -> Float64:
    """Divide each map (N, H, W) by its largest magnitude; a map of zeros stays one."""
    largest = np.abs(maps).max(axis=(1, 2), keepdims=True)
    scaled: Float64 = maps / np.where(largest > 0, largest, 1.0)
    return scaled


def _require_maps(one: Maps, other: Maps, dimensions: int, shape: str) -> None:
    for name, maps in (("first", one), ("second", other)):
        if not np.issubdtype(maps.dtype, np.floating) or maps.ndim != dimensions or 0 in maps.shape[-2:]:
            raise BitlensError(
                f"expected the {name} argument as a float array of shape {shape}, got {maps.dtype} of shape "
                f"{maps.shape}: reduce the channels first, and compare batches with `batch`"
            )
    if one.shape != other.shape:
        raise BitlensError(f"expected maps of one shape, got {one.shape} and {other.shape}: resize one of them")
    for name, maps in (("first", one), ("second", other)):
        if not np.isfinite(maps).all():
            raise BitlensError(
                f"expected finite values in the {name} argument, got NaN or infinity: look for the cause where the map "
                "was computed, or leave that image out"
            )
