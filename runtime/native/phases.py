"""How the gradient of a convolution is cut into convolutions of stride 1, one for each pixel of the stride."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitlens.runtime.native.border import NO_BORDER, Border, union
from bitlens.runtime.native.packing import WORD
from bitlens.runtime.ops.conv2d import conv2d_window
from bitlens.runtime.program import Array, Node


@dataclass(frozen=True)
class Phase:
    """The pixels (y, x) with y % stride = one remainder and x % stride = another.

    All of them see the same taps of the forward kernel, and neighbours among them see neighbouring pixels of the
    gradient that arrives: their gradient is a convolution of stride 1 with just those taps.

    Parameters
    ----------
    weight : array (channels, outputs, high, wide)
        The taps in the order in which they are read: the forward kernel's, turned round.
    first : (int, int)
        First tap of the first pixel in the arriving gradient's map; negative where it lies in the border.
    size : (int, int)
        Rows and columns of this phase.
    origin : (int, int, int, int)
        Where its first pixel lies in the input's map, and the steps to the next row and column.
    border : Border
        Zeros that it reads around the arriving gradient.
    """

    weight: Array
    first: tuple[int, int]
    size: tuple[int, int]
    origin: tuple[int, int, int, int]
    border: Border


def gradient_phases(node: Node) -> list[Phase]:
    """Cut a `conv2d_input_gradient` without groups into its phases."""
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
            phase = Phase(
                weight=np.ascontiguousarray(taps.transpose(1, 0, 2, 3)),
                first=(vertical.first, horizontal.first),
                size=(vertical.count, horizontal.count),
                origin=(vertical.origin, horizontal.origin, window.stride[0], window.stride[1]),
                border=(top, left, bottom, right),
            )
            found.append(phase)
    return found


def phases_border(phases: list[Phase]) -> Border:
    """Border that all of the phases lie within."""
    border = NO_BORDER
    for phase in phases:
        border = union(border, phase.border)
    return border


def is_gathered(node: Node) -> bool:
    """Whether several taps of a gradient fit into one block of outputs, as for the few channels of an image.

    It is then computed tap by tap and gathered, not in phases, which would leave most of a block empty.
    """
    _, channels, high, wide = node.arrays["weight"].shape
    return conv2d_window(node).stride == (1, 1) and high * wide > 1 and high * wide * channels <= WORD


@dataclass(frozen=True)
class _AxisPhase:
    taps: list[int]  # of the forward kernel, in the order in which the gradient is read
    first: int
    count: int
    origin: int
    border: tuple[int, int]  # before and behind


def _axis_phases(size: int, outputs: int, kernel: int, stride: int, padding: int) -> list[_AxisPhase]:
    """Cut one axis: of an input of `size` pixels whose convolution has `outputs`."""
    found = []
    for origin in range(min(stride, size)):
        # Tap k of output o reads pixel o * stride + k - padding: pixel `origin` is read by the taps k = remainder,
        # remainder + stride, ... of the outputs base, base - 1, ...
        base, remainder = divmod(origin + padding, stride)
        taps = list(range(remainder, kernel, stride))[::-1]
        count = -(-(size - origin) // stride)
        reach = max(len(taps), 1)
        first = base - (reach - 1)
        last = first + count - 1 + reach - 1
        border = (max(0, -first), max(0, last - (outputs - 1)))
        found.append(_AxisPhase(taps, first, count, origin, border))
    return found
