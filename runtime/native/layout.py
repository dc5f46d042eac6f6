"""Lay a program out for the kernels: which buffers, in which form, and which steps fill them.

One pass over the nodes. What computes rows (a convolution, or a map that is read again) stays pending while the nodes
behind it can be done in the same sweep: a pool, an affine map, a straight-through gradient, a residual, a quantizer
with its mask. It becomes a step when someone needs it whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.native import backward_rules, convolution_rules, forward_rules  # noqa: F401 - they fill RULES
from bitlens.runtime.native.border import NO_BORDER
from bitlens.runtime.native.builder import Builder
from bitlens.runtime.native.codes import Codes
from bitlens.runtime.native.graph import Graph
from bitlens.runtime.native.inputs import lay_out_inputs
from bitlens.runtime.native.quantizer import MaskBox
from bitlens.runtime.native.rules import RULES
from bitlens.runtime.program import Program, TensorType


@dataclass
class Layout:
    """A finished plan and where its inputs and outputs lie.

    Parameters
    ----------
    plan : bitlens.runtime._kernels.Plan
    program : Program
    types : mapping of TensorType
    image : mapping of int
        Buffer of the image by form; without `u8`, only int16 is taken. Empty if it is of real values.
    floats : mapping of int
        Buffers of the inputs of real values.
    codes : mapping of Codes
        Outputs of integers, masks of 0 and 1 among them.
    reals : mapping of int
        Buffers of the other outputs.
    boxes : mapping of MaskBox
        By quantizer.
    widened : set of str
        Quantizers whose box is not the trained one at present.
    """

    plan: Any
    program: Program
    types: Mapping[str, TensorType]
    image: Mapping[str, int]
    floats: Mapping[str, int]
    codes: Mapping[str, Codes]
    reals: Mapping[str, int]
    boxes: Mapping[str, MaskBox]
    widened: set[str] = field(default_factory=set)


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
        graph = Graph(program, tuple(outputs))
        builder = Builder(graph, plan, int8_gradients=int8_gradients, reuses_memory=reuses_memory)
        lay_out_inputs(builder)
        for node in graph.nodes:
            if node.op not in RULES:
                raise BitlensError(f"node {node.name!r}: the native engine has no kernel for op {node.op!r}")
            RULES[node.op](builder, node)
            builder.finish_node(node)
        layout = _layout(builder)
        plan.finish(most_images, memory_bytes)
    except ValueError as error:  # the plan checks every step
        raise BitlensError(f"the native engine cannot run this network ({error}): use --engine reference") from error
    except MemoryError as error:
        raise BitlensError("there is not enough memory to run this network: close other programs") from error
    return layout


def _layout(builder: Builder) -> Layout:
    """Have the outputs stored that are not, and say where all of them lie."""
    graph = builder.graph
    codes: dict[str, Codes] = {}
    reals: dict[str, int] = {}
    for name in graph.outputs:
        if name in builder.masks:
            codes[name] = Codes(builder.masks[name], "mask", NO_BORDER, (), 0, 1)
        elif graph.types[name].is_integer:
            codes[name] = builder.stored_codes(name)[0]
        else:
            reals[name] = builder.real(name)
    image = {form: kept.buffer for form, kept in builder.image.items()}
    return Layout(builder.plan, graph.program, graph.types, image, builder.floats, codes, reals, builder.boxes)
