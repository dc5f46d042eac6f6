"""What can be set about a method, read from its signature: name, default, type."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bitlens.runtime.errors import BitlensError

Value = int | float | str | None

_KINDS: Mapping[str, tuple[type, str]] = {
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "str": (str, "a name"),
}
# Chosen through an engine's quantizers, not by a word on the command line.
_NOT_FOR_A_PERSON = frozenset({"windows"})


@dataclass(frozen=True)
class Option:
    """One keyword-only option of a method.

    Parameters
    ----------
    name : str
    default : int, float, str or None
        None where the method derives a value from the network.
    kind : type
        int, float or str.
    meaning : str
        What it sets, for the person who sets it.
    choices : tuple of str
        The words it takes; empty for any.
    """

    name: str
    default: Value
    kind: type
    meaning: str
    choices: tuple[str, ...] = ()

    def value_of(self, text: str) -> Value:
        """Turn what a person wrote into a value of this option.

        Raises
        ------
        BitlensError
            If it is of another type, or none of the choices.
        """
        if self.choices and text not in self.choices:
            raise BitlensError(f"{self.name} is {text!r}: choose from {', '.join(self.choices)}")
        try:
            value: Value = self.kind(text)
        except ValueError:
            value = None
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            raise BitlensError(f"{self.name} is {text!r}, expected {_KINDS[self.kind.__name__][1]}")
        return value


def declared_options(
    function: Callable[..., Any], meanings: Mapping[str, str], choices: Mapping[str, tuple[str, ...]]
) -> tuple[Option, ...]:
    """List the options of a method from its signature.

    Parameters
    ----------
    function : callable
        Its keyword-only parameters, annotated `int`, `float` or `str` (or any of them `| None`), are the options.
    meanings : mapping
        What each of them sets.
    choices : mapping
        The words that an option takes, where not any.

    Raises
    ------
    ValueError
        If an option has no meaning, a meaning no option, or an annotation is of another kind.
    """
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in _NOT_FOR_A_PERSON
    }
    if set(parameters) != set(meanings):
        raise ValueError(f"options {sorted(parameters)} and meanings {sorted(meanings)} differ")
    options = []
    for name, parameter in parameters.items():
        kind = str(parameter.annotation).removesuffix(" | None")
        if kind not in _KINDS:
            raise ValueError(f"option {name!r} is annotated {kind}: expected one of {', '.join(_KINDS)}")
        options.append(Option(name, parameter.default, _KINDS[kind][0], meanings[name], choices.get(name, ())))
    return tuple(options)
