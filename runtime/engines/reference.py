"""The `reference` engine: NumPy, slow, the definition."""

from __future__ import annotations

from functools import cache, partial

import numpy as np

from bitlens.runtime.autodiff import gradient_program
from bitlens.runtime.engines.engine import Engine, EngineInfo, RunGraph
from bitlens.runtime.engines.registry import register_engine
from bitlens.runtime.interpreter import interpret
from bitlens.runtime.network import Network


@register_engine("reference", speed=0)
def open_reference(network: Network, threads: int) -> Engine:
    """Open a program on the NumPy interpreter; `threads` is NumPy's own affair."""
    program = network.program

    @cache
    def gradient() -> RunGraph:
        return partial(interpret, gradient_program(program))

    info = EngineInfo("reference", f"NumPy {np.__version__}", threads, "one NumPy function per op")
    return Engine(info, program, partial(interpret, program), lambda feeds, outputs: gradient()(feeds, outputs))
