"""Quant and BipolarQuant: on a weight they give its codes, on a computed value thresholds and a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx

from bitlens.export.lowering.attributes import attributes_of_node
from bitlens.export.lowering.state import Lowering, rule
from bitlens.export.lowering.values import Float64, Linear, Value, WeightCodes, constant, scalar
from bitlens.export.qonnx import ALPHA_KEY, SURROGATE_KEY
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.program import Array, Attribute
from bitlens.runtime.thresholds import Interval, channel_thresholds, mask_bounds

MAX_ACTIVATION_BITS = 8


@rule("Quant")
def _quant(lowering: Lowering, node: onnx.NodeProto, name: str, inputs: Sequence[Value | None]) -> Value:
    attributes = attributes_of_node(node)
    scale = constant(inputs[1], "its scale")
    zero_point = constant(inputs[2], "its zero point")
    bits = float(constant(inputs[3], "its bit width").reshape(-1)[0])
    signed, narrow = bool(attributes.get("signed", 1)), bool(attributes.get("narrow", 0))
    mode = attributes.get("rounding_mode", b"ROUND")
    if np.any(zero_point != np.rint(zero_point)) or bits != int(bits) or bits < (2 if signed else 1):
        raise BitlensError(
            f"a {bits:g}-bit quantizer with zero point {zero_point.reshape(-1)[0]:g}: expected whole numbers"
        )
    if np.any(scale <= 0) or not np.isfinite(scale).all():
        raise BitlensError("its scale is not positive: train with a lower bound on scales")
    low = -(2 ** (int(bits) - 1)) + narrow if signed else 0
    high = 2 ** (int(bits) - 1) - 1 if signed else 2 ** int(bits) - 1 - narrow
    if isinstance(inputs[0], np.ndarray):
        rounded = _rounded(inputs[0].astype(np.float64) / scale + zero_point, mode)
        codes = np.clip(rounded, low, high) - zero_point
        return WeightCodes(codes.astype(np.int64), scale)
    if bits > MAX_ACTIVATION_BITS:
        raise BitlensError(f"{bits:g}-bit activations: use at most {MAX_ACTIVATION_BITS} bits")
    if scale.size != 1 or zero_point.size != 1:
        raise BitlensError(
            "its scale varies over channels, so a sum over channels is no integer: use one scale per tensor"
        )
    step, zero = float(scale.reshape(())), float(zero_point.reshape(()))
    codes = np.arange(low + 1, high + 1, dtype=np.float64)
    if mode == b"ROUND":  # half to even: y exactly between two codes goes to the even one
        boundaries, inclusive = codes - 0.5, codes % 2 == 0
    elif mode == b"FLOOR":
        boundaries, inclusive = codes, np.ones(codes.size, bool)
    elif mode == b"CEIL":
        boundaries, inclusive = codes - 1.0, np.zeros(codes.size, bool)
    else:
        raise BitlensError(f"rounding mode {mode!r} is not supported: use ROUND (half to even), FLOOR or CEIL")
    surrogate, source = _surrogate(node), inputs[0]
    if surrogate == "pact":
        alpha = _alpha(node)  # high * step is another float now and then
        interval, unit = Interval(0.0, high * step if alpha is None else alpha, False, False), 1.0
        if isinstance(source, Linear) and low == zero:
            # PACT clips at 0 itself (1805.06085, eq. 1), so the ReLU that Brevitas puts before it changes no code;
            # without it a window chosen at run time may open below 0.
            source = replace(source, rectified=False)
    elif surrogate is None:
        # Brevitas' own: the gradient passes where the rounded value needs no clipping.
        ends = (low - 0.5 - zero, high + 0.5 - zero)
        interval, unit = Interval(*ends, low_closed=low % 2 == 0, high_closed=high % 2 == 0), step
    else:
        raise BitlensError(f"straight-through gradient {surrogate!r} is not known for Quant: expected 'pact'")
    first = low - int(zero)
    return _threshold(lowering, name, source, boundaries - zero, inclusive, interval, unit, first, 1, step)


def _rounded(values: Float64, mode: object) -> Float64:
    rounding = {b"ROUND": np.rint, b"FLOOR": np.floor, b"CEIL": np.ceil}
    if mode not in rounding:
        raise BitlensError(f"rounding mode {mode!r} is not supported: use ROUND (half to even), FLOOR or CEIL")
    return np.asarray(rounding[mode](values), np.float64)


@rule("BipolarQuant")
def _bipolar_quant(lowering: Lowering, node: onnx.NodeProto, name: str, inputs: Sequence[Value | None]) -> Value:
    scale = constant(inputs[1], "its scale")
    if np.any(scale <= 0) or not np.isfinite(scale).all():
        raise BitlensError("its scale is not positive: train with a lower bound on scales")
    if isinstance(inputs[0], np.ndarray):
        return WeightCodes(np.where(inputs[0].astype(np.float64) >= 0, 1, -1).astype(np.int64), scale)
    if scale.size != 1:
        raise BitlensError(
            "its scale varies over channels, so a sum over channels is no integer: use one scale per tensor"
        )
    step, surrogate = float(scale.reshape(())), _surrogate(node)
    if surrogate not in (None, "hardtanh"):
        raise BitlensError(
            f"straight-through gradient {surrogate!r} is not known for BipolarQuant: expected 'hardtanh'"
        )
    side = 1.0 if surrogate == "hardtanh" else step  # Brevitas clamps to +-scale
    interval = Interval(-side, side, True, True)
    return _threshold(lowering, name, inputs[0], np.zeros(1), np.ones(1, bool), interval, 1.0, -1, 2, step)


def _surrogate(node: onnx.NodeProto) -> str | None:
    return next((item.value for item in node.metadata_props if item.key == SURROGATE_KEY), None)


def _alpha(node: onnx.NodeProto) -> float | None:
    """PACT's clipping level, if the exporter wrote it."""
    return next((float(item.value) for item in node.metadata_props if item.key == ALPHA_KEY), None)


def _threshold(
    lowering: Lowering,
    name: str,
    source: Value | None,
    boundaries: Float64,
    inclusive: npt.NDArray[np.bool_],
    interval: Interval,
    unit: float,
    low: int,
    step: int,
    scale: float,
) -> Value:
    value = lowering.linear(source, name)
    slope, offset = lowering.per_channel(value)
    if not np.isfinite(slope).all() or not np.isfinite(offset).all():
        raise BitlensError("what comes before it is not finite (a batch norm of variance 0?): train the network again")
    is_float = not lowering.types[value.tensor].is_integer
    thresholds, direction = channel_thresholds(
        slope, offset, boundaries, inclusive, rectified=value.rectified, is_float=is_float, scale=scale
    )
    mask_low, mask_high = mask_bounds(slope, offset, interval, rectified=value.rectified, is_float=is_float, scale=unit)
    attributes: dict[str, Attribute] = {
        "low": low,
        "step": step,
        "scale": scale,
        "window_low": interval.low * unit,
        "window_high": interval.high * unit,
        "window_closed": (int(interval.low_closed), int(interval.high_closed)),
        "rectified": int(value.rectified),
    }
    arrays: dict[str, Array] = {
        "thresholds": thresholds,
        "direction": direction,
        "mask_low": mask_low,
        "mask_high": mask_high,
        "slope": slope,
        "offset": offset,
    }
    tensor = lowering.emit("threshold", name, (value.tensor,), attributes, arrays)
    return Linear(tensor, scalar(scale), scalar(0.0))
