"""Lay a program out for the kernels: which buffers, in which form, and which steps fill them.

One pass over the nodes. What computes rows (a convolution, or a map that is read again) stays pending while the nodes
behind it can be done in the same sweep: a pool, an affine map, a straight-through gradient, a residual, a quantizer
with its mask. It becomes a step when someone needs it whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.native.packing import (
    CANONICAL,
    RAW_F32,
    RAW_I8,
    RAW_I16,
    WORD,
    Fields,
    field_bytes,
    fields_for,
    holds_zero,
    padded,
    panel,
    rounded_up,
    w1a1_words,
    w2a2_words,
)
from bitlens.runtime.ops.conv2d import conv2d_window, pad_codes
from bitlens.runtime.ops.window import Window, padding_of, window_of
from bitlens.runtime.program import Array, Node, Program, TensorType
from bitlens.runtime.type_check import infer_types

Int32 = npt.NDArray[np.int32]
Border = tuple[int, int, int, int]  # top, left, bottom, right

NO_BORDER: Border = (0, 0, 0, 0)
NARROW, WIDE = 1, 2
"""Variants of the steps that read the image: codes 0..255 as bytes, or any int16."""

_INT32 = np.iinfo(np.int32)
_SUMS, _POOLED, _AFFINE, _PASSED, _ADDED = range(5)


@dataclass(frozen=True)
class Codes:
    """An integer tensor in a buffer: code = low + step * stored."""

    buffer: int
    form: str
    border: Border
    fill: tuple[int, ...]  # codes of the border
    low: int
    step: int


@dataclass(frozen=True)
class Demand:
    """What a consumer wants of a map: its form, a border, and the codes in it."""

    form: str
    border: Border
    fill: tuple[int, ...]


@dataclass(frozen=True)
class Source:
    """One step's worth of rows: a convolution's record for the plan, or the pixels of a buffer."""

    convolution: Mapping[str, Any] | None
    buffer: int = -1
    first: tuple[int, int] = (0, 0)
    variant: int = 0
    origin: tuple[int, int, int, int] = (0, 0, 1, 1)
    size: tuple[int, int] = (0, 0)  # of what is stored, before a pool


@dataclass
class Pending:
    """Rows that no step computes yet: where they come from and what has been put behind them."""

    sources: list[Source]
    is_float: bool
    stage: int = _SUMS
    epilogue: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MaskBox:
    """How the box of a straight-through mask is given at run time."""

    buffer: int
    direction: npt.NDArray[np.int8]
    is_float: bool


@dataclass
class Layout:
    """A finished plan and where its inputs and outputs lie."""

    plan: Any
    program: Program
    image: Mapping[str, int]  # form -> buffer
    floats: Mapping[str, int]  # other inputs by name -> buffer
    codes: Mapping[str, Codes]  # integer outputs
    reals: Mapping[str, int]  # float outputs -> buffer
    masks: Mapping[str, int]  # outputs of ste_mask -> buffer
    boxes: Mapping[str, MaskBox]  # quantizer -> its box
    types: Mapping[str, TensorType]
    widened: set[str] = field(default_factory=set)  # quantizers whose box is not the trained one at present


def turned(values: Array, direction: Array) -> Array:
    """Negate integers where the comparison turns round, kept within int32; floats just negated."""
    sign = direction.astype(np.int64).reshape(-1, *([1] * (values.ndim - 1)))
    if values.dtype == np.float32:
        return np.asarray(values * sign.astype(np.float32))
    return np.asarray(np.clip(values.astype(np.int64) * sign, _INT32.min, _INT32.max), np.int32)


def turned_box(low: Array, high: Array, direction: Array) -> tuple[Int32, Int32]:
    """Give the box of a mask as the kernels compare it: turned, as bits; empty where there is no channel."""
    is_turned = direction < 0
    ends = [turned(end, direction) for end in (low, high)]
    bottom, top = np.where(is_turned, ends[1], ends[0]), np.where(is_turned, ends[0], ends[1])
    return _bits(bottom, nothing=_INT32.max), _bits(top, nothing=_INT32.min)


def _bits(values: Array, nothing: int) -> Int32:
    channels = rounded_up(values.shape[0], WORD)
    if values.dtype == np.float32:  # a comparison with NaN is never true
        return np.ascontiguousarray(padded(values, channels, np.nan)).view(np.int32)
    return padded(values.astype(np.int32), channels, nothing)


def lay_out(
    program: Program,
    outputs: Sequence[str],
    plan: Any,
    *,
    int8_gradients: bool,
    reuses_memory: bool,
    most_images: int,
    memory_bytes: int,
) -> Layout:
    """Lay out what computes `outputs` of a checked program.

    Parameters
    ----------
    program : Program
        A network or its gradient program.
    outputs : sequence of str
    plan : bitlens.runtime._kernels.Plan
        An empty plan.
    int8_gradients : bool
        Whether gradients enter a convolution's backward pass as bytes with one scale per image and layer.
    reuses_memory : bool
        Whether a sum may take the place of what it was added to. An incremental forward needs every map as it was.
    most_images, memory_bytes : int
        The largest batch, and the memory for the maps of one.

    Raises
    ------
    BitlensError
        If an op stands where no kernel takes it.
    """
    try:
        return _Builder(program, tuple(outputs), plan, int8_gradients, reuses_memory).built(most_images, memory_bytes)
    except ValueError as error:  # the plan checks every step
        raise BitlensError(f"the native engine cannot run this network ({error}): use --engine reference") from error
    except MemoryError as error:
        raise BitlensError("there is not enough memory to run this network: close other programs") from error


class _Builder:
    def __init__(
        self, program: Program, outputs: tuple[str, ...], plan: Any, int8_gradients: bool, reuses_memory: bool
    ) -> None:
        self.program, self.outputs, self.plan = program, outputs, plan
        self.int8_gradients, self.reuses_memory = int8_gradients, reuses_memory
        self.types = infer_types(program)
        self.nodes = _needed(program, outputs)
        self.writer = {name: node for node in self.nodes for name in node.outputs}
        self.readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.inputs:
                self.readers.setdefault(name, []).append(node)
        self.pending: dict[str, Pending] = {}
        self.codes: dict[str, list[Codes]] = {}
        self.reals: dict[str, int] = {}
        self.real_borders: dict[str, Border] = {}
        self.masks: dict[str, int] = {}
        self.boxes: dict[str, MaskBox] = {}
        self.indices: dict[str, int] = {}
        self.image: dict[str, int] = {}
        self.floats: dict[str, int] = {}
        self.maps: dict[str, tuple[int, int, int]] = {}  # flat tensor -> the map it is a view of
        self.same: dict[str, str] = {}  # flat tensor -> the map's name
        self.quantized: dict[tuple[str, Border], tuple[int, int]] = {}
        self.added: dict[str, str] = {}  # sum -> what is added to its rows
        self.done: set[str] = set()  # nodes whose steps are in the plan

    # What a tensor is, and who reads it.

    def _map(self, name: str) -> tuple[int, int, int]:
        """(C, H, W) of a tensor; a flat one is a map of one pixel, or the map that it is a view of."""
        if name in self.maps:
            return self.maps[name]
        shape = self.types[name].shape
        return (shape[0], shape[1], shape[2]) if len(shape) == 3 else (int(np.prod(shape)), 1, 1)

    def _readers(self, name: str) -> list[Node]:
        """Nodes that read a tensor, through its views; the image of a plan's end counts as none."""
        found: list[Node] = []
        for node in self.readers.get(name, []):
            if node.op == "reshape" and self._is_view(node):
                found += self._readers(node.outputs[0])
            else:
                found.append(node)
        return found

    def _is_view(self, node: Node) -> bool:
        """Whether a reshape only flattens a map for dense layers, which read the map itself."""
        source, target = self.types[node.inputs[0]], self.types[node.outputs[0]]
        if len(source.shape) == len(target.shape) == 1:
            return True
        return (
            len(source.shape) == 3
            and len(target.shape) == 1
            and target.shape == (source.elements,)
            and node.outputs[0] not in self.outputs
            and all(reader.op == "dense" for reader in self.readers.get(node.outputs[0], []))
        )

    def _wanted(self, name: str) -> bool:
        return name in self.outputs

    def _only_reader(self, name: str, node: Node) -> bool:
        return not self._wanted(name) and [reader.name for reader in self.readers[name]] == [node.name]

    # Buffers.

    def _buffer(
        self, form: str, size: tuple[int, int, int], border: Border, fill: Array, *, tight: bool = False
    ) -> int:
        made: int = self.plan.buffer(form, *size, list(border), np.ascontiguousarray(fill, np.int32), tight)
        return made

    def _real_buffer(self, name: str) -> int:
        """Give the f32 buffer of a tensor, made with the border that its readers want."""
        if name not in self.reals:
            border = self._border_wanted(name)
            size = self._map(name)
            self.reals[name] = self._buffer("f32", size, border, np.zeros(size[0]))
            self.real_borders[name] = border
        return self.reals[name]

    def _border_wanted(self, name: str) -> Border:
        """Border of zeros that the readers of real values want."""
        border = NO_BORDER
        for reader in self._readers(name):
            if reader.op == "conv2d":
                border = _union(border, conv2d_window(reader).padding)
            elif reader.op == "conv2d_input_gradient" and not self._takes_bytes(reader) and not _is_gathered(reader):
                for phase in _phases(reader):
                    border = _union(border, phase.border)
        return border

    def _demands(self, name: str) -> list[Demand]:
        """Forms in which the convolutions that read a tensor of codes want it, borders united."""
        found: list[Demand] = []
        for reader in self._readers(name):
            if reader.op not in ("conv2d", "dense"):
                continue
            demand = self._demand(reader, name)
            for place, other in enumerate(found):
                if other.form == demand.form and (
                    other.fill == demand.fill or NO_BORDER in (other.border, demand.border)
                ):
                    fill = demand.fill if other.border == NO_BORDER else other.fill
                    found[place] = Demand(other.form, _union(other.border, demand.border), fill)
                    break
            else:
                found.append(demand)
        return found

    def _demand(self, node: Node, name: str) -> Demand:
        border = conv2d_window(node).padding if node.op == "conv2d" else NO_BORDER
        channels = self._map(name)[0]
        fill = tuple(int(code) for code in pad_codes(node, channels)) if node.op == "conv2d" else (0,) * channels
        return Demand(self._form_for(node, name), border, fill)

    def _code_step(self, name: str) -> int:
        """Distance of neighbouring codes: 2 for +-1, as far as the quantizer that wrote them says."""
        node = self.writer.get(name)
        while node is not None and node.op == "reshape":
            node = self.writer.get(node.inputs[0])
        return node.integer("step") if node is not None and node.op == "threshold" else 1

    def _form_for(self, node: Node, name: str) -> str:
        """Form of the codes that suits a layer's weights and this processor."""
        source, weight = self.types[name], node.arrays["weight"]
        if node.op == "conv2d" and node.integer("groups") > 1:
            return "i32"
        padding = conv2d_window(node).padding if node.op == "conv2d" else NO_BORDER
        pad = pad_codes(node, source.shape[0]) if any(padding) else np.array([source.low])
        is_sign = (source.low, source.high, self._code_step(name)) == (-1, 1, 2) and np.isin(pad, (-1, 1)).all()
        if is_sign and np.isin(weight, (-1, 1)).all():
            return "bits"
        two_bits = (source.low, source.high, self._code_step(name)) == (0, 3, 1)
        if two_bits and np.isin(weight, (-1, 0, 1)).all() and pad.min() >= 0 and pad.max() <= 3:
            bit_serial, bytewise = (self.plan.kernel(kind, weight.shape[0], 0) for kind in ("conv2d_w2a2", "conv2d_i8"))
            if not bit_serial.endswith("__scalar") and not bytewise.endswith("__neondot"):
                return "planes"
        high = max(source.high, int(pad.max()))
        if source.low <= pad.min() and high - source.low <= 255 and weight.min() >= -128 and weight.max() <= 127:
            return "u8"
        if min(source.low, int(pad.min())) >= -(2**15) and high < 2**15:
            return "i16"
        return "i32"

    def _stored_fill(self, demand: Demand, low: int, step: int) -> Array:
        return (np.asarray(demand.fill, np.int64) - low) // step

    def _stored_as(self, form: str, name: str) -> tuple[int, int]:
        """Low and step of the codes of a tensor in a form."""
        if form in ("i16", "i32"):
            return 0, 1
        return self.types[name].low, 1 if form == "u8" else self._code_step(name)

    def _code_buffer(self, name: str, demand: Demand) -> Codes:
        low, step = self._stored_as(demand.form, name)
        size = self._map(name)
        has_border = demand.border != NO_BORDER
        fill = self._stored_fill(demand, low, step) if has_border else np.zeros(size[0])
        made = Codes(
            self._buffer(demand.form, size, demand.border, fill), demand.form, demand.border, demand.fill, low, step
        )
        self.codes.setdefault(name, []).append(made)
        return made

    def _codes_for(self, name: str, demand: Demand) -> Codes:
        """Give a tensor of codes in a form with at least this border, converted if it must be."""
        name = self.same.get(name, name)
        self._whole(name)
        for codes in self.codes[name]:
            filled_alike = demand.border == NO_BORDER or codes.fill == demand.fill
            if codes.form == demand.form and filled_alike and _covers(codes.border, demand.border):
                return codes
        source = self.codes[name][0]
        made = self._code_buffer(name, demand)
        self.plan.convert(source.buffer, source.low, source.step, made.buffer, made.low, made.step, 0)
        return made

    def _integers(self, name: str, border: Border = NO_BORDER, fill: Sequence[int] = ()) -> int:
        """Buffer of int32 that holds an integer tensor."""
        channels = self._map(self.same.get(name, name))[0]
        return self._codes_for(name, Demand("i32", border, tuple(fill) or (0,) * channels)).buffer

    def _real(self, name: str) -> int:
        """Buffer of f32 that holds a real tensor."""
        name = self.same.get(name, name)
        self._whole(name)
        return self.reals[name]

    # Pending rows.

    def _whole(self, name: str) -> None:
        """Have a pending tensor stored, if it is not yet."""
        pending = self.pending.pop(name, None)
        if pending is None:
            return
        if self.types[name].is_integer:
            # Accumulators that a padded pool reads have a border that never wins.
            demand = Demand("i32", NO_BORDER, (0,) * self._map(name)[0])
            for reader in self.readers.get(name, []):
                if reader.op == "max_pool" and any(window_of(reader).padding):
                    border = _pool_border(self._map(name), window_of(reader))
                    demand = Demand("i32", _union(demand.border, border), _never_winning(reader))
            made = self._code_buffer(name, demand)
            self._emit(pending, name, {"sums": made.buffer})
        elif pending.stage <= _POOLED:
            self._emit(pending, name, {"sums": self._real_buffer(name)})
        else:
            self._emit(pending, name, {"reals": self._sum_buffer(name, pending)})

    def _emit(self, pending: Pending, name: str, stored: Mapping[str, Any]) -> None:
        channels = self._map(name)[0]
        for source in pending.sources:
            rows, columns = source.size
            if "pool" in pending.epilogue:
                rows, columns = self._map(name)[1:]
            record = {"channels": channels, "rows": rows, "columns": columns, "origin": list(source.origin)}
            record |= pending.epilogue | dict(stored)
            if source.convolution is not None:
                self.plan.convolution(source.convolution, record, source.variant)
            else:
                self.plan.pixels(source.buffer, list(source.first), record, source.variant)

    def _rows(self, name: str, node: Node, before: int) -> Pending:
        """Rows of a tensor for `node` to extend: the pending ones if it alone reads them and they allow it."""
        pending = self.pending.get(name)
        if pending is not None and self._only_reader(name, node) and pending.stage < before:
            return self.pending.pop(name)
        size = self._map(self.same.get(name, name))
        if self.types[name].is_integer:
            codes = self._codes_for(name, Demand("i32", NO_BORDER, (0,) * size[0]))
            return Pending([Source(None, codes.buffer, codes.border[:2], size=size[1:])], False)
        buffer = self._real(name)
        border = self.real_borders[self.same.get(name, name)]
        return Pending([Source(None, buffer, border[:2], size=size[1:])], True, _POOLED)

    # The program.

    def built(self, most_images: int, memory_bytes: int) -> Layout:
        self._inputs()
        for node in self.nodes:
            rule = _RULES.get(node.op)
            if rule is None:
                raise BitlensError(f"node {node.name!r}: the native engine has no kernel for op {node.op!r}")
            rule(self, node)
            if not any(name in self.pending for name in node.outputs):
                self.done.add(node.name)
        codes: dict[str, Codes] = {}
        reals: dict[str, int] = {}
        for name in self.outputs:
            if name in self.masks:
                continue
            if self.types[name].is_integer:
                self._whole(self.same.get(name, name))
                codes[name] = self.codes[self.same.get(name, name)][0]
            else:
                reals[name] = self._real(name)
        self.plan.finish(most_images, memory_bytes)
        return Layout(
            self.plan, self.program, self.image, self.floats, codes, reals,
            {name: self.masks[name] for name in self.outputs if name in self.masks}, self.boxes, self.types,
        )  # fmt: skip

    def _inputs(self) -> None:
        for place, item in enumerate(self.program.inputs):
            if not item.type.batched or (place and item.name not in self.readers):
                continue  # windows and the floor are no maps
            if item.type.is_integer:
                self._image(item.name)
            else:
                self.floats[item.name] = self._real_buffer(item.name)

    def _image(self, name: str) -> None:
        size = self._map(name)
        readers = self._readers(name)
        plain = [node for node in readers if node.op in ("conv2d", "dense") and self._form_for(node, name) != "i32"]
        if not readers or len(plain) != len(readers) or len({self._demand(node, name).fill for node in plain}) > 1:
            self.image["i16"] = self._buffer("i16", size, NO_BORDER, np.zeros(size[0]))
            self.codes[name] = [Codes(self.image["i16"], "i16", NO_BORDER, (0,) * size[0], 0, 1)]
            return
        border, fill = NO_BORDER, self._demand(plain[0], name).fill
        for node in plain:
            border = _union(border, self._demand(node, name).border)
        self.image["i16"] = self._buffer("i16", size, border, np.asarray(fill), tight=True)
        self.codes[name] = [Codes(self.image["i16"], "i16", border, fill, 0, 1)]
        bytewise = all(np.abs(node.arrays["weight"].astype(np.int64)).max() <= 127 for node in plain)
        if bytewise and min(fill) >= 0 and max(fill) <= 255:
            self.image["u8"] = self._buffer("u8", size, border, np.asarray(fill), tight=True)

    # Rules, one per op.

    def _conv2d(self, node: Node) -> None:
        name, target = node.inputs[0], node.outputs[0]
        weight, window = node.arrays["weight"], conv2d_window(node)
        if node.integer("groups") > 1:
            self._direct(node, weight, window)
            return
        if weight.dtype == np.float32:
            source = self._float_source(name, weight, window)
            bias = {"slope": _ones(weight.shape[0]), "offset": _channels(node.arrays["bias"]), "scale_slot": -1}
            self.pending[target] = Pending([source], True, _AFFINE, {"affine": bias})
            return
        self._of_codes(node, weight, window)

    def _dense(self, node: Node) -> None:
        name, target = node.inputs[0], node.outputs[0]
        channels, height, width = self._map(self.same.get(name, name))
        weight = node.arrays["weight"].reshape(-1, channels, height, width)
        window = Window((height, width), (1, 1), NO_BORDER)
        if weight.dtype == np.float32:
            source = self._float_source(name, weight, window)
            bias = {"slope": _ones(weight.shape[0]), "offset": _channels(node.arrays["bias"]), "scale_slot": -1}
            self.pending[target] = Pending([source], True, _AFFINE, {"affine": bias})
            return
        self._of_codes(node, weight, window)

    def _of_codes(self, node: Node, weight: Array, window: Window) -> None:
        """Have a convolution of codes pending, or a dense layer as one over the whole map."""
        name, target = self.same.get(node.inputs[0], node.inputs[0]), node.outputs[0]
        demand = self._demand(node, name)
        is_image = name == self.program.inputs[0].name
        if is_image and "u8" in self.image:
            border = self.codes[name][0].border
            low = self._convolution(self.image["u8"], "u8", border, 0, weight, window, 255, NARROW, name)
            wide = self._convolution(self.image["i16"], "i16", border, 0, weight, window, 0, WIDE, name)
            self.pending[target] = Pending([low, wide], False)
            return
        if demand.form == "i32":
            self._direct(node, weight, window)
            return
        if is_image:
            demand = replace(demand, form="i16")
        codes = self._codes_for(name, demand)
        span = max(self.types[name].high, *demand.fill) - codes.low if demand.form == "u8" else 0
        made = self._convolution(codes.buffer, codes.form, codes.border, codes.low, weight, window, span, 0, name)
        self.pending[target] = Pending([made], False)

    def _convolution(
        self, buffer: int, form: str, border: Border, low: int, weight: Array, window: Window, span: int,
        variant: int, name: str,
    ) -> Source:  # fmt: skip
        """Describe an integer convolution for the plan."""
        channels, height, width = self._map(self.same.get(name, name))
        outputs, _, high, wide = weight.shape
        rows, columns = window.output_size(height, width)
        taps = high * wide
        total = weight.astype(np.int64).reshape(outputs, -1).sum(axis=1)
        merged, largest = False, int(np.abs(weight.astype(np.int64)).max())
        if form == "bits":
            family, groups, fields = "conv2d_w1a1", rounded_up(channels, WORD) // WORD, CANONICAL
            data, start = w1a1_words(weight), np.full(outputs, channels * taps)
        elif form == "planes":
            family, groups, fields = "conv2d_w2a2", rounded_up(channels, WORD) // WORD, CANONICAL
            data, start = w2a2_words(weight), np.zeros(outputs, np.int64)
        else:
            per_group = 4 if form == "u8" else 2
            merged = buffer in self.image.values() and channels % per_group != 0
            family = "conv2d_i8" if form == "u8" else "conv2d_i16"
            fields = fields_for(weight) if form == "u8" else RAW_I16
            if merged and not holds_zero(fields):
                fields = RAW_I8
            values = panel(weight, per_group, merged=merged)
            groups = values.shape[2]
            data, start = field_bytes(values, fields), low * total
        record = {
            "source": buffer, "family": family, "taps": [high, 1 if merged else wide, groups], "merged": merged,
            "first": [border[0] - window.padding[0], border[1] - window.padding[1]], "stride": list(window.stride),
            "size": [rows, columns], "fields": [fields.bits, fields.low, fields.step],
            "largest": [span, largest] if form == "u8" else [0, 0], "weights": data,
            "start": padded(start.astype(np.int32), rounded_up(outputs, WORD)),
        }  # fmt: skip
        return Source(record, variant=variant, size=(rows, columns))

    def _float_source(self, name: str, weight: Array, window: Window) -> Source:
        buffer = self._real(name)
        border = self.real_borders[self.same.get(name, name)]
        _, height, width = self._map(self.same.get(name, name))
        size = window.output_size(height, width)
        first = (border[0] - window.padding[0], border[1] - window.padding[1])
        return _float_convolution(buffer, weight, first, window.stride, size)

    def _direct(self, node: Node, weight: Array, window: Window) -> None:
        name, target = node.inputs[0], node.outputs[0]
        groups = node.integer("groups") if node.op == "conv2d" else 1
        kernel = [*window.kernel, *window.stride, *window.padding[:2]]
        if weight.dtype == np.float32:
            sums = self._buffer("f32", self._map(target), NO_BORDER, np.zeros(weight.shape[0]))
            bits = np.ascontiguousarray(weight).reshape(-1).view(np.int32)
            self.plan.direct(self._real(name), sums, groups, weight.shape[0], kernel, bits, False)
            bias = {"slope": _ones(weight.shape[0]), "offset": _channels(node.arrays["bias"]), "scale_slot": -1}
            pixels = Source(None, sums, size=self._map(target)[1:])
            self.pending[target] = Pending([pixels], True, _AFFINE, {"affine": bias})
            return
        demand = self._demand(node, self.same.get(name, name))
        source = self._integers(name, demand.border, demand.fill)
        made = self._code_buffer(target, Demand("i32", NO_BORDER, (0,) * weight.shape[0]))
        self.plan.direct(
            source, made.buffer, groups, weight.shape[0], kernel, weight.astype(np.int32).reshape(-1), False
        )

    def _threshold(self, node: Node) -> None:
        name, target = node.inputs[0], node.outputs[0]
        is_float = not self.types[name].is_integer
        mask_node = next((reader for reader in self.readers.get(name, []) if self._is_mask_of(reader, node)), None)
        demands = self._demands(target) or [Demand("i32", NO_BORDER, ())]
        own = demands[0]
        if own.form not in ("bits", "planes", "u8"):  # what a quantizer can write; others are made from it
            low, high = self.types[target].low, self.types[target].high
            if high - low > 255:
                raise BitlensError(f"node {node.name!r}: codes from {low} to {high} exceed a byte")
            own = Demand("u8", NO_BORDER, (0,) * self._map(target)[0])
        codes = self._code_buffer(target, own)
        direction, channels = node.arrays["direction"], rounded_up(self._map(target)[0], WORD)
        thresholds = turned(node.arrays["thresholds"], direction)
        if channels == thresholds.shape[0] and (thresholds == thresholds[0]).all():
            thresholds = thresholds[:WORD]  # the same for all channels: one block serves them all
        blocks = _bits(thresholds, nothing=_INT32.max).reshape(-1, WORD, thresholds.shape[1]).transpose(0, 2, 1)
        low_box, high_box = turned_box(node.arrays["mask_low"], node.arrays["mask_high"], direction)
        mask = -1
        if mask_node is not None:
            mask = self._buffer("mask", self._map(target), NO_BORDER, np.zeros(self._map(target)[0]))
            self.masks[mask_node.outputs[0]] = mask
            self.boxes[node.name] = MaskBox(mask, direction, is_float)
        record = {
            "levels": thresholds.shape[1],
            "code_step": node.integer("step") if own.form == "u8" else 1,
            "turn": padded(np.where(direction < 0, -1, 0).astype(np.int32), channels),
            "thresholds": np.ascontiguousarray(blocks).reshape(-1),
            "mask_low": low_box, "mask_high": high_box, "codes": codes.buffer, "mask": mask,
        }  # fmt: skip
        others = [reader for reader in self.readers[name] if reader.name != node.name and reader is not mask_node]
        pending = self.pending.get(name)
        if pending is None:
            pending, stored = self._rows(name, node, _SUMS), {}
        else:
            del self.pending[name]
            stored = self._kept(name, pending) if others or self._wanted(name) else {}
        self._emit(pending, name, {**stored, "threshold": record})

    def _kept(self, name: str, pending: Pending) -> dict[str, int]:
        """Have rows that go on into a quantizer stored too, for other readers."""
        if self.types[name].is_integer:
            return {"sums": self._code_buffer(name, Demand("i32", NO_BORDER, (0,) * self._map(name)[0])).buffer}
        if pending.stage <= _POOLED:
            return {"sums": self._real_buffer(name)}
        return {"reals": self._sum_buffer(name, pending)}

    def _sum_buffer(self, name: str, pending: Pending) -> int:
        """Buffer for real values: that of the addend, where nobody reads it after this sum, else a new one.

        A network with shortcuts then keeps one stream of real values instead of one per sum: it stays in the cache.
        """
        added = self.added.get(name, "")
        if not self.reuses_memory or added not in self.reals or self._wanted(added) or added in self.same.values():
            return self._real_buffer(name)
        others = {reader.name for reader in self.readers[added]} - self.done - {self.writer[name].name}
        if others or self.real_borders[added] != self._border_wanted(name):
            return self._real_buffer(name)
        self.reals[name], self.real_borders[name] = self.reals[added], self.real_borders[added]
        return self.reals[name]

    def _is_mask_of(self, node: Node, quantizer: Node) -> bool:
        return node.op == "ste_mask" and node.inputs[1] == f"{quantizer.name}.mask_low"

    def _ste_mask(self, node: Node) -> None:
        if node.outputs[0] not in self.masks:
            raise BitlensError(f"node {node.name!r}: a mask without its quantizer")

    def _affine(self, node: Node) -> None:
        self._affine_by(node, node.arrays["slope"], node.arrays["offset"])

    def _channel_scale(self, node: Node) -> None:
        self._affine_by(node, node.arrays["scale"], np.zeros_like(node.arrays["scale"]))

    def _affine_by(self, node: Node, slope: Array, offset: Array) -> None:
        pending = self._rows(node.inputs[0], node, _AFFINE)
        pending.epilogue["affine"] = {"slope": _channels(slope), "offset": _channels(offset), "scale_slot": -1}
        pending.stage = _AFFINE
        self.pending[node.outputs[0]] = pending

    def _add(self, node: Node) -> None:
        left, right = node.inputs
        first, second = (left, right) if self._extends(left, node) or not self._extends(right, node) else (right, left)
        if first == second:
            self._real(first)
        addend = self._real(second)
        pending = self._rows(first, node, _ADDED)
        pending.epilogue["addend"] = addend
        self.added[node.outputs[0]] = second
        pending.stage = _ADDED
        self.pending[node.outputs[0]] = pending

    def _extends(self, name: str, node: Node) -> bool:
        return name in self.pending and self._only_reader(name, node) and self.pending[name].stage < _ADDED

    def _ste_gradient(self, node: Node) -> None:
        gradient, mask, _ = node.inputs
        pending = self._rows(gradient, node, _PASSED)
        pending.epilogue["straight_through"] = {"mask": self.masks[mask], "gain": _channels(node.arrays["gain"])}
        pending.stage = _PASSED
        self.pending[node.outputs[0]] = pending

    def _max_pool(self, node: Node) -> None:
        name, target = node.inputs[0], node.outputs[0]
        window, direction = window_of(node), node.arrays["direction"]
        size = self._map(target)
        index = -1
        if len(node.outputs) > 1 and node.outputs[1] in self.readers:
            index = self.indices[node.outputs[1]] = self._buffer("index", size, NO_BORDER, np.zeros(size[0]))
        turn = np.where(direction < 0, -1, 0).astype(np.int32)
        if not self.types[name].is_integer:
            kernel = [*window.kernel, *window.stride, *window.padding[:2]]
            self.plan.max_pool(self._real(name), self._real_buffer(target), index, kernel, turn)
            return
        pool = {
            "window": [*window.kernel, *window.stride, 0, 0],
            "turn": padded(turn, rounded_up(size[0], WORD)),
            "index": index,
        }
        pending = self.pending.get(name)
        if pending is not None and self._only_reader(name, node) and _is_swept(pending):
            del self.pending[name]
            pool["window"] = [*window.kernel, *window.stride, *window.padding[:2]]
        else:
            border = _pool_border(self._map(name), window)
            self._whole(name)
            codes = self._codes_for(name, Demand("i32", border, _never_winning(node)))
            first = (codes.border[0] - window.padding[0], codes.border[1] - window.padding[1])
            pending = Pending([Source(None, codes.buffer, first)], False)
        pending.epilogue["pool"] = pool
        pending.stage = _POOLED
        self.pending[target] = pending

    def _sum_pool(self, node: Node) -> None:
        name, target = node.inputs[0], node.outputs[0]
        window, type = window_of(node), self.types[node.outputs[0]]
        kernel = [*window.kernel, *window.stride, *window.padding[:2]]
        if not type.is_integer:
            self.plan.sum_pool(self._real(name), self._real_buffer(target), kernel, 0)
            return
        size = self._map(target)
        narrow = [demand for demand in self._demands(target) if demand.form == "i16"]
        demand = narrow[0] if narrow else Demand("i32", NO_BORDER, (0,) * size[0])
        as_bytes = next((codes for codes in self.codes.get(name, []) if codes.form == "u8"), None)
        made = self._code_buffer(target, demand)
        if as_bytes is not None:
            self.plan.sum_pool(as_bytes.buffer, made.buffer, kernel, as_bytes.low)
        else:
            self.plan.sum_pool(self._integers(name), made.buffer, kernel, 0)

    def _relu(self, node: Node) -> None:
        self.plan.relu(self._real(node.inputs[0]), self._real_buffer(node.outputs[0]))

    def _relu_gradient(self, node: Node) -> None:
        gradient, activation, _ = node.inputs
        self.plan.relu_gradient(self._real(gradient), self._real(activation), self._real_buffer(node.outputs[0]))

    def _reshape(self, node: Node) -> None:
        name, target = node.inputs[0], node.outputs[0]
        if self._is_view(node):
            self.same[target] = self.same.get(name, name)
            self.maps[target] = self._map(self.same[target])
            return
        if self.types[name].is_integer:
            made = self._code_buffer(target, Demand("i32", NO_BORDER, (0,) * self._map(target)[0]))
            self.plan.reshape(self._integers(name), made.buffer)
        elif target not in self.reals:  # a dense layer's gradient has been laid out as the map already
            self.plan.reshape(self._real(name), self._real_buffer(target))

    def _pad(self, node: Node) -> None:
        top, left, _, _ = padding_of(node)
        self._moved(node, node.arrays["fill"], top, left)

    def _crop(self, node: Node) -> None:
        top, left, _, _ = padding_of(node)
        self._moved(node, np.zeros(self._map(node.outputs[0])[0], np.float32), -top, -left)

    def _moved(self, node: Node, fill: Array, down: int, right: int) -> None:
        name, target = node.inputs[0], node.outputs[0]
        if self.types[name].is_integer:
            made = self._code_buffer(target, Demand("i32", NO_BORDER, (0,) * self._map(target)[0]))
            self.plan.move(self._integers(name), made.buffer, down, right, fill.astype(np.int32))
        else:
            bits = np.ascontiguousarray(fill, np.float32).view(np.int32)
            self.plan.move(self._real(name), self._real_buffer(target), down, right, bits)

    # Backward.

    def _takes_bytes(self, node: Node) -> bool:
        """Whether the gradient enters a convolution's backward pass as bytes."""
        weight = node.arrays["weight"]
        return self.int8_gradients and node.integer("groups") == 1 and weight.dtype == np.int8

    def _conv2d_input_gradient(self, node: Node) -> None:
        name, target = node.inputs[0], node.outputs[0]
        weight, groups = node.arrays["weight"], node.integer("groups")
        window = conv2d_window(node)
        if groups > 1:
            kernel = [*window.kernel, *window.stride, *window.padding[:2]]
            bits = np.ascontiguousarray(weight, np.float32).reshape(-1).view(np.int32)
            outputs = weight.shape[0]
            self.plan.direct(self._real(name), self._real_buffer(target), groups, outputs, kernel, bits, True)
            return
        if _is_gathered(node):
            self._gathered(node, weight, window)
            return
        phases = _phases(node)
        if not self._takes_bytes(node):
            buffer, border = self._real(name), self.real_borders[name]
            sources = []
            for phase in phases:
                first = (border[0] + phase.first[0], border[1] + phase.first[1])
                made = _float_convolution(buffer, phase.weight, first, (1, 1), phase.size)
                sources.append(replace(made, origin=phase.origin))
            self.pending[target] = Pending(sources, True, _POOLED)
            return
        border = NO_BORDER
        for phase in phases:
            border = _union(border, phase.border)
        buffer, slot = self._bytes(name, border)
        sources = []
        for phase in phases:
            first = (border[0] + phase.first[0], border[1] + phase.first[1])
            made = _bytes_convolution(buffer, phase.weight, first, phase.size)
            sources.append(replace(made, origin=phase.origin))
        scaled = {"slope": _ones(weight.shape[1]), "offset": np.zeros_like(_ones(weight.shape[1])), "scale_slot": slot}
        self.pending[target] = Pending(sources, False, _AFFINE, {"affine": scaled})

    def _gathered(self, node: Node, weight: Array, window: Window) -> None:
        """Compute the gradient of few channels tap by tap: a block of 32 outputs is then full, not a tenth."""
        name, target = node.inputs[0], node.outputs[0]
        outputs, channels, high, wide = weight.shape
        as_outputs = weight.transpose(2, 3, 1, 0).reshape(high * wide * channels, outputs, 1, 1)
        _, rows, columns = self._map(name)
        slot = -1
        if self._takes_bytes(node):
            buffer, slot = self._bytes(name, NO_BORDER)
            source, form = _bytes_convolution(buffer, as_outputs, (0, 0), (rows, columns)), "i32"
        else:
            buffer, border = self._real(name), self.real_borders[name]
            source = _float_convolution(buffer, as_outputs, border[:2], (1, 1), (rows, columns))
            form = "f32"
        taps = self._buffer(form, (len(as_outputs), rows, columns), NO_BORDER, np.zeros(len(as_outputs)))
        record = {"channels": len(as_outputs), "rows": rows, "columns": columns, "sums": taps}
        self.plan.convolution(source.convolution, record, 0)
        size = self._map(target)
        total = self._buffer(form, size, NO_BORDER, np.zeros(size[0]))
        self.plan.gather(taps, total, [high, wide, 1, 1, *window.padding[:2]])
        pixels = Source(None, total, size=size[1:])
        if slot < 0:
            self.pending[target] = Pending([pixels], True, _POOLED)
            return
        scaled = {"slope": _ones(channels), "offset": np.zeros_like(_ones(channels)), "scale_slot": slot}
        self.pending[target] = Pending([pixels], False, _AFFINE, {"affine": scaled})

    def _bytes(self, name: str, border: Border) -> tuple[int, int]:
        """Buffer of a gradient in bytes, and the slot of its scale."""
        for (known, wide), made in self.quantized.items():
            if known == name and wide == border:
                return made
        size = self._map(name)
        target = self._buffer("u8", size, border, np.full(size[0], 128))
        slot: int = self.plan.scale_slot()
        writer = self.writer[name]
        if writer.op == "max_pool_gradient" and name not in self.reals:
            window = window_of(writer)
            pooled, index = self._real(writer.inputs[0]), self.indices[writer.inputs[1]]
            self.plan.magnitude(pooled, slot)
            kernel = [*window.kernel, *window.stride, *window.padding[:2]]
            self.plan.quantize(pooled, slot, index, kernel, target)
        else:
            source = self._real(name)
            self.plan.magnitude(source, slot)
            self.plan.quantize(source, slot, -1, [1, 1, 1, 1, 0, 0], target)
        self.quantized[name, border] = target, slot
        return target, slot

    def _dense_input_gradient(self, node: Node) -> None:
        name, target = node.inputs[0], node.outputs[0]
        weight = node.arrays["weight"]
        reshapes = [reader for reader in self.readers.get(target, []) if reader.op == "reshape"]
        shape = self._map(target)
        # A gradient that becomes a map is computed in the order of that map, its channels padded as they lie in memory.
        as_map = (
            len(reshapes) == 1 and self._only_reader(target, reshapes[0]) and not self._is_view(reshapes[0])
            and self._border_wanted(reshapes[0].outputs[0]) == NO_BORDER
        )  # fmt: skip
        if as_map:
            channels, height, width = self._map(reshapes[0].outputs[0])
            pitch = WORD // 2 if channels <= WORD // 2 else rounded_up(channels, WORD)
            spread = np.zeros((weight.shape[0], height, width, pitch), weight.dtype)
            spread[..., :channels] = weight.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
            weight = spread.reshape(weight.shape[0], -1)
            shape = (weight.shape[1], 1, 1)
        buffer, border = self._real(name), self.real_borders[self.same.get(name, name)]
        turned_round = np.ascontiguousarray(weight.T)[:, :, None, None]
        source = _float_convolution(buffer, turned_round, border[:2], (1, 1), (1, 1))
        if not as_map:
            self.pending[target] = Pending([source], True, _POOLED)
            return
        flat = self._buffer("f32", shape, NO_BORDER, np.zeros(shape[0]))
        self.maps[target] = shape
        self._emit(Pending([source], True), target, {"sums": flat})
        view = self.plan.view(flat, *self._map(reshapes[0].outputs[0]))
        self.reals[reshapes[0].outputs[0]] = view
        self.real_borders[reshapes[0].outputs[0]] = NO_BORDER

    def _max_pool_gradient(self, node: Node) -> None:
        gradient, index = node.inputs
        window = window_of(node)
        readers = self.readers.get(node.outputs[0], [])
        apart = (
            window.stride[0] >= window.kernel[0] and window.stride[1] >= window.kernel[1] and not any(window.padding)
        )
        if (
            apart and not self._wanted(node.outputs[0]) and len(readers) == 1
            and readers[0].op == "conv2d_input_gradient" and self._takes_bytes(readers[0])
        ):  # fmt: skip
            return  # its bytes go straight to the winners, see `_bytes`
        kernel = [*window.kernel, *window.stride, *window.padding[:2]]
        target = self._real_buffer(node.outputs[0])
        self.plan.max_pool_gradient(self._real(gradient), self.indices[index], target, kernel)

    def _sum_pool_gradient(self, node: Node) -> None:
        window = window_of(node)
        kernel = [*window.kernel, *window.stride, *window.padding[:2]]
        self.plan.sum_pool_gradient(self._real(node.inputs[0]), self._real_buffer(node.outputs[0]), kernel)


_RULES = {
    "conv2d": _Builder._conv2d,
    "dense": _Builder._dense,
    "threshold": _Builder._threshold,
    "ste_mask": _Builder._ste_mask,
    "affine": _Builder._affine,
    "channel_scale": _Builder._channel_scale,
    "add": _Builder._add,
    "ste_gradient": _Builder._ste_gradient,
    "max_pool": _Builder._max_pool,
    "sum_pool": _Builder._sum_pool,
    "relu": _Builder._relu,
    "relu_gradient": _Builder._relu_gradient,
    "reshape": _Builder._reshape,
    "pad": _Builder._pad,
    "crop": _Builder._crop,
    "conv2d_input_gradient": _Builder._conv2d_input_gradient,
    "dense_input_gradient": _Builder._dense_input_gradient,
    "max_pool_gradient": _Builder._max_pool_gradient,
    "sum_pool_gradient": _Builder._sum_pool_gradient,
}


def _needed(program: Program, outputs: Iterable[str]) -> list[Node]:
    """Nodes that the outputs depend on; a mask needs its quantizer, which sweeps the same sums."""
    wanted = set(outputs)
    quantizers = {f"{node.name}.mask_low": node for node in program.nodes if node.op == "threshold"}
    for node in reversed(program.nodes):
        if wanted & set(node.outputs):
            wanted |= set(node.inputs)
            if node.op == "ste_mask":
                wanted |= set(quantizers[node.inputs[1]].outputs)
    return [node for node in program.nodes if wanted & set(node.outputs)]


def _union(a: Border, b: Border) -> Border:
    return (max(a[0], b[0]), max(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))


def _covers(outer: Border, inner: Border) -> bool:
    return all(a >= b for a, b in zip(outer, inner, strict=True))


def _pool_border(size: tuple[int, int, int], window: Window) -> Border:
    """Border of a map that every window of a pool lies within."""
    rows, columns = window.output_size(*size[1:])
    top, left = window.padding[:2]
    bottom = max(0, (rows - 1) * window.stride[0] + window.kernel[0] - top - size[1])
    right = max(0, (columns - 1) * window.stride[1] + window.kernel[1] - left - size[2])
    return (top, left, bottom, right)


def _is_swept(pending: Pending) -> bool:
    """Whether a convolution computes these rows, so that a pool can follow in the same sweep."""
    return pending.stage == _SUMS and all(source.convolution is not None for source in pending.sources)


def _are_apart(window: Window) -> bool:
    """Whether no two windows overlap."""
    return window.stride[0] >= window.kernel[0] and window.stride[1] >= window.kernel[1]


def _is_gathered(node: Node) -> bool:
    """Whether all taps of a gradient fit into one block of outputs, as for the few channels of an image."""
    _, channels, high, wide = node.arrays["weight"].shape
    return conv2d_window(node).stride == (1, 1) and high * wide * channels <= WORD


def _never_winning(pool: Node) -> tuple[int, ...]:
    """Accumulators for the border of a max-pool's map, per channel.

    Beyond every accumulator (below 2^24), and within what the thresholds of channels that do not exist let pass: a map
    of 16 channels is read 32 wide, its neighbours' border with it.
    """
    return tuple(int(value) for value in np.where(pool.arrays["direction"] < 0, 2**30, -(2**30)))


def _channels(values: Array) -> npt.NDArray[np.float32]:
    return padded(values.astype(np.float32), rounded_up(values.shape[0], WORD))


def _real_fields(weight: Array) -> Fields:
    """How the weights of a gradient are stored: in fields where they are whole and fit a byte."""
    is_small = weight.dtype != np.float32 and weight.min() >= -128 and weight.max() <= 127
    return fields_for(weight) if is_small else RAW_F32


def _ones(channels: int) -> npt.NDArray[np.float32]:
    return _channels(np.ones(channels, np.float32))


def _float_convolution(
    buffer: int, weight: Array, first: tuple[int, int], stride: tuple[int, int], size: tuple[int, int]
) -> Source:
    """Describe a convolution of real values, its weights in as few bits as hold them and the zeros of the padding."""
    outputs, channels, high, wide = weight.shape
    values = panel(weight, 1, merged=False)
    fields = _real_fields(values)
    record = {
        "source": buffer, "family": "conv2d_f32", "taps": [high, wide, channels], "merged": False,
        "first": list(first), "stride": list(stride), "size": list(size),
        "fields": [fields.bits, fields.low, fields.step], "largest": [0, 0],
        "weights": field_bytes(values, fields),
        "start": np.zeros(rounded_up(outputs, WORD), np.int32),
    }  # fmt: skip
    return Source(record, size=size)


def _bytes_convolution(buffer: int, weight: Array, first: tuple[int, int], size: tuple[int, int]) -> Source:
    """Describe a convolution of gradients in bytes (value + 128), stride 1."""
    outputs, _, high, wide = weight.shape
    fields = fields_for(weight)
    values = panel(weight, 4, merged=False)
    total = weight.astype(np.int64).reshape(outputs, -1).sum(axis=1)
    record = {
        "source": buffer, "family": "conv2d_i8", "taps": [high, wide, values.shape[2]], "merged": False,
        "first": list(first), "stride": [1, 1], "size": list(size), "fields": [fields.bits, fields.low, fields.step],
        "largest": [255, int(np.abs(weight.astype(np.int64)).max())], "weights": field_bytes(values, fields),
        "start": padded((-128 * total).astype(np.int32), rounded_up(outputs, WORD)),
    }  # fmt: skip
    return Source(record, size=size)


@dataclass(frozen=True)
class Phase:
    """A strided convolution's gradient at every stride-th pixel: a convolution of stride 1 with some of the taps."""

    weight: Array  # (channels, outputs, high, wide): turned round
    first: tuple[int, int]  # first tap of the first pixel, relative to the gradient's map; negative in its border
    size: tuple[int, int]
    origin: tuple[int, int, int, int]
    border: Border


def _phases(node: Node) -> list[Phase]:
    """Cut the gradient of a convolution into one convolution of stride 1 for each pixel of its stride."""
    weight, window = node.arrays["weight"], conv2d_window(node)
    _, height, width = node.integers("input_shape")
    rows, columns = window.output_size(height, width)
    found = []
    for vertical in _axis_phases(height, rows, window.kernel[0], window.stride[0], window.padding[0]):
        for horizontal in _axis_phases(width, columns, window.kernel[1], window.stride[1], window.padding[1]):
            if vertical.taps and horizontal.taps:
                taps = weight[:, :, vertical.taps][:, :, :, horizontal.taps]
            else:  # no tap reaches these pixels: their gradient is 0
                taps = np.zeros((*weight.shape[:2], 1, 1), weight.dtype)
            top, bottom = vertical.border
            left, right = horizontal.border
            found.append(
                Phase(
                    np.ascontiguousarray(taps.transpose(1, 0, 2, 3)),
                    (vertical.first, horizontal.first),
                    (vertical.count, horizontal.count),
                    (vertical.origin, horizontal.origin, window.stride[0], window.stride[1]),
                    (top, left, bottom, right),
                )
            )
    return found


@dataclass(frozen=True)
class _AxisPhase:
    taps: list[int]  # of the forward kernel, in the order in which the gradient is read
    first: int
    count: int
    origin: int
    border: tuple[int, int]


def _axis_phases(size: int, outputs: int, kernel: int, stride: int, padding: int) -> list[_AxisPhase]:
    found = []
    for origin in range(min(stride, size)):
        remainder, base = (origin + padding) % stride, (origin + padding) // stride
        taps = list(range(remainder, kernel, stride))[::-1]
        count = -(-(size - origin) // stride)
        reach = max(len(taps), 1)
        first = base - (reach - 1)
        last = first + count - 1 + reach - 1
        border = (max(0, -first), max(0, last - (outputs - 1)))
        found.append(_AxisPhase(taps, first, count, origin, border))
    return found
