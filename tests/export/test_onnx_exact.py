"""The exported ONNX files compute the program: the same codes, masks, sums and logits at every optimisation level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_folding import WEIGHTED, ancestors, folded, optimised
from traces import OPTIMIZATIONS, Trace, differences, feeds_of, onnx_trace, open_session, reference_trace, traced_names

from bitlens.export.onnx_writer import onnx_model
from bitlens.runtime.autodiff import gradient_program
from bitlens.runtime.engines import one_hot
from bitlens.runtime.engines.onnxruntime import run_onnx
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.interpreter import interpret
from bitlens.runtime.parity import GRADIENT_TOLERANCE, relative_errors
from bitlens.runtime.program import Program

QUANTIZED = ("w4a4", "w2a4", "w2a2", "w1a1")
ALL = ("fp32", *QUANTIZED)


@pytest.fixture(scope="module")
def random_codes() -> npt.NDArray[np.int64]:
    """Images of any code that a method may give, and of nothing but the extremes."""
    random = np.random.default_rng(2)
    codes = random.integers(-512, 768, (48, 1, 28, 28))
    codes[:8] = random.choice([-512, 767], (8, 1, 28, 28))
    codes[8], codes[9] = -512, 767
    return codes


@pytest.fixture(scope="module")
def random_references(gradients: dict[str, Program], random_codes: npt.NDArray[np.int64]) -> dict[str, Trace]:
    seed = one_hot(np.arange(len(random_codes)) % 10, 10)
    return {
        precision: reference_trace(gradients[precision], feeds_of(gradients[precision], random_codes, seed))
        for precision in QUANTIZED
    }


@pytest.mark.parametrize("optimization", OPTIMIZATIONS)
@pytest.mark.parametrize("precision", QUANTIZED)
def test_every_code_mask_sum_and_logit_is_equal(
    precision: str,
    optimization: str,
    programs: dict[str, Program],
    gradients: dict[str, Program],
    references: dict[str, Trace],
    held_out: npt.NDArray[np.uint8],
    targets: dict[str, npt.NDArray[np.int64]],
) -> None:
    expected = references[precision]
    seed = one_hot(targets[precision], 10)
    forward = onnx_trace(programs[precision], feeds_of(programs[precision], held_out), optimization)
    assert set(forward) > {"logits", "logit_accumulators", "act1", "act2", "act3", "conv1", "pool2"}
    assert differences(forward, {name: expected[name] for name in forward}) == {}
    gradient = onnx_trace(gradients[precision], feeds_of(gradients[precision], held_out, seed), optimization)
    assert set(gradient) > {"act1.ste_mask", "act2.ste_mask", "act3.ste_mask"}
    assert differences(gradient, expected) == {}
    assert np.array_equal(gradient["logits"].argmax(axis=1), targets[precision])
    for name in ("input_gradient", "act1.gradient", "act2.gradient", "act3.gradient"):
        assert relative_errors(gradient[name], expected[name]).max() <= GRADIENT_TOLERANCE


@pytest.mark.parametrize("optimization", OPTIMIZATIONS)
@pytest.mark.parametrize("precision", QUANTIZED)
def test_random_codes_are_equal_too(
    precision: str,
    optimization: str,
    programs: dict[str, Program],
    gradients: dict[str, Program],
    random_references: dict[str, Trace],
    random_codes: npt.NDArray[np.int64],
) -> None:
    expected = random_references[precision]
    forward = onnx_trace(programs[precision], feeds_of(programs[precision], random_codes), optimization)
    assert differences(forward, {name: expected[name] for name in forward}) == {}
    seed = one_hot(np.arange(len(random_codes)) % 10, 10)
    gradient = onnx_trace(gradients[precision], feeds_of(gradients[precision], random_codes, seed), optimization)
    assert differences(gradient, expected) == {}
    assert relative_errors(gradient["input_gradient"], expected["input_gradient"]).max() <= GRADIENT_TOLERANCE


@pytest.mark.parametrize("optimization", OPTIMIZATIONS)
def test_the_twin_agrees_in_class_and_to_rounding(
    optimization: str,
    gradients: dict[str, Program],
    references: dict[str, Trace],
    held_out: npt.NDArray[np.uint8],
    targets: dict[str, npt.NDArray[np.int64]],
) -> None:
    program, expected = gradients["fp32"], references["fp32"]
    got = onnx_trace(program, feeds_of(program, held_out, one_hot(targets["fp32"], 10)), optimization)
    assert np.array_equal(got["logits"].argmax(axis=1), targets["fp32"])
    assert relative_errors(got["logits"], expected["logits"]).max() <= GRADIENT_TOLERANCE


def test_one_differing_code_is_seen(references: dict[str, Trace]) -> None:
    wrong = dict(references["w2a2"])
    wrong["act2"] = wrong["act2"].copy()
    wrong["act2"][5, 3, 2, 1] += 1
    assert differences(wrong, references["w2a2"]) == {"act2": 1}
    wrong = dict(references["w2a2"], act3=references["w2a2"]["act3"] + np.float32(0.25))
    assert differences(wrong, references["w2a2"]) == {"act3": references["w2a2"]["act3"].size}
    wrong = dict(references["w2a2"], logits=np.nextafter(references["w2a2"]["logits"], np.float32(9)))
    assert differences(wrong, references["w2a2"]) == {"logits": 3970}
    with pytest.raises(AssertionError, match="nothing to compare"):
        differences(wrong, {"input_gradient": wrong["input_gradient"]})


@pytest.mark.parametrize("optimization", OPTIMIZATIONS)
@pytest.mark.parametrize("precision", QUANTIZED)
def test_nothing_is_folded_into_a_convolution_over_codes(
    precision: str, optimization: str, programs: dict[str, Program], gradients: dict[str, Program], tmp_path: Path
) -> None:
    exact = {"logit_accumulators", "logits", "act1", "act2", "act3"}
    forward = optimised(onnx_model(programs[precision], extra_outputs=["act3"]), optimization, tmp_path / "forward")
    assert folded(forward, {"logits"}) == []
    gradient = optimised(onnx_model(gradients[precision]), optimization, tmp_path / "gradient")
    assert folded(gradient, exact) == []
    for model in (forward, gradient):
        convolutions = [node for node in ancestors(model.graph, {"logits"}) if node.op_type in WEIGHTED]
        assert len(convolutions) == 4
        if optimization == "ORT_ENABLE_ALL":  # blocked layouts are looked into as well
            print([f"{node.domain}:{node.op_type}" for node in convolutions])


def naive_graph() -> onnx.ModelProto:
    """Conv - Mul - Add - Round - Clip over codes: what an exact graph must not be."""
    random = np.random.default_rng(0)
    weight = random.integers(-7, 8, (16, 8, 3, 3)).astype(np.float32)
    constants = {
        "weight": weight,
        "scale": random.uniform(0.01, 0.02, (16, 1, 1)).astype(np.float32),
        "shift": random.uniform(-1, 1, (16, 1, 1)).astype(np.float32),
        "low": np.array(0, np.float32),
        "high": np.array(15, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "weight"], ["sum"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["sum", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["shifted"]),
        helper.make_node("Round", ["shifted"], ["rounded"]),
        helper.make_node("Clip", ["rounded", "low", "high"], ["codes"]),
    ]
    shapes = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", channels, 12, 12])
        for name, channels in (("x", 8), ("codes", 16))
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "naive", shapes[:1], shapes[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize(
    ("optimization", "is_folded"),
    [("ORT_DISABLE_ALL", False), ("ORT_ENABLE_BASIC", True), ("ORT_ENABLE_EXTENDED", True), ("ORT_ENABLE_ALL", True)],
)
def test_folding_is_found_where_it_happens(optimization: str, is_folded: bool, tmp_path: Path) -> None:
    found = folded(optimised(naive_graph(), optimization, tmp_path / "naive"), {"codes"})
    assert bool(found) == is_folded
    assert all("holds fractions" in line for line in found)


@pytest.mark.parametrize("precision", ALL)
def test_files_are_stock_onnx_with_versions_set(
    precision: str, programs: dict[str, Program], gradients: dict[str, Program]
) -> None:
    for program in (programs[precision], gradients[precision]):
        model = onnx_model(program)
        onnx.checker.check_model(model, full_check=True)
        assert [(item.domain, item.version) for item in model.opset_import] == [("", 18)]
        assert model.ir_version == 8
        assert {node.domain for node in model.graph.node} == {""}
        assert model.graph.output[0].name == "logits"
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param != ""


@pytest.mark.parametrize("batch", [1, 3, 17])
@pytest.mark.parametrize("precision", ["fp32", "w2a4", "w1a1"])
def test_any_batch_size_gives_the_same(
    precision: str,
    batch: int,
    gradients: dict[str, Program],
    references: dict[str, Trace],
    held_out: npt.NDArray[np.uint8],
    targets: dict[str, npt.NDArray[np.int64]],
) -> None:
    program = gradients[precision]
    feeds = feeds_of(program, held_out[:batch], one_hot(targets[precision][:batch], 10))
    expected = {name: values[:batch] for name, values in references[precision].items()}
    got = onnx_trace(program, feeds)
    if precision != "fp32":
        assert differences(got, expected) == {}
    assert relative_errors(got["input_gradient"], expected["input_gradient"]).max() <= GRADIENT_TOLERANCE


def test_inputs_with_a_default_can_be_left_out_or_given(
    gradients: dict[str, Program], held_out: npt.NDArray[np.uint8]
) -> None:
    program = gradients["w2a2"]
    session = open_session(onnx_model(program).SerializeToString(), "ORT_ENABLE_ALL")
    feeds = feeds_of(program, held_out[:3], one_hot([1, 2, 3], 10))
    defaults: Mapping[str, npt.NDArray[np.float32]] = {
        item.name: item.default.astype(np.float32) for item in program.inputs if item.default is not None
    }
    assert set(defaults) == {"guided_floor", *(f"act{i}.mask_{side}" for i in (1, 2, 3) for side in ("low", "high"))}
    (without,) = session.run(["input_gradient"], feeds)
    (given,) = session.run(["input_gradient"], {**feeds, **defaults})
    assert np.array_equal(without, given)
    (guided,) = session.run(["input_gradient"], {**feeds, "guided_floor": np.zeros(1, np.float32)})
    assert not np.array_equal(without, guided)


def test_an_extra_output_must_exist(programs: dict[str, Program]) -> None:
    with pytest.raises(BitlensError, match=r"no tensor named 'conv9': choose from image, conv1, "):
        onnx_model(programs["w2a2"], extra_outputs=["conv9"])


def test_a_gradient_file_does_not_depend_on_what_else_it_gives_out(
    programs: dict[str, Program],
    references: dict[str, Trace],
    held_out: npt.NDArray[np.uint8],
    targets: dict[str, npt.NDArray[np.int64]],
) -> None:
    # The file as it is shipped, without the accumulators as outputs, which would keep an optimizer from fusing.
    program = gradient_program(programs["w4a4"])
    session = open_session(onnx_model(program).SerializeToString(), "ORT_ENABLE_ALL")
    feeds = feeds_of(program, held_out, one_hot(targets["w4a4"], 10))
    got = dict(zip(program.outputs, session.run(list(program.outputs), feeds), strict=True))
    assert set(traced_names(program)) > set(got)
    assert differences(got, {name: references["w4a4"][name] for name in got}) == {}


def test_names_of_the_program_and_of_the_graph_do_not_collide(programs: Mapping[str, Program]) -> None:
    program = programs["w2a2"]
    taken = {"conv2": "constant_0", "act2": "Cast_1.out", "pool1": "constant_1"}

    def renamed(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(taken.get(name, name) for name in names)

    nodes = tuple(replace(node, inputs=renamed(node.inputs), outputs=renamed(node.outputs)) for node in program.nodes)
    awkward = replace(program, nodes=nodes)
    codes = np.random.default_rng(20261121).integers(0, 256, (2, 1, 28, 28)).astype(np.int16)
    expected = interpret(program, {"image": codes}, ["logits"])["logits"]
    run = run_onnx(onnx_model(awkward).SerializeToString(), awkward)
    assert np.array_equal(run({"image": codes}, ["logits"])["logits"], expected)
