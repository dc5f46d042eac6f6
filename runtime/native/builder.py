"""A plan while it is laid out: the buffers there are, and the rows that wait for the sweep that computes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bitlens.runtime.native.border import NO_BORDER, Border, covers, pool_border, union
from bitlens.runtime.native.codes import Codes, Demand, int32_demand, stored_as, stored_fill
from bitlens.runtime.native.graph import Graph
from bitlens.runtime.native.packing import WORD
from bitlens.runtime.native.phases import is_gathered
from bitlens.runtime.native.quantizer import MaskBox, never_winning
from bitlens.runtime.native.rows import Rows, Source, Stage
from bitlens.runtime.native.tiles import input_gradient_border
from bitlens.runtime.ops.conv2d import conv2d_window
from bitlens.runtime.ops.window import window_of
from bitlens.runtime.program import Array, Node


class Builder:
    """What the rules of the ops share.

    A tensor is either stored (in `codes` or `reals`) or pending: rows that the next node may extend, so that both are
    one sweep. Whoever asks for a buffer of a pending tensor has it stored.

    Parameters
    ----------
    graph : Graph
    plan : bitlens.runtime._kernels.Plan
    int8_gradients, reuses_memory : bool
        See `lay_out`.

    Attributes
    ----------
    pending : dict of Rows
    codes : dict of list of Codes
        Integer tensors, in each form that somebody has asked for.
    reals, real_borders : dict of int, dict of Border
        Buffers of real tensors, and their borders of zeros.
    masks, indices : dict of int
        Buffers of straight-through masks, and of the winners of max-pools.
    boxes : dict of MaskBox
        By quantizer.
    image : dict of Codes
        The image by form: int16 takes any codes, bytes may stand beside it.
    floats : dict of int
        Buffers of the inputs of real values.
    byte_gradients : dict of (int, int)
        Buffer and scale slot of gradients in bytes, by tensor and border.
    addends : dict of str
        What has been added to the rows of a sum.
    """

    def __init__(self, graph: Graph, plan: Any, *, int8_gradients: bool, reuses_memory: bool) -> None:
        self.graph, self.plan = graph, plan
        self.int8_gradients, self.reuses_memory = int8_gradients, reuses_memory
        self.pending: dict[str, Rows] = {}
        self.codes: dict[str, list[Codes]] = {}
        self.reals: dict[str, int] = {}
        self.real_borders: dict[str, Border] = {}
        self.masks: dict[str, int] = {}
        self.indices: dict[str, int] = {}
        self.boxes: dict[str, MaskBox] = {}
        self.image: dict[str, Codes] = {}
        self.floats: dict[str, int] = {}
        self.byte_gradients: dict[tuple[str, Border], tuple[int, int]] = {}
        self.addends: dict[str, str] = {}
        self._finished: set[str] = set()  # nodes all of whose steps are in the plan

    def finish_node(self, node: Node) -> None:
        """Note that a node's rule has run; the node is finished unless its rows are pending."""
        if not any(name in self.pending for name in node.outputs):
            self._finished.add(node.name)

    # Buffers for tensors that are about to be computed.

    def buffer(
        self,
        form: str,
        size: tuple[int, int, int],
        border: Border = NO_BORDER,
        fill: Array | None = None,
        *,
        tight: bool = False,
    ) -> int:
        """Add a buffer to the plan; `tight`: without the padding of its channels."""
        values = np.zeros(size[0]) if fill is None else fill
        made: int = self.plan.buffer(form, *size, list(border), np.ascontiguousarray(values, np.int32), tight)
        return made

    def code_buffer(self, name: str, demand: Demand) -> Codes:
        """Make one more buffer for an integer tensor; the caller has a step fill it."""
        low, step = stored_as(self.graph, demand.form, name)
        fill = stored_fill(demand, low, step)
        buffer = self.buffer(demand.form, self.graph.map_of(name), demand.border, fill)
        made = Codes(buffer, demand.form, demand.border, demand.fill, low, step)
        self.codes.setdefault(name, []).append(made)
        return made

    def int32_buffer(self, name: str) -> int:
        """Make an int32 buffer without border for an integer tensor; the caller has a step fill it."""
        return self.code_buffer(name, int32_demand(self.graph.map_of(name)[0])).buffer

    def real_buffer(self, name: str) -> int:
        """Give the buffer of a real tensor, made with the border that its readers want."""
        if name not in self.reals:
            border = self.real_border(name)
            self.reals[name] = self.buffer("f32", self.graph.map_of(name), border)
            self.real_borders[name] = border
        return self.reals[name]

    def real_border(self, name: str) -> Border:
        """Border of zeros that the readers of a real tensor want."""
        border = NO_BORDER
        for reader in self.graph.readers_through_views(name):
            if reader.op == "conv2d":
                border = union(border, conv2d_window(reader).padding)
            elif reader.op == "conv2d_input_gradient" and not self.takes_bytes(reader) and not is_gathered(reader):
                border = union(border, input_gradient_border(reader))
        return border

    def takes_bytes(self, node: Node) -> bool:
        """Whether the gradient that arrives at a `conv2d_input_gradient` is read as bytes.

        Not where it becomes that of an image or of another map of few channels: bytes fill half a block of the kernel
        at most there, and nothing that follows would average their rounding (docs/engines.md has both in figures).
        """
        weight = node.arrays["weight"]
        is_wide = weight.shape[1] > WORD // 2
        return self.int8_gradients and is_wide and node.integer("groups") == 1 and weight.dtype == np.int8

    # Buffers of tensors that have been computed.

    def stored_codes(self, name: str) -> list[Codes]:
        """Give an integer tensor in the forms that there are, the one it was computed in first."""
        name = self.graph.stored_name(name)
        self.store(name)
        return self.codes[name]

    def codes_as(self, name: str, demand: Demand) -> Codes:
        """Give an integer tensor in a form with at least this border, converted if it must be."""
        known = self.stored_codes(name)
        for codes in known:
            is_filled_alike = demand.border == NO_BORDER or codes.fill == demand.fill
            if codes.form == demand.form and is_filled_alike and covers(codes.border, demand.border):
                return codes
        source, made = known[0], self.code_buffer(self.graph.stored_name(name), demand)
        self.plan.convert(source.buffer, source.low, source.step, made.buffer, made.low, made.step, 0)
        return made

    def integers(self, name: str) -> int:
        """Give a buffer of int32 that holds an integer tensor, whatever its border."""
        return self.codes_as(name, int32_demand(self.graph.map_of(name)[0])).buffer

    def real(self, name: str) -> int:
        """Give the buffer that holds a real tensor."""
        name = self.graph.stored_name(name)
        self.store(name)
        return self.reals[name]

    def real_with_border(self, name: str) -> tuple[int, Border]:
        """Give the buffer that holds a real tensor, and its border."""
        return self.real(name), self.real_borders[self.graph.stored_name(name)]

    # Rows.

    def rows_for(self, node: Node, name: str, stage: Stage) -> Rows:
        """Give rows of the tensor `name` that `node` brings to `stage`.

        They are the pending ones, no longer pending, if `node` alone reads them and they have not come as far; else
        the pixels of the stored tensor.
        """
        rows = self.pending.get(name)
        if rows is not None and self.graph.is_only_reader(node, name) and rows.stage < stage:
            return self.pending.pop(name)
        channels, height, width = self.graph.map_of(name)
        if self.graph.types[name].is_integer:
            codes = self.codes_as(name, int32_demand(channels))
            return Rows([Source(None, codes.buffer, codes.border[:2], size=(height, width))])
        buffer, border = self.real_with_border(name)
        return Rows([Source(None, buffer, border[:2], size=(height, width))], Stage.POOLED)

    def are_mapped_pixels(self, name: str) -> bool:
        """Whether rows are pending that are the pixels of a real buffer under an affine map, and nothing else."""
        rows = self.pending.get(name)
        return rows is not None and rows.sources[0].convolution is None and rows.epilogue.keys() == {"affine"}

    def store(self, name: str) -> None:
        """Have a pending tensor stored, if it is not yet."""
        rows = self.pending.pop(name, None)
        if rows is None:
            return
        if not self.graph.types[name].is_integer:
            self.emit(rows, name, self.stored_beside(name, rows))
            return
        channels, height, width = self.graph.map_of(name)
        demand = int32_demand(channels)
        for reader in self.graph.readers.get(name, []):
            if reader.op == "max_pool" and any(window_of(reader).padding):
                border = union(demand.border, pool_border(height, width, window_of(reader)))
                demand = Demand("i32", border, never_winning(reader))
        self.emit(rows, name, {"sums": self.code_buffer(name, demand).buffer})

    def stored_beside(self, name: str, rows: Rows) -> dict[str, int]:
        """Say where a sweep stores its rows as the tensor `name`, whatever else it makes of them."""
        if self.graph.types[name].is_integer:
            return {"sums": self.int32_buffer(name)}
        if rows.stage <= Stage.POOLED:
            return {"sums": self.real_buffer(name)}
        return {"reals": self._reused_or_new_buffer(name)}

    def _reused_or_new_buffer(self, name: str) -> int:
        """Buffer for real values: that of the addend, where nobody reads it after this sum, else a new one.

        A network with shortcuts then keeps one stream of real values instead of one per sum: it stays in the cache.
        """
        addend, graph = self.addends.get(name, ""), self.graph
        if not self.reuses_memory or addend not in self.reals or addend in graph.outputs or graph.has_view(addend):
            return self.real_buffer(name)
        # A mask is written with its quantizer's codes: its own node reads nothing.
        readers = {reader.name for reader in graph.readers[addend] if reader.op != "ste_mask"}
        others = readers - self._finished - {graph.writer[name].name}
        if others or self.real_borders[addend] != self.real_border(name):
            return self.real_buffer(name)
        self.reals[name], self.real_borders[name] = self.reals[addend], self.real_borders[addend]
        return self.reals[name]

    def emit(self, rows: Rows, name: str, stored: Mapping[str, Any]) -> None:
        """Put the sweeps of rows into the plan; they store the tensor `name`, what a quantizer makes of it, or both."""
        channels, height, width = self.graph.map_of(name)
        for source in rows.sources:
            size = (height, width) if "pool" in rows.epilogue else source.size
            self.emit_source(source, channels, size, rows.epilogue | dict(stored))

    def emit_source(self, source: Source, channels: int, size: tuple[int, int], epilogue: Mapping[str, Any]) -> None:
        """Put one sweep into the plan.

        Parameters
        ----------
        source : Source
        channels : int
        size : (int, int)
            Rows and columns that are stored.
        epilogue : mapping
            What is done to each row, and the buffers that it is stored in.
        """
        record = {"channels": channels, "rows": size[0], "columns": size[1], "origin": list(source.origin), **epilogue}
        if source.convolution is not None:
            self.plan.convolution(source.convolution, record, source.variant)
        else:
            self.plan.pixels(source.buffer, list(source.first), record, source.variant)
