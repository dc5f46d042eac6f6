"""PyTorch, eager."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from bench.standard_network import (
    Convolution,
    Dense,
    GlobalAverage,
    MaxPool,
    Reals,
    StandardNetwork,
    Sum,
    channels_first,
    map_paddings,
    tensor_shapes,
)

Values = dict[str, torch.Tensor]


def _steps(network: StandardNetwork) -> list[Callable[[Values], None]]:
    shapes = tensor_shapes(network)

    def step(layer: Convolution | MaxPool | Sum | GlobalAverage | Dense) -> Callable[[Values], None]:
        if isinstance(layer, Sum):
            first, second = layer.sources
            return lambda values: values.update({layer.output: torch.relu(values[first] + values[second])})
        if isinstance(layer, GlobalAverage):
            return lambda values: values.update({layer.output: values[layer.source].mean(dim=(2, 3))})
        if isinstance(layer, Dense):
            matrix = torch.from_numpy(channels_first(layer, shapes[layer.source]))
            offset = torch.from_numpy(layer.bias)
            return lambda values: values.update(
                {layer.output: functional.linear(values[layer.source].flatten(1), matrix, offset)}
            )
        side = layer.kernel if isinstance(layer, MaxPool) else layer.weight.shape[2]
        (top, bottom), (left, right) = map_paddings(shapes[layer.source], side, layer.stride)
        even = (top, left) == (bottom, right)
        fill = float("-inf") if isinstance(layer, MaxPool) else 0.0

        def padded(values: Values) -> torch.Tensor:
            source = values[layer.source]
            return source if even else functional.pad(source, (left, right, top, bottom), value=fill)

        padding = (top, left) if even else (0, 0)
        if isinstance(layer, MaxPool):
            kernel, stride, output = layer.kernel, layer.stride, layer.output
            return lambda values: values.update(
                {output: functional.max_pool2d(padded(values), kernel, stride, padding)}
            )
        weight, bias, relu = torch.from_numpy(layer.weight), torch.from_numpy(layer.bias), layer.relu

        def convolve(values: Values) -> None:
            sums = functional.conv2d(padded(values), weight, bias, layer.stride, padding)
            values[layer.output] = torch.relu(sums) if relu else sums

        return convolve

    return [step(layer) for layer in network.layers]


def open_forward(network: StandardNetwork, image: Reals) -> Callable[[], Reals]:
    """Give a call that runs a network on the image (C, H, W)."""
    torch.set_num_threads(1)
    steps, fed = _steps(network), torch.from_numpy(image[None].astype(np.float32))

    def run() -> Reals:
        values = {"image": fed}
        with torch.inference_mode():
            for step in steps:
                step(values)
        result: Reals = values[network.output][0].numpy()
        return result

    return run


def open_gradient(network: StandardNetwork, image: Reals, target: int) -> Callable[[], Reals]:
    """Give a call that runs a network and computes d output[target] / d image (C, H, W)."""
    torch.set_num_threads(1)
    steps = _steps(network)
    fed = torch.from_numpy(image[None].astype(np.float32)).requires_grad_()

    def run() -> Reals:
        values: Values = {"image": fed}
        for step in steps:
            step(values)
        (gradient,) = torch.autograd.grad(values[network.output][0, target], fed)
        result: Reals = gradient[0].numpy()
        return result

    return run
