"""One row per op. A row's cells are its type rule, its NumPy meaning and its vector-Jacobian rule.

The same op's ONNX cell stands in `bitlens.export.onnx_rules`, because a board never writes ONNX. Whoever needs a cell
that is missing gets a refusal that names the op, the node and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.program import Array, Attribute, Node, TensorType
from bitlens.runtime.table import add_row


class GradientGraph(Protocol):
    """What a vector-Jacobian rule may do: look at the program and append ops that compute a gradient."""

    def type_of(self, tensor: str) -> TensorType:
        """Type of a tensor of the program."""

    def emit(
        self,
        op: str,
        node: Node,
        inputs: tuple[str, ...],
        attributes: Mapping[str, Attribute] | None = None,
        arrays: Mapping[str, Array] | None = None,
    ) -> str:
        """Append one op on behalf of the forward `node` and return the name of what it writes."""

    def second_output(self, node: Node) -> str:
        """Have the forward `node` also write its second output (a pool's index) and return its name."""

    def input(self, name: str, type: TensorType, default: Array) -> str:
        """Have the program read `name` from outside, `default` where nobody gives it; return the name."""


Infer = Callable[[Node, Sequence[TensorType]], tuple[TensorType, ...]]
Run = Callable[[Node, Sequence[Array]], tuple[Array, ...]]
Vjp = Callable[[GradientGraph, Node, str], tuple[str | None, ...]]


@dataclass(frozen=True)
class Op:
    """A row of the table.

    Parameters
    ----------
    name : str
        As written in a program file: never reused for another meaning.
    infer : callable
        (node, input types) -> output types. Raises `BitlensError` for anything `run` could not take; this check is
        all that stands between a hostile file and the kernels, so it looks at every attribute and constant.
    run : callable
        (node, input arrays) -> output arrays: the definition. Slow and plain; every engine must equal it.
    vjp : callable, optional
        (graph, node, name of the gradient of the first output) -> name of the gradient of each input, None where
        there is none. Gradients are float32 and per code, not per real unit.
    """

    name: str
    infer: Infer
    run: Run
    vjp: Vjp | None = None


OPS: dict[str, Op] = {}


def register(op: Op) -> Op:
    """Add a row.

    Raises
    ------
    ValueError
        If the name is taken.
    """
    return add_row(OPS, "op", op.name, op)


def row(node: Node) -> Op:
    """Return the row of a node's op.

    Raises
    ------
    BitlensError
        If the op is unknown.
    """
    if node.op not in OPS:
        raise BitlensError(
            f"node {node.name!r} uses op {node.op!r}, which this version of bitlens does not know: update bitlens, or "
            "export the network again with this version"
        )
    return OPS[node.op]
