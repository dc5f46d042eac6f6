"""Faithfulness metrics: whether the network itself agrees with a map, with range, direction, meaning and cost."""

from bitlens.runtime.faithfulness.deletion import deletion
from bitlens.runtime.faithfulness.insertion import insertion
from bitlens.runtime.faithfulness.masked_image import average_drop, average_gain, increase_in_confidence
from bitlens.runtime.faithfulness.registry import (
    FAITHFULNESS,
    FaithfulnessMetric,
    faithfulness_metric,
    register_faithfulness,
)

__all__ = [
    "FAITHFULNESS",
    "FaithfulnessMetric",
    "average_drop",
    "average_gain",
    "deletion",
    "faithfulness_metric",
    "increase_in_confidence",
    "insertion",
    "register_faithfulness",
]
