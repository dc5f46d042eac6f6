"""A chain of binary convolutions as larq-compute-engine runs it: bits in, bits out, thresholds in between."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

from bench.shapes import LayerShape
from bench.standard_network import Reals
from bench.tflite_file import TFLiteFile

_SAME, _NO_ACTIVATION = 0, 0  # in TFLite's enumerations


@dataclass(frozen=True)
class BinaryChain:
    """`length` binary convolutions in a row.

    Parameters
    ----------
    weights : tuple of int8 (outputs, inputs, high, wide)
        +-1.
    thresholds : tuple of int32 (outputs,)
        An output is +1 where at most so many of a pixel's products are -1. Beyond the edge stands +1.
    """

    weights: tuple[npt.NDArray[np.int8], ...]
    thresholds: tuple[npt.NDArray[np.int32], ...]


def binary_chain(shape: LayerShape, length: int) -> BinaryChain:
    """Random weights, thresholds near the middle."""
    draw = np.random.default_rng(7)
    products = shape.channels * shape.kernel**2
    sides = (shape.channels, shape.channels, shape.kernel, shape.kernel)
    weights = tuple(draw.choice([-1, 1], sides).astype(np.int8) for _ in range(length))
    spread = 0.3 * products**0.5
    drawn = (products / 2 + spread * draw.standard_normal((length, shape.channels))).astype(np.int32)
    return BinaryChain(weights, tuple(drawn))


def binary_signs(chain: BinaryChain, image: Reals) -> npt.NDArray[np.int64]:
    """Compute in NumPy what a chain makes of the signs of an image (C, H, W): +-1."""
    signs = np.where(image < 0, -1, 1)
    for weight, thresholds in zip(chain.weights, chain.thresholds, strict=True):
        high, wide = weight.shape[2:]
        padded = np.pad(signs, ((0, 0), (high // 2,) * 2, (wide // 2,) * 2), constant_values=1)
        views = np.lib.stride_tricks.sliding_window_view(padded, (high, wide), axis=(1, 2)).astype(np.float32)
        sums = np.tensordot(weight.astype(np.float32), views, axes=((1, 2, 3), (0, 3, 4)))
        negative = (weight[0].size - np.rint(sums).astype(np.int64)) // 2
        signs = np.where(negative <= thresholds[:, None, None], 1, -1)
    return signs


def larq_model(
    shape: LayerShape, chain: BinaryChain, image: Reals, projection: npt.NDArray[np.float32] | None = None
) -> bytes:
    """Serialize a chain on an image (C, H, W); +-1 as floats come out, or, with weights (C, H, W), their weighted sum.

    The image is a constant of the file, since the interpreter's binding, of the time of NumPy 1, cannot be fed. Nothing
    is computed beforehand for that: to TFLite a custom op is a black box.
    """
    file = TFLiteFile()
    words, map_shape = (shape.channels + 31) // 32, (1, shape.height, shape.width)
    place = file.constant("image", image.transpose(1, 2, 0)[None].astype(np.float32))
    bits = file.tensor("image.bits", "int32", (*map_shape, words))
    file.custom("LceQuantize", [place], bits, b"")
    options = _options(shape)
    for index, (weight, thresholds) in enumerate(zip(chain.weights, chain.thresholds, strict=True)):
        inputs = [
            bits,
            file.constant(f"weight{index}", _packed(weight.transpose(0, 2, 3, 1))),
            -1,  # a multiplier and a bias are for real outputs
            -1,
            file.constant(f"threshold{index}", thresholds),
        ]
        bits = file.tensor(f"bits{index}", "int32", (*map_shape, words))
        file.custom("LceBconv2d", inputs, bits, options)
    output = file.tensor("signs", "float32", (*map_shape, shape.channels))
    file.custom("LceDequantize", [bits], output, b"")
    if projection is not None:
        matrix = file.constant("projection", projection.transpose(1, 2, 0).reshape(1, -1))
        bias, flat, signs = file.constant("bias", np.zeros(1, np.float32)), (1, projection.size), output
        output = file.tensor("sum", "float32", (1, 1))
        vector, sides = file.tensor("flat", "float32", flat), file.constant("flat shape", np.array(flat, np.int32))
        file.operator(schema.BuiltinOperator.RESHAPE, [signs, sides], vector)
        kind, options = schema.BuiltinOptions.FullyConnectedOptions, schema.FullyConnectedOptionsT()
        file.operator(schema.BuiltinOperator.FULLY_CONNECTED, [vector, matrix, bias], output, kind, options)
    return file.finish([], output)


def _packed(weight: npt.NDArray[np.int8]) -> npt.NDArray[np.int32]:
    """Pack a bit for each -1, the first channel lowest, in words of 32 along the channels."""
    bits = np.pad(weight < 0, (*((0, 0),) * (weight.ndim - 1), (0, -weight.shape[-1] % 32)))
    packed = np.packbits(bits.reshape(*bits.shape[:-1], -1, 32), axis=-1, bitorder="little")
    return packed.view("<i4")[..., 0]


def _options(shape: LayerShape) -> bytes:
    builder = flexbuffers.Builder()
    with builder.Map():
        for name, value in {
            "channels_in": shape.channels,
            "dilation_height_factor": 1,
            "dilation_width_factor": 1,
            "fused_activation_function": _NO_ACTIVATION,
            "pad_values": 1,  # zero padding would take the slow way, by floats
            "padding": _SAME,
            "stride_height": 1,
            "stride_width": 1,
        }.items():
            builder.Key(name)
            builder.Int(value)
    return bytes(builder.Finish())
