"""Engines: one small interface, several ways to run a program and its gradient."""

from bitlens.runtime.engines import native, onnxruntime, reference, tflite
from bitlens.runtime.engines.engine import (
    FLOAT32_GRADIENTS,
    FREE_ENGINES,
    INT8_GRADIENTS,
    Choices,
    Engine,
    EngineInfo,
    FeatureMap,
    Gradient,
    logit_accumulators,
    one_hot,
    trained_window,
)
from bitlens.runtime.engines.registry import (
    AUTO,
    ENGINES,
    capable_engines,
    is_installed,
    open_engine,
    present_engines,
    register_engine,
)

__all__ = [
    "AUTO",
    "ENGINES",
    "FLOAT32_GRADIENTS",
    "FREE_ENGINES",
    "INT8_GRADIENTS",
    "Choices",
    "Engine",
    "EngineInfo",
    "FeatureMap",
    "Gradient",
    "capable_engines",
    "is_installed",
    "logit_accumulators",
    "native",
    "one_hot",
    "onnxruntime",
    "open_engine",
    "present_engines",
    "reference",
    "register_engine",
    "tflite",
    "trained_window",
]
