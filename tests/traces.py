"""What a program computed for a batch, and in what two such traces differ."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from ai_edge_litert.interpreter import Interpreter

from bitlens.export.onnx_writer import onnx_model
from bitlens.export.tflite_writer import tflite_model
from bitlens.runtime.autodiff import SEED
from bitlens.runtime.interpreter import interpret
from bitlens.runtime.program import Array, Program
from bitlens.runtime.type_check import infer_types

Trace = dict[str, Array]

OPTIMIZATIONS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")


def feeds_of(program: Program, codes: npt.NDArray[Any], seed: Array | None = None) -> Trace:
    """The image as `program` takes it, and a seed if there is one."""
    image = codes.astype(np.int16) if program.image_type.is_integer else (codes / 255.0).astype(np.float32)
    feeds: Trace = {program.inputs[0].name: image}
    return feeds if seed is None else feeds | {SEED: np.asarray(seed, np.float32)}


def traced_names(program: Program) -> tuple[str, ...]:
    """Outputs, codes and accumulators of a program.

    A pool's index is none of them: ONNX counts it through the whole batch, a program through one plane.
    """
    types = infer_types(program)
    inputs = {item.name for item in program.inputs}
    integers = [name for name, kind in types.items() if kind.is_integer and name not in inputs]
    return tuple(dict.fromkeys([*program.outputs, *(name for name in integers if not name.endswith(".index"))]))


def pool_indices(program: Program) -> tuple[str, ...]:
    return tuple(name for name in infer_types(program) if name.endswith(".index"))


def reference_trace(program: Program, feeds: Mapping[str, Array]) -> Trace:
    return interpret(program, feeds, [*traced_names(program), *pool_indices(program)])


def open_session(model: bytes, optimization: str, optimized: Path | None = None) -> Any:
    """An ONNX Runtime session; the optimised graph is saved at `optimized`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, optimization)
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def onnx_trace(program: Program, feeds: Mapping[str, Array], optimization: str = "ORT_ENABLE_ALL") -> Trace:
    """`traced_names` as ONNX Runtime gives them: whole numbers in float32, not yet cast to the program's dtypes."""
    names = traced_names(program)
    session = open_session(onnx_model(program, extra_outputs=names).SerializeToString(), optimization)
    given = {item.name for item in program.inputs}
    results = session.run(list(names), {name: value for name, value in feeds.items() if name in given})
    return dict(zip(names, results, strict=True))


def channels_last(values: Array) -> Array:
    return np.ascontiguousarray(values.transpose(0, 2, 3, 1)) if values.ndim == 4 else values


def channels_first(values: Array) -> Array:
    return values.transpose(0, 3, 1, 2) if values.ndim == 4 else values


def open_tflite(model: bytes) -> Any:
    """An interpreter with one thread, its tensors allocated."""
    interpreter: Any = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def partitions(interpreter: Any) -> int:
    """Number of pieces that XNNPACK took the graph in; fails where anything ran beside them."""
    steps = interpreter._get_ops_details()
    delegates = [step for step in steps if step["op_name"] == "DELEGATE"]
    taken = {int(place) for step in delegates for place in step["outputs"]}
    wanted = {detail["index"] for detail in interpreter.get_output_details()}
    assert wanted <= taken, "an operator after the delegate ran by itself"
    return len(delegates)


def tflite_trace(program: Program, feeds: Mapping[str, Array], model: bytes | None = None) -> Trace:
    """`traced_names` as a TFLite interpreter gives them, image by image: whole numbers in float32."""
    names = traced_names(program)
    interpreter = open_tflite(tflite_model(program, names, signature="trace") if model is None else model)
    runner = interpreter.get_signature_runner("trace")
    given = {item.name for item in program.inputs}
    results: dict[str, list[Array]] = {name: [] for name in names}
    for place in range(len(next(iter(feeds.values())))):
        image = {
            name: channels_last(value[place : place + 1].astype(np.float32))
            for name, value in feeds.items()
            if name in given
        }
        for name, value in runner(**image).items():
            results[name].append(np.array(channels_first(value)))
    return {name: np.concatenate(values) for name, values in results.items()}


def differences(got: Mapping[str, Array], expected: Mapping[str, Array]) -> dict[str, int]:
    """Number of differing elements of every integer or bool tensor, and of the logits, where there are any.

    Gradients are left out, pool indices too where `got` has none.
    """
    exact = [name for name, values in expected.items() if values.dtype.kind in "iub" or name == "logits"]
    counts = {}
    for name in exact:
        if name.endswith(".index") and name not in got:
            continue
        assert got[name].shape == expected[name].shape, f"{name}: {got[name].shape} against {expected[name].shape}"
        counts[name] = int((got[name] != expected[name]).sum())
    assert counts, "nothing to compare"
    return {name: count for name, count in counts.items() if count}
