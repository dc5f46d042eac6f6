"""The float networks that other engines run: convolution, ReLU, pool, in the shapes of ours; and what they compute.

Padding is TensorFlow's SAME, which every format can say: where a stride leaves an odd number of pixels to be padded,
the extra one stands after.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.shapes import LayerShape, NetworkShape
from bitlens.runtime.errors import BitlensError

Reals = npt.NDArray[Any]  # float32 or float64


@dataclass(frozen=True)
class Convolution:
    """A convolution with bias, padded to SAME; weights (outputs, inputs, high, wide)."""

    source: str
    output: str
    weight: Reals
    bias: Reals
    stride: int
    relu: bool


@dataclass(frozen=True)
class MaxPool:
    """A pool, padded to SAME."""

    source: str
    output: str
    kernel: int
    stride: int


@dataclass(frozen=True)
class Sum:
    """The sum of two maps, then a ReLU."""

    sources: tuple[str, str]
    output: str


@dataclass(frozen=True)
class GlobalAverage:
    """The mean of each channel, (C,)."""

    source: str
    output: str


@dataclass(frozen=True)
class Dense:
    """A matrix on a vector, or on a map read row by row with its channels last; weights (outputs, inputs)."""

    source: str
    output: str
    weight: Reals
    bias: Reals


Layer = Convolution | MaxPool | Sum | GlobalAverage | Dense


@dataclass(frozen=True)
class StandardNetwork:
    """A float network of one input, `image` (C, H, W), whose last layer is its output."""

    image: tuple[int, int, int]
    layers: tuple[Layer, ...]

    @property
    def output(self) -> str:
        """Name of the output."""
        return self.layers[-1].output


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Pixels of padding before and after.

    >>> same_padding(32, 3, 1), same_padding(32, 3, 2), same_padding(32, 1, 2)
    ((1, 1), (0, 1), (0, 0))
    """
    total = max(0, (math.ceil(size / stride) - 1) * stride + kernel - size)
    return total // 2, total - total // 2


def map_paddings(shape: tuple[int, ...], kernel: int, stride: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """`same_padding` of the height and the width of a map (C, H, W)."""
    return same_padding(shape[1], kernel, stride), same_padding(shape[2], kernel, stride)


def evaluate(network: StandardNetwork, image: Reals) -> dict[str, Reals]:
    """Every tensor of a network on one image (C, H, W), in the image's dtype: what other engines are checked against.

    This is NumPy, and slow.
    """
    values: dict[str, Reals] = {"image": image}
    for layer in network.layers:
        if isinstance(layer, Convolution):
            weight = layer.weight.astype(image.dtype)
            views = _windows(values[layer.source], weight.shape[2], layer.stride, 0.0)
            sums = np.tensordot(weight, views, axes=((1, 2, 3), (0, 3, 4))) + layer.bias[:, None, None]
            result = np.maximum(sums, 0) if layer.relu else sums
        elif isinstance(layer, MaxPool):
            result = _windows(values[layer.source], layer.kernel, layer.stride, -np.inf).max(axis=(3, 4))
        elif isinstance(layer, Sum):
            result = np.maximum(values[layer.sources[0]] + values[layer.sources[1]], 0)
        elif isinstance(layer, GlobalAverage):
            result = values[layer.source].mean(axis=(1, 2))
        else:
            source = values[layer.source]
            flat = source.transpose(1, 2, 0).ravel() if source.ndim == 3 else source
            result = layer.weight.astype(image.dtype) @ flat + layer.bias
        values[layer.output] = result.astype(image.dtype)
    return values


def _windows(source: Reals, kernel: int, stride: int, fill: float) -> Reals:
    padded = np.pad(source, ((0, 0), *map_paddings(source.shape, kernel, stride)), constant_values=fill)
    windows: Reals = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(1, 2))
    return windows[:, ::stride, ::stride]


def tensor_shapes(network: StandardNetwork) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor."""
    shapes: dict[str, tuple[int, ...]] = {"image": network.image}
    for layer in network.layers:
        if isinstance(layer, Convolution | MaxPool):
            channels, *sides = shapes[layer.source]
            outputs = len(layer.bias) if isinstance(layer, Convolution) else channels
            shapes[layer.output] = (outputs, *(math.ceil(side / layer.stride) for side in sides))
        elif isinstance(layer, Sum):
            shapes[layer.output] = shapes[layer.sources[0]]
        elif isinstance(layer, GlobalAverage):
            shapes[layer.output] = shapes[layer.source][:1]
        else:
            shapes[layer.output] = (len(layer.bias),)
    return shapes


def tensor_ranges(network: StandardNetwork, images: Reals) -> Mapping[str, tuple[float, float]]:
    """Smallest and largest value of every tensor over images (N, C, H, W): what 8-bit engines are calibrated with."""
    runs = [evaluate(network, image) for image in images]
    return {
        name: (min(float(run[name].min()) for run in runs), max(float(run[name].max()) for run in runs))
        for name in runs[0]
    }


class _Builder:
    """Appends layers with weights drawn so that values keep their size (He)."""

    def __init__(self, seed: int) -> None:
        self.draw = np.random.default_rng(seed)
        self.layers: list[Layer] = []
        self.place = "image"

    def _weights(self, *shape: int) -> tuple[Reals, Reals]:
        deviation = math.sqrt(2.0 / math.prod(shape[1:]))
        weight = deviation * self.draw.standard_normal(shape)
        return weight.astype(np.float32), self.draw.uniform(-0.1, 0.1, shape[0]).astype(np.float32)

    def _append(self, layer: Layer) -> str:
        self.layers.append(layer)
        self.place = layer.output
        return layer.output

    def _name(self) -> str:
        return f"t{len(self.layers) + 1}"

    def conv(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, relu: bool = True, source: str | None = None
    ) -> str:
        weights = self._weights(outputs, inputs, kernel, kernel)
        return self._append(Convolution(source or self.place, self._name(), *weights, stride, relu))

    def pool(self, kernel: int, stride: int) -> str:
        return self._append(MaxPool(self.place, self._name(), kernel, stride))

    def dense(self, inputs: int, outputs: int) -> str:
        return self._append(Dense(self.place, self._name(), *self._weights(outputs, inputs)))

    def residual(self, inputs: int, outputs: int, stride: int) -> str:
        """Two convolutions and a shortcut, with a projection on it where the shape changes."""
        start = self.place
        self.conv(inputs, outputs, 3, stride)
        second = self.conv(outputs, outputs, 3, relu=False)
        if inputs != outputs or stride != 1:
            start = self.conv(inputs, outputs, 1, stride, relu=False, source=start)
        return self._append(Sum((second, start), self._name()))

    def average(self) -> str:
        return self._append(GlobalAverage(self.place, self._name()))


def _lenet(net: _Builder, shape: NetworkShape) -> None:
    channels, height, width = shape.image
    net.conv(channels, 16, 5)
    net.pool(2, 2)
    net.conv(16, 32, 3)
    net.pool(2, 2)
    net.conv(32, 32, 3)
    net.dense(32 * (height // 4) * (width // 4), shape.classes)


def _vgg_small(net: _Builder, shape: NetworkShape) -> None:
    channels, height, width = shape.image
    for outputs in (128, 256, 512):
        net.conv(channels, outputs, 3)
        net.conv(outputs, outputs, 3)
        net.pool(2, 2)
        channels = outputs
    net.dense(512 * (height // 8) * (width // 8), shape.classes)


def _resnet20(net: _Builder, shape: NetworkShape) -> None:
    net.conv(shape.image[0], 16, 3)
    channels = 16
    for outputs in (16, 32, 64):
        for block in range(3):
            net.residual(channels, outputs, 2 if block == 0 and outputs != 16 else 1)
            channels = outputs
    net.average()
    net.dense(channels, shape.classes)


def _resnet18(net: _Builder, shape: NetworkShape) -> None:
    net.conv(shape.image[0], 64, 7, 2)
    net.pool(3, 2)
    channels = 64
    for outputs in (64, 128, 256, 512):
        for block in range(2):
            net.residual(channels, outputs, 2 if block == 0 and outputs != 64 else 1)
            channels = outputs
    net.average()
    net.dense(channels, shape.classes)


NETWORKS: dict[str, Callable[[_Builder, NetworkShape], None]] = {
    "lenet": _lenet,
    "vgg_small": _vgg_small,
    "resnet20": _resnet20,
    "bireal_resnet18": _resnet18,
}
"""The architecture that others run for each of our models."""


def standard_network(shape: NetworkShape) -> StandardNetwork:
    """Make the network that others run, with random weights.

    Raises
    ------
    BitlensError
        If there is none for this model.
    """
    if shape.model not in NETWORKS:
        raise BitlensError(f"no standard network for {shape.model!r}: choose from {', '.join(NETWORKS)}")
    net = _Builder(seed=1)
    NETWORKS[shape.model](net, shape)
    return StandardNetwork(shape.image, tuple(net.layers))


def standard_chain(shape: LayerShape, length: int) -> StandardNetwork:
    """`length` layers with ReLU in a row."""
    net = _Builder(seed=1)
    for _ in range(length):
        net.conv(shape.channels, shape.channels, shape.kernel)
    return StandardNetwork((shape.channels, shape.height, shape.width), tuple(net.layers))


def channels_first(layer: Dense, source: tuple[int, ...]) -> Reals:
    """Weights of a dense layer whose map is read with its channels first, as ONNX, PyTorch and ncnn keep it."""
    if len(source) == 1:
        return layer.weight
    channels, height, width = source
    ordered = layer.weight.reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(ordered.reshape(len(layer.bias), -1))
