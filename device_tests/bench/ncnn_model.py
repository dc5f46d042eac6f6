"""A standard network as ncnn's two files: the layers as text, the weights as numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

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

_MAGIC = 7767517


@dataclass(frozen=True)
class NcnnModel:
    """What `load_param_mem` and `load_model` take."""

    layers: str
    weights: bytes


def ncnn_model(network: StandardNetwork) -> NcnnModel:
    """Write a network down."""
    shapes = tensor_shapes(network)
    reads = Counter(name for layer in network.layers for name in _sources(layer))
    taken: Counter[str] = Counter()
    lines, weights, blobs = ["Input image 0 1 image"], b"", 1

    def read(name: str) -> str:
        """One copy of a blob for each who reads it: ncnn wants that said."""
        if reads[name] == 1:
            return name
        taken[name] += 1
        return f"{name}.{taken[name]}"

    def add(kind: str, sources: list[str], outputs: list[str], parameters: str) -> None:
        nonlocal blobs
        blobs += len(outputs)
        lines.append(f"{kind} {outputs[0]} {len(sources)} {len(outputs)} {' '.join([*sources, *outputs])} {parameters}")

    for layer in network.layers:
        name = layer.output
        if isinstance(layer, Convolution):
            (top, bottom), (left, right) = map_paddings(shapes[layer.source], layer.weight.shape[2], layer.stride)
            side, outputs = layer.weight.shape[2], len(layer.bias)
            parameters = f"0={outputs} 1={side} 11={side} 3={layer.stride} 4={left} 14={top} 15={right} 16={bottom} 5=1"
            add("Convolution", [read(layer.source)], [name], f"{parameters} 6={layer.weight.size} 9={int(layer.relu)}")
            weights += _bytes(layer.weight, layer.bias)
        elif isinstance(layer, MaxPool):
            (top, bottom), (left, right) = map_paddings(shapes[layer.source], layer.kernel, layer.stride)
            parameters = f"0=0 1={layer.kernel} 2={layer.stride} 3={left} 13={top} 14={right} 15={bottom} 5=1"
            add("Pooling", [read(layer.source)], [name], parameters)
        elif isinstance(layer, Sum):
            add("BinaryOp", [read(source) for source in layer.sources], [f"{name}.sums"], "0=0")
            add("ReLU", [f"{name}.sums"], [name], "")
        elif isinstance(layer, GlobalAverage):
            add("Pooling", [read(layer.source)], [name], "0=1 4=1")
        else:
            weight = channels_first(layer, shapes[layer.source])
            add("InnerProduct", [read(layer.source)], [name], f"0={len(layer.bias)} 1=1 2={weight.size}")
            weights += _bytes(weight, layer.bias)
        if reads[name] > 1:
            add("Split", [name], [f"{name}.{copy + 1}" for copy in range(reads[name])], "")
    return NcnnModel("\n".join([str(_MAGIC), f"{len(lines)} {blobs}", *lines, ""]), weights)


def _bytes(weight: Reals, bias: Reals) -> bytes:
    """Weights behind a tag that says float32, bias without one."""
    return bytes(4) + weight.astype("<f4").tobytes() + bias.astype("<f4").tobytes()


def _sources(layer: Convolution | MaxPool | Sum | GlobalAverage | Dense) -> tuple[str, ...]:
    return layer.sources if isinstance(layer, Sum) else (layer.source,)
