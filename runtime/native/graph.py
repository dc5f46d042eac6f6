"""What a program says about its tensors: who writes and reads them, and which only view another's map."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from bitlens.runtime.program import Node, Program, needed_nodes
from bitlens.runtime.type_check import infer_types


class Graph:
    """The nodes of a checked program that some outputs depend on.

    Parameters
    ----------
    program : Program
    outputs : tuple of str

    Attributes
    ----------
    nodes : list of Node
    types : dict of TensorType
    writer : dict of Node
        Who writes a tensor; the program's inputs have none.
    readers : dict of list of Node
        Who reads a tensor directly, in the program's order.
    """

    def __init__(self, program: Program, outputs: tuple[str, ...]) -> None:
        self.program, self.outputs = program, outputs
        self.types = infer_types(program)
        self.nodes = _needed(program, outputs)
        self.writer = {name: node for node in self.nodes for name in node.outputs}
        self.readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.inputs:
                self.readers.setdefault(name, []).append(node)
        self._viewed: dict[str, str] = {}
        for node in self.nodes:
            if node.op == "reshape" and self.is_view(node):
                self._viewed[node.outputs[0]] = self.stored_name(node.inputs[0])

    def is_view(self, reshape: Node) -> bool:
        """Whether a reshape only flattens a map for dense layers, which read the map itself: nothing is computed."""
        source, target = self.types[reshape.inputs[0]], self.types[reshape.outputs[0]]
        if len(source.shape) == len(target.shape) == 1:
            return True
        return (
            len(source.shape) == 3
            and len(target.shape) == 1
            and target.shape == (source.elements,)
            and reshape.outputs[0] not in self.outputs
            and all(reader.op == "dense" for reader in self.readers.get(reshape.outputs[0], []))
        )

    def stored_name(self, name: str) -> str:
        """Name of the tensor that lies in memory for `name`: of the map, if `name` is a view."""
        return self._viewed.get(name, name)

    def has_view(self, name: str) -> bool:
        """Whether another tensor is a view of this one."""
        return name in self._viewed.values()

    def map_of(self, name: str) -> tuple[int, int, int]:
        """(C, H, W) of what lies in memory for `name`; a flat tensor is a map of one pixel."""
        shape = self.types[self.stored_name(name)].shape
        return (shape[0], shape[1], shape[2]) if len(shape) == 3 else (int(np.prod(shape)), 1, 1)

    def readers_through_views(self, name: str) -> list[Node]:
        """Nodes that read what lies in memory for `name`, views replaced by their readers."""
        found: list[Node] = []
        for node in self.readers.get(name, []):
            if node.op == "reshape" and self.is_view(node):
                found += self.readers_through_views(node.outputs[0])
            else:
                found.append(node)
        return found

    def is_only_reader(self, node: Node, name: str) -> bool:
        """Whether nothing but `node` needs the tensor `name`."""
        return name not in self.outputs and [reader.name for reader in self.readers[name]] == [node.name]

    def code_step(self, name: str) -> int:
        """Distance of neighbouring codes: what the quantizer that wrote them says (2 for +-1), else 1."""
        node = self.writer.get(name)
        while node is not None and node.op == "reshape":
            node = self.writer.get(node.inputs[0])
        return node.integer("step") if node is not None and node.op == "threshold" else 1

    def mask_reader(self, quantizer: Node) -> Node | None:
        """Give the `ste_mask` of a quantizer, which sweeps the same sums, if it is needed."""
        readers = self.readers.get(quantizer.inputs[0], [])
        box = f"{quantizer.name}.mask_low"
        return next((node for node in readers if node.op == "ste_mask" and node.inputs[1] == box), None)


def _needed(program: Program, outputs: Iterable[str]) -> list[Node]:
    """Nodes that the outputs depend on; a mask needs its quantizer, which writes both in one sweep."""
    masked = {node.inputs[1] for node in needed_nodes(program, outputs) if node.op == "ste_mask"}
    quantizers = [node for node in program.nodes if node.op == "threshold" and f"{node.name}.mask_low" in masked]
    return needed_nodes(program, {*outputs, *(name for node in quantizers for name in node.outputs)})
