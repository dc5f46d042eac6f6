"""The compiled kernels, `bitlens.runtime._kernels`; a pure-Python install has none."""

from __future__ import annotations

from importlib import import_module
from typing import Any

MODULE = "bitlens.runtime._kernels"


def kernels() -> Any:
    """Give the compiled module.

    Raises
    ------
    ImportError
        If bitlens was installed without its compiled part.
    """
    return import_module(MODULE)
