"""A max-pool whose winner does not hang on rounding errors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

TIE_EPSILONS = 64.0
"""Values this many epsilon of the largest one apart count as equal: what summing a few hundred products may lose."""


class MaxPool2d(nn.MaxPool2d):
    """PyTorch's max-pool; in evaluation the first of equal maxima wins, even where a rounding error parts them.

    A quantized layer gives whole numbers times a scale. Summed as floats, two windows with the same whole number come
    out a rounding error apart, and PyTorch sends the gradient to whichever error is larger; an integer engine sees a
    tie and takes the first in row-major order, as PyTorch does for exact ties. In evaluation this module sends the
    gradient to the first value within `TIE_EPSILONS` of the maximum, so that gradients are the same in PyTorch and on a
    board; the value it gives is the maximum itself. Epsilon is relative to the largest value of the image's channel:
    two different sums lie a step apart, in float64 a million times more. In training it is PyTorch's own, which is
    quicker.

    Exported to ONNX it is a plain MaxPool. Dilation, `ceil_mode` and `return_indices` are not supported.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Pool a map (N, C, H, W)."""
        if self.training or torch.onnx.is_in_onnx_export():
            pooled: Tensor = super().forward(input)
            return pooled
        windows = self._windows(input)
        winning = windows.gather(-1, self._winner(windows)).squeeze(-1)
        # The difference of two numbers so close is exact, and so is the sum.
        return winning + (windows.amax(-1) - winning).detach()

    def winners(self, input: Tensor) -> Tensor:
        """Index into the plane H * W of each window's winner in evaluation, int64 (N, C, rows, columns)."""
        height, width = input.shape[2:]
        places = torch.arange(height * width, dtype=torch.float64).reshape(1, 1, height, width)
        places = self._windows(places.expand(1, input.shape[1], height, width)).expand(len(input), -1, -1, -1, -1)
        return places.gather(-1, self._winner(self._windows(input))).squeeze(-1).to(torch.int64)

    def _windows(self, input: Tensor) -> Tensor:
        """Give every window's values, (N, C, rows, columns, kernel height * kernel width)."""
        (kernel_y, kernel_x), (stride_y, stride_x), (pad_y, pad_x) = map(
            _pair, (self.kernel_size, self.stride, self.padding)
        )
        if pad_y or pad_x:
            input = functional.pad(input, (pad_x, pad_x, pad_y, pad_y), value=-torch.inf)
        windows = input.unfold(2, kernel_y, stride_y).unfold(3, kernel_x, stride_x)
        return windows.reshape(*windows.shape[:4], kernel_y * kernel_x)

    @staticmethod
    def _winner(windows: Tensor) -> Tensor:
        """Give the place of the first value that is as good as the largest one, (..., 1)."""
        with torch.no_grad():
            finite = torch.where(windows.isfinite(), windows.abs(), 0.0)
            slack = TIE_EPSILONS * torch.finfo(windows.dtype).eps * finite.amax((2, 3, 4), keepdim=True)
            equal = windows >= windows.amax(-1, keepdim=True) - slack
            size = windows.shape[-1]
            earlier = torch.arange(size, 0, -1, device=windows.device)
            return (equal * earlier).argmax(-1, keepdim=True)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)
