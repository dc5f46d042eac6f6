"""A program, forward or gradient, becomes an ONNX model of stock operators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bitlens.export.onnx_graph import BATCH, IR_VERSION, OPSET, OnnxGraph
from bitlens.export.onnx_rules import ONNX_RULES
from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.program import Program, TensorType
from bitlens.runtime.type_check import infer_types

_ELEMENT_TYPES = {
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "float32": TensorProto.FLOAT,
}


def _value_info(name: str, type: TensorType, element_type: int) -> onnx.ValueInfoProto:
    shape: list[int | str | None] = [BATCH, *type.shape] if type.batched else [*type.shape]
    return helper.make_tensor_value_info(name, element_type, shape)


def onnx_model(program: Program, *, extra_outputs: Sequence[str] = ()) -> onnx.ModelProto:
    """Write a program as ONNX.

    Parameters
    ----------
    program : Program
        A network or a gradient program. Inputs keep their names and types; inputs with a default may be left out when
        the model runs. Codes and accumulators come out as float32 that hold whole numbers, masks as bool.
    extra_outputs : sequence of str
        Tensors of the program to give out besides its outputs.

    Returns
    -------
    onnx.ModelProto
        Passes `onnx.checker` with full shape inference; opset 18, IR version 8, free batch size.

    Raises
    ------
    BitlensError
        If an op has no ONNX cell, or a quantizer no exact form; the message names the node.
    """
    types = infer_types(program)
    graph = OnnxGraph(types)
    inputs, initializers = [], []
    for item in program.inputs:
        if item.default is not None:
            # An initializer of the same name makes an ONNX input optional.
            initializers.append(numpy_helper.from_array(item.default.astype(np.float32), item.name))
            inputs.append(_value_info(item.name, item.type, TensorProto.FLOAT))
            continue
        inputs.append(_value_info(item.name, item.type, _ELEMENT_TYPES[item.type.dtype]))
        if item.type.is_integer:
            graph.names[item.name] = graph.add("Cast", [item.name], to=TensorProto.FLOAT)
    for node in program.nodes:
        with context(f"node {node.name!r} ({node.op})"):
            if node.op not in ONNX_RULES:
                raise BitlensError(
                    "this op has no ONNX cell: run the program with the reference or native engine, or add the cell "
                    "(docs/adding-an-op.md)"
                )
            ONNX_RULES[node.op](graph, node)
    names = tuple(dict.fromkeys((*program.outputs, *extra_outputs)))
    unknown = [name for name in names if name not in types]
    if unknown:
        raise BitlensError(f"no tensor named {unknown[0]!r}: choose from {', '.join(types)}")
    outputs = [
        _value_info(name, types[name], TensorProto.BOOL if types[name].dtype == "bool" else TensorProto.FLOAT)
        for name in names
    ]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "bitlens", inputs, outputs, [*initializers, *graph.initializers.values()]),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="bitlens",
    )
    onnx.checker.check_model(model, full_check=True)
    return model
