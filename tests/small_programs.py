"""Programs built by hand, a few hundred bytes each: what most tests of the runtime run on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bitlens.runtime.program import Array, Attribute, Node, Program, ProgramInput, TensorType
from bitlens.runtime.thresholds import Interval, channel_thresholds, mask_bounds

Float64 = npt.NDArray[np.float64]

IMAGE_LOW, IMAGE_HIGH = -512, 767
LABELS = ("ant", "bee", "cat")


def image_input(shape: tuple[int, ...], *, is_float: bool = False) -> ProgramInput:
    """The image of a quantized network, or of a full-precision twin."""
    if is_float:
        return ProgramInput("image", TensorType("float32", shape))
    return ProgramInput("image", TensorType("int16", shape, IMAGE_LOW, IMAGE_HIGH, 1.0 / 255.0))


def conv2d(
    source: str,
    output: str,
    weight: Array,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    groups: int = 1,
    pad: Array | None = None,
    bias: Array | None = None,
) -> Node:
    arrays = {"weight": weight}
    if pad is not None:
        arrays["pad"] = pad
    if bias is not None:
        arrays["bias"] = bias
    attributes: dict[str, Attribute] = {"stride": stride, "padding": padding, "groups": groups}
    return Node("conv2d", output, (source,), (output,), attributes, arrays)


def max_pool(
    source: str,
    output: str,
    channels: int,
    *,
    kernel: tuple[int, int] = (2, 2),
    stride: tuple[int, int] = (2, 2),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    direction: Array | None = None,
) -> Node:
    attributes: dict[str, Attribute] = {"kernel": kernel, "stride": stride, "padding": padding}
    turned = np.ones(channels, np.int8) if direction is None else direction
    return Node("max_pool", output, (source,), (output,), attributes, {"direction": turned})


def sum_pool(
    source: str,
    output: str,
    *,
    kernel: tuple[int, int] = (2, 2),
    stride: tuple[int, int] = (2, 2),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> Node:
    return Node("sum_pool", output, (source,), (output,), {"kernel": kernel, "stride": stride, "padding": padding})


def reshape(source: str, output: str, *shape: int) -> Node:
    return Node("reshape", output, (source,), (output,), {"shape": shape})


def affine(source: str, output: str, slope: npt.ArrayLike, offset: npt.ArrayLike) -> Node:
    arrays = {"slope": np.asarray(slope, np.float32), "offset": np.asarray(offset, np.float32)}
    return Node("affine", output, (source,), (output,), {}, arrays)


def dense(source: str, output: str, weight: Array, bias: Array | None = None) -> Node:
    return Node(
        "dense", output, (source,), (output,), {}, {"weight": weight} | ({} if bias is None else {"bias": bias})
    )


def threshold(
    source: str,
    output: str,
    thresholds: Array,
    *,
    direction: Array | None = None,
    mask_low: Array | None = None,
    mask_high: Array | None = None,
    slope: npt.ArrayLike | None = None,
    offset: npt.ArrayLike | None = None,
    window: Interval | None = None,
    low: int = 0,
    step: int = 1,
    scale: float = 1.0,
    rectified: int = 0,
) -> Node:
    """A quantizer from its thresholds; what is left out is the plainest there is."""
    channels = len(thresholds)
    window = Interval(-1.0, 1.0, True, True) if window is None else window
    span = 2**24 if thresholds.dtype == np.int32 else np.finfo(np.float32).max
    arrays: dict[str, Array] = {
        "thresholds": thresholds,
        "direction": np.ones(channels, np.int8) if direction is None else direction,
        "mask_low": np.full(channels, -span, thresholds.dtype) if mask_low is None else mask_low,
        "mask_high": np.full(channels, span, thresholds.dtype) if mask_high is None else mask_high,
        "slope": np.ones(channels) if slope is None else np.asarray(slope, np.float64),
        "offset": np.zeros(channels) if offset is None else np.asarray(offset, np.float64),
    }
    attributes: dict[str, Attribute] = {
        "low": low,
        "step": step,
        "scale": scale,
        "rectified": rectified,
        "window_low": window.low,
        "window_high": window.high,
        "window_closed": (int(window.low_closed), int(window.high_closed)),
    }
    return Node("threshold", output, (source,), (output,), attributes, arrays)


def pact(source: str, output: str, slope: Float64, offset: Float64, bits: int, alpha: float) -> Node:
    """PACT after a batch norm: code = rint(clip(y, 0, alpha) / scale), gradient where 0 < y < alpha."""
    levels = 2**bits - 1
    scale = alpha / levels
    halves = np.arange(levels) + 0.5
    thresholds, direction = channel_thresholds(slope, offset, halves * scale, np.rint(halves) > halves)
    window = Interval(0.0, alpha, False, False)
    mask_low, mask_high = mask_bounds(slope, offset, window)
    return threshold(
        source,
        output,
        thresholds,
        direction=direction,
        mask_low=mask_low,
        mask_high=mask_high,
        slope=slope,
        offset=offset,
        window=window,
        scale=scale,
    )


def sign(source: str, output: str, slope: Float64, offset: Float64) -> Node:
    """Sign after a batch norm: +1 from 0 on, gradient where |y| <= 1."""
    thresholds, direction = channel_thresholds(slope, offset, np.zeros(1), np.ones(1, bool))
    window = Interval(-1.0, 1.0, True, True)
    mask_low, mask_high = mask_bounds(slope, offset, window)
    return threshold(
        source,
        output,
        thresholds,
        direction=direction,
        mask_low=mask_low,
        mask_high=mask_high,
        slope=slope,
        offset=offset,
        window=window,
        low=-1,
        step=2,
    )


def small_network(seed: int = 1) -> Program:
    """A whole quantized network on a (1, 8, 8) image with 3 classes: 8-bit, ternary and binary weights, 2-bit and
    binary codes, a pool before and one after a quantizer, and a quantizer behind a dense layer."""
    draw = np.random.default_rng(seed)
    slopes = np.array([3e-5, -4e-5, 2e-5])
    first = draw.integers(-127, 128, (3, 1, 3, 3)).astype(np.int8)
    second = draw.integers(-1, 2, (4, 3, 3, 3)).astype(np.int8)
    third = draw.choice([-1, 1], (6, 4 * 2 * 2)).astype(np.int8)
    last = draw.integers(-7, 8, (3, 6)).astype(np.int8)
    nodes = (
        conv2d("image", "conv1", first, padding=(1, 1, 1, 1)),
        max_pool("conv1", "pool1", 3, direction=np.where(slopes < 0, -1, 1).astype(np.int8)),
        pact("pool1", "act1", slopes, np.array([0.1, 0.9, -0.2]), bits=2, alpha=1.5),
        conv2d("act1", "conv2", second, padding=(1, 1, 1, 1)),
        sign("conv2", "act2", np.array([0.21, -0.17, 0.33, 0.14]), np.array([0.1, 0.2, -0.3, 0.05])),
        max_pool("act2", "pool2", 4),
        reshape("pool2", "flat", 16),
        dense("flat", "dense1", third),
        pact(
            "dense1", "act3", np.array([0.2, 0.1, -0.15, 0.2, 0.3, 0.12]), np.linspace(0.2, 1.2, 6), bits=4, alpha=2.0
        ),
        dense("act3", "sums", last),
        affine("sums", "logits", [0.011, 0.012, 0.013], [0.1, -0.2, 0.3]),
    )
    metadata = {"labels": list(LABELS), "precision": "mixed"}
    return Program((image_input((1, 8, 8)),), nodes, ("logits", "sums"), metadata)


def small_twin(seed: int = 2) -> Program:
    """A full-precision network on a (1, 8, 8) image with 3 classes."""
    draw = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        return (0.4 * draw.standard_normal(shape)).astype(np.float32)

    nodes = (
        conv2d("image", "conv1", normal(4, 1, 3, 3), padding=(1, 1, 1, 1), bias=normal(4)),
        Node("relu", "act1", ("conv1",), ("act1",)),
        max_pool("act1", "pool1", 4),
        conv2d("pool1", "conv2", normal(5, 4, 3, 3), bias=normal(5)),
        Node("relu", "act2", ("conv2",), ("act2",)),
        sum_pool("act2", "pool2"),
        reshape("pool2", "flat", 5),
        dense("flat", "logits", normal(3, 5), normal(3)),
    )
    return Program((image_input((1, 8, 8), is_float=True),), nodes, ("logits",), {"labels": list(LABELS)})


def residual_network(seed: int = 3) -> Program:
    """A Bi-Real block: real values flow around a binary convolution and meet again; the sum is read twice."""
    draw = np.random.default_rng(seed)
    weight = draw.choice([-1, 1], (2, 2, 3, 3)).astype(np.int8)
    window = Interval(-1.0, 1.0, True, True)
    one, zero = np.ones(2), np.zeros(2)
    edges = mask_bounds(one, zero, window, is_float=True)
    binary = {"mask_low": edges[0], "mask_high": edges[1], "slope": one, "offset": zero, "low": -1, "step": 2}

    def real_sign(source: str, output: str) -> Node:
        return threshold(source, output, np.zeros((2, 1), np.float32), window=window, **binary)  # type: ignore[arg-type]

    nodes = (
        conv2d("image", "conv1", draw.integers(-9, 10, (2, 1, 3, 3)).astype(np.int8), padding=(1, 1, 1, 1)),
        affine("conv1", "real1", [2e-4, -3e-4], [0.1, -0.1]),
        real_sign("real1", "act1"),
        conv2d("act1", "conv2", weight, padding=(1, 1, 1, 1), pad=np.array([-1, 1], np.int16)),
        affine("conv2", "real2", [0.05, 0.04], [0.02, -0.03]),
        Node("add", "real3", ("real1", "real2"), ("real3",)),
        real_sign("real3", "act2"),
        conv2d("act2", "conv3", weight[::-1].copy(), padding=(1, 1, 1, 1)),
        affine("conv3", "real4", [-0.03, 0.06], [0.0, 0.01]),
        Node("add", "real5", ("real3", "real4"), ("real5",)),
        real_sign("real5", "act3"),
        sum_pool("act3", "pooled", kernel=(3, 3), stride=(3, 3)),
        reshape("pooled", "flat", 8),
        dense("flat", "sums", draw.integers(-7, 8, (3, 8)).astype(np.int8)),
        affine("sums", "logits", [0.1, 0.2, 0.3], [0.0, 0.1, 0.2]),
    )
    return Program((image_input((1, 6, 6)),), nodes, ("logits", "sums"), {"labels": list(LABELS)})


def binary_network(layers: int, channels: int = 64) -> Program:
    """Binary 3x3 layers of one size behind a first one, and a binary dense layer: wide enough for bytes."""
    draw = np.random.default_rng(layers)
    nodes: list[Node] = []
    inputs, name = 3, "image"
    for place in range(layers + 1):
        weight = draw.choice(np.array([-1, 1], np.int8), (channels, inputs, 3, 3))
        nodes.append(conv2d(name, f"conv{place}", weight, padding=(1, 1, 1, 1), pad=_pad(inputs, place)))
        slopes = draw.choice([-1e-2, 1e-2], channels)
        nodes.append(sign(f"conv{place}", f"act{place}", slopes, draw.normal(0, 0.1, channels)))
        inputs, name = channels, f"act{place}"
    nodes.append(reshape(name, "flat", channels * 36))
    nodes.append(dense("flat", "sums", draw.choice(np.array([-1, 1], np.int8), (3, channels * 36))))
    nodes.append(affine("sums", "logits", [0.1, 0.1, 0.1], [0.0, 0.0, 0.0]))
    return Program((image_input((3, 6, 6)),), tuple(nodes), ("logits", "sums"), {"labels": list(LABELS)})


def _pad(channels: int, place: int) -> npt.NDArray[np.int16]:
    return np.full(channels, -1 if place else 0, np.int16)


def images_for(program: Program, count: int, seed: int = 5) -> npt.NDArray[np.uint8]:
    """Random pictures of the program's size."""
    return np.random.default_rng(seed).integers(0, 256, (count, *program.image_type.shape)).astype(np.uint8)
