"""`.program` files: one JSON header and raw aligned arrays, no pickle, no code.

Layout, little-endian: 8 bytes magic, u32 format version, u32 header length, 32 bytes SHA-256 of everything else, the
header (UTF-8 JSON, spaces up to a multiple of 64), the arrays in the order in which the header names them, each at a
multiple of 64. Weights are packed: an array of few different whole numbers is stored as 1-, 2- or 4-bit fields of
(value - low) / step, lowest bits first.
"""

from __future__ import annotations

import hashlib
import json
import reprlib
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import numpy as np

from bitlens.runtime.atomic_file import write_bytes_atomically
from bitlens.runtime.bounded_file import read_at_most
from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.program import (
    MAX_NODES,
    MAX_TENSOR_ELEMENTS,
    Array,
    Attribute,
    Node,
    Program,
    ProgramInput,
    TensorType,
)
from bitlens.runtime.type_check import infer_types

MAGIC = b"bitlens\n"
FORMAT_VERSION = 1
MAX_FILE_BYTES = 2**28
MAX_HEADER_BYTES = 2**21  # some 3000 quantizers; JSON of this size parses within a second whatever it holds
MAX_UNPACKED_BYTES = 2**30
ALIGNMENT = 64

_PREFIX = struct.Struct("<8sII32s")
_DIGEST_BYTES = 32
_STORED_DTYPES = {"int8": "<i1", "uint8": "<u1", "int16": "<i2", "int32": "<i4", "float32": "<f4", "float64": "<f8"}
_FIELD_BITS = (1, 2, 4)


def _packed(array: Array) -> tuple[dict[str, int], bytes] | None:
    """`array` as 1-, 2- or 4-bit fields, or None where that loses something."""
    if array.dtype.name not in ("int8", "int16", "uint8") or not array.size:
        return None
    low = int(array.min())
    offsets = array.astype(np.int64).ravel() - low
    step = 2 if offsets.any() and not (offsets % 2).any() else 1
    fields = offsets // step
    for bits in _FIELD_BITS:
        if fields.max() < 2**bits:
            shifts = np.arange(bits, dtype=np.int64)
            flat = (fields[:, None] >> shifts & 1).astype(np.uint8)
            return {"bits": bits, "low": low, "step": step}, np.packbits(flat, bitorder="little").tobytes()
    return None


def stored_bits(array: Array) -> int:
    """Bits that a program file spends on each element of an array: 1, 2 or 4 where it can be packed."""
    packed = _packed(array)
    return 8 * array.dtype.itemsize if packed is None else packed[0]["bits"]


def _unpacked(data: bytes, dtype: str, shape: tuple[int, ...], bits: int, low: int, step: int) -> Array:
    count = int(np.prod(shape, dtype=np.int64))
    flat = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits, bitorder="little").reshape(count, bits)
    fields = flat @ (1 << np.arange(bits)).astype(np.uint8)
    alphabet = low + step * np.arange(2**bits, dtype=np.int64)
    limits = np.iinfo(dtype)
    used = alphabet[: int(fields.max()) + 1] if fields.size else alphabet[:0]
    if step not in (1, 2) or (used.size and not limits.min <= used[0] <= used[-1] <= limits.max):
        raise BitlensError(f"packed values do not fit {dtype}")
    return alphabet.astype(dtype)[fields].reshape(shape)


def program_bytes(program: Program) -> bytes:
    """Serialize a program; the same program always gives the same bytes.

    Raises
    ------
    BitlensError
        If the program does not check, or holds what a file cannot.
    """
    infer_types(program)
    if any(item.default is not None or not item.type.batched for item in program.inputs):
        raise BitlensError("a gradient program is made from its network when it is needed: write the network instead")
    blobs: list[bytes] = []
    places: dict[int, dict[str, object]] = {}
    end = 0

    def place(array: Array) -> dict[str, object]:
        nonlocal end
        if id(array) in places:
            return places[id(array)]
        record: dict[str, object] = {"dtype": array.dtype.name, "shape": list(array.shape)}
        if array.dtype.name not in _STORED_DTYPES:
            raise BitlensError(f"a constant is {array.dtype.name}, expected one of {', '.join(_STORED_DTYPES)}")
        packed = _packed(array)
        if packed is None:
            data = np.ascontiguousarray(array).astype(_STORED_DTYPES[array.dtype.name]).tobytes()
        else:
            fields, data = packed
            record |= fields
        record |= {"offset": end, "bytes": len(data)}
        padded = data + bytes(-len(data) % ALIGNMENT)
        blobs.append(padded)
        end += len(padded)
        places[id(array)] = record
        return record

    header = {
        "inputs": [
            {
                "name": item.name,
                "dtype": item.type.dtype,
                "shape": list(item.type.shape),
                "low": item.type.low,
                "high": item.type.high,
                "scale": item.type.scale,
            }
            for item in program.inputs
        ],
        "nodes": [
            {
                "op": node.op,
                "name": node.name,
                "inputs": list(node.inputs),
                "outputs": list(node.outputs),
                "attributes": dict(sorted(node.attributes.items())),
                "arrays": {name: place(array) for name, array in sorted(node.arrays.items())},
            }
            for node in program.nodes
        ],
        "outputs": list(program.outputs),
        "metadata": dict(program.metadata),
    }
    try:
        text = json.dumps(header, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, TypeError) as error:
        raise BitlensError(f"the metadata holds something that JSON does not ({error})") from error
    text += b" " * (-(_PREFIX.size + len(text)) % ALIGNMENT)
    body = text + b"".join(blobs)
    if len(text) > MAX_HEADER_BYTES or _PREFIX.size + len(body) > MAX_FILE_BYTES:
        raise BitlensError(
            f"the program needs {len(text)} bytes for its header and {len(body)} in all, expected at most "
            f"{MAX_HEADER_BYTES} and {MAX_FILE_BYTES}: use a smaller network"
        )
    fixed = _PREFIX.pack(MAGIC, FORMAT_VERSION, len(text), b"")[:-_DIGEST_BYTES]
    return fixed + _checksum(fixed, body) + body


def _checksum(fixed: bytes, body: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(fixed)
    digest.update(body)
    return digest.digest()


def write_program(program: Program, path: Path) -> None:
    """Write a program file, wholly or not at all.

    Raises
    ------
    BitlensError
        If the program does not check, or the place cannot be written.
    """
    write_bytes_atomically(path, program_bytes(program))


def read_program(path: Path) -> Program:
    """Read and check a program file of this or any earlier release.

    Raises
    ------
    BitlensError
        If there is no such file, or `program_from_bytes` refuses it.
    """
    data = read_at_most(path, MAX_FILE_BYTES, "expected a program that bitlens wrote")
    with context(str(path)):
        return program_from_bytes(data)


def program_from_bytes(data: bytes) -> Program:
    """Parse and check a program; sizes are bounded before anything is allocated.

    Raises
    ------
    BitlensError
        If the bytes are not a whole, undamaged program that this version can run.
    """
    if len(data) > MAX_FILE_BYTES:
        raise BitlensError(f"larger than {MAX_FILE_BYTES} bytes: not a program that bitlens wrote")
    if len(data) < _PREFIX.size or data[: len(MAGIC)] != MAGIC:
        raise BitlensError("not a bitlens program: expected a file that `bitlens export` wrote")
    _, version, header_bytes, digest = _PREFIX.unpack_from(data)
    if version > FORMAT_VERSION:
        raise BitlensError(f"format version {version}, this bitlens reads up to {FORMAT_VERSION}: update bitlens")
    body = memoryview(data)[_PREFIX.size :]
    if version < 1 or _checksum(data[: _PREFIX.size - _DIGEST_BYTES], body) != digest:
        raise BitlensError("damaged or cut short (its checksum differs): copy or export it again")
    if not 0 < header_bytes <= min(len(body), MAX_HEADER_BYTES):
        raise BitlensError(f"its header claims {header_bytes} bytes: not a program that bitlens wrote")
    try:
        header = json.loads(bytes(body[:header_bytes]), parse_constant=_no_number)
        program = _from_header(header, body[header_bytes:])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise BitlensError(f"its header is not of the expected form ({reason}): export the network again") from error
    infer_types(program)
    return program


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number")


def _text(value: object) -> str:
    # Printable, so that a name from a stranger's file cannot steer the terminal it is shown on.
    if not isinstance(value, str) or not 0 < len(value) <= 1000 or not value.isprintable():
        raise ValueError(f"{reprlib.repr(value)} is not a name")
    return value


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**63:
        raise ValueError(f"{reprlib.repr(value)} is not a whole number of 64 bits")
    return value


def _shape(values: object) -> tuple[int, ...]:
    if not isinstance(values, list) or len(values) > 6:
        raise ValueError(f"{reprlib.repr(values)} is not a shape")
    shape = tuple(_whole(value) for value in values)
    if any(side < 0 for side in shape) or int(np.prod(shape, dtype=object)) > MAX_TENSOR_ELEMENTS:
        raise ValueError(f"shape {reprlib.repr(shape)} is out of bounds")
    return shape


def _attribute(value: object) -> Attribute:
    if isinstance(value, list):
        return tuple(_whole(item) for item in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return _whole(value)
    if not isinstance(value, float | str):
        raise ValueError(f"{reprlib.repr(value)} is not an attribute")
    return value


class _Arrays:
    """The arrays of a file. They lie one behind the other, so that no byte is unpacked twice; nodes may share one."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._end = 0
        self._unpacked_bytes = 0
        self._shared: dict[int, tuple[dict[str, object], Array]] = {}

    def read(self, record: dict[str, object]) -> Array:
        start, length = _whole(record["offset"]), _whole(record["bytes"])
        known, values = self._shared.get(start, (None, None))
        if values is not None and record == known:
            return values
        dtype, shape = _text(record["dtype"]), _shape(record["shape"])
        if dtype not in _STORED_DTYPES:
            raise ValueError(f"{dtype!r} is not an array type")
        count, itemsize = int(np.prod(shape, dtype=np.int64)), np.dtype(_STORED_DTYPES[dtype]).itemsize
        bits = _whole(record.get("bits", 8 * itemsize))
        if "bits" in record and bits not in _FIELD_BITS:
            raise ValueError(f"{bits}-bit fields")
        expected = -(-count * bits // 8)
        if length != expected or start + length > len(self._data):
            raise ValueError(f"an array of {length} bytes at {start} does not fit, expected {expected}")
        if start < self._end or start % ALIGNMENT:
            raise ValueError(f"an array at {start} overlaps another one, or is not aligned")
        self._end = start + length
        self._unpacked_bytes += count * itemsize
        if self._unpacked_bytes > MAX_UNPACKED_BYTES:
            raise ValueError(f"the arrays unpack to more than {MAX_UNPACKED_BYTES} bytes")
        part = bytes(self._data[start : self._end])
        if "bits" in record:
            values = _unpacked(part, dtype, shape, bits, _whole(record["low"]), _whole(record["step"]))
        else:
            values = np.frombuffer(part, _STORED_DTYPES[dtype]).astype(dtype).reshape(shape)
        values.flags.writeable = False
        self._shared[start] = record, values
        return values


def _nodes(records: Iterable[dict[str, object]], arrays_of_file: _Arrays) -> Iterable[Node]:
    for record in records:
        inputs, outputs, attributes, arrays = (record[key] for key in ("inputs", "outputs", "attributes", "arrays"))
        if not isinstance(inputs, list) or not isinstance(outputs, list):
            raise ValueError("a node's inputs and outputs are lists")
        if not isinstance(attributes, dict) or not isinstance(arrays, dict):
            raise ValueError("a node's attributes and arrays are mappings")
        yield Node(
            _text(record["op"]),
            _text(record["name"]),
            tuple(_text(name) for name in inputs),
            tuple(_text(name) for name in outputs),
            {_text(name): _attribute(value) for name, value in attributes.items()},
            {_text(name): arrays_of_file.read(value) for name, value in arrays.items()},
        )


def _input(record: dict[str, object]) -> ProgramInput:
    scale = record["scale"]
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0.0 < scale < 1e30:
        raise ValueError(f"{reprlib.repr(scale)} is not a scale")
    low, high = _whole(record["low"]), _whole(record["high"])
    type = TensorType(_text(record["dtype"]), _shape(record["shape"]), low, high, float(scale))
    return ProgramInput(_text(record["name"]), type)


def _from_header(header: dict[str, object], data: memoryview) -> Program:
    inputs, nodes, outputs, metadata = (header[key] for key in ("inputs", "nodes", "outputs", "metadata"))
    if not all(isinstance(item, list) for item in (inputs, nodes, outputs)) or not isinstance(metadata, dict):
        raise ValueError("inputs, nodes and outputs are lists, metadata is a mapping")
    assert isinstance(inputs, list)
    assert isinstance(nodes, list)
    assert isinstance(outputs, list)
    if len(nodes) > MAX_NODES:
        raise ValueError(f"{len(nodes)} nodes, expected at most {MAX_NODES}")
    return Program(
        tuple(_input(record) for record in inputs),
        tuple(_nodes(nodes, _Arrays(data))),
        tuple(_text(name) for name in outputs),
        metadata,
    )
