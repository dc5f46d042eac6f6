"""The program under construction, and the table of rules, one per ONNX op, that append to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from bitlens.export.lowering.values import Float64, Linear, Padded, Value, scalar
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.ops import row
from bitlens.runtime.program import Array, Attribute, Node, TensorType
from bitlens.runtime.table import add_row

# A file from elsewhere holds a mean in float32: 102 / 255 comes back as code 102.0000015.
WHOLE_CODE = 1e-5


@dataclass
class Lowering:
    """What the rules read and append to."""

    full_precision: bool
    types: dict[str, TensorType] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)

    def emit(
        self,
        op: str,
        name: str,
        inputs: tuple[str, ...],
        attributes: Mapping[str, Attribute] | None = None,
        arrays: Mapping[str, Array] | None = None,
    ) -> str:
        """Append one op; return the name of the tensor it writes (the node's own, made unique)."""
        unique, count = name, 1
        while unique in self.types:
            count += 1
            unique = f"{name}.{count}"
        node = Node(op, unique, inputs, (unique,), attributes or {}, arrays or {})
        (self.types[unique],) = row(node).infer(node, [self.types[tensor] for tensor in inputs])
        self.nodes.append(node)
        return unique

    def channels(self, value: Linear) -> int:
        """Count the channels of the tensor under `value`."""
        return self.types[value.tensor].shape[0]

    def per_channel(self, value: Linear) -> tuple[Float64, Float64]:
        """Slope and offset of every channel, both of shape (C,)."""
        shape = (self.channels(value),)
        return np.broadcast_to(value.slope, shape).copy(), np.broadcast_to(value.offset, shape).copy()

    def materialize(self, value: Linear, name: str) -> str:
        """Write the real value itself as a float32 tensor."""
        tensor = value.tensor
        identity = np.all(value.slope == 1.0) and np.all(value.offset == 0.0)
        if self.types[tensor].is_integer or not identity:
            slope, offset = (part.astype(np.float32) for part in self.per_channel(value))
            tensor = self.emit("affine", f"{name}.affine", (tensor,), {}, {"slope": slope, "offset": offset})
        if value.rectified:
            tensor = self.emit("relu", name, (tensor,))
        return tensor

    def settled(self, value: Linear, name: str) -> Linear:
        """`value` without a pending ReLU, so that another linear map can follow."""
        if not value.rectified:
            return value
        return Linear(self.materialize(value, name), scalar(1.0), scalar(0.0))

    def linear(self, value: Value | None, name: str) -> Linear:
        """`value` as a computed tensor; a pad that no convolution took in becomes an op."""
        if isinstance(value, Padded):
            return self.pad(value, name)
        if isinstance(value, Linear):
            return value
        raise BitlensError("expected a computed tensor, got a constant: export the network with its weights as weights")

    def pad(self, value: Padded, name: str) -> Linear:
        """Write a pending pad as an op of its own."""
        fill = self.pad_codes(value.inner, value.value)
        if not self.types[value.inner.tensor].is_integer:
            fill = fill.astype(np.float32)
        tensor = self.emit("pad", f"{name}.pad", (value.inner.tensor,), {"padding": value.padding}, {"fill": fill})
        return replace(value.inner, tensor=tensor)

    def pad_codes(self, value: Linear, real: float) -> Array:
        """Per-channel code whose real value is `real`, exactly; or a refusal."""
        slope, offset = self.per_channel(value)
        if value.rectified and real < 0.0:
            raise BitlensError(f"pads a ReLU's output with {real:g}, which it cannot give: pad with 0 or more")
        if not self.types[value.tensor].is_integer:
            if value.rectified or np.any(slope != 1.0) or np.any(offset != 0.0):
                raise BitlensError("a pad stands on an unsettled value: put it right before the convolution")
            return np.full(slope.shape, real, np.float64)
        codes = (real - offset) / slope
        whole = np.rint(codes)
        if (
            not np.isfinite(codes).all()
            or np.any(np.abs(codes - whole) > WHOLE_CODE)
            or np.any(np.abs(whole) > 2**15 - 1)
        ):
            raise BitlensError(
                f"padding with {real:g} is no whole code here ({codes[np.argmax(np.abs(codes - whole))]:g} would be):"
                " train on codes / 255 with no mean and deviation (batch norm absorbs them), or pad with a value that"
                " the quantizer before it can give"
            )
        return whole.astype(np.int16)


Rule = Callable[[Lowering, onnx.NodeProto, str, Sequence[Value | None]], Value]

RULES: dict[str, Rule] = {}


def rule(*op_types: str) -> Callable[[Rule], Rule]:
    """Put the decorated rule into `RULES` under each ONNX op type."""

    def register(function: Rule) -> Rule:
        for op_type in op_types:
            add_row(RULES, "rule for", op_type, function)
        return function

    return register
