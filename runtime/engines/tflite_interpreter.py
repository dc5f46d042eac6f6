"""The TFLite interpreter that this machine has, ai-edge-litert or tflite-runtime, behind one function.

Both are the same C++ under two names and many versions. A few things they are known to die of, or to compute wrongly
without a word, are looked for in the file and refused before they see it.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from bitlens.runtime.engines.registry import has_module
from bitlens.runtime.errors import BitlensError, MissingExtraError, how_to_install
from bitlens.runtime.network import shown
from bitlens.runtime.program import Array
from bitlens.runtime.tflite_summary import TFLiteSummary, tflite_summary

PACKAGE_VARIABLE = "BITLENS_TFLITE"
"""Environment variable that names the package to use; the first of `PACKAGES` that is there if it is not set."""

LITERT, TFLITE_RUNTIME = "ai_edge_litert", "tflite_runtime"
PACKAGES: Mapping[str, str] = {LITERT: "tflite", TFLITE_RUNTIME: "tflite-legacy"}
"""Package -> the extra that brings it, in order of preference."""

_ALWAYS = (10**6,)
_NUMPY_2 = (2, 15)  # tflite-runtime before it was built against NumPy 1
_MOST_SAID = 300
_FENV_BYTES = 256  # of C's fenv_t, more than any processor has


@dataclass(frozen=True)
class TFLiteRuntime:
    """A package that runs TFLite files.

    Parameters
    ----------
    package, version : str
    interpreter : type
        Its `Interpreter`.
    """

    package: str
    version: str
    interpreter: Any


@dataclass(frozen=True)
class Fault:
    """A kind of op that a range of versions fails at.

    Parameters
    ----------
    package : str
    since, before : tuple of int
        Versions from `since` on and below `before`.
    op : str
    inputs : tuple of tuple of str
        For the first inputs of the op, the types with which it fails.
    effect : str
        What happens, as the end of a sentence.
    """

    package: str
    since: tuple[int, ...]
    before: tuple[int, ...]
    op: str
    inputs: tuple[tuple[str, ...], ...]
    effect: str


_DIES = "reads those weights as float32, beyond their end, and may die of it"
FAULTS = (
    Fault(
        TFLITE_RUNTIME,
        (0,),
        _ALWAYS,
        "CONV_2D",
        (("float32",), ("int4", "int4 per channel", "float16")),
        _DIES,
    ),
    Fault(
        TFLITE_RUNTIME,
        (0,),
        _ALWAYS,
        "FULLY_CONNECTED",
        (("float32",), ("int8 per channel", "int4 per channel")),
        "takes one scale for all channels and computes wrong numbers",
    ),
    Fault(LITERT, (0,), _ALWAYS, "CONV_2D", (("float32",), ("int2", "int2 per channel", "float16")), _DIES),
    Fault(LITERT, (0,), (1, 4), "DEQUANTIZE", (("float16",),), "computes wrong numbers"),
)
"""What was measured; docs/engines.md."""


@dataclass(frozen=True)
class Delegation:
    """Which part of a model XNNPACK, the fast kernels, took.

    Parameters
    ----------
    partitions : int
        Pieces of the graph that it runs; between them the data goes through the interpreter.
    others : tuple of str
        Ops that are left to the plain kernels, by name, each once.
    """

    partitions: int
    others: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether the whole graph is one piece."""
        return self.partitions == 1 and not self.others

    def __str__(self) -> str:
        parts = "" if self.partitions <= 1 else f" in {self.partitions} parts"
        others = f"builtin kernels for {', '.join(self.others)}" if self.others else ""
        return "; ".join(part for part in (self.partitions and f"XNNPACK{parts}", others) if part)


@dataclass(frozen=True, eq=False)  # a loaded model is equal to itself alone
class TFLiteModel:
    """A model that is loaded and ready to run.

    Parameters
    ----------
    runtime : TFLiteRuntime
    summary : TFLiteSummary
    delegation : Delegation
    run : callable
        (inputs by name, names of outputs) -> outputs by name, in the shapes and dtypes of the file, which no later call
        changes. Names are those of the signature, where the file has one, or of the tensors. One call at a time.
    """

    runtime: TFLiteRuntime
    summary: TFLiteSummary
    delegation: Delegation
    run: Callable[[Mapping[str, Array], Sequence[str]], dict[str, Array]]


def chosen_package() -> str:
    """Name of the package that runs TFLite files here.

    Raises
    ------
    BitlensError
        If the environment names another one, or one that is not installed, or none is; the message names the extra.
    """
    forced = os.environ.get(PACKAGE_VARIABLE, "").strip()
    name = forced.replace("-", "_")
    if forced and name not in PACKAGES:
        raise BitlensError(f"{PACKAGE_VARIABLE} is {shown(forced)!r}: choose from {', '.join(PACKAGES)}")
    if forced and not has_module(name):
        raise MissingExtraError(f"{PACKAGE_VARIABLE}={forced}", name, PACKAGES[name])
    found = name or next((each for each in PACKAGES if has_module(each)), "")
    if not found:
        raise MissingExtraError("engine 'tflite'", LITERT, PACKAGES[LITERT])
    return found


def version_numbers(version: str) -> tuple[int, ...]:
    """Read the numbers at the start of a version: (2, 14, 0) of '2.14.0'; none of an odd one, which is below all."""
    found = re.match(r"\d{1,9}(\.\d{1,9})*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def _import_and_keep_float_mode(name: str) -> Any:
    """Import a module, and put the thread's floating-point mode back afterwards.

    The library of tflite-runtime 2.14 for ARM was linked with -ffast-math: loading it makes the thread take every
    subnormal number for 0, in NumPy and in our kernels too, from then on.
    """
    try:
        libm = ctypes.CDLL("libm.so.6")
    except OSError:  # another C library, for which there are no such packages
        return import_module(name)
    kept = ctypes.create_string_buffer(_FENV_BYTES)
    libm.fegetenv(kept)
    try:
        return import_module(name)
    finally:
        libm.fesetenv(kept)


def load_runtime() -> TFLiteRuntime:
    """Import the package that runs TFLite files here.

    Raises
    ------
    BitlensError
        If there is none, or it cannot run with the NumPy that is here.
    ImportError
        If it is broken.
    """
    package = chosen_package()
    version = str(getattr(import_module(package), "__version__", "unknown"))
    # Checked beforehand: with NumPy 2 the import succeeds, and the first use fails inside C++.
    numpy = version_numbers(np.__version__)
    if package == TFLITE_RUNTIME and version_numbers(version) < _NUMPY_2 and numpy >= (2,):
        raise BitlensError(
            f"tflite_runtime {shown(version)} runs with NumPy below 2, here is {np.__version__}: pip install "
            f"'numpy<2', or {how_to_install(PACKAGES[LITERT])}"
        )
    return TFLiteRuntime(package, shown(version), _import_and_keep_float_mode(f"{package}.interpreter").Interpreter)


def refuse_known_faults(summary: TFLiteSummary, package: str, version: str) -> None:
    """Refuse a model of which a version of a package is known to die, or to compute wrong numbers.

    Raises
    ------
    BitlensError
        If it has such an op; the message names it.
    """
    numbers = version_numbers(version)
    for fault in FAULTS:
        if fault.package != package or not (fault.since <= numbers < fault.before or not numbers):
            continue
        for call in summary.calls:
            if (
                call.op == fault.op
                and len(call.inputs) >= len(fault.inputs)
                and all(kind in kinds for kind, kinds in zip(call.inputs, fault.inputs, strict=False))
            ):
                raise BitlensError(
                    f"it has {call.op} of {' and '.join(call.inputs[: len(fault.inputs)])}, and {package} {version} "
                    f"{fault.effect}: store the weights as int8 behind a DEQUANTIZE"
                )


def open_tflite(content: bytes, *, threads: int = 1) -> TFLiteModel:
    """Load a TFLite model from memory.

    Parameters
    ----------
    content : bytes
        A file of somebody whom the user trusts: the interpreter is not made for hostile ones.
    threads : int
        At least 1.

    Raises
    ------
    BitlensError
        If there is no interpreter, the file is not whole, names one input or output twice, is known to crash this
        interpreter, or is refused by it; and, when it runs, for inputs that do not fit.
    """
    runtime = load_runtime()
    summary = tflite_summary(content)
    refuse_known_faults(summary, runtime.package, runtime.version)
    try:
        interpreter = runtime.interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
    except Exception as error:  # ValueError, RuntimeError, SystemError, and what else C++ throws
        raise _refused(runtime, "refuses the model", error) from error
    inputs = _places(interpreter.get_input_details(), summary, "inputs")
    outputs = _places(interpreter.get_output_details(), summary, "outputs")
    lock = threading.Lock()  # inputs and outputs have one place each

    def run(feeds: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
        if feeds.keys() != inputs.keys() or not outputs.keys() >= set(names):
            raise BitlensError(
                f"the model reads {', '.join(map(shown, inputs))} and gives {', '.join(map(shown, outputs))}, asked "
                f"were {', '.join(names)} of {', '.join(feeds)}: export the network again"
            )
        with lock:
            try:
                for name, value in feeds.items():
                    interpreter.set_tensor(inputs[name], value)
                interpreter.invoke()
                return {name: interpreter.get_tensor(outputs[name]) for name in names}  # each a copy
            except Exception as error:
                raise _refused(runtime, "cannot run the model", error) from error

    return TFLiteModel(runtime, summary, delegation(interpreter), run)


def _refused(runtime: TFLiteRuntime, what: str, error: Exception) -> BitlensError:
    said = shown(" ".join(str(error).split()))[:_MOST_SAID]
    return BitlensError(f"{runtime.package} {runtime.version} {what} ({said}): export the network again")


def _places(details: Sequence[Mapping[str, Any]], summary: TFLiteSummary, side: str) -> dict[str, int]:
    """Name -> index of the tensor."""
    pairs = {(str(each["name"]), int(each["index"])) for each in details}  # one may be given under two names
    tensors = dict(pairs)
    if len(tensors) != len(pairs):
        raise BitlensError(f"two of its {side} have one name: expected a name for each")
    if len(summary.signatures) != 1:
        return tensors
    signature = summary.signatures[0]
    named = signature.inputs if side == "inputs" else signature.outputs
    if not tensors.keys() >= {tensor for _, tensor in named}:
        raise BitlensError(f"its signature names {side} that are none: export the network again")
    return {name: tensors[tensor] for name, tensor in named}


def delegation(interpreter: Any) -> Delegation:
    """Say which part of a loaded model XNNPACK took.

    The interpreter lists the ops of the file and, behind them, what stands for the parts that were taken; so who
    computes each tensor is found by going back from the outputs, where a part goes before an op.
    """
    details = getattr(interpreter, "_get_ops_details", None)  # not in the documented part of it
    if details is None:
        return Delegation(0, ("unknown",))
    nodes = [
        (str(node["op_name"]), [int(at) for at in node["inputs"]], [int(at) for at in node["outputs"]])
        for node in details()
    ]
    makers: dict[int, int] = {}
    for place, (op, _, outputs) in enumerate(nodes):
        for tensor in outputs:
            if op == "DELEGATE" or tensor not in makers:
                makers[tensor] = place
    used: set[int] = set()
    waiting = [int(each["index"]) for each in interpreter.get_output_details()]
    while waiting:
        place = makers.get(waiting.pop(), -1)
        if place >= 0 and place not in used:
            used.add(place)
            waiting += nodes[place][1]
    ops = [nodes[place][0] for place in used]
    return Delegation(ops.count("DELEGATE"), tuple(sorted({op for op in ops if op != "DELEGATE"})))
