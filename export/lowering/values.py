"""What lowering knows of each ONNX tensor: a linear map of a program's tensor, a padded one, or a constant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitlens.runtime.errors import BitlensError

Float64 = npt.NDArray[np.float64]

Padding = tuple[int, int, int, int]


@dataclass(frozen=True)
class Linear:
    """The real value slope * tensor + offset, rectified or not.

    Parameters
    ----------
    tensor : str
        A tensor of the program.
    slope, offset : float64, shape () or (C,)
    rectified : bool
        Whether max(., 0) follows.
    """

    tensor: str
    slope: Float64
    offset: Float64
    rectified: bool = False


@dataclass(frozen=True)
class Padded:
    """A value with a border that the next convolution takes in."""

    inner: Linear
    padding: Padding
    value: float


@dataclass(frozen=True)
class WeightCodes:
    """Constant codes * scale, the scale broadcasting over the codes."""

    codes: npt.NDArray[np.int64]
    scale: Float64

    @property
    def real(self) -> Float64:
        """The constant itself."""
        return np.asarray(self.codes * self.scale, np.float64)


Constant = npt.NDArray[np.generic]

Value = Linear | Padded | WeightCodes | Constant


def scalar(value: float) -> Float64:
    """Make a slope or offset that is the same for every channel."""
    return np.array(value, np.float64)


def constant(value: Value | None, what: str) -> Float64:
    """Give the real value of an input that must be constant.

    Raises
    ------
    BitlensError
        If it is computed, or missing; `what` names it in the message.
    """
    if isinstance(value, WeightCodes):
        return value.real
    if isinstance(value, np.ndarray):
        return value.astype(np.float64)
    raise BitlensError(f"{what} is computed at run time, expected a constant: export the network in evaluation mode")
