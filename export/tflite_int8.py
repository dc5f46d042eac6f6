"""A fast forward graph in 8-bit integers: near the program, not equal to it.

Activations are the indices 0..L of their codes, as int8 of scale 6 / L, so that a fused RELU6 clips at L; weights are
int8, a convolution's sum goes through one multiplication and one rounding to the next index:

    index(S) = clip(round((multiplier * S + bias) * scale), 0, L)

`multiplier` (of the weights), `bias` (whole) and `scale` are searched for each channel until the index is that of
every threshold, for every sum that can occur; a threshold that none meets is counted. The padding's code is the lowest,
index 0, which is what TFLite pads with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bitlens.export.affine_form import Float64, deciding_values, passed_counts
from bitlens.export.tflite_file import RELU6, VALID, Quantization
from bitlens.export.tflite_graph import TfliteGraph, nhwc
from bitlens.export.tflite_rules import TFLITE_RULES, swept, swept_by, transposed
from bitlens.export.tflite_writer import asked_outputs, written_graph
from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.ops.conv2d import conv2d_window, pad_codes
from bitlens.runtime.ops.window import Window, window_of
from bitlens.runtime.program import Array, Node, Program
from bitlens.runtime.type_check import infer_types

# A camera's codes, 0..255, as int8.
_IMAGE = Quantization((1.0,), -128)

_LARGEST_WEIGHT = 127
_SUMS_LIMIT = 2**31  # a sum and its bias are an int32

# What is tried for a channel: the largest multipliers, which make a step of the bias the finest; scales that move the
# last threshold by up to one sum; and the biases nearest to the middle of what the thresholds leave.
_MULTIPLIERS = 4
_NUDGES = sorted(np.linspace(-1.0, 1.0, 21), key=abs)
_BIASES = 3


@dataclass(frozen=True)
class Int8Model:
    """A model, and how near it is.

    Parameters
    ----------
    content : bytes
    thresholds : int
        Thresholds, counted over all channels, that some sum can meet.
    missed : int
        Those of them beside which some sum gets another code.
    """

    content: bytes
    thresholds: int
    missed: int


@dataclass(frozen=True)
class Fit:
    """One channel: multiplier of its weights, bias, weight scale, and the thresholds met and missed."""

    multiplier: int
    bias: int
    weight_scale: float
    thresholds: int
    missed: int


def int8_model(program: Program, outputs: Sequence[str] = ()) -> Int8Model:
    """Write a program's forward pass in 8-bit integers.

    Parameters
    ----------
    program : Program
        Without real-valued sums: convolutions and dense layers, pools, quantizers. The image must hold codes 0..255.
    outputs : sequence of str
        Tensors to give out, as float32; the program's own outputs if there are none. Activations may be among them.

    Raises
    ------
    BitlensError
        If the program holds something that has no such form; the message names the node. If an output does not exist.
    """
    if program.is_full_precision:
        raise BitlensError("a full-precision network has no 8-bit form here: use the exact graph")
    types, names = infer_types(program), asked_outputs(program, outputs)
    writers = {name: node for node in program.nodes for name in node.outputs}
    graph = TfliteGraph(types, {}, writers)
    image = program.inputs[0].name
    given = graph.input(image)
    walk = _Walk(graph, program, {image: _IMAGE}, {})
    walk.stored[image] = graph.add("QUANTIZE", [given], bytes_of=_IMAGE)
    for node in program.nodes:
        with context(f"node {node.name!r} ({node.op})"):
            walk.write(node)
    places = [walk.real(name) for name in names]
    content = written_graph(graph, program, {image: given}, names, places, "forward", "bitlens int8")
    return Int8Model(content, walk.thresholds, walk.missed)


@dataclass
class _Walk:
    """The graph under construction, and which tensors of the program lie in it as int8 indices, worth what.

    `waiting` has the tensors that are sums in the program and indices here already, with the
    quantizer that makes them so.
    """

    graph: TfliteGraph
    program: Program
    worth: dict[str, Quantization]
    stored: dict[str, int]
    waiting: dict[str, Node] = field(default_factory=dict)
    thresholds: int = 0
    missed: int = 0

    def write(self, node: Node) -> None:
        source = node.inputs[0]
        quantizer = self._quantizer_behind(node)
        if source in self.stored and node.op in ("conv2d", "dense") and quantizer is not None:
            self._weighted(node, quantizer)
        elif source in self.stored and node.op == "max_pool":
            self._max_pool(node)
        elif source in self.stored and node.op == "reshape":
            self._reshape(node)
        elif node.op == "threshold" and self.waiting.get(source) is node:
            self._keep(node.outputs[0], self.stored[source], self.worth[source])
        elif node.op in ("dense", "affine") and quantizer is None:
            if source in self.stored:
                self.graph.put(source, self.real(source))
            TFLITE_RULES[node.op](self.graph, node)
        else:
            raise BitlensError(
                "it has no 8-bit form (only convolutions, dense layers, max-pools and quantizers have): use the exact "
                "graph for a network with real-valued sums"
            )

    def _keep(self, name: str, place: int, worth: Quantization, quantizer: Node | None = None) -> None:
        self.stored[name], self.worth[name] = place, worth
        if quantizer is not None:
            self.waiting[name] = quantizer

    def _quantizer_behind(self, node: Node) -> Node | None:
        """Find the quantizer that alone reads a node's output, perhaps through a max-pool or a reshape."""
        readers = [other for other in self.program.nodes if node.outputs[0] in other.inputs]
        if len(readers) != 1:
            return None
        if readers[0].op == "threshold":
            return readers[0]
        before, after = (self.graph.types[node.outputs[0]].shape for node in (node, readers[0]))
        passes = readers[0].op in ("max_pool", "reshape") and before[0] == after[0]  # the quantizer's channels
        return self._quantizer_behind(readers[0]) if passes else None

    def _index_of(self, name: str) -> tuple[int, int, int]:
        """(lowest code, step, number of steps) of a tensor of codes."""
        writer = self.graph.writers.get(name)
        while writer is not None and writer.op in ("reshape", "max_pool"):
            writer = self.graph.writers.get(writer.inputs[0])
        if writer is None:
            return 0, 1, 255
        return writer.integer("low"), writer.integer("step"), writer.arrays["thresholds"].shape[1]

    def real(self, name: str) -> int:
        """Place of a tensor as float32, its codes exact."""
        if name not in self.stored:
            return self.graph.place(name)
        if name in self.waiting:
            raise BitlensError(f"the sums {name!r} are never there in 8-bit form: ask for the codes behind them")
        graph, (low, step, _) = self.graph, self._index_of(name)
        value = graph.add("DEQUANTIZE", [self.stored[name]], shape=graph.shape(self.stored[name]))
        value = graph.add("ROUND", [graph.add("MUL", [value, graph.number(1.0 / self.worth[name].scales[0])])])
        if (low, step) == (0, 1):
            return value
        return graph.add("ADD", [graph.add("MUL", [value, graph.number(step)]), graph.number(low)])

    def _weighted(self, node: Node, quantizer: Node) -> None:
        graph, source = self.graph, node.inputs[0]
        weight = node.arrays["weight"]
        if weight.dtype != np.int8 or node.attributes.get("groups", 1) != 1:
            raise BitlensError("it has no 8-bit form with groups or 16-bit weights: use the exact graph")
        low, step, levels = self._index_of(source)
        kernels = weight.reshape(*weight.shape[:2], -1) if weight.ndim == 4 else weight[:, :, None]
        window = conv2d_window(node) if weight.ndim == 4 else Window((1, 1), (1, 1), (0, 0, 0, 0))
        if weight.ndim == 4 and any(window.padding) and np.any(pad_codes(node, weight.shape[1]) != low):
            raise BitlensError("its padding is not the lowest code: use the exact graph")
        worth = Quantization((float(np.float32(6.0 / quantizer.arrays["thresholds"].shape[1])),))
        fits = channel_fits(kernels, quantizer, (low, step, levels), self.worth[source].scales[0], worth.scales[0])
        self.thresholds += sum(fit.thresholds for fit in fits)
        self.missed += sum(fit.missed for fit in fits)
        turned = weight * quantizer.arrays["direction"].reshape(-1, *([1] * (weight.ndim - 1)))
        factors = np.array([fit.multiplier for fit in fits]).reshape(-1, *([1] * (weight.ndim - 1)))
        scaled = (turned.astype(np.int64) * factors).astype(np.int8)
        scales = tuple(fit.weight_scale for fit in fits)
        bias_scales = tuple(float(np.float32(self.worth[source].scales[0]) * np.float32(scale)) for scale in scales)
        stored = self.stored[source]
        if weight.ndim == 2:  # a dense layer is a 1x1 convolution: per-channel scales work there in every runtime
            scaled, pixel = scaled[:, :, None, None], (1, 1, 1, weight.shape[1])
            stored = graph.add("RESHAPE", [stored, graph.integers(pixel)], shape=pixel, bytes_of=self.worth[source])
        stored, scheme = swept(graph, stored, window, self.worth[source])
        constants = [
            graph.constant(scaled.transpose(0, 2, 3, 1), Quantization(scales)),
            graph.constant(np.array([fit.bias for fit in fits], np.int32), Quantization(bias_scales)),
        ]
        shape = nhwc(graph.types[node.outputs[0]].shape)
        made = graph.add(
            "CONV_2D",
            [stored, *constants],
            shape=shape if weight.ndim == 4 else (1, 1, 1, shape[1]),
            activation=RELU6,
            options=swept_by(window, scheme),
            bytes_of=worth,
        )
        if weight.ndim == 2:
            made = graph.add("RESHAPE", [made, graph.integers(shape)], shape=shape, bytes_of=worth)
        self._keep(node.outputs[0], made, worth, quantizer)

    def _max_pool(self, node: Node) -> None:
        # A quantizer never falls as its accumulator faces up, so the largest index is the index of the largest.
        graph, window, source = self.graph, window_of(node), node.inputs[0]
        quantizer = self.waiting.get(source)
        facing = 1 if quantizer is None else quantizer.arrays["direction"]
        if np.any(node.arrays["direction"] != facing):
            raise BitlensError("a pool that takes the smallest code has no 8-bit form: use the exact graph")
        if any(window.padding):
            raise BitlensError("a padded max-pool has no 8-bit form: use the exact graph")
        options = {"filter_height": window.kernel[0], "filter_width": window.kernel[1]} | swept_by(window, VALID)
        shape, worth = nhwc(graph.types[node.outputs[0]].shape), self.worth[source]
        place = graph.add("MAX_POOL_2D", [self.stored[source]], shape=shape, options=options, bytes_of=worth)
        self._keep(node.outputs[0], place, worth, quantizer)

    def _reshape(self, node: Node) -> None:
        worth = self.worth[node.inputs[0]]
        target = self.graph.types[node.outputs[0]].shape
        if len(target) != 1:
            raise BitlensError("only flattening has an 8-bit form: use the exact graph")
        place = transposed(self.graph, self.stored[node.inputs[0]], bytes_of=worth)
        shape = nhwc(target)
        inputs = [place, self.graph.integers(shape)]
        made = self.graph.add("RESHAPE", inputs, shape=shape, bytes_of=worth)
        self._keep(node.outputs[0], made, worth, self.waiting.get(node.inputs[0]))


def channel_fits(
    kernels: Array, quantizer: Node, codes: tuple[int, int, int], source_scale: float, output_scale: float
) -> list[Fit]:
    """Search each channel's constants.

    Parameters
    ----------
    kernels : int8 (outputs, inputs, taps)
    quantizer : Node
    codes : tuple of int
        (lowest code, step, number of steps) of the input.
    source_scale, output_scale : float
        Scales of the indices that come in and go out.

    Returns
    -------
    list of Fit
    """
    low, step, levels = codes
    direction = quantizer.arrays["direction"].astype(np.int64)
    facing = kernels.astype(np.int64) * direction[:, None, None]
    thresholds = quantizer.arrays["thresholds"].astype(np.float64) * direction[:, None]
    with np.errstate(divide="ignore"):
        spacing = quantizer.number("scale") / np.abs(quantizer.arrays["slope"].astype(np.float64)) / step
    fits = []
    for channel, kernel in enumerate(facing):
        # The accumulator is step * S + low * (sum of weights), S the sum over indices.
        row = np.ceil((thresholds[channel] - low * kernel.sum()) / step)
        span = (int(np.minimum(kernel, 0).sum()) * levels, int(np.maximum(kernel, 0).sum()) * levels)
        largest = int(np.abs(kernel).max())
        fits.append(_fit(row, float(spacing[channel]), span, largest, source_scale, output_scale))
    return fits


def effective_scale(source_scale: float, weight_scale: float, output_scale: float) -> float:
    """Multiplier of a sum as XNNPACK computes it, in float32."""
    return float(np.float32(source_scale) * np.float32(weight_scale) / np.float32(output_scale))


def indices(sums: Float64, fit: Fit, source_scale: float, output_scale: float, levels: int) -> npt.NDArray[np.float32]:
    """Index of each sum, as XNNPACK rounds it."""
    scale = effective_scale(source_scale, fit.weight_scale, output_scale)
    scaled = (sums * fit.multiplier + fit.bias).astype(np.float32) * np.float32(scale)
    return np.asarray(np.clip(np.rint(scaled), 0, levels), np.float32)


def _fit(
    row: Float64, spacing: float, span: tuple[int, int], largest: int, source_scale: float, output_scale: float
) -> Fit:
    values = deciding_values(row, *span)
    counts = passed_counts(values, row)
    met, levels = int(np.sum((row > span[0]) & (row <= span[1]))), len(row)
    best: Fit | None = None
    first_multiplier = max(min(_LARGEST_WEIGHT // max(largest, 1), _SUMS_LIMIT // max(span[1] - span[0], 1)), 1)
    for multiplier in range(first_multiplier, max(first_multiplier - _MULTIPLIERS, 0), -1):
        for nudge in _NUDGES:
            distance = spacing + nudge / levels
            if distance <= 0:
                continue
            wanted = 1.0 if levels == 1 or not np.isfinite(spacing) else 1.0 / (distance * multiplier)
            weight_scale = float(np.float32(wanted * output_scale / source_scale))
            scale = effective_scale(source_scale, weight_scale, output_scale)
            if not 2.0**-32 <= scale < 256:  # what XNNPACK takes
                continue
            scaled = values * multiplier * scale
            least = np.where(counts <= 0, -np.inf, counts - 0.5 - scaled).max()
            most = np.where(counts >= levels, np.inf, counts + 0.5 - scaled).min()
            centre = (least + most) / 2 if np.isfinite(least) and np.isfinite(most) else None
            if centre is None:  # all sums get one code, or only one side is bounded
                centre = least + 0.5 if np.isfinite(least) else most - 0.5 if np.isfinite(most) else 0.0
            first = round(centre / scale) - _BIASES // 2
            for bias in range(first, first + _BIASES):
                if max(abs(multiplier * end + bias) for end in (0, *span)) >= _SUMS_LIMIT:
                    continue
                fit = Fit(multiplier, bias, weight_scale, met, 0)
                wrong = indices(values, fit, source_scale, output_scale, levels) != counts
                missed = _beside(values[wrong], row)
                if missed == 0:
                    return fit
                if best is None or missed < best.missed:
                    best = Fit(multiplier, bias, weight_scale, met, missed)
    if best is None:
        raise BitlensError(f"its steps of {spacing:g} need a scale that TFLite does not take: use the exact graph")
    return best


def _beside(values: Float64, row: Float64) -> int:
    """How many thresholds have one of these values at their side, at least one if there are values."""
    if not len(values):
        return 0
    return max(int(np.sum(np.isin(row, values) | np.isin(row - 1, values))), 1)
