"""Conv, Gemm and MatMul: codes times integer weights become exact sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx

from bitlens.export.lowering.attributes import attributes_of_node, kernel_window, whole
from bitlens.export.lowering.state import Lowering, rule
from bitlens.export.lowering.values import Float64, Linear, Padded, Value, WeightCodes, constant, scalar
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.ops.window import attributes_of
from bitlens.runtime.program import Array


def _quantized_weight(weight: Value | None) -> WeightCodes:
    if isinstance(weight, WeightCodes):
        return weight
    raise BitlensError(
        "its weights are not quantized while other layers are: give it a weight quantizer (8 bits for the first and "
        "the last layer), or export the whole network at full precision"
    )


def _output_scale(weight: WeightCodes) -> Float64:
    """Give the scale of each output, for weights of shape (outputs, ...)."""
    rows = np.broadcast_to(weight.scale, weight.codes.shape).reshape(weight.codes.shape[0], -1)
    if not np.all(rows == rows[:, :1]):
        raise BitlensError("its weight scale varies inside an output channel: use one scale per tensor or per output")
    return np.array(rows[:, 0], np.float64)


def _stored(codes: npt.NDArray[np.int64]) -> Array:
    if codes.size and np.abs(codes).max() > 2**15 - 1:
        raise BitlensError("its weights need more than 16 bits: quantize them to 8 or fewer")
    return codes.astype(np.int8 if codes.size == 0 or np.abs(codes).max() <= 127 else np.int16)


def _codes_for_a_sum(lowering: Lowering, source: Linear) -> float:
    """Scale of the codes under a value that goes into a weighted sum; or a refusal."""
    slope = np.unique(source.slope)
    if source.rectified or not lowering.types[source.tensor].is_integer or slope.size != 1:
        raise BitlensError(
            "its input is not quantized (or each channel has a scale of its own): put an activation quantizer with one "
            "scale before it"
        )
    return float(slope[0])


def transposed(weight: Value | None, axes: tuple[int, ...] | None = None) -> Value | None:
    """Transpose a constant, with its scale where it is quantized; anything else is returned as it is."""
    if isinstance(weight, WeightCodes):
        full = np.broadcast_to(weight.scale, weight.codes.shape)
        return WeightCodes(weight.codes.transpose(axes), full.transpose(axes))
    return weight.transpose(axes) if isinstance(weight, np.ndarray) else weight


@rule("Conv")
def _conv(lowering: Lowering, node: onnx.NodeProto, name: str, inputs: Sequence[Value | None]) -> Value:
    attributes = attributes_of_node(node)
    source, weight, bias = inputs[0], inputs[1], inputs[2] if len(inputs) > 2 else None
    groups = whole(attributes.get("group", 1))
    border, border_value = (0, 0, 0, 0), 0.0
    if isinstance(source, Padded):
        border, border_value, source = source.padding, source.value, source.inner
    if not isinstance(source, Linear):
        raise BitlensError("its input is a constant: nothing to run")
    if lowering.full_precision:
        kernels = constant(weight, "its weight")
        source = Linear(lowering.materialize(source, f"{name}.input"), scalar(1.0), scalar(0.0))
    else:
        weight = _quantized_weight(weight)
        kernels = weight.codes.astype(np.float64)
    if kernels.ndim != 4:
        raise BitlensError(
            f"its weights have {kernels.ndim} dimensions, expected 4: only 2-D convolutions are supported"
        )
    window = kernel_window(attributes, (kernels.shape[2], kernels.shape[3]))
    if any(border) and any(window.padding) and border_value != 0.0:
        raise BitlensError("a pad with a value and the convolution's own padding meet: keep one of them")
    top, left, bottom, right = (a + b for a, b in zip(border, window.padding, strict=True))
    window = replace(window, padding=(top, left, bottom, right))
    arrays: dict[str, Array] = {}
    shift = np.zeros(kernels.shape[0]) if bias is None else constant(bias, "its bias").reshape(-1)
    if lowering.full_precision:
        if any(window.padding) and border_value != 0.0:
            source, window = (
                lowering.pad(Padded(source, window.padding, border_value), name),
                replace(window, padding=(0,) * 4),
            )
        arrays = {"weight": kernels.astype(np.float32), "bias": shift.astype(np.float32)}
        slope, offset = scalar(1.0), scalar(0.0)
    else:
        assert isinstance(weight, WeightCodes)
        scale, weight_scale = _codes_for_a_sum(lowering, source), _output_scale(weight)
        arrays["weight"] = _stored(weight.codes)
        if any(window.padding):
            pad = lowering.pad_codes(source, border_value)
            if pad.any():
                arrays["pad"] = pad
        # A constant added to every input code (a mean) adds the same to every sum, padding included.
        rows = weight.codes.reshape(groups, kernels.shape[0] // groups, kernels.shape[1], -1).sum(axis=3)
        added = np.broadcast_to(source.offset, (lowering.channels(source),)).reshape(groups, -1)
        slope = scale * weight_scale
        offset = shift + weight_scale * np.einsum("goc,gc->go", rows, added).reshape(-1)
    tensor = lowering.emit(
        "conv2d", name, (source.tensor,), attributes_of(window, with_kernel=False) | {"groups": groups}, arrays
    )
    return Linear(tensor, slope, offset)


def _dense(lowering: Lowering, name: str, source: Value | None, weight: Value | None, bias: Float64 | None) -> Value:
    """Append a dense layer with weights of shape (outputs, inputs)."""
    if not isinstance(source, Linear):
        raise BitlensError("its input is a constant or padded: expected codes")
    if lowering.full_precision:
        kernels = constant(weight, "its weight")
        shift = np.zeros(kernels.shape[0]) if bias is None else bias
        tensor = lowering.materialize(source, f"{name}.input")
        arrays = {"weight": kernels.astype(np.float32), "bias": shift.astype(np.float32)}
        return Linear(lowering.emit("dense", name, (tensor,), {}, arrays), scalar(1.0), scalar(0.0))
    quantized = _quantized_weight(weight)
    scale, weight_scale = _codes_for_a_sum(lowering, source), _output_scale(quantized)
    shift = np.zeros(quantized.codes.shape[0]) if bias is None else bias
    added = np.broadcast_to(source.offset, (lowering.channels(source),))
    tensor = lowering.emit("dense", name, (source.tensor,), {}, {"weight": _stored(quantized.codes)})
    return Linear(tensor, scale * weight_scale, shift + weight_scale * (quantized.codes @ added))


@rule("Gemm")
def _gemm(lowering: Lowering, node: onnx.NodeProto, name: str, inputs: Sequence[Value | None]) -> Value:
    attributes = attributes_of_node(node)
    if attributes.get("transA", 0) or attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
        raise BitlensError("only Gemm with transA=0, alpha=1 and beta=1 is supported: export a plain dense layer")
    weight = inputs[1] if attributes.get("transB", 0) else transposed(inputs[1])
    bias = constant(inputs[2], "its bias").reshape(-1) if len(inputs) > 2 and inputs[2] is not None else None
    return _dense(lowering, name, inputs[0], weight, bias)


@rule("MatMul")
def _matmul(lowering: Lowering, node: onnx.NodeProto, name: str, inputs: Sequence[Value | None]) -> Value:
    return _dense(lowering, name, inputs[0], transposed(inputs[1]), None)
