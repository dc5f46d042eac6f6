"""A standard network as ONNX: float32, or with u8 activations and s8 weights between quantize and dequantize nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench.quantization import Scale, quantized_weights
from bench.standard_network import (
    Convolution,
    Dense,
    GlobalAverage,
    MaxPool,
    Reals,
    StandardNetwork,
    Sum,
    channels_first,
    map_paddings,
    tensor_shapes,
)

IMAGE = "image"
OPSET = 17


class _Graph:
    def __init__(self, scales: Mapping[str, Scale] | None) -> None:
        self.scales = scales
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))

    def constant(self, name: str, value: Reals) -> str:
        self.constants.append(numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    def read(self, name: str) -> str:
        """Name under which an op reads a tensor as floats."""
        return name if self.scales is None else f"{name}.real"

    def quantized(self, name: str) -> None:
        """From `name` float to `name.real`, by way of bytes."""
        assert self.scales is not None
        scale = self.scales[name]
        ends = [
            self.constant(f"{name}.scale", np.array(scale.scale, np.float32)),
            self.constant(f"{name}.zero", np.array(scale.zero, np.uint8)),
        ]
        self.node("QuantizeLinear", [name, *ends], f"{name}.codes")
        self.node("DequantizeLinear", [f"{name}.codes", *ends], f"{name}.real")

    def weights(self, layer: Convolution | Dense, weight: Reals) -> list[str]:
        name = layer.output
        if self.scales is None:
            return [self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", layer.bias)]
        codes = quantized_weights(layer, self.scales[layer.source], weight)
        zeros = np.zeros(len(codes.bias))
        parts: list[tuple[str, Reals, Reals, Reals]] = [
            ("weight", codes.weight, codes.scales, zeros.astype(np.int8)),
            ("bias", codes.bias, codes.bias_scales, zeros.astype(np.int32)),
        ]
        for part, values, scales, zero in parts:
            inputs = [
                self.constant(f"{name}.{part}.codes", values),
                self.constant(f"{name}.{part}.scale", scales),
                self.constant(f"{name}.{part}.zero", zero),
            ]
            self.node("DequantizeLinear", inputs, f"{name}.{part}", axis=0)
        return [f"{name}.weight", f"{name}.bias"]


def onnx_model(network: StandardNetwork, scales: Mapping[str, Scale] | None = None) -> bytes:
    """Serialize a network.

    Parameters
    ----------
    network : StandardNetwork
    scales : mapping, optional
        Scale of every tensor: the network becomes u8s8, the only 8-bit form that onnxruntime is fast at on x86.
        Input and output stay float32.
    """
    graph, shapes = _Graph(scales), tensor_shapes(network)
    if scales is not None:
        graph.quantized(IMAGE)
    for layer in network.layers:
        # A ReLU before bytes is what their lower end does.
        sums = f"{layer.output}.sums" if scales is None else layer.output
        if isinstance(layer, Convolution):
            (top, bottom), (left, right) = map_paddings(shapes[layer.source], layer.weight.shape[2], layer.stride)
            inputs = [graph.read(layer.source), *graph.weights(layer, layer.weight)]
            output = sums if layer.relu else layer.output
            strides = [layer.stride, layer.stride]
            graph.node("Conv", inputs, output, pads=[top, left, bottom, right], strides=strides)
        elif isinstance(layer, MaxPool):
            (top, bottom), (left, right) = map_paddings(shapes[layer.source], layer.kernel, layer.stride)
            sides = {"kernel_shape": [layer.kernel] * 2, "strides": [layer.stride] * 2}
            graph.node("MaxPool", [graph.read(layer.source)], layer.output, pads=[top, left, bottom, right], **sides)
        elif isinstance(layer, Sum):
            graph.node("Add", [graph.read(source) for source in layer.sources], sums)
        elif isinstance(layer, GlobalAverage):
            graph.node("GlobalAveragePool", [graph.read(layer.source)], layer.output)
        else:
            graph.node("Flatten", [graph.read(layer.source)], f"{layer.output}.flat")
            flat = f"{layer.output}.flat"
            if scales is not None:
                _requantized(graph, layer, flat)
                flat = f"{flat}.real"
            inputs = [flat, *graph.weights(layer, channels_first(layer, shapes[layer.source]))]
            graph.node("Gemm", inputs, layer.output, transB=1)
        if scales is None and sums in {name for node in graph.nodes[-1:] for name in node.output}:
            graph.node("Relu", [sums], layer.output)
        if scales is not None:
            graph.quantized(layer.output)
    output = graph.read(network.output)
    shape = [1, *shapes[network.output]]
    made = helper.make_graph(
        graph.nodes,
        "standard",
        [helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, [1, *network.image])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        graph.constants,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _requantized(graph: _Graph, layer: Dense, name: str) -> None:
    """Bytes with the scale of the layer's input again: onnxruntime fuses a reshape only between the two."""
    ends = [f"{layer.source}.scale", f"{layer.source}.zero"]
    graph.node("QuantizeLinear", [name, *ends], f"{name}.codes")
    graph.node("DequantizeLinear", [f"{name}.codes", *ends], f"{name}.real")
