"""Frozen dataclasses as JSON and back: a file from elsewhere is checked field by field against their types."""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from bitlens.runtime.errors import BitlensError

Form = TypeVar("Form")


def to_json(value: object) -> Any:
    """Turn dataclasses, tuples, numbers, text and None into JSON values; a number that is not finite becomes null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_json(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, tuple):
        return [to_json(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def versioned_values(content: bytes, kind: str, latest: int, command: str) -> dict[str, Any]:
    """Parse a JSON object that begins with `<kind>_version`.

    Parameters
    ----------
    content : bytes
    kind : str
        What it is called: "certificate".
    latest : int
        The newest version that is read here.
    command : str
        What writes such a file, for a message.

    Raises
    ------
    BitlensError
        If it is no such object, or made by a newer version.
    """
    facts = json_values(content)
    version = facts.get(f"{kind}_version") if isinstance(facts, dict) else None
    if not isinstance(facts, dict) or type(version) is not int:
        raise BitlensError(f"it is no {kind}: expected the JSON that `{command}` wrote")
    if not 1 <= version <= latest:
        raise BitlensError(f"it has version {version}, this bitlens reads 1 to {latest}: update bitlens")
    return facts


def from_json(form: type[Form], value: Any, where: str) -> Form:
    """Turn JSON values into a dataclass of these types: dataclasses, tuples of one type, int, float, str, bool, None.

    null is NaN where a float is expected. Text must be printable. Names that the dataclass does not have are passed
    over; those with a default may be missing.

    Raises
    ------
    BitlensError
        If something is missing or of another type; the message says where.
    """
    made: Form = _made(form, value, where)
    return made


def json_values(content: bytes) -> Any:
    """Parse JSON from elsewhere, standard JSON only.

    Raises
    ------
    BitlensError
        If it is none.
    """

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is not JSON")

    try:
        return json.loads(content, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise BitlensError(f"it is damaged ({error or 'nested too deep'}): expected JSON") from error


def _made(form: Any, value: Any, where: str) -> Any:
    if get_origin(form) in (Union, UnionType):
        (form,) = (each for each in get_args(form) if each is not NoneType)
        return None if value is None else _made(form, value, where)
    if get_origin(form) is tuple:
        if not isinstance(value, list):
            raise _damaged(where, "a list", value)
        return tuple(_made(get_args(form)[0], one, f"{where}[{place}]") for place, one in enumerate(value))
    if is_dataclass(form) and isinstance(form, type):
        if not isinstance(value, dict):
            raise _damaged(where, "an object", value)
        types = get_type_hints(form)
        missing = [item.name for item in fields(form) if item.name not in value and item.default is MISSING]
        if missing:
            raise _damaged(f"{where}.{missing[0]}", "a value", None)
        given = [item.name for item in fields(form) if item.name in value]
        return form(**{name: _made(types[name], value[name], f"{where}.{name}") for name in given})
    if form is float:
        if value is None:
            return math.nan
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
        raise _damaged(where, "a number", value)
    # bool is an int in Python, not in JSON; nothing here counts beyond 64 bits.
    if type(value) is not form or (form is int and abs(value) >= 2**63) or (form is str and not value.isprintable()):
        raise _damaged(where, {int: "a whole number", str: "printable text", bool: "true or false"}[form], value)
    return value


def _damaged(where: str, expected: str, value: Any) -> BitlensError:
    return BitlensError(f"it is damaged: {where} is {ascii(value)[:40]}, expected {expected}")
