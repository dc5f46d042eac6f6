"""Which explanation methods there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.program import Program

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
        What a map shows, for the person who reads it.
    options : tuple of str
        Keyword-only options that the command line offers: `layer`.
    """

    function: MethodFunction
    forward_passes: int
    backward_passes: int
    signed: bool
    meaning: str
    options: tuple[str, ...] = ()

    def meaning_for(self, program: Program) -> str:
        """Say what a map of this network shows, with what must be known of a quantized network's gradient."""
        if program.is_full_precision or not self.backward_passes:
            return self.meaning
        return f"{self.meaning} {SURROGATE}"

    @property
    def cost(self) -> str:
        """The cost in words."""
        return f"{self.forward_passes} forward, {self.backward_passes} backward"


SURROGATE = (
    "The gradient is the straight-through one that the network was trained with: a surrogate, not a derivative, "
    "because a quantized network is a step function."
)

METHODS: dict[str, Method] = {}


def register_method(
    name: str,
    *,
    forward_passes: int,
    backward_passes: int,
    signed: bool,
    meaning: str,
    options: tuple[str, ...] = (),
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
        METHODS[name] = Method(function, forward_passes, backward_passes, signed, meaning, options)
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
