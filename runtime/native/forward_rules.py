"""How the ops of a forward pass are laid out; `convolution_rules.py` has those with weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.native.border import NO_BORDER, first_pixel, pool_border
from bitlens.runtime.native.builder import Builder
from bitlens.runtime.native.codes import Demand, int32_demand, layer_demands
from bitlens.runtime.native.quantizer import MaskBox, never_winning, threshold_record, turn_record
from bitlens.runtime.native.rows import Rows, Source, Stage, affine_record, window_record
from bitlens.runtime.native.rules import register_rule
from bitlens.runtime.ops.window import Window, padding_of, window_of
from bitlens.runtime.program import Array, Node


@register_rule("threshold")
def quantize(builder: Builder, node: Node) -> None:
    """Write codes in the form that the first reader wants, and the mask, in the sweep that computes the sums."""
    graph, name, target = builder.graph, node.inputs[0], node.outputs[0]
    channels = graph.map_of(target)[0]
    demand = next(iter(layer_demands(graph, builder.plan, target)), int32_demand(channels))
    if demand.form not in ("bits", "planes", "u8"):  # what a quantizer can write; other forms are made from it
        low, high = graph.types[target].low, graph.types[target].high
        if high - low > 255:
            raise BitlensError(f"node {node.name!r}: codes from {low} to {high} exceed a byte")
        demand = Demand("u8", NO_BORDER, (0,) * channels)
    codes = builder.code_buffer(target, demand)
    mask_node, mask = graph.mask_reader(node), -1
    if mask_node is not None:
        mask = builder.masks[mask_node.outputs[0]] = builder.buffer("mask", graph.map_of(target))
        builder.boxes[node.name] = MaskBox(mask, node.arrays["direction"])
    code_step = node.integer("step") if demand.form == "u8" else 1
    stored: dict[str, Any] = {"threshold": threshold_record(node, code_step, codes.buffer, mask)}
    rows = builder.pending.pop(name, None)
    others = [reader for reader in graph.readers[name] if reader is not node and reader is not mask_node]
    if rows is None:
        rows = builder.rows_for(node, name, Stage.SUMS)
    elif name not in graph.outputs and [reader.op for reader in others] == ["affine"] and graph.types[name].is_integer:
        # Its real values are stored in place of the sums, which nobody else wants.
        slope, offset = (others[0].arrays[array] for array in ("slope", "offset"))
        stored["affine"], stored["thresholds_sums"] = affine_record(slope, offset), True
        stored["reals"] = builder.real_buffer(others[0].outputs[0])
    elif others or name in graph.outputs:
        stored |= builder.stored_beside(name, rows)
    builder.emit(rows, name, stored)


@register_rule("ste_mask")
def mask(builder: Builder, node: Node) -> None:
    """Do nothing: the quantizer has written the mask."""
    if node.outputs[0] not in builder.masks:
        raise BitlensError(f"node {node.name!r}: a mask without its quantizer")


@register_rule("affine")
def affine(builder: Builder, node: Node) -> None:
    """Map the rows to real values, unless a quantizer of the same sums has done so."""
    if node.outputs[0] in builder.reals:
        return
    _map_rows(builder, node, node.arrays["slope"], node.arrays["offset"])


@register_rule("channel_scale")
def channel_scale(builder: Builder, node: Node) -> None:
    """Scale the rows, unless the convolution's gradient has done so."""
    if node.outputs[0] in builder.reals:
        return
    _map_rows(builder, node, node.arrays["scale"], np.zeros_like(node.arrays["scale"]))


def _map_rows(builder: Builder, node: Node, slope: Array, offset: Array) -> None:
    rows = builder.rows_for(node, node.inputs[0], Stage.AFFINE)
    builder.pending[node.outputs[0]] = rows.advance(Stage.AFFINE, "affine", affine_record(slope, offset))


@register_rule("add")
def add(builder: Builder, node: Node) -> None:
    """Add a stored tensor to the rows of the other; the left one's, unless only the right one's are pending."""
    left, right = node.inputs
    is_right_extended = not _extends(builder, node, left) and _extends(builder, node, right)
    first, second = (right, left) if is_right_extended else (left, right)
    addend = builder.real(second)
    rows = builder.rows_for(node, first, Stage.ADDED)
    builder.addends[node.outputs[0]] = second
    builder.pending[node.outputs[0]] = rows.advance(Stage.ADDED, "addend", addend)


def _extends(builder: Builder, node: Node, name: str) -> bool:
    rows = builder.pending.get(name)
    return rows is not None and builder.graph.is_only_reader(node, name) and rows.stage < Stage.ADDED


@register_rule("max_pool")
def max_pool(builder: Builder, node: Node) -> None:
    """Pool in the sweep that computes the sums, else in one over the stored map; real maps in a plain loop."""
    graph, name, target = builder.graph, node.inputs[0], node.outputs[0]
    window, turn = window_of(node), turn_record(node.arrays["direction"])
    index = -1
    if len(node.outputs) > 1 and node.outputs[1] in graph.readers:
        index = builder.indices[node.outputs[1]] = builder.buffer("index", graph.map_of(target))
    if not graph.types[name].is_integer:
        source, result = builder.real(name), builder.real_buffer(target)
        builder.plan.max_pool(source, result, index, window_record(window), turn[: graph.map_of(target)[0]])
        return
    rows = builder.pending.get(name)
    if rows is not None and graph.is_only_reader(node, name) and rows.are_swept:
        del builder.pending[name]
    else:
        _, height, width = graph.map_of(name)
        border = pool_border(height, width, window)
        codes = builder.codes_as(name, Demand("i32", border, never_winning(node)))
        rows = Rows([Source(None, codes.buffer, first_pixel(codes.border, window))])
        window = Window(window.kernel, window.stride, NO_BORDER)  # it starts in the border
    pool = {"window": window_record(window), "turn": turn, "index": index}
    builder.pending[target] = rows.advance(Stage.POOLED, "pool", pool)
    if target not in graph.readers:  # only its index is wanted, which is written with it
        builder.store(target)


@register_rule("sum_pool")
def sum_pool(builder: Builder, node: Node) -> None:
    """Sum windows in a plain loop, of bytes where codes lie in bytes."""
    graph, plan, name, target = builder.graph, builder.plan, node.inputs[0], node.outputs[0]
    window = window_record(window_of(node))
    if not graph.types[target].is_integer:
        plan.sum_pool(builder.real(name), builder.real_buffer(target), window, 0)
        return
    demands = [demand for demand in layer_demands(graph, plan, target) if demand.form == "i16"]
    demand = demands[0] if demands else int32_demand(graph.map_of(target)[0])
    as_bytes = next((codes for codes in builder.codes.get(name, []) if codes.form == "u8"), None)
    result = builder.code_buffer(target, demand).buffer
    if as_bytes is not None:
        plan.sum_pool(as_bytes.buffer, result, window, as_bytes.low)
    else:
        plan.sum_pool(builder.integers(name), result, window, 0)


@register_rule("relu")
def relu(builder: Builder, node: Node) -> None:
    """Rectify a stored map."""
    builder.plan.relu(builder.real(node.inputs[0]), builder.real_buffer(node.outputs[0]))


@register_rule("reshape")
def reshape(builder: Builder, node: Node) -> None:
    """Copy into another order, unless the target is a view."""
    graph, name, target = builder.graph, node.inputs[0], node.outputs[0]
    if graph.is_view(node):
        return
    if graph.types[name].is_integer:
        result = builder.int32_buffer(target)
        builder.plan.reshape(builder.integers(name), result)
    elif target not in builder.reals:  # a dense layer's gradient has been laid out as the map already
        builder.plan.reshape(builder.real(name), builder.real_buffer(target))


@register_rule("pad")
def pad(builder: Builder, node: Node) -> None:
    """Copy a map into the middle of a larger one."""
    top, left, _, _ = padding_of(node)
    _move(builder, node, node.arrays["fill"], top, left)


@register_rule("crop")
def crop(builder: Builder, node: Node) -> None:
    """Copy the middle of a map."""
    top, left, _, _ = padding_of(node)
    _move(builder, node, np.zeros(builder.graph.map_of(node.outputs[0])[0], np.float32), -top, -left)


def _move(builder: Builder, node: Node, fill: Array, down: int, right: int) -> None:
    name, target = node.inputs[0], node.outputs[0]
    if builder.graph.types[name].is_integer:
        result = builder.int32_buffer(target)
        builder.plan.move(builder.integers(name), result, down, right, fill.astype(np.int32))
    else:
        bits = np.ascontiguousarray(fill, np.float32).view(np.int32)
        builder.plan.move(builder.real(name), builder.real_buffer(target), down, right, bits)
