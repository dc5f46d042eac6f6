"""A standard network as TFLite: float32, or int8 per channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from bench.quantization import Scale, quantized_weights
from bench.standard_network import (
    Convolution,
    Dense,
    GlobalAverage,
    MaxPool,
    Reals,
    StandardNetwork,
    Sum,
    tensor_shapes,
)
from bench.tflite_file import TFLiteFile

_RELU = schema.ActivationFunctionType.RELU
_NONE = schema.ActivationFunctionType.NONE


def channels_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a tensor in a TFLite file, for one image."""
    return (1, *shape[1:], shape[0]) if len(shape) == 3 else (1, *shape)


def tflite_model(network: StandardNetwork, scales: Mapping[str, Scale] | None = None) -> bytes:
    """Serialize a network; with the scale of every tensor it becomes int8. Input and output stay float32."""
    file, shapes = TFLiteFile(), tensor_shapes(network)

    def activation(name: str) -> int:
        shape = channels_last(shapes[name])
        if scales is None:
            return file.tensor(name, "float32", shape)
        scale = scales[name]  # codes 0..255 there, -128..127 here
        return file.tensor(name, "int8", shape, scales=np.array([scale.scale], np.float32), zero=scale.zero - 128)

    def weights(layer: Convolution | Dense, weight: Reals) -> list[int]:
        name = layer.output
        if scales is None:
            return [file.constant(f"{name}.weight", weight), file.constant(f"{name}.bias", layer.bias)]
        codes = quantized_weights(layer, scales[layer.source], weight)
        return [
            file.constant(f"{name}.weight", codes.weight, codes.scales),
            file.constant(f"{name}.bias", codes.bias, codes.bias_scales),
        ]

    ops, kinds = schema.BuiltinOperator, schema.BuiltinOptions
    source = file.tensor("input", "float32", channels_last(network.image))
    numbers = {"image": source}
    if scales is not None:
        numbers["image"] = activation("image")
        file.operator(ops.QUANTIZE, [source], numbers["image"])
    for layer in network.layers:
        output = numbers[layer.output] = activation(layer.output)
        options: Any
        if isinstance(layer, Convolution):
            options = schema.Conv2DOptionsT()
            options.padding, options.strideH, options.strideW = schema.Padding.SAME, layer.stride, layer.stride
            options.fusedActivationFunction = _RELU if layer.relu else _NONE
            inputs = [numbers[layer.source], *weights(layer, layer.weight.transpose(0, 2, 3, 1))]
            file.operator(ops.CONV_2D, inputs, output, kinds.Conv2DOptions, options)
        elif isinstance(layer, MaxPool):
            options = schema.Pool2DOptionsT()
            options.padding, options.strideH, options.strideW = schema.Padding.SAME, layer.stride, layer.stride
            options.filterHeight = options.filterWidth = layer.kernel
            file.operator(ops.MAX_POOL_2D, [numbers[layer.source]], output, kinds.Pool2DOptions, options)
        elif isinstance(layer, Sum):
            options = schema.AddOptionsT()
            options.fusedActivationFunction = _RELU
            inputs = [numbers[name] for name in layer.sources]
            file.operator(ops.ADD, inputs, output, kinds.AddOptions, options)
        elif isinstance(layer, GlobalAverage):
            axes = file.constant(f"{layer.output}.axes", np.array([1, 2], np.int32))
            options = schema.ReducerOptionsT()
            options.keepDims = False
            file.operator(ops.MEAN, [numbers[layer.source], axes], output, kinds.ReducerOptions, options)
        else:
            options = schema.FullyConnectedOptionsT()
            inputs = [numbers[layer.source], *weights(layer, layer.weight)]
            file.operator(ops.FULLY_CONNECTED, inputs, output, kinds.FullyConnectedOptions, options)
    last = numbers[network.output]
    if scales is not None:
        real = file.tensor("output", "float32", channels_last(shapes[network.output]))
        file.operator(ops.DEQUANTIZE, [last], real)
        last = real
    return file.finish([source], last)
