"""Which TFLite interpreter is taken, what it is not given, and what it gives back.

Also run in an environment for each of the interpreters (`make tflite-matrix`), without torch and ONNX.
"""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tflite_by_schema import buffer, model, operator, operator_code, signature, subgraph, tensor, weighted_op

from bitlens.runtime.engines import registry, tflite_interpreter
from bitlens.runtime.engines.tflite_interpreter import (
    FAULTS,
    LITERT,
    PACKAGE_VARIABLE,
    PACKAGES,
    TFLITE_RUNTIME,
    Delegation,
    chosen_package,
    delegation,
    load_runtime,
    open_tflite,
    refuse_known_faults,
    version_numbers,
)
from bitlens.runtime.errors import BitlensError, MissingExtraError
from bitlens.runtime.tflite_summary import tflite_summary

INSTALLED = [package for package in PACKAGES if registry.has_module(package)]


def only(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """As if these, and no other package that runs TFLite, were installed."""
    monkeypatch.setattr(registry, "find_spec", lambda name: name if name in packages else None)
    monkeypatch.delenv(PACKAGE_VARIABLE, raising=False)


def test_litert_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, LITERT, TFLITE_RUNTIME)
    assert chosen_package() == LITERT
    for forced in ("tflite_runtime", "tflite-runtime", " tflite_runtime "):
        monkeypatch.setenv(PACKAGE_VARIABLE, forced)
        assert chosen_package() == TFLITE_RUNTIME
    only(monkeypatch, TFLITE_RUNTIME)
    assert chosen_package() == TFLITE_RUNTIME


def test_a_package_that_is_not_there_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch)
    with pytest.raises(MissingExtraError, match=r"engine 'tflite' needs ai_edge_litert, .* 'bitlens\[tflite\]'$"):
        chosen_package()
    monkeypatch.setenv(PACKAGE_VARIABLE, "tflite-runtime")
    with pytest.raises(MissingExtraError, match=r"BITLENS_TFLITE=tflite-runtime needs .* 'bitlens\[tflite-legacy\]'$"):
        chosen_package()
    monkeypatch.setenv(PACKAGE_VARIABLE, "tensorflow\x1b")
    with pytest.raises(BitlensError, match=r"BITLENS_TFLITE is .*: choose from ai_edge_litert, tflite_runtime") as said:
        chosen_package()
    assert str(said.value).isprintable()


@pytest.mark.parametrize(
    ("version", "numpy", "refused"),
    [("2.14.0", "2.4.6", True), ("2.14.0", "1.26.4", False), ("2.17.1", "2.0.0", False), ("odd\x07", "2.0.0", True)],
)
def test_numpy_is_looked_at_before_the_import(
    version: str, numpy: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = {
        TFLITE_RUNTIME: SimpleNamespace(__version__=version),
        f"{TFLITE_RUNTIME}.interpreter": SimpleNamespace(Interpreter="it"),
    }
    only(monkeypatch, TFLITE_RUNTIME)
    monkeypatch.setattr(tflite_interpreter, "import_module", modules.__getitem__)
    monkeypatch.setattr(tflite_interpreter, "np", SimpleNamespace(__version__=numpy))
    if not refused:
        assert load_runtime().interpreter == "it"
        return
    del modules[f"{TFLITE_RUNTIME}.interpreter"]
    with pytest.raises(BitlensError, match=r"runs with NumPy below 2, here is 2.*'numpy<2', or .*'bitlens\[tflite\]'"):
        load_runtime()


UPWARD = {"x86_64": 0x800, "aarch64": 0x400000}


@pytest.mark.skipif(platform.machine() not in UPWARD, reason="the number of a rounding mode is not known here")
def test_a_library_that_changes_the_floating_point_mode_does_not_get_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    libm, upward, seen = ctypes.CDLL("libm.so.6"), UPWARD[platform.machine()], []

    def import_module(name: str) -> SimpleNamespace:
        if name.endswith("interpreter"):  # rounding upwards stands for flushing subnormal numbers to 0
            libm.fesetround(upward)
            seen.append(libm.fegetround())
        return SimpleNamespace(__version__="2.14.0", Interpreter="it")

    only(monkeypatch, TFLITE_RUNTIME)
    monkeypatch.setattr(tflite_interpreter, "import_module", import_module)
    monkeypatch.setattr(tflite_interpreter, "np", SimpleNamespace(__version__="1.26.4"))
    before = libm.fegetround()
    try:
        assert load_runtime().interpreter == "it"
        assert (seen, libm.fegetround()) == ([upward], before)
    finally:
        libm.fesetround(before)


def test_versions_are_numbers() -> None:
    assert version_numbers("2.14.0") == (2, 14, 0)
    assert version_numbers("2.4.0rc1") == (2, 4, 0)
    assert version_numbers("unknown") == ()
    assert version_numbers("1.10") > version_numbers("1.9.2")


# What is not given to an interpreter.


REFUSED = [
    (TFLITE_RUNTIME, "2.14.0", weighted_op("CONV_2D", "int4", scales=4), "CONV_2D of float32 and int4 per channel"),
    (TFLITE_RUNTIME, "2.14.0", weighted_op("CONV_2D", "int4"), "CONV_2D of float32 and int4"),
    (TFLITE_RUNTIME, "2.14.0", weighted_op("FULLY_CONNECTED", "int8", scales=4), "int8 per channel, .* wrong numbers"),
    (TFLITE_RUNTIME, "2.14.0", weighted_op("FULLY_CONNECTED", "int4", scales=4), "int4 per channel, .* wrong numbers"),
    (TFLITE_RUNTIME, "2.14.0", weighted_op("CONV_2D", "float16"), "CONV_2D of float32 and float16"),
    (LITERT, "2.3.0", weighted_op("CONV_2D", "int2"), "CONV_2D of float32 and int2"),
    (LITERT, "2.3.0", weighted_op("CONV_2D", "int2", scales=4), "CONV_2D of float32 and int2 per channel"),
    (LITERT, "9.0", weighted_op("CONV_2D", "float16"), "CONV_2D of float32 and float16"),
    (LITERT, "1.2.0", weighted_op("FULLY_CONNECTED", "float16", weight_through="DEQUANTIZE"), "DEQUANTIZE of float16"),
    (LITERT, "unknown", weighted_op("CONV_2D", "float16", weight_through="DEQUANTIZE"), "DEQUANTIZE of float16"),
]

TAKEN = [
    (TFLITE_RUNTIME, "2.14.0", weighted_op("CONV_2D", "int8", scales=4)),
    (TFLITE_RUNTIME, "2.14.0", weighted_op("FULLY_CONNECTED", "int8", scales=4, weight_through="DEQUANTIZE")),
    (TFLITE_RUNTIME, "2.14.0", weighted_op("FULLY_CONNECTED", "int8")),
    (TFLITE_RUNTIME, "2.14.0", weighted_op("CONV_2D", "float16", weight_through="DEQUANTIZE")),
    (LITERT, "2.3.0", weighted_op("CONV_2D", "int4", scales=4)),
    (LITERT, "2.3.0", weighted_op("FULLY_CONNECTED", "int8", scales=4)),
    (LITERT, "2.3.0", weighted_op("CONV_2D", "int2", weight_through="DEQUANTIZE")),
    (LITERT, "1.4.0", weighted_op("FULLY_CONNECTED", "float16", weight_through="DEQUANTIZE")),
    (LITERT, "1.2.0", weighted_op("CONV_2D", "int8", weight_through="DEQUANTIZE")),
]


@pytest.mark.parametrize(("package", "version", "content", "why"), REFUSED)
def test_what_an_interpreter_dies_of_is_refused(package: str, version: str, content: bytes, why: str) -> None:
    with pytest.raises(BitlensError, match=why):
        refuse_known_faults(tflite_summary(content), package, version)


@pytest.mark.parametrize(("package", "version", "content"), TAKEN)
def test_what_it_computes_is_not_refused(package: str, version: str, content: bytes) -> None:
    refuse_known_faults(tflite_summary(content), package, version)


def test_every_fault_is_tried() -> None:
    tried = [(package, tflite_summary(content).calls) for package, _, content, _ in REFUSED]
    for fault in FAULTS:
        assert any(package == fault.package and any(call.op == fault.op for call in calls) for package, calls in tried)


def test_a_refused_file_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(**_: object) -> None:
        pytest.fail("it was given to the interpreter")

    for package, version, content, why in REFUSED:
        runtime = tflite_interpreter.TFLiteRuntime(package, version, never)
        monkeypatch.setattr(tflite_interpreter, "load_runtime", lambda runtime=runtime: runtime)
        with pytest.raises(BitlensError, match=why):
            open_tflite(content)


ALONE = """
import sys
import numpy as np
from importlib import import_module
interpreter = import_module(sys.argv[1] + ".interpreter").Interpreter(model_path=sys.argv[2], num_threads=1)
interpreter.allocate_tensors()
(source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
interpreter.set_tensor(source["index"], np.load(sys.argv[3]))
interpreter.invoke()
np.save(sys.argv[4], interpreter.get_tensor(result["index"]))
"""


@dataclass(frozen=True)
class Measured:
    """A layer of one kind, and what it should give."""

    content: bytes
    image: npt.NDArray[np.float32]
    expected: npt.NDArray[np.float64]


def measured(op: str, weight_type: str, scales: int) -> Measured:
    """What `weighted_op` says, in float64."""
    kernel, channels = (1, 4) if op == "FULLY_CONNECTED" else (3, 4)
    count = 4 * kernel * kernel * channels
    codes = {"int8": np.arange(count) % 7 - 3, "int4": np.tile([1, 2], count // 2), "int2": np.tile([1, -1, 1, 0], 4)}
    numbers = codes[weight_type] if weight_type in codes else np.arange(count) % 7 - 3
    numbers = np.resize(numbers, count).reshape(4, kernel, kernel, channels).astype(np.float64)
    if weight_type in codes:
        numbers *= (0.5 * np.arange(1, scales + 1)).reshape(-1, 1, 1, 1)
    image = np.random.default_rng(3).standard_normal((1, 4, 4, channels)).astype(np.float32)
    if kernel == 1:
        flat = image[:, 0, 0]
        return Measured(weighted_op(op, weight_type, scales=scales), flat, flat @ numbers[:, 0, 0].T)
    padded = np.pad(image.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    expected = np.einsum("nyxcij,oijc->nyxo", windows, numbers)
    return Measured(weighted_op(op, weight_type, scales=scales), image, expected)


def alone(package: str, content: bytes, image: Any, place: Path) -> npt.NDArray[np.float32] | None:
    """What an interpreter gives in a process of its own; None if that dies or refuses."""
    (place / "model.tflite").write_bytes(content)
    np.save(place / "image.npy", image)
    (place / "result.npy").unlink(missing_ok=True)
    files = [str(place / name) for name in ("model.tflite", "image.npy", "result.npy")]
    ended = subprocess.run([sys.executable, "-c", ALONE, package, *files], capture_output=True, timeout=120)
    result: npt.NDArray[np.float32] = np.load(files[2]) if ended.returncode == 0 else np.empty(0)
    return result if ended.returncode == 0 else None


@pytest.mark.parametrize("package", INSTALLED)
@pytest.mark.parametrize(
    ("op", "weight_type", "scales"),
    [
        ("CONV_2D", "int4", 1), ("CONV_2D", "int4", 4), ("CONV_2D", "int2", 1), ("CONV_2D", "float16", 1),
        ("CONV_2D", "int8", 4), ("FULLY_CONNECTED", "int8", 1), ("FULLY_CONNECTED", "int8", 4),
        ("FULLY_CONNECTED", "int4", 4),
    ],
)  # fmt: skip
def test_a_layer_is_computed_refused_or_fails_here(
    package: str, op: str, weight_type: str, scales: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is let through is right or fails with an error; what is refused does go wrong, on the interpreter here."""
    monkeypatch.setenv(PACKAGE_VARIABLE, package)
    try:
        runtime = load_runtime()
    except BitlensError as error:
        pytest.skip(str(error))
    layer = measured(op, weight_type, scales)
    found = alone(package, layer.content, layer.image, tmp_path)
    # Activations are rounded to bytes in some of them.
    is_right = found is not None and np.abs(found - layer.expected).max() <= 0.03 * np.abs(layer.expected).max()
    try:
        refuse_known_faults(tflite_summary(layer.content), package, runtime.version)
    except BitlensError:
        assert not is_right, "refused, but it works"
        return
    if found is None:
        with pytest.raises(BitlensError, match=rf"{package} [0-9.]+ refuses the model"):
            open_tflite(layer.content)
        return
    assert is_right, "it goes wrong, and is not refused"


# What is given back.


def sums(shared_name: bool = False) -> bytes:
    """y = a + b and z = y + y, and the reverse of the names in a signature."""
    names = ("a", "a") if shared_name else ("a", "b")
    tensors = [tensor(name, "float32", (1, 3)) for name in (*names, "y", "z")]
    graph = subgraph(tensors, [operator(0, [0, 1], [2]), operator(0, [2, 2], [3])], [0, 1], [2, 3])
    said = signature("forward", 0, {"first": 0, "second": 1}, {"sum": 2, "twice": 3})
    return model([graph], [buffer()], [operator_code("ADD")], signatures=[said])


@pytest.fixture(params=INSTALLED)
def package(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each package that is here and can run."""
    monkeypatch.setenv(PACKAGE_VARIABLE, request.param)
    try:
        load_runtime()
    except BitlensError as error:
        pytest.skip(str(error))
    return str(request.param)


def one_op(name: str, custom: str = "") -> bytes:
    tensors = [tensor(name, "float32", (1, 3)) for name in "ab"]
    return model([subgraph(tensors, [operator(0, [0], [1])], [0], [1])], [buffer()], [operator_code(name, custom)])


def row(*values: float) -> npt.NDArray[np.float32]:
    return np.array([values], np.float32)


def test_a_model_runs_and_what_it_gave_stays(package: str) -> None:
    opened = open_tflite(sums())
    assert (opened.runtime.package, opened.summary.ops) == (package, {"ADD": 2})
    first = opened.run({"first": row(1, 2, 3), "second": row(10, 20, 30)}, ["sum", "twice"])
    again = opened.run({"second": row(0, 0, 0), "first": row(5, 5, 5)}, ["twice"])
    assert first["sum"].tolist() == [[11, 22, 33]]
    assert first["twice"].tolist() == [[22, 44, 66]]
    assert list(again) == ["twice"]
    assert again["twice"].tolist() == [[10, 10, 10]]


@pytest.mark.parametrize(
    ("feeds", "names"),
    [({"first": row(1, 2, 3)}, ["sum"]), ({"a": row(1), "b": row(1)}, []), ({"first": 0, "second": 0}, ["y"])],
)
def test_names_that_do_not_fit(feeds: dict[str, Any], names: Sequence[str], package: str) -> None:
    with pytest.raises(BitlensError, match="the model reads first, second and gives sum, twice, asked were"):
        open_tflite(sums()).run(feeds, names)


@pytest.mark.parametrize("value", [row(1, 2), np.zeros((1, 3), np.int32)])
def test_inputs_that_do_not_fit(value: Any, package: str) -> None:
    opened = open_tflite(sums())
    with pytest.raises(BitlensError, match=rf"{package} [0-9.]+ cannot run the model \(.*\): export the network again"):
        opened.run({"first": row(1, 2, 3), "second": value}, ["sum"])
    assert opened.run({"first": row(1, 2, 3), "second": row(1, 1, 1)}, ["sum"])["sum"].tolist() == [[2, 3, 4]]


def test_one_name_for_two_inputs(package: str) -> None:
    with pytest.raises(BitlensError, match="two of its inputs have one name"):
        open_tflite(sums(shared_name=True))


def test_without_a_signature_the_tensors_have_the_names(package: str) -> None:
    graph = subgraph(
        [tensor("a", "float32", (1, 3)), tensor("b", "float32", (1, 3))], [operator(0, [0], [1])], [0], [1]
    )
    opened = open_tflite(model([graph], [buffer()], [operator_code("ABS")]))
    assert opened.run({"a": row(-1, 2, -3)}, ["b"])["b"].tolist() == [[1, 2, 3]]


def test_a_model_that_is_refused(package: str) -> None:
    graph = subgraph(
        [tensor("a", "float32", (1, 3)), tensor("b", "float32", (1, 3))], [operator(0, [0], [1])], [0], [1]
    )
    content = model([graph], [buffer()], [operator_code("CUSTOM", "No\x1b[31mne")])
    with pytest.raises(
        BitlensError, match=rf"{package} [0-9.]+ refuses the model \(.*\): export it again|the network"
    ) as said:
        open_tflite(content)
    assert str(said.value).isprintable()
    with pytest.raises(BitlensError, match="not a whole TFLite model"):
        open_tflite(b"nonsense")


# Which part XNNPACK takes.


def chain(*ops: str) -> bytes:
    """Ops of one input and one output, one after the other."""
    tensors = [tensor(f"t{place}", "float32", (1, 4, 4, 8)) for place in range(len(ops) + 1)]
    names = sorted(set(ops))
    operators = [operator(names.index(op), [place], [place + 1]) for place, op in enumerate(ops)]
    return model([subgraph(tensors, operators, [0], [len(ops)])], [buffer()], [operator_code(name) for name in names])


@pytest.mark.parametrize(
    ("ops", "expected"),
    [
        (("ABS", "NEG", "FLOOR"), Delegation(1, ())),
        (("SIGN", "ABS", "NEG"), Delegation(1, ("SIGN",))),
        (("ABS", "NEG", "SIGN"), Delegation(1, ("SIGN",))),
        (("ABS", "NEG", "SIGN", "ABS", "NEG"), Delegation(2, ("SIGN",))),
        (("SIGN", "SIGN"), Delegation(0, ("SIGN",))),
    ],
)
def test_what_the_delegate_takes(ops: tuple[str, ...], expected: Delegation, package: str) -> None:
    found = open_tflite(chain(*ops)).delegation
    assert found == expected
    assert found.is_whole == (expected == Delegation(1, ()))


def test_weights_behind_a_dequantize_are_taken_whole(package: str) -> None:
    layer = weighted_op("CONV_2D", "int8", scales=4, weight_through="DEQUANTIZE")
    assert open_tflite(layer).delegation.is_whole


def test_an_interpreter_that_does_not_say_is_not_whole() -> None:
    assert not delegation(SimpleNamespace()).is_whole
