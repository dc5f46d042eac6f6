"""Which explanation methods there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.methods.option import Option, Value, declared_options
from bitlens.runtime.program import Program
from bitlens.runtime.table import add_row, row_of

Float32 = npt.NDArray[np.float32]

# (engine, images (N, C, H, W), targets (N,), keyword-only options) -> maps float32 (N, C or 1, H, W)
MethodFunction = Callable[..., Float32]


@dataclass(frozen=True)
class Passes:
    """What one map costs: times that one image goes through the network.

    Parameters
    ----------
    forward, backward : int
        A call for the gradient is one of each.
    at_most : bool
        Whether a map may take fewer, depending on the image.
    """

    forward: int
    backward: int
    at_most: bool = False

    def __str__(self) -> str:
        bound = "at most " if self.at_most else ""
        if not self.backward:
            return f"{bound}{self.forward} forward pass{'es' if self.forward != 1 else ''}"
        return f"{bound}{self.forward} forward, {self.backward} backward pass{'es' if self.backward != 1 else ''}"

    def __add__(self, other: Passes) -> Passes:
        return Passes(self.forward + other.forward, self.backward + other.backward, self.at_most or other.at_most)


@dataclass(frozen=True)
class Method:
    """A row of the method table.

    Parameters
    ----------
    name : str
        By which `METHODS` has it.
    title : str
        How its authors call it.
    paper : str
        Authors and arXiv number or journal.
    function : callable
    cost : callable
        (program, every option by name) -> Passes for one image; `passes` fills in the defaults.
    needs_gradient : bool
        Whether it needs the gradient program; a method that does not runs on any engine.
    signed : bool
        Whether the sign of a map means for or against the class.
    reduce : {"sum", "max_abs"}
        How `reduce_channels` makes one value per pixel of it.
    shown_from : {"zero", "minimum"}
        Where the colours of a picture begin: at 0, or at the map's smallest value where only differences count.
    meaning : str
        What a map shows, for the person who reads it.
    options : tuple of Option
    """

    name: str
    title: str
    paper: str
    function: MethodFunction
    cost: Callable[..., Passes]
    needs_gradient: bool
    signed: bool
    reduce: Literal["sum", "max_abs"]
    shown_from: Literal["zero", "minimum"]
    meaning: str
    options: tuple[Option, ...]

    def meaning_for(self, program: Program) -> str:
        """Say what a map of this network shows, with what must be known of a quantized network's gradient."""
        if program.is_full_precision or not self.needs_gradient:
            return self.meaning
        return f"{self.meaning} {SURROGATE}"

    def passes(self, program: Program, **options: Value) -> Passes:
        """Count what one map of this network costs.

        Raises
        ------
        BitlensError
            If there is no such option.
        """
        defaults = {option.name: option.default for option in self.options}
        for name in options:
            self.option(name)
        return self.cost(program, **(defaults | options))

    def option(self, name: str) -> Option:
        """Return the option of that name.

        Raises
        ------
        BitlensError
            If there is none; the message lists what there is.
        """
        for option in self.options:
            if option.name == name:
                return option
        listed = ", ".join(option.name for option in self.options)
        remedy = f"choose from {listed}" if listed else "it has none, leave it out"
        raise BitlensError(f"{self.name} has no option {name!r}: {remedy}")

    def settings(self, texts: Sequence[str]) -> dict[str, Value]:
        """Read options as a person writes them, `name=value` each.

        Raises
        ------
        BitlensError
            If one is not of that form, unknown, given twice, or of another type.
        """
        values: dict[str, Value] = {}
        for text in texts:
            name, equals, value = text.partition("=")
            if not equals:
                raise BitlensError(f"the setting {text!r} has no '=': expected NAME=VALUE")
            if name in values:
                raise BitlensError(f"the option {name!r} is set twice: give it once")
            values[name] = self.option(name).value_of(value)
        return values


SURROGATE = (
    "The gradient is the straight-through one that the network was trained with: a surrogate, not a derivative, "
    "because a quantized network is a step function."
)

METHODS: dict[str, Method] = {}


def register_method(
    name: str,
    *,
    title: str,
    paper: str,
    cost: Callable[..., Passes],
    signed: bool,
    meaning: str,
    needs_gradient: bool = True,
    reduce: Literal["sum", "max_abs"] = "sum",
    shown_from: Literal["zero", "minimum"] = "zero",
    options: Mapping[str, str] | None = None,
    choices: Mapping[str, tuple[str, ...]] | None = None,
) -> Callable[[MethodFunction], MethodFunction]:
    """Put the decorated function into `METHODS`.

    Parameters
    ----------
    name, title, paper, cost, signed, meaning, needs_gradient, reduce, shown_from
        As for `Method`.
    options : mapping
        What each keyword-only option sets; default and type are read from the signature.
    choices : mapping
        The words an option takes.

    Raises
    ------
    ValueError
        If the name is taken, or the options do not fit the signature.
    """

    def register(function: MethodFunction) -> MethodFunction:
        declared = declared_options(function, options or {}, choices or {})
        method = Method(
            name, title, paper, function, cost, needs_gradient, signed, reduce, shown_from, meaning, declared
        )
        add_row(METHODS, "method", name, method)
        return function

    return register


def method(name: str) -> Method:
    """Return the method of that name.

    Raises
    ------
    BitlensError
        If there is none; the message lists what there is.
    """
    return row_of(METHODS, "method", name)


def one_gradient(program: Program, **options: Value) -> Passes:
    """Cost of a method that asks for the gradient once."""
    return Passes(1, 1)
