"""Which explanation methods there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitlens.runtime.errors import BitlensError

Float32 = npt.NDArray[np.float32]


# (engine, images (N, C, H, W), targets (N,), keyword-only options) -> maps float32 (N, C or 1, H, W)
MethodFunction = Callable[..., Float32]


@dataclass(frozen=True)
class Method:
    """A row of the method table.

    Parameters
    ----------
    function : callable
    forward_passes, backward_passes : int
        Cost for one image with the default options.
    signed : bool
        Whether the sign of a map means for or against the class.
    meaning : str
        One sentence a person reads beside the map.
    """

    function: MethodFunction
    forward_passes: int
    backward_passes: int
    signed: bool
    meaning: str

    @property
    def cost(self) -> str:
        """The cost in words."""
        return f"{self.forward_passes} forward, {self.backward_passes} backward"


METHODS: dict[str, Method] = {}


def register_method(
    name: str, *, forward_passes: int, backward_passes: int, signed: bool, meaning: str
) -> Callable[[MethodFunction], MethodFunction]:
    """Put the decorated function into `METHODS`.

    Raises
    ------
    ValueError
        If the name is taken.
    """

    def register(function: MethodFunction) -> MethodFunction:
        if name in METHODS:
            raise ValueError(f"method {name!r} is already in the table")
        METHODS[name] = Method(function, forward_passes, backward_passes, signed, meaning)
        return function

    return register


def method(name: str) -> Method:
    """Return the method of that name.

    Raises
    ------
    BitlensError
        If there is none; the message lists what there is.
    """
    if name not in METHODS:
        raise BitlensError(f"unknown method {name!r}: choose from {', '.join(METHODS)}")
    return METHODS[name]
