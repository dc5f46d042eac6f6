"""Which faithfulness metrics there are.

A faithfulness metric asks the network itself whether a map is right: it changes the image where the map points and
looks at the class. A map is read with its sign: pixels that speak most for the class come first, those against it
last. Where a definition gives no number, it gives NaN, as in `bitlens.runtime.fidelity`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitlens.runtime.engines import Engine
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.program import Array
from bitlens.runtime.table import add_row, row_of

Float64 = npt.NDArray[np.float64]

# (engine, x (N, C, H, W) float64, maps (N, H, W) float64, targets (N,)) -> float64 (N,), NaN where undefined
FaithfulnessFunction = Callable[[Engine, Float64, Float64, Sequence[int]], Float64]

CODES_PER_UNIT = 255.0


@dataclass(frozen=True)
class FaithfulnessMetric:
    """A row of the table; called with images and their maps it rates each map.

    Parameters
    ----------
    name : str
        By which `FAITHFULNESS` has it.
    title : str
        How a page calls it.
    function : callable
        Rates a batch that was checked.
    lowest, highest : float
        Range; `highest` may be infinite.
    higher_is_better : bool
    meaning : str
        One sentence for the person who reads the number.
    undefined : str
        When it gives NaN, in words.
    forward_passes : int
        Cost for one map.
    """

    name: str
    title: str
    function: FaithfulnessFunction
    lowest: float
    highest: float
    higher_is_better: bool
    meaning: str
    undefined: str
    forward_passes: int

    def __call__(
        self, engine: Engine, images: Array, maps: npt.NDArray[np.floating], targets: Sequence[int]
    ) -> Float64:
        """Rate maps, each by itself: the size of the batch changes nothing.

        Parameters
        ----------
        engine : Engine
            The network whose decision the maps explain.
        images : array, shape (N, C, H, W)
            Codes 0..255 (any integer dtype), or floats x = code / 255.
        maps : float array, shape (N, H, W)
            Finite, channels already reduced.
        targets : sequence of int
            The class that each map explains.

        Returns
        -------
        float64 array, shape (N,)
            From `lowest` to `highest`, NaN where undefined.

        Raises
        ------
        BitlensError
            If the arrays do not fit each other or the network, a map holds NaN or infinity, or a target is no class.

        Notes
        -----
        Cost: `forward_passes` per image.
        """
        images = np.asarray(images)
        if images.ndim != 4 or maps.shape != (len(images), *images.shape[2:]) or len(targets) != len(images):
            raise BitlensError(
                f"expected images (N, C, H, W), maps (N, H, W) and N targets, got {images.shape}, {maps.shape} and "
                f"{len(targets)}: reduce the channels of each map to one value per pixel first"
            )
        if not np.issubdtype(maps.dtype, np.floating) or not np.isfinite(maps).all():
            raise BitlensError(
                "expected maps of finite floats: look for the cause where they were computed, or leave that image out"
            )
        foreign = [target for target in targets if not 0 <= target < engine.classes]
        if foreign:
            raise BitlensError(f"target {foreign[0]} is no class: expected 0 to {engine.classes - 1}")
        if not len(images):
            return np.empty(0)
        x = images.astype(np.float64)
        if np.issubdtype(images.dtype, np.integer):
            x /= CODES_PER_UNIT
        return self.function(engine, x, maps.astype(np.float64), targets)


FAITHFULNESS: dict[str, FaithfulnessMetric] = {}


def register_faithfulness(
    name: str,
    *,
    title: str,
    lowest: float,
    highest: float,
    higher_is_better: bool,
    meaning: str,
    undefined: str,
    forward_passes: int,
) -> Callable[[FaithfulnessFunction], FaithfulnessMetric]:
    """Put the decorated function into `FAITHFULNESS`; the name then stands for its `FaithfulnessMetric`.

    Raises
    ------
    ValueError
        If the name is taken.
    """

    def register(function: FaithfulnessFunction) -> FaithfulnessMetric:
        metric = FaithfulnessMetric(
            name, title, function, lowest, highest, higher_is_better, meaning, undefined, forward_passes
        )
        return add_row(FAITHFULNESS, "faithfulness metric", name, metric)

    return register


def faithfulness_metric(name: str) -> FaithfulnessMetric:
    """Return the metric of that name.

    Raises
    ------
    BitlensError
        If there is none; the message lists what there is.
    """
    return row_of(FAITHFULNESS, "faithfulness metric", name)
