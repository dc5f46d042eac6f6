"""ATV and AUTVC as rows of the table: how noisy a map looks. They ask no network."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bitlens.runtime.engines import Engine
from bitlens.runtime.faithfulness.registry import Float64, register_faithfulness
from bitlens.runtime.faithfulness.total_variation import atv, autvc


@register_faithfulness(
    "atv",
    title="ATV",
    lowest=0.0,
    highest=2.0,
    higher_is_better=False,
    meaning="How much neighbouring pixels of the map's magnitude differ: noise at the finest scale. A calm map need "
    "not be right.",
    undefined="too few pixels differ from the rest to scale the map",
    forward_passes=0,
)
def average_total_variation(engine: Engine, x: Float64, maps: Float64, targets: Sequence[int]) -> Float64:
    """Compute the ATV of Goh et al., 2004.10484, section 4, see `atv`."""
    del engine, x, targets
    return atv(maps)


@register_faithfulness(
    "autvc",
    title="AUTVC",
    lowest=0.0,
    highest=math.inf,
    higher_is_better=False,
    meaning="ATV added up over the map and ever smaller versions of it: noise at every scale. Comparable only between "
    "maps of one size.",
    undefined="ATV is undefined on one of the sizes",
    forward_passes=0,
)
def area_under_total_variation(engine: Engine, x: Float64, maps: Float64, targets: Sequence[int]) -> Float64:
    """Compute the AUTVC of Goh et al., 2004.10484, section 4, see `autvc`."""
    del engine, x, targets
    return autvc(maps)
