"""Faithfulness metrics: whether the network itself agrees with a map, with range, direction, meaning and cost."""

from bitlens.runtime.faithfulness.deletion import deletion
from bitlens.runtime.faithfulness.insertion import insertion
from bitlens.runtime.faithfulness.masked_image import average_drop, average_gain, increase_in_confidence
from bitlens.runtime.faithfulness.noisiness import area_under_total_variation, average_total_variation
from bitlens.runtime.faithfulness.perturbation import area_under_perturbation
from bitlens.runtime.faithfulness.registry import (
    FAITHFULNESS,
    FaithfulnessMetric,
    faithfulness_metric,
    register_faithfulness,
)

__all__ = [
    "FAITHFULNESS",
    "FaithfulnessMetric",
    "area_under_perturbation",
    "area_under_total_variation",
    "average_drop",
    "average_gain",
    "average_total_variation",
    "deletion",
    "faithfulness_metric",
    "increase_in_confidence",
    "insertion",
    "register_faithfulness",
]
