"""What each layer of a program costs: weights, bits per stored weight, multiplications and bit operations."""

from __future__ import annotations

from dataclasses import dataclass

from bitlens.runtime.program import Node, Program
from bitlens.runtime.program_file import stored_bits
from bitlens.runtime.type_check import infer_types

PICTURE_BITS = 8  # codes 0..255; what a method that perturbs the image adds to the range does not count
_KEEPS_CODES = frozenset({"max_pool", "reshape", "pad"})


@dataclass(frozen=True)
class LayerCost:
    """A convolution or dense layer.

    Parameters
    ----------
    name, op : str
    weights : int
    weight_bits : int
        Bits per weight in the program file.
    weight_bytes : int
        All weights in the program file.
    input_bits : int
        Bits that the codes of its input need; 32 for real values.
    macs : int
        Multiplications, each with an addition, for one image.
    """

    name: str
    op: str
    weights: int
    weight_bits: int
    weight_bytes: int
    input_bits: int
    macs: int

    @property
    def bit_operations(self) -> int:
        """Multiplications times the bits of both operands, for one image."""
        return self.macs * self.weight_bits * self.input_bits


def layer_costs(program: Program) -> tuple[LayerCost, ...]:
    """Cost of every layer with weights, from the input to the output."""
    types = infer_types(program)
    writers = {name: node for node in program.nodes for name in node.outputs}

    def code_bits(tensor: str) -> int:
        node = writers.get(tensor)
        while node is not None and node.op in _KEEPS_CODES:
            tensor = node.inputs[0]
            node = writers.get(tensor)
        if not types[tensor].is_integer:
            return 32
        if node is None:
            return PICTURE_BITS
        if node.op == "threshold":
            return int(node.arrays["thresholds"].shape[1]).bit_length()
        return (types[tensor].high - types[tensor].low).bit_length()

    def cost(node: Node) -> LayerCost:
        weight = node.arrays["weight"]
        bits = stored_bits(weight)
        positions = types[node.outputs[0]].elements // weight.shape[0]
        return LayerCost(
            node.name,
            node.op,
            weight.size,
            bits,
            -(-weight.size * bits // 8),
            code_bits(node.inputs[0]),
            weight.size * positions,
        )

    return tuple(cost(node) for node in program.nodes if "weight" in node.arrays)


def stored_parameters(program: Program) -> int:
    """Count the constants of a program: weights, thresholds, windows, slopes, offsets; a shared array once."""
    return sum({id(array): array.size for node in program.nodes for array in node.arrays.values()}.values())
