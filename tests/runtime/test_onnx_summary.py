"""ONNX files in short, against the `onnx` package; anything else is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_programs import residual_network, small_network, small_twin

from bitlens.export.onnx_writer import onnx_model
from bitlens.runtime.autodiff import gradient_program
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.onnx_summary import onnx_summary, read_onnx_summary


def by_onnx(values: list[onnx.ValueInfoProto]) -> list[tuple[str, int, tuple[str, ...]]]:
    return [
        (
            value.name,
            value.type.tensor_type.elem_type,
            tuple(side.dim_param or str(side.dim_value or "?") for side in value.type.tensor_type.shape.dim),
        )
        for value in values
    ]


CODES = {"float32": 1, "uint8": 2, "int8": 3, "int16": 5, "int64": 7, "bool": 9, "float64": 11}


@pytest.mark.parametrize(
    "model",
    [
        onnx_model(small_network()),
        onnx_model(gradient_program(small_network())),
        onnx_model(gradient_program(residual_network())),
        onnx_model(small_twin()),
    ],
)
def test_says_what_onnx_says(model: onnx.ModelProto) -> None:
    summary, graph = onnx_summary(model.SerializeToString()), model.graph
    constants = {tensor.name for tensor in graph.initializer}
    assert summary.ops == Counter(node.op_type for node in graph.node)
    assert summary.opsets == {item.domain or "ai.onnx": item.version for item in model.opset_import}
    assert summary.initializers == len(graph.initializer)
    assert summary.initializer_elements == sum(numpy_helper.to_array(tensor).size for tensor in graph.initializer)
    for got, expected in ((summary.inputs, graph.input), (summary.outputs, graph.output)):
        true = [item for item in by_onnx(list(expected)) if item[0] not in constants]
        assert [(name, CODES[type], sides) for name, type, sides in got] == true
    assert summary.quantizers == {}
    assert summary.producer.startswith("bitlens")


def quantized_model(width: float, as_node: bool) -> onnx.ModelProto:
    bits = numpy_helper.from_array(np.array(width, np.float32), "bits")
    scale = numpy_helper.from_array(np.array(1.0, np.float32), "scale")
    nodes = [helper.make_node("Constant", [], ["bits"], value=bits)] if as_node else []
    nodes += [
        helper.make_node("Quant", ["x", "scale", "scale", "bits"], ["y"], domain="qonnx.custom_op.general"),
        helper.make_node("BipolarQuant", ["y", "scale"], ["z"], domain="qonnx.custom_op.general"),
        helper.make_node("Quant", ["z", "scale", "scale", "elsewhere"], ["w"], domain="qonnx.custom_op.general"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, None]) for name in "xw"]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [scale] if as_node else [scale, bits])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize("as_node", [False, True])
def test_quantizers_of_qonnx_are_found_with_their_bits(as_node: bool) -> None:
    summary = onnx_summary(quantized_model(4.0, as_node).SerializeToString())
    assert summary.quantizers == {"Quant, 4 bit": 1, "BipolarQuant": 1, "Quant": 1}
    assert summary.inputs == (("x", "float32", ("N", "3", "?")),)
    assert summary.opsets == {"ai.onnx": 17}


def test_damaged_files_are_refused_or_read() -> None:
    content = onnx_model(small_network()).SerializeToString()
    refusals = 0
    for length in range(0, len(content), 7):
        try:
            onnx_summary(content[:length])
        except BitlensError as error:
            refusals += 1
            assert str(error).isprintable()  # noqa: PT017 - a cut may fall between two fields
    assert refusals > len(content) / 7 * 0.9
    for place in range(0, len(content), 5):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        try:
            onnx_summary(bytes(damaged))
        except BitlensError as error:
            assert str(error).isprintable()  # noqa: PT017


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello, world",
        b"\x3a\xff\xff\xff\xff\x7f",  # a graph of 34 gigabytes
        b"\x3a\x80" * 10**5,
        b"\xff" * 100,
        b"\x3b\x3b",  # groups, which ONNX does not use
        b"\x38\x01",  # a graph that is a number
        b"\x00\x01",
    ],
    ids=["empty", "text", "length", "nested", "endless number", "group", "number", "field 0"],
)
def test_what_is_no_model_is_refused(content: bytes) -> None:
    with pytest.raises(BitlensError, match="not a whole ONNX model"):
        onnx_summary(content)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(BitlensError, match=r"cannot read .* \(No such file or directory\): expected an ONNX file"):
        read_onnx_summary(tmp_path / "a.onnx")
