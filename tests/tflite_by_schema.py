"""TFLite files for tests, written with the schema's own object API (ai-edge-litert carries it) and `flatbuffers`."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

Field = tuple[str, Any]
LATER_TYPES = {"int2": 19}  # that the schema of ai-edge-litert 1.2 does not have


def tensor(
    name: str,
    dtype: str,
    shape: Sequence[int],
    buffer: int = 0,
    *,
    scales: Sequence[float] = (),
    zeros: Sequence[int] = (),
    dimension: int = 0,
    signature: Sequence[int] | None = None,
) -> Any:
    made = schema.TensorT()
    made.name, made.shape, made.buffer = name, list(shape), buffer
    made.type = LATER_TYPES[dtype] if dtype in LATER_TYPES else getattr(schema.TensorType, dtype.upper())
    made.shapeSignature = None if signature is None else list(signature)
    if scales:
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale = list(scales)
        made.quantization.zeroPoint = list(zeros or [0] * len(scales))
        made.quantization.quantizedDimension = dimension
    return made


def buffer(content: bytes = b"") -> Any:
    made = schema.BufferT()
    made.data = np.frombuffer(content, np.uint8) if content else None
    return made


def operator(code: int, inputs: Sequence[int], outputs: Sequence[int], options: Any = None, kind: int = 0) -> Any:
    made = schema.OperatorT()
    made.opcodeIndex, made.inputs, made.outputs = code, list(inputs), list(outputs)
    made.builtinOptions, made.builtinOptionsType = options, kind
    return made


def operator_code(name: str, custom: str = "") -> Any:
    made = schema.OperatorCodeT()
    code = getattr(schema.BuiltinOperator, name)
    made.deprecatedBuiltinCode, made.builtinCode, made.version = min(code, 127), code, 1
    made.customCode = custom or None
    return made


def subgraph(tensors: list[Any], operators: list[Any], inputs: Sequence[int], outputs: Sequence[int]) -> Any:
    made = schema.SubGraphT()
    made.tensors, made.operators = tensors, operators
    made.inputs, made.outputs, made.name = list(inputs), list(outputs), "main"
    return made


def signature(key: str, index: int, inputs: dict[str, int], outputs: dict[str, int]) -> Any:
    made = schema.SignatureDefT()
    made.signatureKey, made.subgraphIndex = key, index
    made.inputs, made.outputs = ([_tensor_map(*item) for item in side.items()] for side in (inputs, outputs))
    return made


def _tensor_map(name: str, index: int) -> Any:
    made = schema.TensorMapT()
    made.name, made.tensorIndex = name, index
    return made


def entry(name: str, buffer: int) -> Any:
    made = schema.MetadataT()
    made.name, made.buffer = name, buffer
    return made


def model(
    subgraphs: list[Any],
    buffers: list[Any],
    codes: list[Any],
    *,
    signatures: Sequence[Any] = (),
    entries: Sequence[Any] = (),
    description: str = "made by hand",
) -> bytes:
    made = schema.ModelT()
    made.version, made.description = 3, description
    made.subgraphs, made.buffers, made.operatorCodes = subgraphs, buffers, codes
    made.signatureDefs, made.metadata = list(signatures) or None, list(entries) or None
    builder = flatbuffers.Builder(1024)
    builder.Finish(made.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def flat_table(fields: dict[int, Field], identifier: bytes) -> bytes:
    """A FlatBuffer of any schema: field number -> ("text", str), ("table", fields), ("tables", [fields]),
    ("floats", values) or ("byte", number)."""
    builder = flatbuffers.Builder(256)
    builder.Finish(_flat(builder, fields), identifier)
    return bytes(builder.Output())


def _flat(builder: flatbuffers.Builder, fields: dict[int, Field]) -> int:
    offsets: dict[int, int] = {}
    for number, (kind, value) in fields.items():
        if kind == "text":
            offsets[number] = builder.CreateString(value)
        elif kind == "table":
            offsets[number] = _flat(builder, value)
        elif kind == "floats":
            offsets[number] = builder.CreateNumpyVector(np.asarray(value, np.float32))
        elif kind == "tables":
            made = [_flat(builder, one) for one in value]
            builder.StartVector(4, len(made), 4)
            for one in reversed(made):
                builder.PrependUOffsetTRelative(one)
            offsets[number] = builder.EndVector()
    builder.StartObject(max(fields, default=-1) + 1)
    for number, (kind, value) in fields.items():
        if kind == "byte":
            builder.PrependInt8Slot(number, value, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(number, offsets[number], 0)
    return int(builder.EndObject())


def model_metadata(mean: Sequence[float], deviation: Sequence[float], labels: str) -> bytes:
    """ModelMetadata: an image that is normalized, and labels of the output."""
    unit = {0: ("byte", 1), 1: ("table", {0: ("floats", mean), 1: ("floats", deviation)})}
    image = {0: ("text", "image"), 4: ("tables", [unit])}
    output = {0: ("text", "scores"), 6: ("tables", [{0: ("text", labels), 2: ("byte", 2)}])}
    graph = {2: ("tables", [image]), 3: ("tables", [output])}
    root = {
        0: ("text", "pets"), 1: ("text", "tells pets"), 2: ("text", "v2"), 3: ("tables", [graph]),
        4: ("text", "nobody"), 5: ("text", "none"), 7: ("text", "1.0.0"),
    }  # fmt: skip
    return flat_table(root, b"M001")


def with_files(content: bytes, files: dict[str, bytes]) -> bytes:
    """Append files as TFLite's metadata writer does: a zip behind the model."""
    target = io.BytesIO(content)
    target.seek(0, io.SEEK_END)
    with zipfile.ZipFile(target, "a") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return target.getvalue()


def rich_model() -> bytes:
    """Two subgraphs, a shared constant, a custom op, an op of a number above 127, signatures and metadata."""
    tensors = [
        tensor("image", "uint8", (1, 4, 4, 3), scales=[0.5], zeros=[128], signature=(-1, 4, 4, 3)),
        tensor("w", "int8", (5, 3), 1, scales=[0.1, 0.2, 0.3, 0.4, 0.5], zeros=[0, 0, 1, 0, -2]),
        tensor("wide", "float32", (5, 3)),
        tensor("scores", "float32", (1, 5)),
    ]
    operators = [operator(0, [1], [2]), operator(1, [0, 2, -1], [3]), operator(2, [3], [3])]
    other = [tensor("again", "int8", (15,), 1), tensor("half", "float16", (2,), 2), tensor("number", "int64", ())]
    graphs = [subgraph(tensors, operators, [0], [3]), subgraph(other, [operator(0, [0], [2])], [1], [2])]
    codes = [operator_code("DEQUANTIZE"), operator_code("CUSTOM", "Mine"), operator_code("SIGN")]
    buffers = [
        buffer(), buffer(bytes(range(15))), buffer(b"\0\x3c\0\x40"), buffer(b"1.14.0".ljust(16, b"\0")),
        buffer(model_metadata([0.0, 1.5], [255.0], "labels.txt")),
    ]  # fmt: skip
    return with_files(
        model(
            graphs,
            buffers,
            codes,
            signatures=[signature("run", 0, {"x": 0}, {"y": 3}), signature("other", 1, {"z": 1}, {"t": 2})],
            entries=[entry("min_runtime_version", 3), entry("TFLITE_METADATA", 4)],
        ),
        {"labels.txt": b"ant\nbee\n", "more.txt": b"x" * 100},
    )


def weighted_op(
    op: str,
    weight_type: str,
    *,
    input_type: str = "float32",
    scales: int = 1,
    kernel: int = 3,
    channels: int = 4,
    weight_through: str = "",
) -> bytes:
    """One convolution or dense layer with weights of some type, read as they are, or through an op such as
    DEQUANTIZE; its outputs are 4 channels of 4x4 maps, or 4 numbers."""
    codes = [operator_code(op)]
    is_dense = op == "FULLY_CONNECTED"
    shape = (4, channels) if is_dense else (4, kernel, kernel, channels)
    if op == "DEPTHWISE_CONV_2D":
        shape = (1, kernel, kernel, channels)
    source = (1, channels) if is_dense else (1, 4, 4, channels)
    result = (1, 4) if is_dense else (1, 4, 4, 4)
    count = int(np.prod(shape))
    weights: dict[str, npt.NDArray[Any]] = {
        "int8": (np.arange(count) % 7 - 3).astype(np.int8),
        "int4": np.full(count // 2, 0x21, np.uint8),  # 1, 2, 1, 2
        "int2": np.full(count // 4, 0b00011101, np.uint8),
        "float16": (np.arange(count) % 7 - 3).astype(np.float16),
        "float32": (np.arange(count) % 7 - 3).astype(np.float32),
    }
    is_real = weight_type.startswith("float")
    per_channel = [] if is_real else [0.5 * (place + 1) for place in range(scales)]
    given = [0.5] if input_type == "int8" else []
    tensors = [
        tensor("x", input_type, source, scales=given),
        tensor("w", weight_type, shape, 1, scales=per_channel, dimension=3 if op == "DEPTHWISE_CONV_2D" else 0),
        tensor("b", "int32" if given else "float32", (4,), 2, scales=[0.25] if given else []),
        tensor("y", input_type, result, scales=given),
    ]
    operators, weight = [], 1
    if weight_through:
        codes.append(operator_code(weight_through))
        tensors.append(tensor("wide", "float32", shape))
        options, kind = (schema.DequantizeOptionsT(), schema.BuiltinOptions.DequantizeOptions)
        operators.append(operator(1, [1], [4], options, kind))
        weight = 4
    options: Any
    if is_dense:
        options, kind = schema.FullyConnectedOptionsT(), schema.BuiltinOptions.FullyConnectedOptions
        options.weightsFormat = 0
    elif op == "DEPTHWISE_CONV_2D":
        options, kind = schema.DepthwiseConv2DOptionsT(), schema.BuiltinOptions.DepthwiseConv2DOptions
        options.depthMultiplier = 1
    else:
        options, kind = schema.Conv2DOptionsT(), schema.BuiltinOptions.Conv2DOptions
    if not is_dense:
        options.strideH = options.strideW = options.dilationHFactor = options.dilationWFactor = 1
    operators.append(operator(0, [0, weight, 2], [3], options, kind))
    buffers = [buffer(), buffer(weights[weight_type].tobytes()), buffer(np.zeros(4, np.float32).tobytes())]
    return model([subgraph(tensors, operators, [0], [3])], buffers, codes)
