"""A QONNX graph written by hand, and what QONNX's own executor computes for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.infer_shapes import InferShapes

Floats = npt.NDArray[np.floating]
IR_VERSION = 10
DOMAIN = "qonnx.custom_op.general"


class QonnxGraph:
    """Nodes are named `/layer/Op`, as PyTorch's exporter does, so that the program's tensors are called `layer`."""

    def __init__(self, shape: tuple[int, ...], *, batch: int | str = 4) -> None:
        self.input = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *shape])
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.outputs: list[str] = []

    def constant(self, value: npt.ArrayLike, dtype: type[np.generic] = np.float32) -> str:
        name = f"constant{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, layer: str, op: str, inputs: Sequence[str], domain: str = "", **attributes: Any) -> str:
        output = f"{layer}.{op}"
        node = helper.make_node(op, list(inputs), [output], name=f"/{layer}/{op}", domain=domain, **attributes)
        self.nodes.append(node)
        return output

    def quant(
        self,
        layer: str,
        source: str,
        bits: float,
        scale: npt.ArrayLike = 1.0,
        zero_point: npt.ArrayLike = 0.0,
        *,
        signed: int = 1,
        narrow: int = 0,
        rounding_mode: str = "ROUND",
    ) -> str:
        constants = [self.constant(value) for value in (scale, zero_point, float(bits))]
        return self.add(
            layer,
            "Quant",
            [source, *constants],
            DOMAIN,
            signed=signed,
            narrow=narrow,
            rounding_mode=rounding_mode,
        )

    def bipolar(self, layer: str, source: str, scale: npt.ArrayLike = 1.0) -> str:
        return self.add(layer, "BipolarQuant", [source, self.constant(scale)], DOMAIN)

    def weight(self, layer: str, values: npt.ArrayLike, bits: float, scale: npt.ArrayLike, *, narrow: int = 1) -> str:
        return self.quant(f"{layer}.weight", self.constant(values), bits, scale, narrow=narrow)

    def norm(self, layer: str, source: str, channels: int, random: np.random.Generator, **attributes: Any) -> str:
        """Batch norm with negative slopes among its own, and one that is zero."""
        gamma = random.normal(size=channels)
        gamma[0] = 0.0
        values = (gamma, random.normal(size=channels), random.normal(size=channels), random.uniform(0.5, 2, channels))
        parameters = [self.constant(value) for value in values]
        return self.add(layer, "BatchNormalization", [source, *parameters], **attributes)

    def dense(self, source: str, features: int, random: np.random.Generator, *, classes: int = 3) -> str:
        """The last layer: 8-bit weights with one scale per class."""
        weight = self.weight("fc", random.normal(size=(classes, features)), 8, np.full((classes, 1), 0.02))
        return self.add("fc", "Gemm", [source, weight, self.constant(random.normal(size=classes))], transB=1)

    def model(self, *outputs: str) -> onnx.ModelProto:
        results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "foreign", [self.input], results, self.initializers)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def executed(model: onnx.ModelProto, x: Floats) -> dict[str, npt.NDArray[np.float32]]:
    """Every tensor of the graph, from QONNX's executor in float32."""
    wrapped = ModelWrapper(onnx.ModelProto.FromString(model.SerializeToString())).transform(InferShapes())
    # The executor makes a model of each node, in the newest format that onnx knows, which ONNX Runtime may not.
    with patch.object(onnx, "IR_VERSION", IR_VERSION):
        values: dict[str, npt.NDArray[np.float32]] = execute_onnx(wrapped, {"x": x.astype(np.float32)}, True)
    return values
