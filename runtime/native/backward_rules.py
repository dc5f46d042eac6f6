"""How the ops of a gradient program are laid out: real maps, whose convolutions may read bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bitlens.runtime.native.border import NO_BORDER, Border
from bitlens.runtime.native.builder import Builder
from bitlens.runtime.native.convolution import GRADIENT_ZERO, Pair, byte_convolution, float_convolution
from bitlens.runtime.native.packing import WORD, rounded_up
from bitlens.runtime.native.phases import gradient_phases, is_gathered, phases_border
from bitlens.runtime.native.rows import Rows, Source, Stage, affine_record, channel_record, scale_record, window_record
from bitlens.runtime.native.rules import register_rule
from bitlens.runtime.native.tiles import Tiling, gradient_tiling
from bitlens.runtime.ops.conv2d import conv2d_window
from bitlens.runtime.ops.window import Window, window_of
from bitlens.runtime.program import Array, Node


@register_rule("ste_gradient")
def pass_straight_through(builder: Builder, node: Node) -> None:
    """Multiply the rows by the gain where the mask is set."""
    gradient, mask, _ = node.inputs
    rows = builder.rows_for(node, gradient, Stage.STRAIGHT_THROUGH)
    record = {"mask": builder.masks[mask], "gain": channel_record(node.arrays["gain"])}
    builder.pending[node.outputs[0]] = rows.advance(Stage.STRAIGHT_THROUGH, "straight_through", record)


@register_rule("conv2d_input_gradient")
def convolve_back(builder: Builder, node: Node) -> None:
    """Have a convolution of stride 1 pending for each phase; few channels are gathered or computed in tiles.

    Those few take real numbers, `Builder.takes_bytes`. Groups run in a plain loop.
    """
    if node.integer("groups") > 1:
        _convolve_back_directly(builder, node)
    elif is_gathered(node):
        _gather(builder, node)
    elif (tiling := gradient_tiling(node)) is not None:
        _convolve_back_in_tiles(builder, node, tiling)
    else:
        _convolve_back_in_phases(builder, node)


def _convolve_back_directly(builder: Builder, node: Node) -> None:
    weight = node.arrays["weight"]
    bits = np.ascontiguousarray(weight, np.float32).reshape(-1).view(np.int32)
    source, target = builder.real(node.inputs[0]), builder.real_buffer(node.outputs[0])
    window = window_record(conv2d_window(node))
    builder.plan.direct(source, target, node.integer("groups"), weight.shape[0], window, bits, True)


def _convolve_back_in_phases(builder: Builder, node: Node) -> None:
    phases = gradient_phases(node)
    arriving = _arriving(builder, node, phases_border(phases))
    sources = []
    for phase in phases:
        source = arriving.convolution(phase.weight, phase.first, phase.size)
        sources.append(replace(source, origin=phase.origin))
    builder.pending[node.outputs[0]] = arriving.scaled(sources, node.arrays["weight"].shape[1])


def _convolve_back_in_tiles(builder: Builder, node: Node, tiling: Tiling) -> None:
    graph, target, channels = builder.graph, node.outputs[0], tiling.weight.shape[0]
    buffer, border = builder.real_with_border(node.inputs[0])
    first = (border[0] + tiling.first[0], border[1] + tiling.first[1])
    source = float_convolution(buffer, tiling.weight, first, tiling.size, tiling.stride)
    tiles = builder.buffer("f32", (channels, *tiling.size))
    factors = np.ones(channels, np.float32)
    reader = graph.readers.get(target, [None])[0]
    if reader is not None and reader.op == "channel_scale" and graph.is_only_reader(reader, target):
        # Scaled here, where the map is a quarter as large in memory.
        factors, target = np.resize(reader.arrays["scale"], channels), reader.outputs[0]
    stored = {"affine": affine_record(factors, np.zeros(channels)), "reals": tiles}
    builder.emit_source(source, channels, tiling.size, stored)
    builder.plan.depth_to_space(tiles, builder.real_buffer(target), list(tiling.tile))


def _gather(builder: Builder, node: Node) -> None:
    """Compute the gradient of few channels tap by tap: a block of 32 outputs is then full, not a tenth."""
    name, target = node.inputs[0], node.outputs[0]
    outputs, channels, high, wide = node.arrays["weight"].shape
    taps = high * wide * channels
    _, rows, columns = builder.graph.map_of(name)
    buffer, border = builder.real_with_border(name)
    weight = node.arrays["weight"].transpose(2, 3, 1, 0).reshape(taps, outputs, 1, 1)
    products = builder.buffer("f32", (taps, rows, columns))
    source = float_convolution(buffer, weight, border[:2], (rows, columns))
    builder.emit_source(source, taps, (rows, columns), {"sums": products})
    size = builder.graph.map_of(target)
    total = builder.buffer("f32", size)
    window = Window((high, wide), (1, 1), conv2d_window(node).padding)
    builder.plan.gather(products, total, window_record(window))
    builder.pending[target] = Rows([Source(None, total, size=size[1:])], Stage.POOLED)


@dataclass(frozen=True)
class _Arriving:
    """The gradient that a convolution's gradient reads: real, or bytes with a scale in a slot of the plan."""

    buffer: int
    border: Border
    scale_slot: int | None = None

    def convolution(self, weight: Array, first: Pair, size: Pair) -> Source:
        """Describe a convolution; `first` counts from the map's corner, not the border's."""
        convolution = float_convolution if self.scale_slot is None else byte_convolution
        return convolution(self.buffer, weight, (self.border[0] + first[0], self.border[1] + first[1]), size)

    def scaled(self, sources: list[Source], channels: int) -> Rows:
        """Give real rows of what has been computed of this gradient."""
        if self.scale_slot is None:
            return Rows(sources, Stage.POOLED)
        return Rows(sources, Stage.AFFINE, {"affine": scale_record(channels, self.scale_slot)})


def _arriving(builder: Builder, node: Node, border: Border) -> _Arriving:
    """Give the gradient in the form that `node` reads; `border` is what it reads around bytes."""
    name = node.inputs[0]
    if not builder.takes_bytes(node):
        return _Arriving(*builder.real_with_border(name))
    if (name, border) not in builder.byte_gradients:
        builder.byte_gradients[name, border] = _quantized(builder, name, border)
    buffer, slot = builder.byte_gradients[name, border]
    return _Arriving(buffer, border, slot)


def _quantized(builder: Builder, name: str, border: Border) -> tuple[int, int]:
    """Have a gradient brought into bytes, and give their buffer and the slot of their scale.

    That of a max-pool which nobody else reads is not stored: the bytes of the pooled gradient go to the winners. Nor is
    one that is only scaled: its factors are part of the conversion.
    """
    plan, channels = builder.plan, builder.graph.map_of(name)[0]
    target = builder.buffer("u8", builder.graph.map_of(name), border, np.full(channels, GRADIENT_ZERO))
    slot: int = plan.scale_slot()
    writer, slope = builder.graph.writer[name], np.zeros(0, np.float32)
    index, window = -1, Window((1, 1), (1, 1), NO_BORDER)
    if writer.op == "max_pool_gradient" and name not in builder.reals:
        source, index = builder.real(writer.inputs[0]), builder.indices[writer.inputs[1]]
        window = window_of(writer)
    elif writer.op == "channel_scale" and _is_wanted_as_bytes(builder, name) and builder.are_mapped_pixels(name):
        rows = builder.pending.pop(name)
        source, slope = rows.sources[0].buffer, rows.epilogue["affine"]["slope"]
    else:
        source = builder.real(name)
    plan.magnitude(source, slot, slope)
    plan.quantize(source, slot, slope, index, window_record(window), target)
    return target, slot


@register_rule("dense_input_gradient")
def dense_back(builder: Builder, node: Node) -> None:
    """Have a convolution with the transposed weights pending, or compute a map where the gradient becomes one."""
    name, target = node.inputs[0], node.outputs[0]
    buffer, border = builder.real_with_border(name)
    reshape = _reshape_to_map(builder, target)
    if reshape is None:
        source = _transposed(buffer, border, node.arrays["weight"])
        builder.pending[target] = Rows([source], Stage.POOLED)
        return
    # In the order of the map, its channels padded as they lie in memory, so that the map is a view of the flat buffer.
    channels, height, width = builder.graph.map_of(reshape.outputs[0])
    pitch = WORD // 2 if channels <= WORD // 2 else rounded_up(channels, WORD)
    weight = node.arrays["weight"].reshape(-1, channels, height, width)
    spread = np.zeros((weight.shape[0], height, width, pitch), weight.dtype)
    spread[..., :channels] = weight.transpose(0, 2, 3, 1)
    source = _transposed(buffer, border, spread.reshape(weight.shape[0], -1))
    elements = height * width * pitch
    flat = builder.buffer("f32", (elements, 1, 1))
    builder.emit_source(source, elements, source.size, {"sums": flat})
    builder.reals[reshape.outputs[0]] = builder.plan.view(flat, channels, height, width)
    builder.real_borders[reshape.outputs[0]] = NO_BORDER


def _transposed(buffer: int, border: Border, weight: Array) -> Source:
    return float_convolution(buffer, np.ascontiguousarray(weight.T)[:, :, None, None], border[:2], (1, 1))


def _reshape_to_map(builder: Builder, name: str) -> Node | None:
    """Give the reshape that makes a map of a flat gradient, if nothing else reads either and no border is wanted."""
    graph = builder.graph
    reshapes = [reader for reader in graph.readers.get(name, []) if reader.op == "reshape"]
    if len(reshapes) != 1 or not graph.is_only_reader(reshapes[0], name) or graph.is_view(reshapes[0]):
        return None
    return reshapes[0] if builder.real_border(reshapes[0].outputs[0]) == NO_BORDER else None


@register_rule("max_pool_gradient")
def pool_back(builder: Builder, node: Node) -> None:
    """Send the gradient to the winners in a plain loop, unless only bytes of it are wanted, see `_quantized`."""
    gradient, index = node.inputs
    name, window = node.outputs[0], window_of(node)
    if _is_wanted_as_bytes(builder, name) and _are_apart(window):
        return
    target = builder.real_buffer(name)
    builder.plan.max_pool_gradient(builder.real(gradient), builder.indices[index], target, window_record(window))


def _is_wanted_as_bytes(builder: Builder, name: str) -> bool:
    readers = builder.graph.readers.get(name, [])
    if name in builder.graph.outputs or len(readers) != 1:
        return False
    return readers[0].op == "conv2d_input_gradient" and builder.takes_bytes(readers[0])


def _are_apart(window: Window) -> bool:
    """Whether no two windows of a pool overlap, and none reaches over the edge: a pixel then wins at most once."""
    is_apart = window.stride[0] >= window.kernel[0] and window.stride[1] >= window.kernel[1]
    return is_apart and not any(window.padding)


@register_rule("sum_pool_gradient")
def sum_pool_back(builder: Builder, node: Node) -> None:
    """Spread the gradient in a plain loop."""
    source, target = builder.real(node.inputs[0]), builder.real_buffer(node.outputs[0])
    builder.plan.sum_pool_gradient(source, target, window_record(window_of(node)))


@register_rule("relu_gradient")
def relu_back(builder: Builder, node: Node) -> None:
    """Pass the gradient where the activation is positive, in a plain loop."""
    gradient, activation, _ = node.inputs
    target = node.outputs[0]
    builder.plan.relu_gradient(builder.real(gradient), builder.real(activation), builder.real_buffer(target))
