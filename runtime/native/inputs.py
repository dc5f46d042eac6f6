"""Where a program's inputs lie: real maps as they are, the image's codes as int16 and, where they may fit, as bytes."""

from __future__ import annotations

import numpy as np

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.native.border import NO_BORDER, union
from bitlens.runtime.native.builder import Builder
from bitlens.runtime.native.codes import Codes, layer_demand


def lay_out_inputs(builder: Builder) -> None:
    """Make the buffers of the inputs that are maps; windows and the guided floor are none."""
    graph = builder.graph
    for place, item in enumerate(graph.program.inputs):
        if not item.type.batched or (place and item.name not in graph.readers):
            continue
        if item.type.is_integer:
            if place or item.type.low < -(2**15) or item.type.high >= 2**15:
                raise BitlensError(
                    f"input {item.name!r} takes integers from {item.type.low} to {item.type.high}: the native engine "
                    "reads one image of int16, use --engine reference"
                )
            _lay_out_image(builder, item.name)
        else:
            builder.floats[item.name] = builder.real_buffer(item.name)


def _lay_out_image(builder: Builder, name: str) -> None:
    """Lay an image out for its convolutions, with their border and without padding of its few channels.

    An image with other readers, or with layers that disagree on its border, is converted for each of them instead.
    """
    graph, channels = builder.graph, builder.graph.map_of(name)[0]
    readers = graph.readers_through_views(name)
    layers = [node for node in readers if node.op in ("conv2d", "dense")]
    demands = [layer_demand(graph, builder.plan, node, name) for node in layers]
    has_kernels = all(demand.form != "i32" for demand in demands)
    is_plain = not readers or len(layers) < len(readers) or name in graph.outputs
    if is_plain or not has_kernels or len({demand.fill for demand in demands}) > 1:
        buffer = builder.buffer("i16", graph.map_of(name), tight=True)
        builder.image["i16"] = Codes(buffer, "i16", NO_BORDER, (0,) * channels, 0, 1)
        builder.codes[name] = [builder.image["i16"]]
        return
    border, fill = NO_BORDER, demands[0].fill
    for demand in demands:
        border = union(border, demand.border)
    may_be_bytes = all(np.abs(node.arrays["weight"].astype(np.int64)).max() <= 127 for node in layers)
    for form in ("i16", "u8") if may_be_bytes and min(fill) >= 0 and max(fill) <= 255 else ("i16",):
        buffer = builder.buffer(form, graph.map_of(name), border, np.asarray(fill), tight=True)
        builder.image[form] = Codes(buffer, form, border, fill, 0, 1)
    builder.codes[name] = [builder.image["i16"]]
