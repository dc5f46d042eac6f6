"""How the forward ops with weights are laid out; a dense layer is a convolution whose kernel is the whole map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bitlens.runtime.native.border import NO_BORDER, first_pixel
from bitlens.runtime.native.builder import Builder
from bitlens.runtime.native.codes import layer_demand
from bitlens.runtime.native.convolution import float_convolution, integer_convolution
from bitlens.runtime.native.rows import NARROW, WIDE, Rows, Source, Stage, bias_record, window_record
from bitlens.runtime.native.rules import register_rule
from bitlens.runtime.ops.conv2d import conv2d_window
from bitlens.runtime.ops.window import Window
from bitlens.runtime.program import Array, Node


@register_rule("conv2d")
def conv2d(builder: Builder, node: Node) -> None:
    """Have the convolution pending; one with groups is computed in a plain loop."""
    _convolve(builder, node, node.arrays["weight"], conv2d_window(node), node.integer("groups"))


@register_rule("dense")
def dense(builder: Builder, node: Node) -> None:
    """Have the convolution pending that covers the whole map."""
    channels, height, width = builder.graph.map_of(node.inputs[0])
    weight = node.arrays["weight"].reshape(-1, channels, height, width)
    _convolve(builder, node, weight, Window((height, width), (1, 1), NO_BORDER), groups=1)


def _convolve(builder: Builder, node: Node, weight: Array, window: Window, groups: int) -> None:
    if weight.dtype == np.float32:
        source = _float_source(builder, node, weight, window, groups)
        bias = bias_record(node.arrays["bias"])
        builder.pending[node.outputs[0]] = Rows([source], Stage.AFFINE, {"affine": bias})
        return
    name = builder.graph.stored_name(node.inputs[0])
    size = builder.graph.map_of(node.outputs[0])[1:]
    is_image = name == builder.graph.program.inputs[0].name
    if is_image and "u8" in builder.image:  # twice: of bytes where they hold an image's codes, else of int16
        narrow, wide = builder.image["u8"], builder.image["i16"]
        sources = [
            integer_convolution(narrow, weight, window, size, span=255, is_image=True, variant=NARROW),
            integer_convolution(wide, weight, window, size, is_image=True, variant=WIDE),
        ]
    else:
        demand = layer_demand(builder.graph, builder.plan, node, name)
        if demand.form == "i32":
            _convolve_directly(builder, node, weight, window, groups)
            return
        codes = builder.codes_as(name, replace(demand, form="i16") if is_image else demand)
        span = max(builder.graph.types[name].high, *demand.fill) - codes.low
        in_place = codes in builder.image.values()
        sources = [integer_convolution(codes, weight, window, size, span=span, is_image=in_place)]
    builder.pending[node.outputs[0]] = Rows(sources)


def _float_source(builder: Builder, node: Node, weight: Array, window: Window, groups: int) -> Source:
    size = builder.graph.map_of(node.outputs[0])[1:]
    if groups == 1:
        buffer, border = builder.real_with_border(node.inputs[0])
        return float_convolution(buffer, weight, first_pixel(border, window), size, window.stride)
    sums = builder.buffer("f32", builder.graph.map_of(node.outputs[0]))
    bits = np.ascontiguousarray(weight).reshape(-1).view(np.int32)
    source = builder.real(node.inputs[0])
    builder.plan.direct(source, sums, groups, weight.shape[0], window_record(window), bits, False)
    return Source(None, sums, size=size)


def _convolve_directly(builder: Builder, node: Node, weight: Array, window: Window, groups: int) -> None:
    """Compute in a plain loop over int32 what no kernel takes: groups, and codes beyond int16."""
    name = builder.graph.stored_name(node.inputs[0])
    source = builder.codes_as(name, layer_demand(builder.graph, builder.plan, node, name)).buffer
    sums = builder.int32_buffer(node.outputs[0])
    weights = weight.astype(np.int32).reshape(-1)
    builder.plan.direct(source, sums, groups, weight.shape[0], window_record(window), weights, False)
