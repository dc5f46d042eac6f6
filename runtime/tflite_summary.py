"""What is in a `.tflite` file, read without an interpreter: names, types and counts, never a weight.

Also what an interpreter is known to crash on or to compute wrongly is looked for here, before it sees the file
(`runtime/engines/tflite_interpreter.py`). The field numbers are those of TFLite's schema (version 3) and of its
metadata schema (M001).
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bitlens.runtime.bounded_file import read_at_most
from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.flatbuffer import Table, root_table
from bitlens.runtime.tflite_schema import BUILTIN_OPERATORS, TENSOR_TYPES

MAX_TFLITE_BYTES = 2**30
METADATA = "TFLITE_METADATA"
MIN_RUNTIME = "min_runtime_version"

_CUSTOM = BUILTIN_OPERATORS.index("CUSTOM")
_ABSENT = -1  # a tensor that an op does without
_NORMALIZATION = 1  # in the union ProcessUnitOptions
_MOST_SHOWN = 64  # mean and deviation of so many channels
_END, _CENTRAL = struct.Struct("<4s4H2IH"), struct.Struct("<4s6H3I5H2I")
_MOST_ZIP_DIRECTORY = 2**20


@dataclass(frozen=True)
class TFLiteQuantization:
    """How a tensor's whole numbers stand for real ones: real = scale * (number - zero point).

    Parameters
    ----------
    scales : int
        How many: 1, or one per index of `dimension`.
    low, high : float
        Smallest and largest scale.
    zero_low, zero_high : int
        Smallest and largest zero point.
    dimension : int
    """

    scales: int
    low: float
    high: float
    zero_low: int
    zero_high: int
    dimension: int


@dataclass(frozen=True)
class TFLiteTensor:
    """An input or output.

    Parameters
    ----------
    name, dtype : str
    shape : tuple of int
        -1 for a side that is open.
    quantization : TFLiteQuantization or None
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    quantization: TFLiteQuantization | None


@dataclass(frozen=True)
class TFLiteSignature:
    """A named way into the file: (name in the signature, name of the tensor) of its inputs and outputs."""

    key: str
    subgraph: int
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class TFLiteCall:
    """Ops of one kind on inputs of the same types.

    Parameters
    ----------
    op : str
    inputs : tuple of str
        Of each input: a dtype, "int8 per channel" where it has more than one scale, "none" for one left out.
    count : int
    """

    op: str
    inputs: tuple[str, ...]
    count: int


@dataclass(frozen=True)
class TFLiteConstants:
    """Constants of one dtype: how many tensors, and bytes, those that several tensors share counted once."""

    dtype: str
    tensors: int
    bytes: int


@dataclass(frozen=True)
class TFLiteNormalization:
    """What is done to an input before the network reads it: (x - mean) / deviation, per channel or for all."""

    input: str
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


@dataclass(frozen=True)
class TFLiteMetadata:
    """What `TFLITE_METADATA` says of the model.

    Parameters
    ----------
    name, description, version, author, license : str
    normalizations : tuple of TFLiteNormalization
    files : tuple of (name, what for)
        Label files and the like; they lie in a zip behind the model.
    """

    name: str
    description: str
    version: str
    author: str
    license: str
    normalizations: tuple[TFLiteNormalization, ...]
    files: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class TFLiteSummary:
    """A `.tflite` file in short.

    Parameters
    ----------
    description : str
        What its producer calls it.
    version : int
        Of the schema.
    min_runtime : str
        Version of TensorFlow Lite that it says it needs; mostly left out.
    subgraphs : int
    inputs, outputs : tuple of TFLiteTensor
        Of the first subgraph.
    signatures : tuple of TFLiteSignature
    ops : mapping
        Op -> how often, in all subgraphs, the most frequent first.
    calls : tuple of TFLiteCall
        The same with the types that the ops read.
    constants : tuple of TFLiteConstants
    entries : tuple of str
        Names of its metadata.
    metadata : TFLiteMetadata or None
    appended : tuple of str
        Files in the zip behind the model.
    """

    description: str
    version: int
    min_runtime: str
    subgraphs: int
    inputs: tuple[TFLiteTensor, ...]
    outputs: tuple[TFLiteTensor, ...]
    signatures: tuple[TFLiteSignature, ...]
    ops: Mapping[str, int]
    calls: tuple[TFLiteCall, ...]
    constants: tuple[TFLiteConstants, ...]
    entries: tuple[str, ...]
    metadata: TFLiteMetadata | None
    appended: tuple[str, ...]


def read_tflite_summary(path: Path) -> TFLiteSummary:
    """Summarize a `.tflite` file.

    Raises
    ------
    BitlensError
        If it cannot be read, is too large, or is no TFLite model.
    """
    content = read_at_most(path, MAX_TFLITE_BYTES, "expected a .tflite file of a network for a small board")
    with context(str(path)):
        return tflite_summary(content)


def tflite_summary(content: bytes) -> TFLiteSummary:
    """Summarize a TFLite model.

    Raises
    ------
    BitlensError
        If it is none, or not whole.
    """
    try:
        return _summary(memoryview(content))
    except (ValueError, struct.error) as error:
        raise BitlensError(f"not a whole TFLite model ({error}): export it again") from error


@dataclass(frozen=True)
class _Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]
    buffer: int
    quantization: TFLiteQuantization | None

    @property
    def kind(self) -> str:
        is_per_channel = self.quantization is not None and self.quantization.scales > 1
        return f"{self.dtype} per channel" if is_per_channel else self.dtype

    @property
    def shown(self) -> TFLiteTensor:
        return TFLiteTensor(self.name, self.dtype, self.shape, self.quantization)


def _name(names: tuple[str, ...], number: int, what: str) -> str:
    return names[number] if 0 <= number < len(names) else f"{what} {number}"


def _chosen(items: Sequence[_Tensor], index: int) -> _Tensor:
    if not 0 <= index < len(items):
        raise ValueError(f"it names tensor {index} of {len(items)}")
    return items[index]


def _indices(table: Table, field: int) -> list[int]:
    found = table.vector(field, "i4")
    table.walk.spend(found.size)
    return [int(index) for index in found]


def _quantization(table: Table | None) -> TFLiteQuantization | None:
    scales = None if table is None else table.vector(2, "f4")
    if table is None or scales is None or not scales.size:
        return None
    zeros = table.vector(3, "i8")
    zero_low, zero_high = (int(zeros.min()), int(zeros.max())) if zeros.size else (0, 0)
    low, high = float(scales.min()), float(scales.max())
    return TFLiteQuantization(scales.size, low, high, zero_low, zero_high, table.number(6, "i"))


def _tensor(table: Table) -> _Tensor:
    sides = table.vector(7, "i4")  # the signature, where some sides are open
    if not sides.size:
        sides = table.vector(0, "i4")
    return _Tensor(
        table.text(3),
        _name(TENSOR_TYPES, table.number(1, "b"), "type"),
        tuple(int(side) for side in sides[:16]),
        table.number(2, "I"),
        _quantization(table.table(4)),
    )


def _buffer_bytes(model: Table) -> list[int]:
    """Size of each buffer; in files of more than 2 gigabytes they lie behind the FlatBuffer."""
    sizes = []
    for buffer in model.tables(4):
        size = len(buffer.span(0))
        start, beyond = buffer.number(1, "Q"), buffer.number(2, "Q")
        if start > 1:  # 1 is a place kept for it
            if start + beyond > len(model.walk.data):
                raise ValueError("a buffer reaches beyond the end")
            size += beyond
        sizes.append(size)
    return sizes


def _op(table: Table) -> str:
    # Codes up to 127 are in the first field of files from before 2020, in both of later ones.
    code = max(table.number(0, "b"), table.number(3, "i"))
    return f"CUSTOM {table.text(1)}" if code == _CUSTOM else _name(BUILTIN_OPERATORS, code, "op")


def _summary(data: memoryview) -> TFLiteSummary:
    model = root_table(data, b"TFL3")
    ops = [_op(code) for code in model.tables(1)]
    sizes = _buffer_bytes(model)
    calls: Counter[tuple[str, tuple[str, ...]]] = Counter()
    graphs: list[tuple[list[_Tensor], list[int], list[int]]] = []
    constants: Counter[str] = Counter()
    buffers: dict[int, str] = {}
    for graph in model.tables(2):
        tensors = [_tensor(table) for table in graph.tables(0)]
        for tensor in tensors:
            if tensor.buffer >= len(sizes):
                raise ValueError(f"it names buffer {tensor.buffer} of {len(sizes)}")
            if sizes[tensor.buffer]:
                constants[tensor.dtype] += 1
                buffers.setdefault(tensor.buffer, tensor.dtype)
        for call in graph.tables(3):
            op = call.number(0, "I")
            if op >= len(ops):
                raise ValueError(f"it names op {op} of {len(ops)}")
            inputs = _indices(call, 1)
            kinds = tuple("none" if index == _ABSENT else _chosen(tensors, index).kind for index in inputs)
            for index in _indices(call, 2):
                _chosen(tensors, index)
            calls[ops[op], kinds] += 1
        graphs.append((tensors, _indices(graph, 1), _indices(graph, 2)))
    if not graphs:
        raise ValueError("it holds no subgraph")
    first, inputs, outputs = graphs[0]
    counted: Counter[str] = Counter()
    for (name, _), count in calls.items():
        counted[name] += count
    stored: Counter[str] = Counter()
    for buffer, dtype in buffers.items():
        stored[dtype] += sizes[buffer]
    entries = [(table.text(0), table.number(1, "I")) for table in model.tables(6)]
    given = tuple(_chosen(first, index).shown for index in inputs)
    return TFLiteSummary(
        description=model.text(3),
        version=model.number(0, "I"),
        min_runtime=bytes(_entry(model, entries, MIN_RUNTIME)[:100]).split(b"\0")[0].decode("ascii", "replace"),
        subgraphs=len(graphs),
        inputs=given,
        outputs=tuple(_chosen(first, index).shown for index in outputs),
        signatures=tuple(_signature(table, [tensors for tensors, _, _ in graphs]) for table in model.tables(7)),
        ops=dict(counted.most_common()),
        calls=tuple(TFLiteCall(name, kinds, count) for (name, kinds), count in calls.most_common()),
        constants=tuple(TFLiteConstants(dtype, count, stored[dtype]) for dtype, count in constants.most_common()),
        entries=tuple(name for name, _ in entries),
        metadata=_metadata(_entry(model, entries, METADATA), given),
        appended=_appended(data),
    )


def _signature(table: Table, graphs: list[list[_Tensor]]) -> TFLiteSignature:
    index = table.number(4, "I")
    if index >= len(graphs):
        raise ValueError(f"it names subgraph {index} of {len(graphs)}")

    def named(field: int) -> tuple[tuple[str, str], ...]:
        return tuple((item.text(0), _chosen(graphs[index], item.number(1, "I")).name) for item in table.tables(field))

    return TFLiteSignature(table.text(2), index, named(0), named(1))


def _entry(model: Table, entries: list[tuple[str, int]], name: str) -> memoryview:
    """Content of a metadata entry; empty if there is none."""
    wanted = next((place for known, place in entries if known == name), None)
    buffers = () if wanted is None else enumerate(model.tables(4))
    return next((buffer.span(0) for place, buffer in buffers if place == wanted), memoryview(b""))


def _metadata(content: memoryview, inputs: tuple[TFLiteTensor, ...]) -> TFLiteMetadata | None:
    if not content:
        return None
    root = root_table(content, b"M001")
    normalizations, files = [], list(root.tables(6))
    for graph in root.tables(3):
        for place, tensor in enumerate(graph.tables(2)):
            files += tensor.tables(6)
            name = tensor.text(0) or (inputs[place].name if place < len(inputs) else str(place))
            for unit in tensor.tables(4):
                options = unit.table(1)
                if unit.number(0, "B") == _NORMALIZATION and options is not None:
                    mean, deviation = (
                        tuple(float(value) for value in options.vector(field, "f4")[:_MOST_SHOWN]) for field in (0, 1)
                    )
                    normalizations.append(TFLiteNormalization(name, mean, deviation))
        for tensor in graph.tables(3):
            files += tensor.tables(6)
        files += graph.tables(4)
    purposes = ("file", "description", "labels of an axis", "labels of values", "score calibration", "vocabulary")
    return TFLiteMetadata(
        root.text(0),
        root.text(1),
        root.text(2),
        root.text(4),
        root.text(5),
        tuple(normalizations),
        tuple((file.text(0), _name(purposes, file.number(2, "b"), "purpose")) for file in files),
    )


def _appended(data: memoryview) -> tuple[str, ...]:
    """Names in the directory of a zip that follows the model; none if there is no zip."""
    tail = bytes(data[-(_END.size + 2**16) :])
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or place + _END.size > len(tail):
        return ()
    _, _, _, _, _, length, _, comment = _END.unpack_from(tail, place)
    end = len(data) - len(tail) + place
    if end + _END.size + comment != len(data):  # weights may hold any four bytes
        return ()
    if length > min(end, _MOST_ZIP_DIRECTORY):
        raise ValueError("the directory of the zip behind it does not fit")
    names, at = [], end - length
    while at < end:
        if end - at < _CENTRAL.size:
            raise ValueError("the directory of the zip behind it is cut short")
        fields = _CENTRAL.unpack_from(data, at)
        start = at + _CENTRAL.size
        at = start + sum(fields[10:13])
        if fields[0] != b"PK\x01\x02" or at > end:
            raise ValueError("the directory of the zip behind it is damaged")
        names.append(bytes(data[start : start + fields[10]]).decode("utf-8", "replace"))
    return tuple(names)
