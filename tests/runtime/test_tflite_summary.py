"""TFLite files in short, against the schema's own reader; anything else is refused, soon."""

from __future__ import annotations

import struct
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from tflite_by_schema import (
    buffer,
    entry,
    flat_table,
    model,
    model_metadata,
    operator,
    operator_code,
    rich_model,
    signature,
    subgraph,
    tensor,
    weighted_op,
)

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.flatbuffer import MAX_STEPS
from bitlens.runtime.tflite_schema import BUILTIN_OPERATORS, TENSOR_TYPES
from bitlens.runtime.tflite_summary import (
    TFLiteCall,
    TFLiteConstants,
    TFLiteNormalization,
    TFLiteQuantization,
    TFLiteSignature,
    TFLiteSummary,
    TFLiteTensor,
    read_tflite_summary,
    tflite_summary,
)


def small_model() -> bytes:
    return weighted_op("FULLY_CONNECTED", "int8", scales=4)


def test_names_are_those_of_the_schema() -> None:
    for names, enumeration in ((TENSOR_TYPES, schema.TensorType), (BUILTIN_OPERATORS, schema.BuiltinOperator)):
        numbered = {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}
        assert [name.upper() for name in names] == [numbered[place] for place in range(len(numbered))]


def by_schema(content: bytes) -> dict[str, Any]:
    """What the schema's own reader finds."""
    root = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    types = {value: name.lower() for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    ops = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    sizes = [0 if one.data is None else len(one.data) for one in root.buffers]
    every = [one for graph in root.subgraphs for one in graph.tensors]
    counts = Counter(types[one.type] for one in every if sizes[one.buffer])
    held = {one.buffer: types[one.type] for one in reversed(every) if sizes[one.buffer]}
    names = [
        ops[code.builtinCode] + (f" {code.customCode.decode()}" if code.customCode else "")
        for code in root.operatorCodes
    ]

    def ends(indices: Any) -> list[tuple[str, str, tuple[int, ...]]]:
        found = [root.subgraphs[0].tensors[index] for index in indices]
        return [
            (one.name.decode(), types[one.type], tuple(one.shape if one.shapeSignature is None else one.shapeSignature))
            for one in found
        ]

    return {
        "description": root.description.decode(),
        "ops": Counter(names[op.opcodeIndex] for graph in root.subgraphs for op in graph.operators),
        "constants": {
            dtype: (count, sum(sizes[at] for at, other in held.items() if other == dtype))
            for dtype, count in counts.items()
        },
        "inputs": ends(root.subgraphs[0].inputs),
        "outputs": ends(root.subgraphs[0].outputs),
        "entries": [one.name.decode() for one in root.metadata or ()],
        "signatures": [one.signatureKey.decode() for one in root.signatureDefs or ()],
    }


def in_short(found: TFLiteSummary) -> dict[str, Any]:
    return {
        "description": found.description,
        "ops": found.ops,
        "constants": {each.dtype: (each.tensors, each.bytes) for each in found.constants},
        "inputs": [(each.name, each.dtype, each.shape) for each in found.inputs],
        "outputs": [(each.name, each.dtype, each.shape) for each in found.outputs],
        "entries": list(found.entries),
        "signatures": [each.key for each in found.signatures],
    }


@pytest.mark.parametrize(
    "content",
    [
        rich_model(),
        small_model(),
        weighted_op("CONV_2D", "int4", weight_through="DEQUANTIZE"),
        weighted_op("DEPTHWISE_CONV_2D", "int8", input_type="int8", scales=4),
    ],
)
def test_says_what_the_schemas_own_reader_says(content: bytes) -> None:
    assert in_short(tflite_summary(content)) == by_schema(content)


def test_the_comparison_can_fail() -> None:
    assert in_short(tflite_summary(rich_model())) != by_schema(small_model())


def test_every_part_of_a_rich_model() -> None:
    found = tflite_summary(rich_model())
    assert (found.version, found.min_runtime, found.subgraphs) == (3, "1.14.0", 2)
    assert found.inputs == (
        TFLiteTensor("image", "uint8", (-1, 4, 4, 3), TFLiteQuantization(1, 0.5, 0.5, 128, 128, 0)),
    )
    assert found.signatures == (
        TFLiteSignature("run", 0, (("x", "image"),), (("y", "scores"),)),
        TFLiteSignature("other", 1, (("z", "half"),), (("t", "number"),)),
    )
    assert set(found.calls) == {
        TFLiteCall("DEQUANTIZE", ("int8 per channel",), 1),
        TFLiteCall("DEQUANTIZE", ("int8",), 1),
        TFLiteCall("CUSTOM Mine", ("uint8", "float32", "none"), 1),
        TFLiteCall("SIGN", ("float32",), 1),
    }
    assert found.constants == (TFLiteConstants("int8", 2, 15), TFLiteConstants("float16", 1, 4))
    assert found.metadata is not None
    assert found.metadata.normalizations == (TFLiteNormalization("image", (0.0, 1.5), (255.0,)),)
    assert found.metadata.files == (("labels.txt", "labels of an axis"),)
    said = found.metadata
    assert (said.name, said.description, said.version) == ("pets", "tells pets", "v2")
    assert (said.author, said.license) == ("nobody", "none")
    assert found.appended == ("labels.txt", "more.txt")


def test_weights_that_look_like_a_zip_are_weights() -> None:
    weights = np.frombuffer(b"PK\x05\x06" * 9, np.uint8)
    one = subgraph([tensor("w", "int8", (36,), 1)], [], [], [0])
    assert tflite_summary(model([one], [buffer(), buffer(weights.tobytes())], [])).appended == ()


def test_an_unknown_type_and_op_are_numbers() -> None:
    code, unknown = operator_code("ADD"), tensor("x", "int8", (2,))
    code.builtinCode, unknown.type = 999, 77
    found = tflite_summary(model([subgraph([unknown], [operator(0, [0], [0])], [0], [0])], [buffer()], [code]))
    assert found.calls == (TFLiteCall("op 999", ("type 77",), 1),)


def read_or_refused(content: bytes) -> str:
    """What is refused says why, in a line; nothing else may happen."""
    try:
        tflite_summary(content)
    except BitlensError as error:
        assert str(error).isprintable()  # noqa: PT017
        return str(error)
    return ""


def test_every_prefix_is_refused() -> None:
    content = small_model()
    whole = [length for length in range(len(content)) if not read_or_refused(content[:length])]
    # A FlatBuffer is written from its end: what can be missing is an empty or unread thing's last bytes.
    assert all(length > len(content) - 16 for length in whole)
    rich = rich_model()
    for length in range(0, len(rich), 3):
        read_or_refused(rich[:length])


@pytest.mark.parametrize("content", [small_model(), rich_model()], ids=["small", "rich"])
def test_damaged_files_are_refused_or_read(content: bytes) -> None:
    draw, refused = np.random.default_rng(4), 0
    for place in range(len(content)):
        for value in (content[place] ^ 0xFF, int(draw.integers(256))):
            damaged = bytearray(content)
            damaged[place] = value
            refused += bool(read_or_refused(bytes(damaged)))
    for _ in range(2000):
        damaged = bytearray(content)
        for place in draw.integers(len(content), size=8):
            damaged[place] = int(draw.integers(256))
        refused += bool(read_or_refused(bytes(damaged)))
    assert refused > len(content) // 4


HEAD = struct.pack("<I4s", 8, b"TFL3")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "does not begin with TFL3"),
        (b"hello, world", "does not begin with TFL3"),
        (b"\x1c\0\0\0TFL", "does not begin with TFL3"),
        (struct.pack("<I4s", 2**31, b"TFL3"), "leads out of it"),
        (HEAD, "leads out of it"),
        (HEAD + struct.pack("<i", -(2**31)) + bytes(64), "leads out of it"),
        (HEAD + struct.pack("<iHH", -4, 3, 4), "a table reaches beyond the end"),
        (HEAD + struct.pack("<iHH", -4, 4, 400), "a table reaches beyond the end"),
        (HEAD + struct.pack("<iHH", -4, 4, 4), "holds no subgraph"),
        (HEAD + struct.pack("<iHHH", -4, 6, 4, 40), "holds no subgraph|outside its table"),
    ],
)
def test_what_is_no_model_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(BitlensError, match=rf"not a whole TFLite model \(.*({why}).*\): export it again"):
        tflite_summary(content)


@pytest.mark.parametrize(
    ("graph", "why"),
    [
        (subgraph([tensor("x", "int8", (1,), 5)], [], [], []), "names buffer 5 of 1"),
        (subgraph([tensor("x", "int8", (1,))], [operator(3, [0], [0])], [], []), "names op 3 of 1"),
        (subgraph([tensor("x", "int8", (1,))], [operator(0, [4], [0])], [], []), "names tensor 4 of 1"),
        (subgraph([tensor("x", "int8", (1,))], [operator(0, [0], [-2])], [], []), "names tensor -2 of 1"),
        (subgraph([tensor("x", "int8", (1,))], [], [1], []), "names tensor 1 of 1"),
        (subgraph([tensor("x", "int8", (1,))], [], [], [-1]), "names tensor -1 of 1"),
    ],
)
def test_a_number_that_names_nothing(graph: Any, why: str) -> None:
    with pytest.raises(BitlensError, match=why):
        tflite_summary(model([graph], [buffer()], [operator_code("ADD")]))


@pytest.mark.parametrize("made", [signature("s", 1, {}, {}), signature("s", 0, {"x": 9}, {})])
def test_a_signature_that_names_nothing(made: Any) -> None:
    with pytest.raises(BitlensError, match=r"names (subgraph 1|tensor 9) of 1"):
        tflite_summary(model([subgraph([tensor("x", "int8", (1,))], [], [], [])], [buffer()], [], signatures=[made]))


def sharing(count: int, target: bytes) -> bytes:
    """A model with a vector of `count` subgraphs which are all one table, `target`."""
    table = struct.pack("<iI", 8, 4)  # vtable 8 bytes before; the vector follows
    vtable = struct.pack("<HHHH", 10, 8, 0, 0) + struct.pack("<H", 4)
    vtable += b"\0" * (-len(vtable) % 4)
    head = struct.pack("<I4s", 8 + len(vtable), b"TFL3") + vtable
    table = struct.pack("<iI", len(vtable), 4)
    vector = struct.pack("<I", count) + b"".join(struct.pack("<I", 4 * (count - place)) for place in range(count))
    return head + table + vector + target


def test_a_table_that_is_shared_without_end_takes_no_long_time() -> None:
    graph = struct.pack("<iHH", -4, 4, 4)  # an empty subgraph
    assert tflite_summary(sharing(1000, graph)).subgraphs == 1000
    start = time.thread_time()
    with pytest.raises(BitlensError, match=f"it has more than {MAX_STEPS} parts"):
        tflite_summary(sharing(MAX_STEPS, graph))
    assert time.thread_time() - start < 30  # a few on a free core


def test_what_is_shared_counts_each_time() -> None:
    """Tensors that all name one long vector, or one long text, and ops that all read thousands of tensors."""
    once = tensor("n" * 5000, "int8", (1,), scales=[1.0] * 20_000)
    many = model([subgraph([once] * 100, [], [], [])], [buffer()], [])
    assert len(many) > 10**6
    with pytest.raises(BitlensError, match="parts"):
        tflite_summary(many)
    wide = [operator(0, [0] * 20_000, []) for _ in range(20)]
    with pytest.raises(BitlensError, match="parts"):
        tflite_summary(model([subgraph([tensor("x", "int8", (1,))], wide, [], [])], [buffer()], [operator_code("ADD")]))


def test_hostile_metadata_is_refused_too() -> None:
    one = subgraph([tensor("x", "int8", (1,))], [], [], [])
    for content in (b"M001", flat_table({0: ("text", "x")}, b"M002"), model_metadata([1.0], [1.0], "a")[:-9]):
        read_or_refused(model([one], [buffer(), buffer(content)], [], entries=[entry("TFLITE_METADATA", 1)]))
    with pytest.raises(BitlensError, match="does not begin with M001"):
        tflite_summary(model([one], [buffer(), buffer(b"M001")], [], entries=[entry("TFLITE_METADATA", 1)]))
    assert tflite_summary(model([one], [buffer()], [], entries=[entry("TFLITE_METADATA", 7)])).metadata is None


def test_a_damaged_directory_behind_it() -> None:
    content = rich_model()
    place = content.rindex(b"PK\x01\x02")
    with pytest.raises(BitlensError, match="directory of the zip behind it is damaged"):
        tflite_summary(content[:place] + b"XX" + content[place + 2 :])
    end = content.rindex(b"PK\x05\x06")
    with pytest.raises(BitlensError, match="directory of the zip behind it does not fit"):
        tflite_summary(content[: end + 12] + struct.pack("<I", 2**31) + content[end + 16 :])


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(BitlensError, match=r"cannot read .* \(No such file or directory\): expected a \.tflite file"):
        read_tflite_summary(tmp_path / "a.tflite")
