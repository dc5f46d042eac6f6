"""A machine where engines lack something."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from bitlens.runtime.engines import registry
from bitlens.runtime.native.kernels import MODULE


def without_modules(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """As if these, and no others, were not installed."""
    monkeypatch.setattr(registry, "find_spec", lambda name: None if name in modules else find_spec(name))


def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if bitlens were installed without its compiled part."""
    without_modules(monkeypatch, MODULE)
