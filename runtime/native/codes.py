"""Integer tensors in memory: in which form (`runtime/kernels/kernel.h`), and which form a layer wants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bitlens.runtime.native.border import NO_BORDER, Border, union
from bitlens.runtime.native.graph import Graph
from bitlens.runtime.ops.conv2d import conv2d_window, pad_codes
from bitlens.runtime.program import Array, Node


@dataclass(frozen=True)
class Codes:
    """An integer tensor in a buffer: code = low + step * stored.

    Parameters
    ----------
    buffer : int
    form : str
        `bits`, `planes`, `u8`, `i16` or `i32`; `mask` for a straight-through mask.
    border : Border
    fill : tuple of int
        Codes of the border, one per channel; of no account where there is none.
    low, step : int
    """

    buffer: int
    form: str
    border: Border
    fill: tuple[int, ...]
    low: int
    step: int


@dataclass(frozen=True)
class Demand:
    """What a reader wants of an integer tensor: its form, a border, and the codes in it, one per channel."""

    form: str
    border: Border
    fill: tuple[int, ...]


def int32_demand(channels: int) -> Demand:
    """Demand plain int32, which every integer tensor fits."""
    return Demand("i32", NO_BORDER, (0,) * channels)


def layer_demand(graph: Graph, plan: Any, node: Node, name: str) -> Demand:
    """Give what a `conv2d` or `dense` wants of the codes `name`."""
    channels = graph.map_of(name)[0]
    form = form_for(graph, plan, node, name)
    if node.op == "dense":
        return Demand(form, NO_BORDER, (0,) * channels)
    return Demand(form, conv2d_window(node).padding, tuple(int(code) for code in pad_codes(node, channels)))


def layer_demands(graph: Graph, plan: Any, name: str) -> list[Demand]:
    """Give what all layers that read `name` want, as few demands as serve them: borders united, first reader first."""
    found: list[Demand] = []
    for reader in graph.readers_through_views(name):
        if reader.op not in ("conv2d", "dense"):
            continue
        demand = layer_demand(graph, plan, reader, name)
        for place, other in enumerate(found):
            if other.form == demand.form and (other.fill == demand.fill or NO_BORDER in (other.border, demand.border)):
                fill = demand.fill if other.border == NO_BORDER else other.fill
                found[place] = Demand(other.form, union(other.border, demand.border), fill)
                break
        else:
            found.append(demand)
    return found


def form_for(graph: Graph, plan: Any, node: Node, name: str) -> str:
    """Give the form of the codes `name` that suits a layer's weights and this processor; `i32` where no kernel does."""
    source, weight, step = graph.types[name], node.arrays["weight"], graph.code_step(name)
    if node.op == "conv2d" and node.integer("groups") > 1:
        return "i32"
    padding = conv2d_window(node).padding if node.op == "conv2d" else NO_BORDER
    pad = pad_codes(node, source.shape[0]) if any(padding) else np.array([source.low])
    is_sign = (source.low, source.high, step) == (-1, 1, 2) and np.isin(pad, (-1, 1)).all()
    if is_sign and np.isin(weight, (-1, 1)).all():
        return "bits"
    is_two_bits = (source.low, source.high, step) == (0, 3, 1) and pad.min() >= 0 and pad.max() <= 3
    if is_two_bits and np.isin(weight, (-1, 0, 1)).all() and _planes_are_faster(plan, weight.shape[0]):
        return "planes"
    low, high = min(source.low, int(pad.min())), max(source.high, int(pad.max()))
    if low == source.low and high - low <= 255 and weight.min() >= -128 and weight.max() <= 127:
        return "u8"
    return "i16" if low >= -(2**15) and high < 2**15 else "i32"


def _planes_are_faster(plan: Any, outputs: int) -> bool:
    """Whether bit planes beat bytes: wherever they have a kernel of their own (Arm's SDOT included, docs/boards.md)."""
    bit_serial: str = plan.kernel("conv2d_w2a2", outputs, 0)
    return not bit_serial.endswith("__scalar")


def stored_as(graph: Graph, form: str, name: str) -> tuple[int, int]:
    """Give low and step of the tensor `name` in a form: wide forms store the codes themselves."""
    if form in ("i16", "i32"):
        return 0, 1
    return graph.types[name].low, 1 if form == "u8" else graph.code_step(name)


def stored_fill(demand: Demand, low: int, step: int) -> Array:
    """Give what stands in the border of a buffer that answers a demand."""
    if demand.border == NO_BORDER:  # nobody reads it, and its codes need not fit the form
        return np.zeros(len(demand.fill))
    return (np.asarray(demand.fill, np.int64) - low) // step
