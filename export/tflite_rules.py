"""The TFLite column of the op table: how each op of a program is written with builtin TFLite operators.

A missing cell is a refusal. Only operators are used that XNNPACK takes in every runtime there is, so that a graph stays
in one partition: comparisons, casts and selections are not among them, so a step is a difference, multiplied until it
is at least 1, and clipped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bitlens.export.affine_form import MULTIPLY, Float64, affine_form
from bitlens.export.exact_quotient import REAL_LIMIT, exact_quotient
from bitlens.export.nearest_threshold import nearest_threshold
from bitlens.export.tflite_file import RELU, RELU_N1_TO_1, SAME, VALID, Quantization
from bitlens.export.tflite_graph import TfliteGraph, nhwc
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.ops.conv2d import conv2d_window, pad_codes
from bitlens.runtime.ops.threshold import NO_FLOOR
from bitlens.runtime.ops.window import Window, padding_of, window_of
from bitlens.runtime.program import ACCUMULATOR_LIMIT, Array, Node, TensorType
from bitlens.runtime.table import add_row

TfliteRule = Callable[[TfliteGraph, Node], None]
TFLITE_RULES: dict[str, TfliteRule] = {}

# Up to here one comparison for each threshold takes the fewest operators.
FEW_COMPARISONS = 4
MAX_COMPARISONS = 64

# XNNPACK takes numbers below the smallest normal one for 0. A difference that is not 0 is at least that much where one
# of the two is at least `_SMALLEST_COMPARED`; multiplied by `_LARGE` it is at least 1.
_SMALLEST_NORMAL = 2.0**-126
_SMALLEST_COMPARED = 2.0**-102
_LARGE = 2.0**126
_JOINED = 4
_LARGEST = float(np.finfo(np.float32).max)

# Whole numbers and a half: exact in float32 up to here.
_HALVES_LIMIT = 2**22

Padding = tuple[int, int, int, int]


def tflite_rule(op: str) -> Callable[[TfliteRule], TfliteRule]:
    """Put the decorated cell into the column.

    Raises
    ------
    ValueError
        If the op has one already.
    """

    def register(function: TfliteRule) -> TfliteRule:
        return add_row(TFLITE_RULES, "TFLite cell of", op, function)

    return register


# Geometry.


def same_padding(window: Window, height: int, width: int) -> Padding:
    """Give the padding that TFLite's SAME puts around a map."""
    sides = []
    for size, kernel, stride in zip((height, width), window.kernel, window.stride, strict=True):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        sides.append((total // 2, total - total // 2))
    return (sides[0][0], sides[1][0], sides[0][1], sides[1][1])


def padded(graph: TfliteGraph, source: int, padding: Padding, bytes_of: Quantization | None = None) -> int:
    """Put a border of zeros around a map."""
    if not any(padding):
        return source
    top, left, bottom, right = padding
    _, height, width, channels = graph.shape(source)
    shape = (1, height + top + bottom, width + left + right, channels)
    pads = graph.integers([[0, 0], [top, bottom], [left, right], [0, 0]])
    return graph.add("PAD", [source, pads], shape=shape, bytes_of=bytes_of)


def _border(shape: tuple[int, ...], padding: Padding, inside: float, fill: Array) -> Array:
    """Make a constant for a padded map (1, H, W, C): `inside`, and in the border `fill` (C,)."""
    top, left, bottom, right = padding
    _, height, width, _ = shape
    values = fill[:1] if np.all(fill == fill[0]) else fill
    border = np.empty((1, height, width, len(values)), np.float32)
    border[...] = values
    border[:, top : height - bottom, left : width - right] = inside
    return border


def _filled(graph: TfliteGraph, source: int, padding: Padding, fill: Array, output: str | None = None) -> int:
    """Put a border of `fill` (C,) around a map: zeros, to which a constant is added."""
    larger = padded(graph, source, padding)
    return graph.add("ADD", [larger, graph.constant(_border(graph.shape(larger), padding, 0.0, fill))], output)


def _never_largest(graph: TfliteGraph, source: int, padding: Padding) -> int:
    """Put a border around a map that no maximum takes."""
    if not any(padding):
        return source

    def make() -> int:
        larger = padded(graph, source, padding)
        border = _border(graph.shape(larger), padding, _LARGEST, np.array([-_LARGEST], np.float32))
        return graph.add("MINIMUM", [larger, graph.constant(border)])

    return graph.once(("bordered", str(source), str(padding)), make)


def _slice(
    graph: TfliteGraph, source: int, begin: Sequence[int], shape: tuple[int, ...], output: str | None = None
) -> int:
    if graph.shape(source) == shape:
        if output is not None:
            graph.put(output, source)
        return source
    return graph.add("SLICE", [source, graph.integers(begin), graph.integers(shape)], output, shape=shape)


def _stacked(graph: TfliteGraph, parts: Sequence[int], output: str | None = None) -> int:
    """Put maps behind each other along their channels, four at a time: all that XNNPACK takes in every runtime."""
    while len(parts) > 1:
        joined = []
        for start in range(0, len(parts), _JOINED):
            few = list(parts[start : start + _JOINED])
            shape = (*graph.shape(few[0])[:3], sum(graph.shape(part)[3] for part in few))
            name = output if len(parts) <= _JOINED else None
            joined.append(
                few[0] if len(few) == 1 else graph.add("CONCATENATION", few, name, shape=shape, options={"axis": 3})
            )
        parts = joined
    return parts[0]


def _skips(window: Window) -> bool:
    """Whether the window's steps leave out places between."""
    return window.stride[0] > window.kernel[0] or window.stride[1] > window.kernel[1]


def _is_same(window: Window, height: int, width: int) -> bool:
    """Whether TFLite's SAME may pad a map for this window.

    Not where steps leave places out: ai-edge-litert 1.2 and tflite-runtime 2.14 compute wrong sums then.
    """
    return any(window.padding) and window.padding == same_padding(window, height, width) and not _skips(window)


def swept_by(window: Window, scheme: int) -> dict[str, int]:
    """Give the options of an operator that sweeps a window under a scheme."""
    return {"padding": scheme, "stride_h": window.stride[0], "stride_w": window.stride[1]}


def swept(graph: TfliteGraph, source: int, window: Window, bytes_of: Quantization | None = None) -> tuple[int, int]:
    """Give a map as the window's sweep wants it, padded with zeros, and the scheme under which to sweep it."""
    _, height, width, _ = graph.shape(source)
    if _is_same(window, height, width):
        return source, SAME
    return padded(graph, source, window.padding, bytes_of), VALID


# Convolutions and dense layers.


@tflite_rule("conv2d")
def _conv2d(graph: TfliteGraph, node: Node) -> None:
    source, window, groups = graph.place(node.inputs[0]), conv2d_window(node), node.integer("groups")
    weight = node.arrays["weight"]
    bias = node.arrays.get("bias", np.zeros(len(weight), np.float32))
    pad = pad_codes(node, graph.types[node.inputs[0]].shape[0])
    if pad.any() and any(window.padding):
        shifted = _shifted(graph, node, pad)
        if shifted is not None:
            source, bias = shifted
        else:
            source = _filled(graph, source, window.padding, pad.astype(np.float32))
            window = Window(window.kernel, window.stride, (0, 0, 0, 0))
    source, scheme = swept(graph, source, window)
    output, shape = node.outputs[0], nhwc(graph.types[node.outputs[0]].shape)
    channels = graph.shape(source)[3]
    if groups == 1:
        constants = [graph.weights(weight.transpose(0, 2, 3, 1)), graph.constant(bias)]
        graph.add("CONV_2D", [source, *constants], output, shape=shape, options=swept_by(window, scheme))
    elif groups == channels:
        constants = [graph.weights(weight.transpose(1, 2, 3, 0)), graph.constant(bias)]
        graph.add(
            "DEPTHWISE_CONV_2D",
            [source, *constants],
            output,
            shape=shape,
            options={"depth_multiplier": len(weight) // groups} | swept_by(window, scheme),
        )
    else:
        _, height, width, _ = graph.shape(source)
        parts = []
        for group, (kernels, offsets) in enumerate(zip(np.split(weight, groups), np.split(bias, groups), strict=True)):
            taken = (1, height, width, channels // groups)
            part = _slice(graph, source, (0, 0, 0, group * taken[3]), taken)
            constants = [graph.weights(kernels.transpose(0, 2, 3, 1)), graph.constant(offsets)]
            made = (*shape[:3], len(kernels))
            parts.append(graph.add("CONV_2D", [part, *constants], shape=made, options=swept_by(window, scheme)))
        _stacked(graph, parts, output)


def _shifted(graph: TfliteGraph, node: Node, pad: Array) -> tuple[int, Array] | None:
    """Codes less the padding's, so that zeros pad them, and the bias that makes up for it; None beyond exact sums."""
    type, weight, groups = graph.types[node.inputs[0]], node.arrays["weight"], node.integer("groups")
    fill = pad.astype(np.float64)
    grouped = weight.astype(np.float64).reshape(groups, len(weight) // groups, pad.size // groups, -1)
    bias = np.einsum("goit,gi->go", grouped, fill.reshape(groups, -1)).ravel()
    reach = np.maximum(np.abs(type.low - fill), np.abs(type.high - fill)).reshape(groups, -1)
    largest = np.einsum("goit,gi->go", np.abs(grouped), reach).max() + np.abs(bias).max()
    if largest >= ACCUMULATOR_LIMIT:
        return None
    source = graph.place(node.inputs[0])
    place = graph.once(
        ("less", str(source), pad.tobytes().hex()), lambda: graph.add("ADD", [source, graph.channels(-fill, source)])
    )
    return place, bias.astype(np.float32)


def _foldable(graph: TfliteGraph, node: Node) -> tuple[int, Array | None]:
    """Give a convolution's gradient without the factors it owes, and these, where its weights can take them in."""
    place, factors = graph.owing(node.inputs[0])
    if factors is None or np.any((np.abs(factors) > 0.0) & ((np.abs(factors) < 1e-30) | (np.abs(factors) > 1e30))):
        return graph.place(node.inputs[0]), None
    if node.arrays["weight"].dtype == np.int8 and node.arrays["weight"].min() == -128:  # has no opposite
        return graph.place(node.inputs[0]), None
    return place, factors


@tflite_rule("conv2d_input_gradient")
def _conv2d_input_gradient(graph: TfliteGraph, node: Node) -> None:
    (gradient, factors), window, groups = _foldable(graph, node), conv2d_window(node), node.integer("groups")
    weight, (channels, height, width) = node.arrays["weight"], node.integers("input_shape")
    top, left, bottom, right = window.padding
    same = _is_same(window, height, width)
    rows, columns = (height, width) if same else (height + top + bottom, width + left + right)
    _, from_rows, from_columns, outputs = graph.shape(gradient)
    parts = []
    for group, kernels in enumerate(np.split(weight, groups)):
        taken = (1, from_rows, from_columns, outputs // groups)
        folded = None if factors is None else np.split(factors, groups)[group]
        part = _slice(graph, gradient, (0, 0, 0, group * taken[3]), taken)
        shape = (1, rows, columns, channels // groups)
        inputs = [graph.integers(shape), graph.weights(kernels.transpose(1, 2, 3, 0), folded), part]
        scheme = SAME if same else VALID
        whole = node.outputs[0] if same and groups == 1 else None
        parts.append(graph.add("TRANSPOSE_CONV", inputs, whole, shape=shape, options=swept_by(window, scheme)))
    if same and groups == 1:
        return
    total = _stacked(graph, parts)
    begin = (0, 0, 0, 0) if same else (0, top, left, 0)
    _slice(graph, total, begin, (1, height, width, channels), node.outputs[0])


@tflite_rule("dense")
def _dense(graph: TfliteGraph, node: Node) -> None:
    weight = node.arrays["weight"]
    bias = node.arrays.get("bias", np.zeros(len(weight), np.float32))
    inputs = [graph.place(node.inputs[0]), graph.weights(weight), graph.constant(bias)]
    graph.add("FULLY_CONNECTED", inputs, node.outputs[0], shape=(1, len(weight)))


@tflite_rule("dense_input_gradient")
def _dense_input_gradient(graph: TfliteGraph, node: Node) -> None:
    turned = np.ascontiguousarray(node.arrays["weight"].T)
    inputs = [graph.place(node.inputs[0]), graph.weights(turned), graph.constant(np.zeros(len(turned), np.float32))]
    graph.add("FULLY_CONNECTED", inputs, node.outputs[0], shape=(1, len(turned)))


# Quantizers and their masks.


def _turned(graph: TfliteGraph, source: int, direction: Array) -> int:
    """Multiply by +-1, which is exact, where a channel's comparisons are turned round."""
    if np.all(direction > 0):
        return source
    return graph.once(
        ("turned", str(source), direction.tobytes().hex()),
        lambda: graph.add("MUL", [source, graph.channels(direction, source)]),
    )


def _positive(graph: TfliteGraph, difference: int, output: str | None = None) -> int:
    """1 where a difference is above 0, -1 where below, else 0.

    A product that passes float32's largest number is infinite, and clipped to 1 like any other.
    """
    return graph.add("MUL", [difference, graph.number(_LARGE)], output, activation=RELU_N1_TO_1)


def _least(bounds: Array, type: TensorType) -> Array:
    """Give bounds that a value must reach such that no difference from them is lost in XNNPACK.

    The smallest float32, which stands for "above 0", becomes the smallest that XNNPACK knows; its negative becomes 0.
    No value lies beyond the type's range, so what lies there is drawn in.
    """
    if type.is_integer:
        reach = max(-type.low, type.high) + 1
        return np.clip(bounds, -reach, reach)
    bounds = np.clip(bounds, -_LARGEST, _LARGEST)
    small = np.abs(bounds) < _SMALLEST_NORMAL
    moved = np.where(small & (bounds != 0), np.where(bounds > 0, _SMALLEST_NORMAL, 0.0), bounds)
    near = (np.abs(moved) < _SMALLEST_COMPARED) & (moved != 0) & (np.abs(moved) != _SMALLEST_NORMAL)
    if near.any():
        raise BitlensError(
            f"a bound of {moved[near][0]:g} has no exact form in TFLite, which cannot tell values so near to 0 apart: "
            "use the native or the reference engine"
        )
    return moved


def _outside(bounds: Array, type: TensorType) -> Array:
    """Give the numbers next below bounds: a value reaches its bound where its difference from them is above 0."""
    least = _least(bounds, type)
    if type.is_integer:
        return least - 1.0
    # Nothing is next below the lowest float32, which is a bound that every value reaches: it is none itself.
    lowest = np.nextafter(np.float32(-_LARGEST), np.float32(0.0))
    below = np.nextafter(np.maximum(least.astype(np.float32), lowest), np.float32(-np.inf)).astype(np.float64)
    return np.where(np.abs(below) < _SMALLEST_NORMAL, np.where(least > 0, 0.0, -_SMALLEST_NORMAL), below)


def _passed(graph: TfliteGraph, source: int, bounds: Array, type: TensorType) -> int:
    """1 where a value reaches its channel's bound, else 0."""
    above = graph.add("SUB", [source, graph.channels(_outside(bounds, type), source)], activation=RELU)
    return _positive(graph, above)


@tflite_rule("threshold")
def _threshold(graph: TfliteGraph, node: Node) -> None:
    source, type = graph.place(node.inputs[0]), graph.types[node.inputs[0]]
    direction = node.arrays["direction"]
    turned = node.arrays["thresholds"].astype(np.float64) * direction[:, None]
    turned = _least(turned, type)
    low, step = node.integer("low"), node.integer("step")
    if turned.shape[1] == 1:
        _one_threshold(graph, node, turned[:, 0])
        return
    with np.errstate(divide="ignore"):
        spacing = node.number("scale") / np.abs(node.arrays["slope"].astype(np.float64))
    counts = _affine_counts(graph, node, spacing) if type.is_integer else None
    facing = source if counts is not None else _turned(graph, source, direction)
    if counts is None and turned.shape[1] > FEW_COMPARISONS:
        counts = (_nearest_counts if type.is_integer else _quotient_counts)(graph, facing, turned, spacing, type)
    if counts is None and turned.shape[1] > MAX_COMPARISONS:
        raise BitlensError(
            f"its {turned.shape[1]} thresholds have no exact form in TFLite (they are unevenly spaced): use at most 4 "
            "bits here, or the reference engine"
        )
    if counts is None:
        counts = _compared_counts(graph, facing, turned, type)
    name, inputs = counts
    if (low, step) == (0, 1):
        graph.add(name, inputs, node.outputs[0])
        return
    scaled = graph.add("MUL", [graph.add(name, inputs), graph.number(step)])
    graph.add("ADD", [scaled, graph.number(low)], node.outputs[0])


# An operator that is still to be added, its name and inputs: its output may be the codes themselves.
Pending = tuple[str, list[int]]


def _one_threshold(graph: TfliteGraph, node: Node, threshold: Array) -> None:
    type, direction = graph.types[node.inputs[0]], node.arrays["direction"]
    low, step = node.integer("low"), node.integer("step")
    centre, half = low + step / 2, step / 2
    source = graph.place(node.inputs[0])
    signs = (centre, half) == (0.0, 1.0)
    if type.is_integer and np.abs(threshold).max() < _HALVES_LIMIT:
        # Half a step beside every whole number, twice the difference is at least 1 on either side.
        shifted = graph.add("ADD", [source, graph.channels((0.5 - threshold) * direction, source)])
        doubled = [shifted, graph.channels(2.0 * direction, source)]
        sign = graph.add("MUL", doubled, node.outputs[0] if signs else None, activation=RELU_N1_TO_1)
    elif not threshold.any():
        clipped = graph.add("MUL", [source, graph.channels(_LARGE * direction, source)], activation=RELU_N1_TO_1)
        doubled = [graph.add("ADD", [clipped, graph.number(0.5)]), graph.number(2.0)]
        sign = graph.add("MUL", doubled, node.outputs[0] if signs else None, activation=RELU_N1_TO_1)
    else:
        doubled = [_passed(graph, _turned(graph, source, direction), threshold, type), graph.number(2.0)]
        sign = graph.add("ADD", [graph.add("MUL", doubled), graph.number(-1.0)], node.outputs[0] if signs else None)
    if not signs:
        graph.add("ADD", [graph.add("MUL", [sign, graph.number(half)]), graph.number(centre)], node.outputs[0])


def _affine_counts(graph: TfliteGraph, node: Node, spacing: Float64) -> Pending | None:
    source, type = graph.place(node.inputs[0]), graph.types[node.inputs[0]]
    thresholds, direction = node.arrays["thresholds"], node.arrays["direction"]
    form = affine_form(thresholds, direction, spacing, type.low, type.high, scaling=MULTIPLY)
    if form is None:
        return None
    scaled = graph.add("MUL", [source, graph.channels(form.constant, source)])
    # The bounds are whole, so clipping before rounding gives the same; 0 below is fused into the addition.
    shifted = graph.add("ADD", [scaled, graph.channels(form.shift, source)], activation=RELU)
    if form.low > 0:
        shifted = graph.add("MAXIMUM", [shifted, graph.number(form.low)])
    return "ROUND", [graph.add("MINIMUM", [shifted, graph.number(form.high)])]


def _nearest(graph: TfliteGraph, source: int, inverse: Array, shift: Array, levels: int) -> int:
    scaled = graph.add("MUL", [source, graph.channels(inverse, source)])
    shifted = graph.add("ADD", [scaled, graph.channels(shift, source)], activation=RELU)
    return graph.add("ROUND", [graph.add("MINIMUM", [shifted, graph.number(levels - 1)])])


def _nearest_counts(
    graph: TfliteGraph, source: int, turned: Array, spacing: Float64, type: TensorType
) -> Pending | None:
    # Turned round, the range is too.
    reach = max(-type.low, type.high)
    form = nearest_threshold(turned, spacing, -reach, reach)
    if form is None:
        return None
    n = _nearest(graph, source, form.inverse, form.shift, turned.shape[1])
    whole = graph.add("ADD", [graph.add("MUL", [n, graph.channels(form.coarse, n)]), graph.channels(form.base, n)])
    part = graph.add("ADD", [graph.add("MUL", [n, graph.channels(form.fine, n)]), graph.channels(form.rest, n)])
    error = graph.add("SUB", [graph.add("SUB", [source, whole]), part], activation=RELU)
    return "ADD", [n, _positive(graph, error)]


def _quotient_counts(graph: TfliteGraph, source: int, turned: Array, spacing: Float64, _: TensorType) -> Pending | None:
    levels = turned.shape[1]
    form = exact_quotient(turned.astype(np.float32), spacing, -REAL_LIMIT, REAL_LIMIT)
    if form is None:
        return None
    h = graph.add("ADD", [_nearest(graph, source, form.inverse, form.shift, levels), graph.number(0.5)])
    multiple = graph.add("MUL", [source, graph.number(levels + 1)])
    coarse = graph.add("MUL", [h, graph.channels(form.coarse, h)])
    rest = graph.add("SUB", [graph.add("SUB", [multiple, coarse]), source])
    error = graph.add("SUB", [rest, graph.add("MUL", [h, graph.channels(form.fine, h)])])
    sign = _positive(graph, error)
    return "ROUND", [graph.add("ADD", [h, graph.add("MUL", [sign, graph.number(0.5)])])]


def _compared_counts(graph: TfliteGraph, source: int, turned: Array, type: TensorType) -> Pending:
    *earlier, last = (_passed(graph, source, column, type) for column in turned.T)
    total = earlier[0]
    for passed in earlier[1:]:
        total = graph.add("ADD", [total, passed])
    return "ADD", [total, last]


def _bound(graph: TfliteGraph, tensor: str) -> Array:
    return graph.fixed[tensor].astype(np.float64)


@tflite_rule("ste_mask")
def _ste_mask(graph: TfliteGraph, node: Node) -> None:
    source, type = graph.place(node.inputs[0]), graph.types[node.inputs[0]]
    low, high = (_bound(graph, tensor) for tensor in node.inputs[1:])
    # How far a value lies inside, from what is next to its box: 0 and below is outside.
    before, behind = _outside(low, type), -_outside(-high, type)
    centre, half = (before + behind) / 2, (behind - before) / 2
    is_exact = not centre.any() or (type.is_integer and max(np.abs(centre).max(), np.abs(half).max()) < _HALVES_LIMIT)
    if is_exact:
        moved = graph.add("SUB", [source, graph.channels(centre, source)]) if centre.any() else source
        inside = graph.add("SUB", [graph.channels(half, source), graph.add("ABS", [moved])], activation=RELU)
    else:
        left = graph.add("SUB", [source, graph.channels(before, source)]) if before.any() else source
        right = graph.add("SUB", [graph.channels(behind, source), source])
        inside = graph.add("RELU", [graph.add("MINIMUM", [left, right])])
    if type.is_integer:
        graph.add("MINIMUM", [inside, graph.number(1.0)], node.outputs[0])
    else:
        _positive(graph, inside, node.outputs[0])


def _raised(graph: TfliteGraph, gradient: int, floor: str) -> int:
    """max(gradient, floor), with the floor that is fixed in the file."""
    value = float(graph.fixed[floor][0])
    if value == NO_FLOOR:
        return gradient
    if value == 0.0:
        return graph.add("RELU", [gradient])
    return graph.add("MAXIMUM", [gradient, graph.number(value)])


@tflite_rule("ste_gradient")
def _ste_gradient(graph: TfliteGraph, node: Node) -> None:
    gradient, mask = (graph.place(tensor) for tensor in node.inputs[:2])
    passed = graph.add("MUL", [_raised(graph, gradient, node.inputs[2]), mask])
    graph.owe(node.outputs[0], passed, node.arrays["gain"])


# Elementwise.


@tflite_rule("affine")
def _affine(graph: TfliteGraph, node: Node) -> None:
    source = graph.place(node.inputs[0])
    product = graph.add("MUL", [source, graph.channels(node.arrays["slope"], source)])
    graph.add("ADD", [product, graph.channels(node.arrays["offset"], product)], node.outputs[0])


@tflite_rule("channel_scale")
def _channel_scale(graph: TfliteGraph, node: Node) -> None:
    source, factors = graph.owing(node.inputs[0])
    scale = node.arrays["scale"]
    graph.owe(node.outputs[0], source, scale if factors is None else scale * factors)


@tflite_rule("add")
def _add(graph: TfliteGraph, node: Node) -> None:
    graph.add("ADD", [graph.place(tensor) for tensor in node.inputs], node.outputs[0])


@tflite_rule("relu")
def _relu(graph: TfliteGraph, node: Node) -> None:
    graph.add("RELU", [graph.place(node.inputs[0])], node.outputs[0])


@tflite_rule("relu_gradient")
def _relu_gradient(graph: TfliteGraph, node: Node) -> None:
    gradient, activation = (graph.place(tensor) for tensor in node.inputs[:2])
    passed = _positive(graph, activation)
    graph.add("MUL", [_raised(graph, gradient, node.inputs[2]), passed], node.outputs[0])


# Pools.


@tflite_rule("max_pool")
def _max_pool(graph: TfliteGraph, node: Node) -> None:
    window, direction, output = window_of(node), node.arrays["direction"], node.outputs[0]
    source = _never_largest(graph, _turned(graph, graph.place(node.inputs[0]), direction), window.padding)
    kernel = {"filter_height": window.kernel[0], "filter_width": window.kernel[1]}
    shape, turned = nhwc(graph.types[output].shape), bool(np.any(direction < 0))
    name = None if turned else output
    if _skips(window):  # XNNPACK takes no such pool, and ai-edge-litert 1.2 dies of some
        pooled, *others = _taps(graph, source, window, *shape[1:3])
        for place, tap in enumerate(others, start=1):
            pooled = graph.add("MAXIMUM", [pooled, tap], name if place == len(others) else None)
        if not turned and not others:
            graph.put(output, pooled)
    else:
        pooled = graph.add("MAX_POOL_2D", [source], name, shape=shape, options=kernel | swept_by(window, VALID))
    if turned:
        graph.add("MUL", [pooled, graph.channels(direction, pooled)], output)


def _square_stride(window: Window) -> int:
    if window.stride[0] != window.stride[1]:
        raise BitlensError(
            f"it has no TFLite form for strides {window.stride}: use the same stride down and across, or the "
            "reference engine"
        )
    return window.stride[0]


def _grid(window: Window, height: int, width: int) -> tuple[int, int]:
    """Rows and columns, whole strides each, that hold the padded map."""
    stride = _square_stride(window)
    top, left, bottom, right = window.padding
    return -(-(height + top + bottom) // stride), -(-(width + left + right) // stride)


def _taps(
    graph: TfliteGraph, source: int, window: Window, rows: int, columns: int, count: int | None = None
) -> list[int]:
    """Give what each place of the kernel sees, in row-major order: (1, rows, columns, C) each, of a bordered map.

    Only of the first `count` places, if it is given: ai-edge-litert 1.2 dies of some operators that nobody reads.
    """
    stride = _square_stride(window)
    _, height, width, channels = graph.shape(source)
    wanted = -(-height // stride) * stride, -(-width // stride) * stride
    source = padded(graph, source, (0, 0, wanted[0] - height, wanted[1] - width))
    if stride > 1:
        phases = (1, wanted[0] // stride, wanted[1] // stride, stride * stride * channels)
        whole = source
        source = graph.once(
            ("phases", str(whole), str(stride)),
            lambda: graph.add("SPACE_TO_DEPTH", [whole], shape=phases, options={"block_size": stride}),
        )
    taps = []
    for y, x in list(np.ndindex(window.kernel))[:count]:
        phase = (y % stride) * stride + x % stride
        begin = (0, y // stride, x // stride, phase * channels)
        taps.append(_slice(graph, source, begin, (1, rows, columns, channels)))
    return taps


def _scattered(graph: TfliteGraph, taps: Sequence[int], window: Window, shape: tuple[int, ...], output: str) -> None:
    """Transpose of `_taps`: what each place of the kernel gives, added up on the (C, H, W) map it saw."""
    stride, (channels, height, width) = _square_stride(window), shape
    grid = _grid(window, height, width)
    _, rows, columns, _ = graph.shape(taps[0])
    sums: dict[int, int] = {}
    for place, tap in enumerate(taps):
        y, x = divmod(place, window.kernel[1])
        down, across = y // stride, x // stride
        spread = padded(graph, tap, (down, across, grid[0] - rows - down, grid[1] - columns - across))
        phase = (y % stride) * stride + x % stride
        sums[phase] = graph.add("ADD", [sums[phase], spread]) if phase in sums else spread
    total = sums[0]
    if stride > 1:
        empty = graph.constant(np.zeros((1, *grid, channels), np.float32)) if len(sums) < stride * stride else -1
        parts = [sums.get(phase, empty) for phase in range(stride * stride)]
        whole = (1, grid[0] * stride, grid[1] * stride, channels)
        total = graph.add("DEPTH_TO_SPACE", [_stacked(graph, parts)], shape=whole, options={"block_size": stride})
    top, left = window.padding[:2]
    _slice(graph, total, (0, top, left, 0), (1, height, width, channels), output)


@tflite_rule("max_pool_gradient")
def _max_pool_gradient(graph: TfliteGraph, node: Node) -> None:
    # The pool's index never exists here: the window's values are compared with their maximum again, in order, and the
    # gradient goes to the first that is equal.
    pool, window = graph.writers[node.inputs[1]], window_of(node)
    direction, type = pool.arrays["direction"], graph.types[pool.inputs[0]]
    gradient = graph.place(node.inputs[0])
    if window.kernel == (1, 1):
        _scattered(graph, [gradient], window, node.integers("input_shape"), node.outputs[0])
        return
    source = _never_largest(graph, _turned(graph, graph.place(pool.inputs[0]), direction), window.padding)
    largest = _turned(graph, graph.place(pool.outputs[0]), direction)
    _, rows, columns, _ = graph.shape(gradient)
    given = []
    for tap in _taps(graph, source, window, rows, columns, window.kernel[0] * window.kernel[1] - 1):
        activation = RELU_N1_TO_1 if type.is_integer else 0
        smaller = graph.add("SUB", [largest, tap], activation=activation)
        if not type.is_integer:
            smaller = _positive(graph, smaller)
        rest = graph.add("MUL", [gradient, smaller])
        given.append(graph.add("SUB", [gradient, rest]))
        gradient = rest
    _scattered(graph, [*given, gradient], window, node.integers("input_shape"), node.outputs[0])


def _covers(window: Window, height: int, width: int) -> bool:
    return window.kernel == (height, width) and not any(window.padding)


@tflite_rule("sum_pool")
def _sum_pool(graph: TfliteGraph, node: Node) -> None:
    source, window = graph.place(node.inputs[0]), window_of(node)
    channels, height, width = graph.types[node.inputs[0]].shape
    shape = nhwc(graph.types[node.outputs[0]].shape)
    if _covers(window, height, width):
        graph.add("SUM", [source, graph.integers([1, 2])], node.outputs[0], shape=shape, options={"keep_dims": 1})
        return
    # An average would divide, and round; a depthwise convolution with ones adds whole numbers exactly.
    source, scheme = swept(graph, source, window)
    ones = graph.weights(np.ones((1, *window.kernel, channels), np.int8))
    inputs = [source, ones, graph.constant(np.zeros(channels, np.float32))]
    graph.add(
        "DEPTHWISE_CONV_2D",
        inputs,
        node.outputs[0],
        shape=shape,
        options={"depth_multiplier": 1} | swept_by(window, scheme),
    )


@tflite_rule("sum_pool_gradient")
def _sum_pool_gradient(graph: TfliteGraph, node: Node) -> None:
    gradient, window = graph.place(node.inputs[0]), window_of(node)
    shape = node.integers("input_shape")
    _, height, width = shape
    if _covers(window, height, width):
        ones = graph.constant(np.ones((1, height, width, 1), np.float32))
        graph.add("MUL", [gradient, ones], node.outputs[0])
        return
    taps = [gradient] * (window.kernel[0] * window.kernel[1])
    _scattered(graph, taps, window, shape, node.outputs[0])


# Shapes.


def transposed(graph: TfliteGraph, source: int, bytes_of: Quantization | None = None) -> int:
    """Give a map's elements in the program's order, (1, C, H, W); a flat tensor as it is."""
    shape = graph.shape(source)
    if len(shape) != 4 or shape[1:3] == (1, 1):
        return source
    order = graph.integers([0, 3, 1, 2])
    return graph.add("TRANSPOSE", [source, order], shape=(1, shape[3], shape[1], shape[2]), bytes_of=bytes_of)


@tflite_rule("reshape")
def _reshape(graph: TfliteGraph, node: Node) -> None:
    source, target = graph.place(node.inputs[0]), graph.types[node.outputs[0]].shape
    source = transposed(graph, source)
    if len(target) != 3 or target[1:] == (1, 1):
        shape = nhwc(target)
        graph.add("RESHAPE", [source, graph.integers(shape)], node.outputs[0], shape=shape)
        return
    unfolded = graph.add("RESHAPE", [source, graph.integers((1, *target))], shape=(1, *target))
    graph.add("TRANSPOSE", [unfolded, graph.integers([0, 2, 3, 1])], node.outputs[0], shape=nhwc(target))


@tflite_rule("pad")
def _pad(graph: TfliteGraph, node: Node) -> None:
    fill = node.arrays["fill"].astype(np.float32)
    _filled(graph, graph.place(node.inputs[0]), padding_of(node), fill, node.outputs[0])


@tflite_rule("crop")
def _crop(graph: TfliteGraph, node: Node) -> None:
    top, left, _, _ = padding_of(node)
    shape = nhwc(graph.types[node.outputs[0]].shape)
    _slice(graph, graph.place(node.inputs[0]), (0, top, left, 0), shape, node.outputs[0])
