"""The `onnxruntime` engine: the exported ONNX graphs, forward and gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from bitlens.runtime.autodiff import gradient_program
from bitlens.runtime.engines.engine import Engine, EngineInfo, RunGraph
from bitlens.runtime.engines.registry import register_engine
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.network import FORWARD_ONNX, GRADIENT_ONNX, Network
from bitlens.runtime.program import Array, Program
from bitlens.runtime.type_check import infer_types


def run_onnx(model: bytes, program: Program, *, threads: int = 1, optimization: str = "ORT_ENABLE_ALL") -> RunGraph:
    """Load an ONNX model that was written from `program`.

    Parameters
    ----------
    model : bytes
        What `bitlens.export.onnx_model` made, serialized.
    program : Program
        Says what dtype each tensor has; ONNX carries whole numbers in float32.
    threads : int
        Threads inside one op.
    optimization : str
        A name of `onnxruntime.GraphOptimizationLevel`.

    Returns
    -------
    callable
        (inputs by name, names of outputs) -> arrays by name.

    Raises
    ------
    BitlensError
        If ONNX Runtime refuses the model, or, when it runs, the model gives something else than the program says.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, optimization)
    try:
        session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no public base class
        raise BitlensError(f"ONNX Runtime refuses the model ({error}): export the network again") from error
    types = infer_types(program)
    as_integers = {item.name for item in program.inputs if item.default is None and item.type.is_integer}

    def run(feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        given = {
            name: value if name in as_integers else value.astype(np.float32, copy=False)
            for name, value in feeds.items()
        }
        try:
            results = session.run(list(outputs), given)
        except Exception as error:
            raise BitlensError(f"ONNX Runtime cannot run the model ({error}): export the network again") from error
        for name, value in zip(outputs, results, strict=True):
            if value.shape[1:] != types[name].shape:
                raise BitlensError(
                    f"the ONNX model gives {name!r} as {value.shape[1:]}, expected {types[name].shape}: it was not "
                    "written from this program, export the network again"
                )
        return {name: value.astype(types[name].dtype, copy=False) for name, value in zip(outputs, results, strict=True)}

    return run


@register_engine("onnxruntime", speed=10, modules=("onnxruntime",), extra="onnx", files=(FORWARD_ONNX, GRADIENT_ONNX))
def open_onnxruntime(network: Network, threads: int) -> Engine:
    """Open the exported ONNX files; the gradient file is loaded when it is first needed."""
    import onnxruntime

    program = network.program

    @cache
    def forward() -> RunGraph:
        return run_onnx(network.read(FORWARD_ONNX), program, threads=threads)

    @cache
    def gradient() -> RunGraph:
        return run_onnx(network.read(GRADIENT_ONNX), gradient_program(program), threads=threads)

    info = EngineInfo("onnxruntime", onnxruntime.__version__, threads, "CPUExecutionProvider")
    return Engine(
        info,
        program,
        lambda feeds, outputs: forward()(feeds, outputs),
        lambda feeds, outputs: gradient()(feeds, outputs),
    )
