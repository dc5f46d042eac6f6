"""Larq Compute Engine."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

PACKAGE = "larq_compute_engine"
_INTERPRETER = Path("tflite/python/interpreter_wrapper_lite.so")


def _interpreter() -> Any:
    """Load the compiled interpreter alone: the package around it is a converter, which needs TensorFlow."""
    package = find_spec(PACKAGE)
    assert package is not None
    assert package.submodule_search_locations is not None
    path = Path(next(iter(package.submodule_search_locations))) / _INTERPRETER
    spec = spec_from_file_location(_INTERPRETER.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LiteInterpreter


def open_larq(model: bytes) -> Callable[[], float]:
    """Open a model that holds its image, on the indirect path, its fastest on x86; a call runs it once.

    The call gives the first number of the output: the binding takes the size of NumPy 2's items for 0, and so it copies
    that number everywhere.
    """
    # bytes, threads, reference convolution, indirect convolution, XNNPACK
    interpreter = _interpreter()(model, 1, False, True, False)
    return lambda: float(interpreter.predict([])[0].flat[0])
