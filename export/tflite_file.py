"""The TFLite file format: one subgraph of builtin operators, written as a FlatBuffer.

Slots and codes are those of TensorFlow Lite's schema version 3 (`schema.fbs`). The same content always gives the same
bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import flatbuffers
import numpy as np

from bitlens.runtime.program import Array

Item = TypeVar("Item")

SCHEMA_VERSION = 3
IDENTIFIER = b"TFL3"

# An interpreter may use constants where they lie in the file.
_BUFFER_ALIGNMENT = 16

ELEMENT_TYPES = {"float32": 0, "int32": 2, "uint8": 3, "int64": 4, "int8": 9}

SAME, VALID = 0, 1
NONE, RELU, RELU_N1_TO_1 = 0, 1, 2


@dataclass(frozen=True)
class BuiltinOperator:
    """A builtin operator: its code, the type of its options table (0 for none), and the slot of each option."""

    code: int
    options_type: int = 0
    slots: Mapping[str, int] = field(default_factory=dict)


_POOL = {"padding": 0, "stride_w": 1, "stride_h": 2, "filter_width": 3, "filter_height": 4, "activation": 5}

OPERATORS = {
    "ABS": BuiltinOperator(101),
    "ADD": BuiltinOperator(0, 11, {"activation": 0}),
    "CONCATENATION": BuiltinOperator(2, 10, {"axis": 0, "activation": 1}),
    "CONV_2D": BuiltinOperator(3, 1, {"padding": 0, "stride_w": 1, "stride_h": 2, "activation": 3}),
    "DEPTH_TO_SPACE": BuiltinOperator(5, 94, {"block_size": 0}),
    "DEPTHWISE_CONV_2D": BuiltinOperator(
        4, 2, {"padding": 0, "stride_w": 1, "stride_h": 2, "depth_multiplier": 3, "activation": 4}
    ),
    "DEQUANTIZE": BuiltinOperator(6),
    "FULLY_CONNECTED": BuiltinOperator(9, 8, {"activation": 0}),
    "MAX_POOL_2D": BuiltinOperator(17, 5, _POOL),
    "MAXIMUM": BuiltinOperator(55, 39),
    "MINIMUM": BuiltinOperator(57, 39),
    "MUL": BuiltinOperator(18, 21, {"activation": 0}),
    "PAD": BuiltinOperator(34, 22),
    "RELU": BuiltinOperator(19),
    "RESHAPE": BuiltinOperator(22, 17),
    "ROUND": BuiltinOperator(116),
    "SLICE": BuiltinOperator(65, 48),
    "SPACE_TO_DEPTH": BuiltinOperator(26, 19, {"block_size": 0}),
    "SUB": BuiltinOperator(41, 28, {"activation": 0}),
    "SUM": BuiltinOperator(74, 27, {"keep_dims": 0}),
    "TRANSPOSE": BuiltinOperator(39, 26),
    "TRANSPOSE_CONV": BuiltinOperator(67, 49, {"padding": 0, "stride_w": 1, "stride_h": 2}),
}

# Options of one byte; the others are int32.
_BYTES = frozenset({"padding", "activation", "keep_dims"})


@dataclass(frozen=True)
class Tensor:
    """A tensor of the subgraph.

    Parameters
    ----------
    name : str
    dtype : str
        A key of `ELEMENT_TYPES`.
    shape : tuple of int
    data : array, optional
        Contents of a constant.
    scale, zero_point : float, int
        Real value = scale * (stored - zero_point); a scale of 0 for a tensor that is not quantized.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: Array | None = None
    scale: float = 0.0
    zero_point: int = 0


@dataclass(frozen=True)
class Operator:
    """An operator with its options, reading and writing tensors by their place in the subgraph."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Signature:
    """What callers name: a key, and the tensors behind the names of inputs and outputs."""

    key: str
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]


def tflite_bytes(
    tensors: Sequence[Tensor],
    operators: Sequence[Operator],
    signature: Signature,
    *,
    description: str,
    metadata: Mapping[str, bytes] | None = None,
) -> bytes:
    """Serialize a model of one subgraph with one signature.

    Parameters
    ----------
    tensors : sequence of Tensor
    operators : sequence of Operator
        In an order in which every tensor is written before it is read.
    signature : Signature
    description : str
    metadata : mapping, optional
        Name -> contents of metadata buffers.

    Returns
    -------
    bytes
        With constants at multiples of 16 bytes.
    """
    builder = flatbuffers.Builder(1 << 16)
    contents = [b""]  # buffer 0 is the empty one, which every tensor that is computed has
    places: list[int] = []
    for tensor in tensors:
        places.append(0 if tensor.data is None else len(contents))
        if tensor.data is not None:
            contents.append(np.ascontiguousarray(tensor.data).tobytes())
    entries = []
    for name, content in (metadata or {}).items():
        entries.append((name, len(contents)))
        contents.append(content)
    used = sorted({operator.name for operator in operators})
    buffers = _tables(builder, contents, _buffer)
    codes = _tables(builder, used, _operator_code)
    subgraph = _subgraph(builder, tensors, places, operators, used, signature)
    signatures = _tables(builder, [signature], _signature)
    described = _tables(builder, entries, _metadata)
    text = builder.CreateString(description)
    subgraphs = _offsets(builder, [subgraph])
    builder.StartObject(8)
    builder.PrependUint32Slot(0, SCHEMA_VERSION, 0)
    for slot, offset in ((1, codes), (2, subgraphs), (3, text), (4, buffers), (6, described), (7, signatures)):
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    builder.Finish(builder.EndObject(), IDENTIFIER)
    return bytes(builder.Output())


def _offsets(builder: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _tables(
    builder: flatbuffers.Builder, items: Sequence[Item], write: Callable[[flatbuffers.Builder, Item], int]
) -> int:
    return _offsets(builder, [write(builder, item) for item in items])


def _integers(builder: flatbuffers.Builder, values: Sequence[int]) -> int:
    return int(builder.CreateNumpyVector(np.array(values, np.int32)))


def _buffer(builder: flatbuffers.Builder, content: bytes) -> int:
    data = 0
    if content:
        builder.StartVector(1, len(content), _BUFFER_ALIGNMENT)
        builder.head = builder.head - len(content)
        builder.Bytes[builder.head : builder.head + len(content)] = content
        data = builder.EndVector()
    builder.StartObject(1)
    if content:
        builder.PrependUOffsetTRelativeSlot(0, data, 0)
    return int(builder.EndObject())


def _operator_code(builder: flatbuffers.Builder, name: str) -> int:
    code = OPERATORS[name].code
    builder.StartObject(4)
    builder.PrependInt32Slot(3, code, 0)
    builder.PrependInt32Slot(2, 1, 0)
    builder.PrependInt8Slot(0, min(code, 127), 0)
    return int(builder.EndObject())


def _quantization(builder: flatbuffers.Builder, tensor: Tensor) -> int:
    zero_points = builder.CreateNumpyVector(np.array([tensor.zero_point], np.int64))
    scales = builder.CreateNumpyVector(np.array([tensor.scale], np.float32))
    builder.StartObject(7)
    builder.PrependUOffsetTRelativeSlot(3, zero_points, 0)
    builder.PrependUOffsetTRelativeSlot(2, scales, 0)
    return int(builder.EndObject())


def _tensor(builder: flatbuffers.Builder, item: tuple[Tensor, int]) -> int:
    tensor, buffer = item
    quantization = _quantization(builder, tensor) if tensor.scale else 0
    name, shape = builder.CreateString(tensor.name), _integers(builder, tensor.shape)
    builder.StartObject(8)
    builder.PrependUOffsetTRelativeSlot(4, quantization, 0)
    builder.PrependUOffsetTRelativeSlot(3, name, 0)
    builder.PrependUint32Slot(2, buffer, 0)
    builder.PrependUOffsetTRelativeSlot(0, shape, 0)
    builder.PrependInt8Slot(1, ELEMENT_TYPES[tensor.dtype], 0)
    return int(builder.EndObject())


def _operator(builder: flatbuffers.Builder, item: tuple[Operator, int]) -> int:
    operator, code = item
    kind, options = OPERATORS[operator.name], 0
    if kind.options_type:
        builder.StartObject(1 + max(kind.slots.values(), default=0))
        for name, value in operator.options.items():
            if name in _BYTES:
                builder.PrependInt8Slot(kind.slots[name], value, 0)
            else:
                builder.PrependInt32Slot(kind.slots[name], value, 0)
        options = builder.EndObject()
    inputs, outputs = _integers(builder, operator.inputs), _integers(builder, operator.outputs)
    builder.StartObject(5)
    builder.PrependUOffsetTRelativeSlot(4, options, 0)
    builder.PrependUOffsetTRelativeSlot(2, outputs, 0)
    builder.PrependUOffsetTRelativeSlot(1, inputs, 0)
    builder.PrependUint32Slot(0, code, 0)
    builder.PrependUint8Slot(3, kind.options_type, 0)
    return int(builder.EndObject())


def _subgraph(
    builder: flatbuffers.Builder,
    tensors: Sequence[Tensor],
    places: Sequence[int],
    operators: Sequence[Operator],
    used: Sequence[str],
    signature: Signature,
) -> int:
    written = _tables(builder, list(zip(tensors, places, strict=True)), _tensor)
    steps = _tables(builder, [(operator, used.index(operator.name)) for operator in operators], _operator)
    inputs = _integers(builder, list(signature.inputs.values()))
    outputs = _integers(builder, list(signature.outputs.values()))
    name = builder.CreateString(signature.key)
    builder.StartObject(5)
    for slot, offset in enumerate((written, inputs, outputs, steps, name)):
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    return int(builder.EndObject())


def _tensor_map(builder: flatbuffers.Builder, item: tuple[str, int]) -> int:
    name = builder.CreateString(item[0])
    builder.StartObject(2)
    builder.PrependUOffsetTRelativeSlot(0, name, 0)
    builder.PrependUint32Slot(1, item[1], 0)
    return int(builder.EndObject())


def _signature(builder: flatbuffers.Builder, signature: Signature) -> int:
    inputs = _tables(builder, list(signature.inputs.items()), _tensor_map)
    outputs = _tables(builder, list(signature.outputs.items()), _tensor_map)
    key = builder.CreateString(signature.key)
    builder.StartObject(5)
    for slot, offset in enumerate((inputs, outputs, key)):
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    return int(builder.EndObject())


def _metadata(builder: flatbuffers.Builder, item: tuple[str, int]) -> int:
    name = builder.CreateString(item[0])
    builder.StartObject(2)
    builder.PrependUOffsetTRelativeSlot(0, name, 0)
    builder.PrependUint32Slot(1, item[1], 0)
    return int(builder.EndObject())
