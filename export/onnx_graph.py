"""An ONNX graph under construction: what the ONNX cells of the op table append to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bitlens.runtime.program import Array, TensorType

# ScatterElements adds since 16, Pad and Split take axes since 18; ONNX Runtime runs both since 1.14 (2023).
OPSET = 18
IR_VERSION = 8
BATCH = "N"

AttributeValue = int | float | str | Sequence[int]


class OnnxGraph:
    """Nodes and constants of one file.

    Codes and accumulators are float32 tensors that hold whole numbers below 2^24, which every engine adds exactly in
    any order; masks are bool and pool indices int64.
    """

    def __init__(self, types: Mapping[str, TensorType]) -> None:
        self.types = types
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.names: dict[str, str] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._count = 0

    def value(self, tensor: str) -> str:
        """Name in the graph of a tensor of the program."""
        return self.names.get(tensor, tensor)

    def add(
        self,
        op_type: str,
        inputs: Sequence[str],
        outputs: Sequence[str] | None = None,
        **attributes: AttributeValue,
    ) -> str:
        """Append a node; return its first output, which gets a name of its own if none is given."""
        self._count += 1
        name = f"{op_type}_{self._count}"
        results = list(outputs) if outputs is not None else [self._own_name(f"{name}.out")]
        node = helper.make_node(op_type, list(inputs), results, name=name)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return results[0]

    def _own_name(self, name: str) -> str:
        """Step aside where a tensor of the program has this name already."""
        while name in self.types:
            name += "_"
        return name

    def constant(self, array: Array) -> str:
        """Name of an initializer with these contents; equal contents are stored once."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self._own_name(f"constant_{len(self._constants)}")
            self._constants[key] = name
            self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return self._constants[key]

    def floats(self, array: Array) -> str:
        """Name a constant as float32; whole numbers are stored as they are and cast when the file is loaded."""
        if array.dtype == np.float32:
            return self.constant(array)
        return self.add("Cast", [self.constant(array)], to=TensorProto.FLOAT)

    def channels(self, array: Array, tensor: str) -> str:
        """Name a per-channel constant (C,) as float32, shaped to meet `tensor`."""
        rank = len(self.types[tensor].shape)
        return self.constant(array.astype(np.float32).reshape(-1, *([1] * (rank - 1))))

    def integers(self, *values: int) -> str:
        """Name an int64 vector."""
        return self.constant(np.array(values, np.int64))
