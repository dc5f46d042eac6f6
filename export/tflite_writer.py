"""A program, forward or gradient, becomes a TFLite model of builtin operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bitlens.export.tflite_file import Signature, tflite_bytes
from bitlens.export.tflite_graph import TfliteGraph
from bitlens.export.tflite_metadata import METADATA, labels_of, tflite_metadata, with_label_file
from bitlens.export.tflite_rules import TFLITE_RULES
from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.program import Array, Program, needed_nodes
from bitlens.runtime.type_check import infer_types


def tflite_model(
    program: Program,
    outputs: Sequence[str] = (),
    *,
    signature: str = "forward",
    fixed: Mapping[str, Array] | None = None,
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

    Returns
    -------
    bytes
        With metadata that TFLite tools read: names, normalisation, labels.

    Raises
    ------
    BitlensError
        If an op has no TFLite cell, or a quantizer no exact form; the message names the node.
    """
    types, names = infer_types(program), asked_outputs(program, outputs)
    constants = {item.name: item.default for item in program.inputs if item.default is not None} | dict(fixed or {})
    nodes = needed_nodes(program, names)
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
    return written_graph(graph, program, inputs, names, [graph.place(name) for name in names], signature)


def asked_outputs(program: Program, outputs: Sequence[str]) -> tuple[str, ...]:
    """Give the tensors to give out, each once: the program's own outputs if none are asked for.

    Raises
    ------
    BitlensError
        If one does not exist, or is a default that is fixed in the file.
    """
    fixed = {item.name for item in program.inputs if item.default is not None}
    known = [name for name in infer_types(program) if name not in fixed]
    for name in outputs:
        if name not in known:
            raise BitlensError(f"no tensor named {name!r}: choose from {', '.join(known)}")
    return tuple(dict.fromkeys(outputs or program.outputs))


def written_graph(
    graph: TfliteGraph,
    program: Program,
    inputs: Mapping[str, int],
    names: Sequence[str],
    places: Sequence[int],
    signature: str,
    description: str = "bitlens",
) -> bytes:
    """Serialize a finished graph, with the metadata and the labels that TFLite tools read.

    Parameters
    ----------
    graph : TfliteGraph
    program : Program
        That it computes.
    inputs : mapping
        Tensor of the program -> its place in the file.
    names, places : sequence of str, sequence of int
        Tensors that are given out, and where they lie.
    signature : str
        Key of the one signature.
    description : str
        Of the file, for a person.
    """
    asked = Signature(signature, inputs, dict(zip(names, places, strict=True)))
    metadata = {METADATA: tflite_metadata(program, dict(graph.types), tuple(inputs), names)}
    model = tflite_bytes(graph.tensors, graph.operators, asked, description=description, metadata=metadata)
    return with_label_file(model, labels_of(program))
