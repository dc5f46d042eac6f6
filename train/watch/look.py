"""What one look at a network gave: the numbers of an epoch, one JSON line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bitlens.runtime.bootstrap import BootstrapMean

TWIN = "twin"
PREVIOUS = "previous"


@dataclass(frozen=True)
class Look:
    """The numbers of one epoch.

    Parameters
    ----------
    epoch : int
        Epochs trained so far; 0 before the first.
    training_loss : float
        Mean objective over the epoch's training images, in nats; NaN at 0.
    accuracy : float
        Share of all held-out images that is classified correctly, 0..1.
    loss : float
        Mean cross entropy over the watched images, in nats; NaN if it overflowed.
    predicted : tuple of int
        Class of each shown image.
    compared_with : str or None
        `twin`, or `previous` for the maps of the look before; None where there was nothing to compare with.
    similarity : mapping
        Method -> name in `bitlens.runtime.fidelity.METRICS` -> mean over the watched images with its interval.
    shown_similarity : mapping
        Method -> Spearman's correlation of each shown image, NaN where undefined.
    """

    epoch: int
    training_loss: float
    accuracy: float
    loss: float
    predicted: tuple[int, ...]
    compared_with: str | None
    similarity: Mapping[str, Mapping[str, BootstrapMean]]
    shown_similarity: Mapping[str, tuple[float, ...]]


def look_line(look: Look) -> str:
    """Write a look as a line of JSON; NaN becomes null."""
    return json.dumps(_without_nan(asdict(look)), allow_nan=False) + "\n"


def look_from_line(line: str) -> Look:
    """Read a line back.

    Raises
    ------
    ValueError, TypeError, KeyError or AttributeError
        If it is not what `look_line` wrote.
    """
    content = json.loads(line)
    compared_with = content["compared_with"]
    if compared_with not in (None, TWIN, PREVIOUS):
        raise ValueError(f"compared with {str(compared_with)[:50]!r}")
    return Look(
        epoch=_integer(content["epoch"]),
        training_loss=_number(content["training_loss"]),
        accuracy=_number(content["accuracy"]),
        loss=_number(content["loss"]),
        predicted=tuple(map(_integer, content["predicted"])),
        compared_with=compared_with,
        similarity={
            method: {metric: _mean(mean) for metric, mean in metrics.items()}
            for method, metrics in content["similarity"].items()
        },
        shown_similarity={
            method: tuple(map(_number, values)) for method, values in content["shown_similarity"].items()
        },
    )


def _mean(content: Mapping[str, Any]) -> BootstrapMean:
    return BootstrapMean(
        mean=_number(content["mean"]),
        low=_number(content["low"]),
        high=_number(content["high"]),
        images=_integer(content["images"]),
        undefined=_integer(content["undefined"]),
    )


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{str(value)[:50]!r} is not a whole number")
    return value


def _number(value: object) -> float:
    if value is None:
        return math.nan
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{str(value)[:50]!r} is not a number")
    return float(value)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return value
