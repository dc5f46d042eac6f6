"""The FlatBuffers that are written, read with the schema that ai-edge-litert brings and with that of the metadata."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from small_programs import small_network, small_twin

from bitlens.export.tflite_file import ELEMENT_TYPES, OPERATORS, Operator, Quantization, Signature, Tensor, tflite_bytes
from bitlens.export.tflite_metadata import LABEL_FILE, METADATA
from bitlens.export.tflite_writer import tflite_model
from bitlens.runtime.autodiff import gradient_program

OPTIONS = {
    "padding": "padding",
    "stride_w": "strideW",
    "stride_h": "strideH",
    "filter_width": "filterWidth",
    "filter_height": "filterHeight",
    "activation": "fusedActivationFunction",
    "axis": "axis",
    "block_size": "blockSize",
    "keep_dims": "keepDims",
    "depth_multiplier": "depthMultiplier",
}


def parsed(model: bytes) -> Any:
    return schema.ModelT.InitFromPackedBuf(model, 0)


def test_codes_and_types_are_the_schemas() -> None:
    for name, operator in OPERATORS.items():
        assert operator.code == getattr(schema.BuiltinOperator, name)
    for dtype, code in ELEMENT_TYPES.items():
        assert code == getattr(schema.TensorType, dtype.upper())


@pytest.mark.parametrize("name", OPERATORS)
def test_every_option_lands_in_its_slot(name: str) -> None:
    operator = OPERATORS[name]
    values = dict.fromkeys(operator.slots, 1)
    tensor = Tensor("x", "float32", (1, 2, 3, 4))
    asked = Signature("run", {"in": 0}, {"out": 1})
    model = parsed(tflite_bytes([tensor, tensor], [Operator(name, (0,), (1,), values)], asked, description=""))
    (step,) = model.subgraphs[0].operators
    assert model.operatorCodes[step.opcodeIndex].builtinCode == operator.code
    assert model.operatorCodes[step.opcodeIndex].deprecatedBuiltinCode == min(operator.code, 127)
    if operator.options_type:
        assert type(step.builtinOptions).__name__ in {f"{kind}T" for kind in vars(schema.BuiltinOptions)}
        assert step.builtinOptionsType == operator.options_type
        for option in operator.slots:
            assert int(getattr(step.builtinOptions, OPTIONS[option])) == 1, option


def test_tensors_buffers_and_signature() -> None:
    data = np.arange(-3, 3, dtype=np.int8)
    tensors = [
        Tensor("in", "float32", (1, 6)),
        Tensor("kept", "int8", (6,), data, Quantization((0.5, 2.0), -2, axis=0)),
        Tensor("out", "float32", (1, 6)),
    ]
    asked = Signature("run", {"given": 0}, {"taken": 2})
    content = tflite_bytes(tensors, [Operator("ADD", (0, 1), (2,))], asked, description="a test")
    model = parsed(content)
    assert model.version == 3
    assert model.description == b"a test"
    assert bytes(content[4:8]) == b"TFL3"
    assert not model.buffers[0].data
    found = model.subgraphs[0].tensors[1]
    assert bytes(model.buffers[found.buffer].data) == data.tobytes()
    assert found.quantization.scale.tolist() == [0.5, 2.0]
    assert found.quantization.zeroPoint.tolist() == [-2, -2]
    assert model.subgraphs[0].tensors[0].quantization is None
    assert [tensor.name for tensor in model.subgraphs[0].tensors] == [b"in", b"kept", b"out"]
    (signature,) = model.signatureDefs
    assert (signature.signatureKey, signature.subgraphIndex) == (b"run", 0)
    assert [(item.name, item.tensorIndex) for item in signature.inputs] == [(b"given", 0)]
    assert [(item.name, item.tensorIndex) for item in signature.outputs] == [(b"taken", 2)]


def test_constants_lie_at_multiples_of_sixteen_bytes() -> None:
    content = tflite_model(small_network())
    for buffer in parsed(content).buffers:
        data = bytes(buffer.data) if buffer.data is not None else b""
        if len(data) > 64:
            assert content.index(data) % 16 == 0


# `metadata_schema.fbs` of TensorFlow Lite Support: tables as (slot -> name), read with flatbuffers' own table.
def read(table: flatbuffers.table.Table, slot: int) -> int:
    return int(table.Offset(4 + 2 * slot))


def child(table: flatbuffers.table.Table, slot: int) -> flatbuffers.table.Table:
    return flatbuffers.table.Table(table.Bytes, table.Indirect(table.Pos + read(table, slot)))


def union(table: flatbuffers.table.Table, slot: int) -> flatbuffers.table.Table:
    found = flatbuffers.table.Table(table.Bytes, 0)
    table.Union(found, read(table, slot))
    return found


def children(table: flatbuffers.table.Table, slot: int) -> list[flatbuffers.table.Table]:
    offset = read(table, slot)
    if not offset:
        return []
    start = table.Vector(offset)
    return [
        flatbuffers.table.Table(table.Bytes, table.Indirect(start + 4 * place))
        for place in range(table.VectorLen(offset))
    ]


def text(table: flatbuffers.table.Table, slot: int) -> str:
    return bytes(table.String(table.Pos + read(table, slot))).decode()


def floats(table: flatbuffers.table.Table, slot: int) -> list[float]:
    found = table.GetVectorAsNumpy(flatbuffers.number_types.Float32Flags, read(table, slot))
    return [float(value) for value in found]


@pytest.mark.parametrize(
    ("network", "deviation", "highest"), [(small_network(), 1.0, 255.0), (small_twin(), 255.0, 1.0)]
)
def test_metadata_says_how_to_feed_it(network: Any, deviation: float, highest: float) -> None:
    program = gradient_program(network)
    content = tflite_model(program, signature="gradient")
    model = parsed(content)
    (entry,) = model.metadata
    assert entry.name == METADATA.encode()
    buffer = bytearray(bytes(model.buffers[entry.buffer].data))
    assert buffer[4:8] == b"M001"
    root = flatbuffers.table.Table(buffer, int.from_bytes(buffer[:4], "little"))
    (subgraph,) = children(root, 3)
    inputs, outputs = children(subgraph, 2), children(subgraph, 3)
    assert [text(item, 0) for item in inputs] == ["image", "seed"]
    assert [text(item, 0) for item in outputs] == list(program.outputs)
    (unit,) = children(inputs[0], 4)
    normalization = union(unit, 1)
    assert floats(normalization, 0) == [0.0]
    assert floats(normalization, 1) == [deviation]
    statistics = child(inputs[0], 5)
    assert (floats(statistics, 0), floats(statistics, 1)) == ([highest], [0.0])
    (labels,) = children(outputs[0], 6)
    assert text(labels, 0) == LABEL_FILE
    said = zipfile.ZipFile(io.BytesIO(content)).read(LABEL_FILE).decode()
    assert said == "".join(f"{label}\n" for label in network.metadata["labels"])


def test_the_interpreter_reads_a_model_with_a_label_file_and_one_without() -> None:
    program = small_network()
    with_labels, without = tflite_model(program), tflite_model(replace(program, metadata={}))
    assert len(without) < len(with_labels)
    for content in (with_labels, without):
        runner = Interpreter(model_content=content, num_threads=1).get_signature_runner("forward")
        shape = runner.get_input_details()["image"]["shape"]
        assert np.isfinite(runner(image=np.zeros(shape, np.float32))["logits"]).all()


def test_every_label_has_a_line_of_its_own() -> None:
    labels = ["cat\nor dog", "caf\udce9", "d"]  # a folder's name may hold a line break, and bytes that are no UTF-8
    model = tflite_model(replace(small_network(), metadata={"labels": labels}))
    with zipfile.ZipFile(io.BytesIO(model)) as archive:
        assert archive.read(LABEL_FILE).decode() == "cat or dog\ncaf?\nd\n"
