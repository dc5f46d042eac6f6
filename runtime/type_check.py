"""Check a whole program before anything runs: names, types, shapes, constants, ranges."""

from __future__ import annotations

from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.ops import row
from bitlens.runtime.ops.window import bounded
from bitlens.runtime.program import DTYPES, INTEGER_RANGES, MAX_NODES, Program, TensorType


def _check_input(name: str, type: TensorType) -> None:
    if type.dtype not in DTYPES:
        raise BitlensError(f"input {name!r} is of type {type.dtype!r}, expected one of {', '.join(sorted(DTYPES))}")
    bounded(type.shape)
    if type.dtype == "bool":
        raise BitlensError(f"input {name!r} is bool, expected numbers")
    if type.is_integer:
        dtype_low, dtype_high = INTEGER_RANGES[type.dtype]
        if not dtype_low <= type.low <= type.high <= dtype_high:
            raise BitlensError(
                f"input {name!r} claims the range {type.low} to {type.high}, impossible for {type.dtype}"
            )


def infer_types(program: Program) -> dict[str, TensorType]:
    """Type of every tensor of a program.

    Returns
    -------
    dict
        Tensor name -> type, in the order in which they are written.

    Raises
    ------
    BitlensError
        For anything that could not run on every engine: an unknown op, a tensor read before it is written or written
        twice, shapes or constants that do not fit, a sum that can reach 2^24. The message names the node.
    """
    if not program.inputs or not program.outputs:
        raise BitlensError("a program needs at least one input and one output")
    if len(program.nodes) > MAX_NODES:
        raise BitlensError(f"{len(program.nodes)} nodes, expected at most {MAX_NODES}")
    types: dict[str, TensorType] = {}
    for item in program.inputs:
        if item.name in types:
            raise BitlensError(f"input {item.name!r} is declared twice")
        _check_input(item.name, item.type)
        types[item.name] = item.type
    names: set[str] = set()
    for node in program.nodes:
        op = row(node)
        with context(f"node {node.name!r} ({node.op})"):
            if node.name in names:
                raise BitlensError("a second node has this name")
            names.add(node.name)
            missing = [name for name in node.inputs if name not in types]
            if missing:
                raise BitlensError(f"reads {missing[0]!r}, which nothing before it writes")
            try:
                results = op.infer(node, [types[name] for name in node.inputs])
            except (ValueError, TypeError, KeyError, IndexError) as error:
                # A wrong number of inputs, or a shape of the wrong rank: the file was not written by this table.
                raise BitlensError(f"does not have the form of this op ({error})") from error
            if len(results) != len(node.outputs):
                raise BitlensError(f"writes {len(node.outputs)} tensors, expected {len(results)}")
            for name, type in zip(node.outputs, results, strict=True):
                if name in types:
                    raise BitlensError(f"writes {name!r}, which is already written")
                types[name] = type
    for name in program.outputs:
        if name not in types:
            raise BitlensError(f"output {name!r} is written by nothing")
    return types
