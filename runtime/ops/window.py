"""The geometry that convolutions and pools share: where a kernel stands on a padded map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.program import MAX_TENSOR_ELEMENTS, Array, Attribute, Node, TensorType

MAX_KERNEL_SIDE = 1024


@dataclass(frozen=True)
class Window:
    """A kernel of (height, width) moved by `stride` over a map padded by `padding` = (top, left, bottom, right)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of positions; a last partial step is dropped.

        Raises
        ------
        BitlensError
            If the kernel is larger than the padded map.
        """
        top, left, bottom, right = self.padding
        rows = (height + top + bottom - self.kernel[0]) // self.stride[0] + 1
        columns = (width + left + right - self.kernel[1]) // self.stride[1] + 1
        if rows < 1 or columns < 1:
            raise BitlensError(
                f"a {self.kernel[0]}x{self.kernel[1]} kernel does not fit a map of {height}x{width} padded by "
                f"{self.padding}: use a larger image or fewer pools"
            )
        return rows, columns

    def views(self, padded: Array) -> Array:
        """All windows of a padded map: (N, C, H, W) -> (N, C, rows, columns, kernel height, kernel width), no copy."""
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.kernel, axis=(2, 3))
        return windows[:, :, :: self.stride[0], :: self.stride[1]]

    def add_back(self, cells: Array, height: int, width: int) -> npt.NDArray[np.float64]:
        """Transpose of `views` after padding: sum what each window gives into the (N, C, height, width) map it saw."""
        top, left, bottom, right = self.padding
        batch, channels, rows, columns = cells.shape[:4]
        total = np.zeros((batch, channels, height + top + bottom, width + left + right))
        for y in range(self.kernel[0]):
            for x in range(self.kernel[1]):
                total[
                    :,
                    :,
                    y : y + rows * self.stride[0] : self.stride[0],
                    x : x + columns * self.stride[1] : self.stride[1],
                ] += cells[..., y, x]
        return total[:, :, top : top + height, left : left + width]


def padded_with(values: Array, padding: tuple[int, int, int, int], fill: Array | float) -> Array:
    """Pad a (N, C, H, W) map by (top, left, bottom, right) with one number, or one per channel."""
    if not any(padding):
        return values
    top, left, bottom, right = padding
    batch, channels, height, width = values.shape
    result = np.empty((batch, channels, height + top + bottom, width + left + right), values.dtype)
    result[...] = np.reshape(fill, (-1, 1, 1))
    result[:, :, top : top + height, left : left + width] = values
    return result


def padding_of(node: Node) -> tuple[int, int, int, int]:
    """Give the checked attribute `padding`."""
    padding = node.integers("padding")
    if len(padding) != 4 or not all(0 <= side < MAX_KERNEL_SIDE for side in padding):
        raise BitlensError(f"attribute 'padding' is {padding}, expected four sides of 0 to {MAX_KERNEL_SIDE - 1}")
    top, left, bottom, right = padding
    return top, left, bottom, right


def window_of(node: Node, kernel: tuple[int, int] | None = None) -> Window:
    """Give a node's checked window: `kernel` from its weights, else from its attribute."""
    stride = node.integers("stride")
    sides = node.integers("kernel") if kernel is None else kernel
    for name, pair in (("stride", stride), ("kernel", sides)):
        if len(pair) != 2 or not all(1 <= side <= MAX_KERNEL_SIDE for side in pair):
            raise BitlensError(f"{name} is {tuple(pair)}, expected two numbers from 1 to {MAX_KERNEL_SIDE}")
    return Window((sides[0], sides[1]), (stride[0], stride[1]), padding_of(node))


def attributes_of(window: Window, *, with_kernel: bool) -> dict[str, Attribute]:
    """`window` as node attributes; a convolution's kernel is known from its weights."""
    attributes: dict[str, Attribute] = {"stride": window.stride, "padding": window.padding}
    if with_kernel:
        attributes["kernel"] = window.kernel
    return attributes


def map_shape(type: TensorType, what: str) -> tuple[int, int, int]:
    """(C, H, W) of a checked feature map.

    Raises
    ------
    BitlensError
        If the tensor is not a map.
    """
    if len(type.shape) != 3 or not type.batched:
        raise BitlensError(f"{what} is of shape {type.shape}, expected a map (channels, height, width)")
    channels, height, width = type.shape
    return channels, height, width


def bounded(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return `shape`, refused where one image would need more than `MAX_TENSOR_ELEMENTS`."""
    if any(side < 1 for side in shape) or int(np.prod(shape, dtype=object)) > MAX_TENSOR_ELEMENTS:
        raise BitlensError(f"a tensor of shape {shape} is out of bounds: expected 1 to {MAX_TENSOR_ELEMENTS} elements")
    return shape
