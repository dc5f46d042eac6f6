"""A program, forward or gradient, becomes a TFLite model of builtin operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bitlens.export.tflite_file import Signature, tflite_bytes
from bitlens.export.tflite_graph import TfliteGraph
from bitlens.export.tflite_rules import TFLITE_RULES
from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.program import Array, Node, Program
from bitlens.runtime.type_check import infer_types


def _needed(program: Program, outputs: Sequence[str]) -> list[Node]:
    """Nodes that the outputs depend on."""
    wanted = set(outputs)
    for node in reversed(program.nodes):
        if wanted & set(node.outputs):
            wanted |= set(node.inputs)
    return [node for node in program.nodes if wanted & set(node.outputs)]


def tflite_model(
    program: Program,
    outputs: Sequence[str] = (),
    *,
    signature: str = "forward",
    fixed: Mapping[str, Array] | None = None,
    metadata: Mapping[str, bytes] | None = None,
) -> bytes:
    """Write a program as TFLite.

    Parameters
    ----------
    program : Program
        A network or a gradient program. One image at a time; a map is (1, height, width, channels). Every tensor is
        float32: the image holds codes (a full-precision twin: x), codes and accumulators come out as whole numbers,
        masks as 0 and 1.
    outputs : sequence of str
        Tensors to give out, in this order; the program's own outputs if there are none.
    signature : str
        Key of the one signature, whose inputs and outputs have the program's names.
    fixed : mapping, optional
        Values of inputs that have a default (windows, the guided floor), in its place; the file does not ask for them.
    metadata : mapping, optional
        Name -> contents of metadata buffers.

    Returns
    -------
    bytes

    Raises
    ------
    BitlensError
        If an op has no TFLite cell, or a quantizer no exact form; the message names the node.
    """
    types, names = infer_types(program), tuple(dict.fromkeys(outputs or program.outputs))
    unknown = [name for name in names if name not in types]
    if unknown:
        raise BitlensError(f"no tensor named {unknown[0]!r}: choose from {', '.join(types)}")
    constants = {item.name: item.default for item in program.inputs if item.default is not None} | dict(fixed or {})
    nodes = _needed(program, names)
    graph = TfliteGraph(types, constants, {name: node for node in nodes for name in node.outputs})
    inputs = {item.name: graph.input(item.name) for item in program.inputs if item.default is None}
    for node in nodes:
        with context(f"node {node.name!r} ({node.op})"):
            if node.op not in TFLITE_RULES:
                raise BitlensError(
                    "this op has no TFLite cell: run the program with the reference or native engine, or add the cell "
                    "(docs/adding-an-op.md)"
                )
            TFLITE_RULES[node.op](graph, node)
    asked = Signature(signature, inputs, {name: graph.place(name) for name in names})
    return tflite_bytes(graph.tensors, graph.operators, asked, description="bitlens", metadata=metadata)
