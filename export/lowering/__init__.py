"""A QONNX graph becomes a program: batch norm, scales and quantizers collapse into integer thresholds, in float64.

Walking the graph forwards, every tensor is known as `slope * t + offset` of a tensor t that the program has, perhaps
with a ReLU on top (`Linear`). Linear layers of ONNX only change slope and offset; a quantizer turns them into
thresholds on t. One rule per ONNX op stands in the table `RULES`, filled by the modules imported here; an op without
one is refused.
"""

from bitlens.export.lowering import elementwise, pools, quantizers, shapes, weighted_sums
from bitlens.export.lowering.graph import ACCUMULATORS, IMAGE, INPUT_HIGH, INPUT_LOW, LOGITS, lower
from bitlens.export.lowering.state import RULES, Lowering, rule

__all__ = [
    "ACCUMULATORS",
    "IMAGE",
    "INPUT_HIGH",
    "INPUT_LOW",
    "LOGITS",
    "RULES",
    "Lowering",
    "elementwise",
    "lower",
    "pools",
    "quantizers",
    "rule",
    "shapes",
    "weighted_sums",
]
