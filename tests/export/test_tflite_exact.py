"""The exported TFLite graphs compute the program: the same codes, masks, sums and logits, in one delegate partition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from drawn_programs import drawn_program
from small_programs import images_for, residual_network, small_network, small_twin
from traces import (
    Trace,
    channels_first,
    channels_last,
    differences,
    feeds_of,
    open_tflite,
    partitions,
    reference_trace,
    tflite_trace,
    traced_names,
)

from bitlens.export.tflite_writer import tflite_model
from bitlens.runtime.autodiff import INPUT_GRADIENT, SEED, gradient_program
from bitlens.runtime.engines import one_hot
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.interpreter import interpret
from bitlens.runtime.ops.threshold import GUIDED_FLOOR
from bitlens.runtime.parity import GRADIENT_TOLERANCE, relative_errors
from bitlens.runtime.program import Node, Program

QUANTIZED = ("w4a4", "w2a4", "w2a2", "w1a1")
GRADIENTS = ("input_gradient", "act1.gradient", "act2.gradient", "act3.gradient")


def compared(program: Program, got: Trace, expected: Trace) -> dict[str, int]:
    """Differing elements, with the one output that a TFLite file has none of left out: the pool's index."""
    exact = {name: values for name, values in expected.items() if not name.endswith(".index")}
    return differences(got, exact)


@pytest.mark.parametrize("precision", QUANTIZED)
def test_every_code_mask_sum_and_logit_is_equal(
    precision: str,
    gradients: dict[str, Program],
    references: dict[str, Trace],
    held_out: npt.NDArray[np.uint8],
    targets: dict[str, npt.NDArray[np.int64]],
) -> None:
    program, expected = gradients[precision], references[precision]
    got = tflite_trace(program, feeds_of(program, held_out, one_hot(targets[precision], 10)))
    assert set(got) > {"logits", "act1", "act1.ste_mask", "conv1", "pool2"}
    assert compared(program, got, expected) == {}
    for name in GRADIENTS:
        assert relative_errors(got[name], expected[name]).max() <= GRADIENT_TOLERANCE


@pytest.mark.parametrize("precision", QUANTIZED)
def test_any_code_that_a_method_may_give_is_taken(precision: str, gradients: dict[str, Program]) -> None:
    program, random = gradients[precision], np.random.default_rng(2)
    codes = random.integers(-512, 768, (12, 1, 28, 28))
    codes[:4] = random.choice([-512, 767], (4, 1, 28, 28))
    codes[4], codes[5] = -512, 767
    feeds = feeds_of(program, codes, one_hot(np.arange(12) % 10, 10))
    assert compared(program, tflite_trace(program, feeds), reference_trace(program, feeds)) == {}


def test_the_twin_agrees_in_class_and_to_rounding(
    programs: dict[str, Program], gradients: dict[str, Program], held_out: npt.NDArray[np.uint8]
) -> None:
    program = gradients["fp32"]
    feeds = feeds_of(program, held_out[:100], one_hot(np.arange(100) % 10, 10))
    got, expected = tflite_trace(program, feeds), reference_trace(program, feeds)
    assert relative_errors(got["logits"], expected["logits"]).max() <= GRADIENT_TOLERANCE
    errors = relative_errors(got[INPUT_GRADIENT], expected[INPUT_GRADIENT])
    # A pool's winner may change where two sums are a rounding error apart: counted, not averaged.
    assert (errors > GRADIENT_TOLERANCE).sum() <= 2


@pytest.mark.parametrize("precision", ["fp32", *QUANTIZED])
def test_both_files_stay_in_one_partition(
    precision: str, programs: dict[str, Program], gradients: dict[str, Program]
) -> None:
    assert partitions(open_tflite(tflite_model(programs[precision]))) == 1
    assert partitions(open_tflite(tflite_model(gradients[precision], signature="gradient"))) == 1


@pytest.mark.parametrize("made", [small_network, residual_network, small_twin])
def test_small_networks(made: object) -> None:
    assert callable(made)
    network: Program = made()
    program = gradient_program(network)
    classes = interpret(network, feeds_of(network, images_for(network, 1)), network.outputs[:1])
    count = classes[network.outputs[0]].shape[1]
    feeds = feeds_of(program, images_for(network, 6), one_hot(np.arange(6) % count, count))
    got, expected = tflite_trace(program, feeds), reference_trace(program, feeds)
    if not network.is_full_precision:
        assert compared(program, got, expected) == {}
    assert relative_errors(got[INPUT_GRADIENT], expected[INPUT_GRADIENT]).max() <= GRADIENT_TOLERANCE
    assert partitions(open_tflite(tflite_model(program))) == 1


@pytest.mark.parametrize("value", [0.0, 2.0**-125, -(2.0**-125), 1e-30, -1e-30])
def test_values_at_and_beside_0(value: float) -> None:
    # A window that is open at 0 begins at the smallest float32, which XNNPACK takes for 0.
    network = residual_network()
    sums = {name for node in network.nodes if node.op == "add" for name in node.inputs}
    nodes, opened = [], 0
    for node in network.nodes:
        if node.op == "affine" and node.outputs[0] in sums:
            flat = {"slope": np.zeros_like(node.arrays["slope"])}
            flat["offset"] = np.full_like(node.arrays["offset"], value / 2)
            node = replace(node, arrays=dict(node.arrays) | flat)
        if node.op == "threshold" and node.arrays["thresholds"].dtype == np.float32:
            open_at_0 = np.full_like(node.arrays["mask_low"], np.finfo(np.float32).smallest_subnormal)
            node = replace(node, arrays=dict(node.arrays) | {"mask_low": open_at_0})
            opened += 1
        nodes.append(node)
    assert opened
    program = gradient_program(replace(network, nodes=tuple(nodes)))
    feeds = feeds_of(program, images_for(network, 1), one_hot([0], 3))
    assert compared(program, tflite_trace(program, feeds), reference_trace(program, feeds)) == {}


def written(program: Program) -> bytes | None:
    """A file with every traced tensor, or None where the program is refused for a reason that the cells name."""
    try:
        return tflite_model(program, traced_names(program), signature="trace")
    except BitlensError as error:
        if "no TFLite form for strides" in str(error) or "no exact form in TFLite" in str(error):
            return None
        raise


def test_drawn_programs() -> None:
    taken = 0
    for seed in range(40):
        network = drawn_program(seed)
        program, random = gradient_program(network), np.random.default_rng(seed)
        model = written(program)
        if model is None:
            continue
        taken += 1
        shape = (3, *network.image_type.shape)
        codes = random.integers(-512, 768, shape)
        codes[0] = random.choice([-512, 767], shape[1:])
        classes = next(item for item in program.inputs if item.name == SEED).type.shape[0]
        feeds = feeds_of(program, codes, one_hot(np.arange(3) % classes, classes))
        got, expected = tflite_trace(program, feeds, model), reference_trace(program, feeds)
        assert compared(program, got, expected) == {}, f"drawn_program({seed})"
        assert relative_errors(got[INPUT_GRADIENT], expected[INPUT_GRADIENT]).max() <= GRADIENT_TOLERANCE, seed
    assert taken >= 20


def test_a_changed_threshold_is_seen(programs: dict[str, Program], held_out: npt.NDArray[np.uint8]) -> None:
    program = programs["w4a4"]
    node = program.node("act2")
    thresholds = node.arrays["thresholds"].copy()
    thresholds[:, -1] += np.where(node.arrays["direction"] > 0, 1, -1)
    arrays = {**node.arrays, "thresholds": thresholds}
    changed = replace(program, nodes=tuple(replace(n, arrays=arrays) if n.name == "act2" else n for n in program.nodes))
    feeds = feeds_of(program, held_out)
    assert compared(program, tflite_trace(program, feeds), reference_trace(changed, feeds)).keys() >= {"act2"}


def test_windows_and_the_guided_rule_are_those_that_are_fixed(
    gradients: dict[str, Program], held_out: npt.NDArray[np.uint8]
) -> None:
    program = gradients["w4a4"]
    bounds = next(item for item in program.inputs if item.name == "act2.mask_high")
    assert bounds.default is not None
    fixed = {GUIDED_FLOOR: np.zeros(1, np.float32), "act2.mask_high": bounds.default // 2}
    feeds = feeds_of(program, held_out[:8], one_hot(np.arange(8), 10))
    model = tflite_model(program, traced_names(program), signature="trace", fixed=fixed)
    got, expected = tflite_trace(program, feeds, model), reference_trace(program, feeds | fixed)
    assert compared(program, got, expected) == {}
    assert relative_errors(got[INPUT_GRADIENT], expected[INPUT_GRADIENT]).max() <= GRADIENT_TOLERANCE
    free = reference_trace(program, feeds)
    assert differences(expected, free)
    assert not np.array_equal(expected[INPUT_GRADIENT], free[INPUT_GRADIENT])


def test_a_file_does_not_depend_on_what_else_it_gives_out(
    gradients: dict[str, Program], held_out: npt.NDArray[np.uint8]
) -> None:
    program = gradients["w2a2"]
    runner = open_tflite(tflite_model(program, [INPUT_GRADIENT])).get_signature_runner("forward")
    feeds = feeds_of(program, held_out[:1], one_hot([3], 10))
    alone = runner(**{name: channels_last(value.astype(np.float32)) for name, value in feeds.items()})
    assert list(alone) == [INPUT_GRADIENT]
    whole = tflite_trace(program, feeds)[INPUT_GRADIENT]
    assert np.array_equal(channels_first(alone[INPUT_GRADIENT]), whole)


def test_the_same_program_gives_the_same_bytes(programs: dict[str, Program]) -> None:
    assert tflite_model(programs["w1a1"]) == tflite_model(programs["w1a1"])


def test_an_output_must_exist(programs: dict[str, Program]) -> None:
    with pytest.raises(BitlensError, match="no tensor named 'nothing'"):
        tflite_model(programs["w1a1"], ["nothing"])
    with pytest.raises(BitlensError, match=f"no tensor named '{GUIDED_FLOOR}'"):
        tflite_model(gradient_program(programs["w1a1"]), [GUIDED_FLOOR])


def test_an_op_without_a_cell_is_refused(programs: dict[str, Program]) -> None:
    program = programs["w1a1"]
    nodes = (*program.nodes[:-1], replace(program.nodes[-1], op="affine"))
    strange = Node("softmax", "last", (program.nodes[-1].outputs[0],), ("last",))
    from bitlens.runtime.ops import OPS, Op

    OPS["softmax"] = Op("softmax", lambda node, types: tuple(types), lambda node, values: tuple(values))
    try:
        with pytest.raises(BitlensError, match=r"node 'last' \(softmax\): this op has no TFLite cell"):
            tflite_model(replace(program, nodes=(*nodes, strange), outputs=("last",)))
    finally:
        del OPS["softmax"]
