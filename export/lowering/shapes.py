"""Flatten, Reshape, Squeeze, Transpose of weights, and Pad."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx

from bitlens.export.lowering.attributes import attributes_of_node, wholes
from bitlens.export.lowering.state import Lowering, rule
from bitlens.export.lowering.values import Linear, Padded, Value, WeightCodes, constant, scalar
from bitlens.export.lowering.weighted_sums import transposed
from bitlens.runtime.errors import BitlensError


def flattened(lowering: Lowering, name: str, value: Value | None) -> Value:
    """Append a reshape of a map (C, H, W) to (C * H * W,); what varies per channel is repeated per position."""
    source = lowering.linear(value, name)
    shape = lowering.types[source.tensor].shape
    if len(shape) == 1:
        return source
    per_plane = int(np.prod(shape[1:]))
    tensor = lowering.emit("reshape", f"{name}.flat", (source.tensor,), {"shape": (shape[0] * per_plane,)})
    slope, offset = (part if part.ndim == 0 else np.repeat(part, per_plane) for part in (source.slope, source.offset))
    return replace(source, tensor=tensor, slope=slope, offset=offset)


@rule("Flatten")
def _flatten(lowering: Lowering, node: onnx.NodeProto, name: str, inputs: Sequence[Value | None]) -> Value:
    if attributes_of_node(node).get("axis", 1) != 1:
        raise BitlensError("flattens the batch too: use axis=1")
    return flattened(lowering, name, inputs[0])


@rule("Reshape")
def _reshape(lowering: Lowering, node: onnx.NodeProto, name: str, inputs: Sequence[Value | None]) -> Value:
    shape = constant(inputs[1], "its shape").astype(int).tolist()
    elements = lowering.types[lowering.linear(inputs[0], name).tensor].elements
    if len(shape) != 2 or shape[1] not in (-1, elements):
        raise BitlensError(f"reshapes to {shape}, expected (batch, {elements}): only flattening is supported")
    return flattened(lowering, name, inputs[0])


@rule("Squeeze")
def _squeeze(lowering: Lowering, node: onnx.NodeProto, name: str, inputs: Sequence[Value | None]) -> Value:
    shape = lowering.types[lowering.linear(inputs[0], name).tensor].shape
    if any(side != 1 for side in shape[1:]):
        raise BitlensError(f"squeezes a map of shape {shape}: only 1x1 maps can be flattened so")
    return flattened(lowering, name, inputs[0])


@rule("Transpose")
def _transpose(lowering: Lowering, node: onnx.NodeProto, name: str, inputs: Sequence[Value | None]) -> Value:
    if not isinstance(inputs[0], WeightCodes):
        raise BitlensError("transposes a computed tensor: keep the order (batch, channels, height, width)")
    axes = attributes_of_node(node).get("perm")
    result = transposed(inputs[0], None if axes is None else wholes(axes))
    assert result is not None
    return result


@rule("Pad")
def _pad(lowering: Lowering, node: onnx.NodeProto, name: str, inputs: Sequence[Value | None]) -> Value:
    if attributes_of_node(node).get("mode", b"constant") != b"constant":
        raise BitlensError("pads with copies of the image: use a constant pad")
    pads = constant(inputs[1], "its padding").astype(int).tolist()
    fill = 0.0 if len(inputs) < 3 or inputs[2] is None else float(constant(inputs[2], "its value").reshape(()))
    if len(pads) != 8 or any(pads[i] for i in (0, 1, 4, 5)) or min(pads) < 0:
        raise BitlensError(f"pads {pads}: only height and width can be padded")
    value = lowering.linear(inputs[0], name)
    if lowering.full_precision:
        value = Linear(lowering.materialize(value, f"{name}.input"), scalar(1.0), scalar(0.0))
    return Padded(value, (pads[2], pads[3], pads[6], pads[7]), fill)
