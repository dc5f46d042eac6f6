"""What is in an ONNX file, read without onnx: names, types and counts, never a constant or a weight.

ONNX files are protocol buffers: fields of (number, wire type, value), some of which are messages again. Only the fields
that are shown are looked into, each once, so the time is that of one pass over the file.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bitlens.runtime.bounded_file import read_at_most
from bitlens.runtime.errors import BitlensError, context

MAX_ONNX_BYTES = 2**30
MAX_NODES = 200_000
QUANTIZERS = frozenset(
    {"Quant", "BipolarQuant", "Trunc", "IntQuant", "FloatQuant", "QuantizeLinear", "DequantizeLinear"}
)
"""Ops that a QONNX, ONNX or QCDQ file quantizes with."""

_TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16", 21: "uint4", 22: "int4",
}  # fmt: skip
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_BIT_WIDTH_INPUT = 3  # of QONNX' Quant: x, scale, zero point, bit width


@dataclass(frozen=True)
class OnnxSummary:
    """An ONNX file in short.

    Parameters
    ----------
    producer : str
    opsets : mapping
        Domain -> version; the ONNX domain is called "ai.onnx".
    inputs, outputs : tuple of (name, type, shape)
        A shape's unknown sides are names or "?"; inputs without those that have an initializer.
    ops : mapping
        Op type -> how many nodes, the most frequent first.
    quantizers : mapping
        "Quant, 4 bit" and the like -> how many.
    initializers : int
    initializer_elements : int
    """

    producer: str
    opsets: Mapping[str, int]
    inputs: tuple[tuple[str, str, tuple[str, ...]], ...]
    outputs: tuple[tuple[str, str, tuple[str, ...]], ...]
    ops: Mapping[str, int]
    quantizers: Mapping[str, int]
    initializers: int
    initializer_elements: int


def read_onnx_summary(path: Path) -> OnnxSummary:
    """Summarize an ONNX or QONNX file.

    Raises
    ------
    BitlensError
        If it cannot be read, is too large, or is no ONNX model.
    """
    content = read_at_most(path, MAX_ONNX_BYTES, "expected an ONNX file of a network for a small board")
    with context(str(path)):
        return onnx_summary(content)


def onnx_summary(content: bytes) -> OnnxSummary:
    """Summarize a serialized ONNX model.

    Raises
    ------
    BitlensError
        If it is none.
    """
    try:
        return _summary(memoryview(content))
    except (ValueError, struct.error) as error:
        raise BitlensError(f"not a whole ONNX model ({error}): export it again") from error


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a number is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 2**64 - 1, at
        shift += 7


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field number and value: a whole number, or the bytes of a text, a message or a fixed-size number."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == _BYTES:
            length, at = _varint(data, at)
        elif wire in (_FOUR_BYTES, _EIGHT_BYTES):
            length = 4 if wire == _FOUR_BYTES else 8
        else:
            raise ValueError(f"a field of wire type {wire}")
        if key >> 3 == 0 or length > len(data) - at:
            raise ValueError("a field reaches beyond the end")
        yield key >> 3, data[at : at + length]
        at += length


def _messages(data: memoryview, number: int) -> Iterator[memoryview]:
    for found, value in _fields(data):
        if found == number:
            if isinstance(value, int):
                raise ValueError(f"field {number} is a number")
            yield value


def _text(value: memoryview) -> str:
    return bytes(value[:1000]).decode("utf-8", "replace")


def _first_text(data: memoryview, number: int) -> str:
    return next((_text(value) for value in _messages(data, number)), "")


def _first_number(data: memoryview, number: int) -> int:
    return next((value for found, value in _fields(data) if found == number and isinstance(value, int)), 0)


def _value(data: memoryview) -> tuple[str, str, tuple[str, ...]]:
    """Name, type and shape of a ValueInfoProto: type (2), tensor_type (1), elem_type (1) and shape (2), dim (1)."""
    for type in _messages(data, 2):
        for tensor in _messages(type, 1):
            sides = tuple(
                _first_text(side, 2) or str(_first_number(side, 1) or "?")
                for shape in _messages(tensor, 2)
                for side in _messages(shape, 1)
            )
            return _first_text(data, 1), _TYPES.get(_first_number(tensor, 1), "unknown"), sides
    return _first_text(data, 1), "no tensor", ()


def _dims(tensor: memoryview) -> list[int]:
    dims: list[int] = []
    for found, value in _fields(tensor):
        if found == 1 and isinstance(value, int):
            dims.append(value)
        elif found == 1 and not isinstance(value, int):  # packed
            at = 0
            while at < len(value):
                side, at = _varint(value, at)
                dims.append(side)
    return dims


def _scalar(tensor: memoryview) -> float | None:
    """Value of a float constant with one element: float_data (4), double_data (10) or raw_data (9)."""
    form = {1: "<f", 11: "<d"}.get(_first_number(tensor, 2))
    if form is None:
        return None
    for number in (4, 9, 10):
        for value in _messages(tensor, number):
            if len(value) == struct.calcsize(form):
                return float(struct.unpack(form, value)[0])
    return None


def _summary(model: memoryview) -> OnnxSummary:
    graph = next(_messages(model, 7), None)
    if graph is None:
        raise ValueError("it holds no graph")
    opsets = {_first_text(item, 1) or "ai.onnx": _first_number(item, 2) for item in _messages(model, 8)}
    constants: dict[str, float | None] = {}
    inputs, outputs, elements, nodes = [], [], 0, []
    for number, value in _fields(graph):
        if isinstance(value, int):
            continue
        if number == 1:
            nodes.append(value)
        elif number == 5:
            size = 1
            for side in _dims(value):
                size *= side
            elements += size
            constants[_first_text(value, 8)] = _scalar(value) if size == 1 else None
        elif number == 11:
            inputs.append(_value(value))
        elif number == 12:
            outputs.append(_value(value))
        if len(nodes) > MAX_NODES or len(constants) > MAX_NODES:
            raise ValueError(f"it has more than {MAX_NODES} nodes")
    ops: Counter[str] = Counter()
    quantizers: Counter[str] = Counter()
    widths = {name: value for name, value in constants.items() if value is not None}
    for node in nodes:
        op = _first_text(node, 4)
        ops[op] += 1
        if op == "Constant":  # attribute (5), tensor (5)
            for tensor in (item for attribute in _messages(node, 5) for item in _messages(attribute, 5)):
                width = _scalar(tensor)
                if width is not None:
                    widths[_first_text(node, 2)] = width
    for node in nodes:
        op = _first_text(node, 4)
        if op in QUANTIZERS:
            names = [_text(name) for name in _messages(node, 1)]
            width = widths.get(names[_BIT_WIDTH_INPUT]) if op == "Quant" and len(names) > _BIT_WIDTH_INPUT else None
            quantizers[op if width is None else f"{op}, {width:g} bit"] += 1
    return OnnxSummary(
        " ".join(part for part in (_first_text(model, 2), _first_text(model, 3)) if part),
        opsets,
        tuple(item for item in inputs if item[0] not in constants),
        tuple(outputs),
        dict(ops.most_common()),
        dict(sorted(quantizers.items())),
        len(constants),
        elements,
    )
