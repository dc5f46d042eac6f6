"""Refusals of options out of their range."""

from __future__ import annotations

import math

from bitlens.runtime.errors import BitlensError


def expect_at_least(name: str, value: float, least: float) -> None:
    """Refuse an option below `least`.

    Raises
    ------
    BitlensError
        If it is, or is not a number.
    """
    if not value >= least or not math.isfinite(value):
        raise BitlensError(f"{name} is {value}, expected at least {least}")


def expect_above(name: str, value: float, bound: float) -> None:
    """Refuse an option that is not above `bound`.

    Raises
    ------
    BitlensError
        If it is not.
    """
    if not value > bound or not math.isfinite(value):
        raise BitlensError(f"{name} is {value}, expected a number above {bound}")
