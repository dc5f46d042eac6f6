"""The walk over a QONNX graph: each node's rule in turn, then the program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from bitlens.export.lowering.state import RULES, Lowering
from bitlens.export.lowering.values import Constant, Linear, scalar
from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.program import MAX_TENSOR_ELEMENTS, Node, Program, ProgramInput, TensorType
from bitlens.runtime.type_check import infer_types

IMAGE = "image"

LOGITS = "logits"

ACCUMULATORS = "logit_accumulators"

# A camera gives codes 0..255; a method that perturbs the image may give any of these (docs/design.md, "The program").
INPUT_LOW, INPUT_HIGH = -512, 767

INPUT_SCALE = 1.0 / 255.0


def _layer_name(node: onnx.NodeProto, index: int) -> str:
    """'/conv1/Conv' -> 'conv1', '/act1/act_quant/export_handler/Quant' -> 'act1'; else the op and its place."""
    parts = [part for part in node.name.split("/")[:-1] if part]
    internal = {"act_quant", "weight_quant", "export_handler", "activation_impl", "tensor_quant"}
    parts = [part for part in parts if part not in internal]
    return ".".join(parts) or f"{node.op_type.lower()}{index}"


# What exporters compute from constants. An op that loops, or makes much of little, could run for ever.
FOLDABLE = frozenset(
    [
        "Abs",
        "Add",
        "Cast",
        "Concat",
        "Constant",
        "ConstantOfShape",
        "Div",
        "Equal",
        "Expand",
        "Gather",
        "Identity",
        "Mul",
        "Neg",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "Reshape",
        "Shape",
        "Slice",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Transpose",
        "Unsqueeze",
        "Where",
    ]
)
_SHAPED_BY_AN_INPUT = {"ConstantOfShape": 0, "Expand": 1}


def _check_foldable(node: onnx.NodeProto, inputs: Sequence[Constant | None]) -> None:
    if node.op_type not in FOLDABLE:
        raise BitlensError(f"is applied to constants alone, which only {', '.join(sorted(FOLDABLE))} may be")
    if node.op_type in _SHAPED_BY_AN_INPUT:
        shape = inputs[_SHAPED_BY_AN_INPUT[node.op_type]]
        # In float64, which a hostile shape cannot make come round again.
        if shape is None or not np.prod(shape.astype(np.float64)) <= MAX_TENSOR_ELEMENTS:
            raise BitlensError(f"makes a constant of more than {MAX_TENSOR_ELEMENTS} elements: the file is damaged")


def _folded(
    node: onnx.NodeProto, inputs: Sequence[Constant | None], opsets: Sequence[onnx.OperatorSetIdProto]
) -> Constant:
    """Evaluate an op on constants with ONNX's own reference."""
    _check_foldable(node, inputs)
    named = {name: value for name, value in zip(node.input, inputs, strict=True) if name and value is not None}
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), None)
        for name, value in named.items()
    ]
    result = onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.UNDEFINED, None)
    graph = onnx.helper.make_graph([node], "constant", values, [result])
    try:
        evaluator = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=list(opsets)))
        (output, *_) = evaluator.run(None, named)
    except Exception as error:  # its exceptions share no base class
        raise BitlensError(f"cannot be evaluated on constants ({error}): export the network again") from error
    return np.asarray(output)


def _image_input(graph: onnx.GraphProto, full_precision: bool) -> ProgramInput:
    constants = {item.name for item in graph.initializer}
    inputs = [item for item in graph.input if item.name not in constants]
    if len(inputs) != 1:
        raise BitlensError(f"the graph has {len(inputs)} inputs, expected one image")
    sides = [dimension.dim_value for dimension in inputs[0].type.tensor_type.shape.dim]
    if len(sides) != 4 or min(sides[1:]) < 1:
        raise BitlensError(f"the input's shape is {sides}, expected (batch, channels, height, width) with fixed sizes")
    shape = (sides[1], sides[2], sides[3])
    if full_precision:
        return ProgramInput(IMAGE, TensorType("float32", shape))
    return ProgramInput(IMAGE, TensorType("int16", shape, INPUT_LOW, INPUT_HIGH, INPUT_SCALE))


def _initializer(item: onnx.TensorProto) -> Constant:
    if item.data_location == onnx.TensorProto.EXTERNAL:
        raise BitlensError(f"constant {item.name!r} lies in another file: save the network with its data inside")
    try:
        array = numpy_helper.to_array(item)
    except Exception as error:  # onnx passes on whatever NumPy makes of a wrong size
        raise BitlensError(f"constant {item.name!r} is damaged ({error}): export the network again") from error
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        raise BitlensError(f"constant {item.name!r} holds NaN or infinity: train or export the network again")
    return array


# What overflows is refused by name where it would enter the program.
@np.errstate(over="ignore", divide="ignore", invalid="ignore")
def lower(model: onnx.ModelProto, metadata: Mapping[str, object] | None = None) -> Program:
    """Turn a QONNX graph into a program; one without quantizers becomes a full-precision program.

    Parameters
    ----------
    model : onnx.ModelProto
        From `qonnx_from_brevitas`, or from elsewhere: convolutions, dense layers, batch norm, ReLU, Quant,
        BipolarQuant, pools, add, flatten and pad. Its input is x = code / 255.
    metadata : mapping, optional
        JSON values to travel with the program (labels, precision, ...).

    Returns
    -------
    Program
        Checked; its outputs are `logits`, float32 (classes,), and, unless it is full-precision, the integer
        `logit_accumulators` that they are an affine map of.

    Raises
    ------
    BitlensError
        For what the program cannot represent, with the node, the reason and a remedy.
    """
    graph = model.graph
    full_precision = not any(node.op_type in ("Quant", "BipolarQuant") for node in graph.node)
    lowering = Lowering(full_precision)
    image = _image_input(graph, full_precision)
    lowering.types[IMAGE] = image.type
    source = next(item.name for item in graph.input if item.name not in {one.name for one in graph.initializer})
    lowering.values[source] = Linear(IMAGE, scalar(image.type.scale), scalar(0.0))
    for item in graph.initializer:
        lowering.values[item.name] = _initializer(item)
    for index, node in enumerate(graph.node):
        with context(f"node {node.name or node.op_type + str(index)!r} ({node.op_type})"):
            missing = [name for name in node.input if name and name not in lowering.values]
            if missing:
                raise BitlensError(f"reads {missing[0]!r}, which nothing before it writes: the file is damaged")
            if not node.output:
                raise BitlensError("writes nothing: the file is damaged")
            inputs = [lowering.values[name] if name else None for name in node.input]
            constants = [value for value in inputs if isinstance(value, np.ndarray) or value is None]
            if len(constants) == len(inputs) and node.op_type not in ("Quant", "BipolarQuant"):
                lowering.values[node.output[0]] = _folded(node, constants, model.opset_import)
                continue
            if node.op_type not in RULES:
                raise BitlensError(
                    f"a program has no such op: rebuild the network from {', '.join(sorted(RULES))}, or add a row to "
                    "the op table (docs/adding-an-op.md)"
                )
            try:
                value = RULES[node.op_type](lowering, node, _layer_name(node, index), inputs)
            except (IndexError, KeyError, TypeError, ValueError) as error:
                # An input, attribute or shape that this op cannot have: the exporter that wrote it is at fault.
                raise BitlensError(f"is not of the form that ONNX gives this op ({error})") from error
            lowering.values[node.output[0]] = value
    if len(graph.output) != 1:
        raise BitlensError(f"the graph has {len(graph.output)} outputs, expected the logits alone")
    last = lowering.values.get(graph.output[0].name)
    if not isinstance(last, Linear):
        raise BitlensError("the output does not depend on the image")
    names = {lowering.materialize(last, LOGITS): LOGITS}
    if lowering.types[last.tensor].is_integer:
        names[last.tensor] = ACCUMULATORS
    nodes = [_renamed(node, names) for node in lowering.nodes]
    program = Program((image,), tuple(_reachable(nodes, LOGITS)), tuple(names.values()), dict(metadata or {}))
    types = infer_types(program)
    if len(types[LOGITS].shape) != 1:
        raise BitlensError(f"the output is of shape {types[LOGITS].shape}, expected (classes,): end in a dense layer")
    return program


def _renamed(node: Node, names: Mapping[str, str]) -> Node:
    return replace(
        node,
        inputs=tuple(names.get(name, name) for name in node.inputs),
        outputs=tuple(names.get(name, name) for name in node.outputs),
    )


def _reachable(nodes: Sequence[Node], output: str) -> list[Node]:
    """Drop what the logits do not depend on."""
    needed, kept = {output}, []
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    return kept[::-1]
