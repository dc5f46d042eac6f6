"""Has an optimizer folded a scale into a convolution over codes? Seen in the graph that ONNX Runtime runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from traces import open_session

WEIGHTED = frozenset({"Conv", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"})


def constants_of(graph: onnx.GraphProto) -> dict[str, npt.NDArray[np.generic]]:
    """Initializers, and constants that the engine casts when it loads the file."""
    constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
    return constants


def ancestors(graph: onnx.GraphProto, outputs: set[str]) -> list[onnx.NodeProto]:
    """Nodes that some of `outputs` depend on."""
    needed, found = set(outputs), []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            found.append(node)
    return found[::-1]


def folded(model: onnx.ModelProto, outputs: set[str]) -> list[str]:
    """Convolutions and dense layers on the way to `outputs` whose weights or bias are no whole numbers."""
    constants, wrong, seen = constants_of(model.graph), [], 0
    for node in ancestors(model.graph, outputs):
        if node.op_type not in WEIGHTED:
            continue
        seen += 1
        # Input 0 is the data; a fused sum of another tensor may follow as input 3.
        for name in node.input[1:3]:
            if not name:
                continue
            if name not in constants:
                wrong.append(f"{node.name}: {name} is computed")
            elif not np.array_equal(constants[name], np.rint(constants[name])):
                wrong.append(f"{node.name}: {name} holds fractions")
        wrong += [
            f"{node.name}: {item.name}"
            for item in node.attribute
            if item.name in ("activation", "alpha", "beta") and helper.get_attribute_value(item) not in (1.0, b"")
        ]
    assert seen, "no convolution on the way to these outputs"
    return wrong


def optimised(model: onnx.ModelProto, optimization: str, path: Path) -> onnx.ModelProto:
    """The graph that ONNX Runtime really runs."""
    open_session(model.SerializeToString(), optimization, path)
    return onnx.load(str(path))
