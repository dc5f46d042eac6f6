"""What an engine leaves open when a gradient pass runs, and that it refuses the rest in words that help."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest

from bitlens.runtime.engines import Engine
from bitlens.runtime.errors import BitlensError

Answer = TypeVar("Answer")


def offered_features(engine: Engine) -> tuple[str, ...]:
    """Feature maps whose gradient an engine gives."""
    return engine.feature_names if engine.choices.features is None else engine.choices.features


def asked(engine: Engine, is_open: bool, what: str, call: Callable[[], Answer]) -> Answer | None:
    """What is answered; None where the engine does not leave that choice open, and says `what` and who does."""
    if is_open:
        return call()
    said = rf"engine '{engine.info.name}' .* fixed at export, .*{what}: use --engine native, onnxruntime or reference$"
    with pytest.raises(BitlensError, match=said):
        call()
    return None
